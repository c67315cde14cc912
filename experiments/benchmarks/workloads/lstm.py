"""An LSTM along a sequence, 64 -> 128 features, batch 64, 100 steps, all outputs."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import normal


class Sizes(NamedTuple):
    batch: int = 64
    time: int = 100
    features: int = 64
    hidden: int = 128


SIZES = Sizes()
NOT_COMPARED = ("bias_hh_l0",)  # PyTorch adds two biases, whose gradients are equal


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Sequences x, and c, the gradient of a loss by y; weights and bias of the gates i, f, g, o."""
    draw = partial(normal, np.random.default_rng(0))
    batch, time, features, hidden = sizes
    return {
        "x": draw((batch, time, features)),
        "c": draw((batch, time, hidden)),
        "w_x": draw((features, 4 * hidden)) * np.float32(features**-0.5),
        "w_h": draw((hidden, 4 * hidden)) * np.float32(hidden**-0.5),
        "b": draw(4 * hidden) * np.float32(0.1),
    }


def fnnet(sizes: Sizes, given: dict[str, np.ndarray]) -> tuple[fn.Layer, dict[str, Any]]:
    return fn.lstm(sizes.hidden), {name: given[name] for name in ("w_x", "w_h", "b")}


def torch(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    import torch
    from torch import nn

    layer: Any = nn.LSTM(sizes.features, sizes.hidden, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.from_numpy(given["w_x"].T))
        layer.weight_hh_l0.copy_(torch.from_numpy(given["w_h"].T))
        layer.bias_ih_l0.copy_(torch.from_numpy(given["b"]))
        layer.bias_hh_l0.zero_()
    return layer


def flax(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    from flax import nnx

    # `LSTMCell` takes the same time.
    cell: Any = nnx.OptimizedLSTMCell(sizes.features, sizes.hidden, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = jnp.array(given["w_x"])
    cell.dense_h.kernel[...] = jnp.array(given["w_h"])
    cell.dense_h.bias[...] = jnp.array(given["b"])
    return nnx.RNN(cell)


def equinox(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    import equinox as eqx

    class Sequence(eqx.Module):
        cell: Any

        def __call__(self, x: Any) -> Any:
            def step(carry: Any, x: Any) -> Any:
                carry = self.cell(x, carry)
                return carry, carry[0]

            zeros = jnp.zeros(self.cell.hidden_size)
            return jax.lax.scan(step, (zeros, zeros), x)[1]

    cell = eqx.tree_at(
        lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias),
        eqx.nn.LSTMCell(sizes.features, sizes.hidden, key=jax.random.key(0)),
        tuple(jnp.array(a) for a in (given["w_x"].T, given["w_h"].T, given["b"])),
    )
    return Sequence(cell)
