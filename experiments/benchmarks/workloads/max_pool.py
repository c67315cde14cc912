"""Max pooling 2x2 of images 24x24 with 32 channels, batch 128, forward and backward."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import Pass


class Sizes(NamedTuple):
    batch: int = 128
    size: int = 24
    channels: int = 32


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Images x, and c, the gradient of a loss by y."""
    rng = np.random.default_rng(0)

    def normal(size: int) -> np.ndarray:
        return rng.standard_normal((sizes.batch, size, size, sizes.channels), dtype=np.float32)

    return {"x": normal(sizes.size), "c": normal(sizes.size // 2)}


def fnnet(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    given = jax.tree.map(jnp.array, arrays(sizes))
    layer = fn.max_pool(2)

    @jax.jit
    def forward_backward(x: Any, c: Any) -> Any:
        y, backward = jax.vjp(lambda x: layer({}, x), x)
        return y, *backward(c)

    def run() -> Pass:
        y, slope_x = jax.block_until_ready(forward_backward(given["x"], given["c"]))
        return Pass(y, slope_x, ())

    return run


def torch(sizes: Sizes = SIZES, *, compiled: bool = False) -> Callable[[], Pass]:
    import torch
    from torch import nn

    # NHWC in memory, channels_last: faster than its own NCHW.
    given = {name: torch.from_numpy(a).permute(0, 3, 1, 2) for name, a in arrays(sizes).items()}
    layer = nn.MaxPool2d(2)
    forward = torch.compile(layer) if compiled else layer
    x = given["x"].requires_grad_()

    def run() -> Pass:
        x.grad = None
        y = forward(x)
        y.backward(given["c"])
        assert x.grad is not None
        return Pass(y.detach().permute(0, 2, 3, 1), x.grad.permute(0, 2, 3, 1), ())

    return run


def flax(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    from flax import nnx

    given = jax.tree.map(jnp.array, arrays(sizes))

    @nnx.jit
    def forward_backward(x: Any, c: Any) -> Any:
        y, backward = jax.vjp(lambda x: nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2)), x)
        return y, *backward(c)

    def run() -> Pass:
        y, slope_x = jax.block_until_ready(forward_backward(given["x"], given["c"]))
        return Pass(y, slope_x, ())

    return run


def equinox(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    import equinox as eqx

    given = {name: jnp.array(a.transpose(0, 3, 1, 2)) for name, a in arrays(sizes).items()}
    layer = eqx.nn.MaxPool2d(2, 2)

    @eqx.filter_jit
    def forward_backward(x: Any, c: Any) -> Any:
        y, backward = jax.vjp(jax.vmap(layer), x)
        return y, *backward(c)

    def run() -> Pass:
        y, slope_x = jax.block_until_ready(forward_backward(given["x"], given["c"]))
        # Views: nothing is copied on a CPU.
        return Pass(np.moveaxis(np.asarray(y), 1, -1), np.moveaxis(np.asarray(slope_x), 1, -1), ())

    return run
