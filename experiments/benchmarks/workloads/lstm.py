"""An LSTM along a sequence, 64 -> 128 features, batch 64, 100 steps, all outputs, forward and backward."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import Pass


class Sizes(NamedTuple):
    batch: int = 64
    time: int = 100
    features: int = 64
    hidden: int = 128


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Sequences x, and c, the gradient of a loss by y; weights and bias of the gates i, f, g, o."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    batch, time, features, hidden = sizes
    return {
        "x": normal(batch, time, features),
        "c": normal(batch, time, hidden),
        "w_x": normal(features, 4 * hidden) * np.float32(features**-0.5),
        "w_h": normal(hidden, 4 * hidden) * np.float32(hidden**-0.5),
        "b": normal(4 * hidden) * np.float32(0.1),
    }


def fnnet(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    given = jax.tree.map(jnp.array, arrays(sizes))
    layer = fn.lstm(sizes.hidden)
    params = {name: given[name] for name in ("w_x", "w_h", "b")}

    @jax.jit
    def forward_backward(params: Any, x: Any, c: Any) -> Any:
        y, backward = jax.vjp(layer, params, x)
        slopes, slope_x = backward(c)
        return Pass(y, slope_x, jax.tree.leaves(slopes))

    return lambda: jax.block_until_ready(forward_backward(params, given["x"], given["c"]))


def torch(sizes: Sizes = SIZES, *, compiled: bool = False) -> Callable[[], Pass]:
    import torch
    from torch import nn

    given = {name: torch.from_numpy(a) for name, a in arrays(sizes).items()}
    layer: Any = nn.LSTM(sizes.features, sizes.hidden, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(given["w_x"].T)
        layer.weight_hh_l0.copy_(given["w_h"].T)
        layer.bias_ih_l0.copy_(given["b"])
        layer.bias_hh_l0.zero_()  # PyTorch adds two biases
    forward = torch.compile(layer) if compiled else layer
    x = given["x"].requires_grad_()

    def run() -> Pass:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        y, _ = forward(x)
        y.backward(given["c"])
        learned = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0)
        return Pass(y.detach(), x.grad, [p.grad for p in learned])

    return run


def flax(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    from flax import nnx

    given = jax.tree.map(jnp.array, arrays(sizes))
    # `LSTMCell` takes the same time.
    cell: Any = nnx.OptimizedLSTMCell(sizes.features, sizes.hidden, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = given["w_x"]
    cell.dense_h.kernel[...] = given["w_h"]
    cell.dense_h.bias[...] = given["b"]
    layer = nnx.RNN(cell)

    @nnx.jit
    def forward_backward(layer: Any, x: Any, c: Any) -> Any:
        def objective(layer: Any, x: Any) -> Any:
            y = layer(x)
            return jnp.sum(y * c), y

        (slopes, slope_x), y = nnx.grad(objective, argnums=(0, 1), has_aux=True)(layer, x)
        return Pass(y, slope_x, jax.tree.leaves(slopes))

    return lambda: jax.block_until_ready(forward_backward(layer, given["x"], given["c"]))


def equinox(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    import equinox as eqx

    given = jax.tree.map(jnp.array, arrays(sizes))
    cell = eqx.tree_at(
        lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias),
        eqx.nn.LSTMCell(sizes.features, sizes.hidden, key=jax.random.key(0)),
        (given["w_x"].T, given["w_h"].T, given["b"]),
    )

    @eqx.filter_jit
    def forward_backward(cell: Any, x: Any, c: Any) -> Any:
        def sequence(cell: Any, x: Any) -> Any:
            def step(carry: Any, x: Any) -> Any:
                carry = cell(x, carry)
                return carry, carry[0]

            zeros = jnp.zeros(cell.hidden_size)
            return jax.lax.scan(step, (zeros, zeros), x)[1]

        y, backward = eqx.filter_vjp(lambda cell, x: jax.vmap(sequence, in_axes=(None, 0))(cell, x), cell, x)
        slopes, slope_x = backward(c)
        return Pass(y, slope_x, jax.tree.leaves(slopes))

    return lambda: jax.block_until_ready(forward_backward(cell, given["x"], given["c"]))
