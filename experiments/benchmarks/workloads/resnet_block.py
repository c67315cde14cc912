"""A basic block of a ResNet on images 32x32 with 64 channels, batch 16, in training, forward and backward.

    y = relu(x + batch_norm(conv(relu(batch_norm(conv(x))))))        conv 3x3, without bias

Source: He et al. 2016, "Deep residual learning for image recognition".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import Pass


class Sizes(NamedTuple):
    batch: int = 16
    size: int = 32
    channels: int = 64


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Images x, and c, the gradient of a loss by y; kernels w_1 and w_2, HWIO."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    image = (sizes.batch, sizes.size, sizes.size, sizes.channels)
    kernel, scale = (3, 3, sizes.channels, sizes.channels), np.float32((2 / 9 / sizes.channels) ** 0.5)
    return {
        "x": normal(*image),
        "c": normal(*image),
        "w_1": normal(*kernel) * scale,
        "w_2": normal(*kernel) * scale,
    }


def fnnet(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    given = jax.tree.map(jnp.array, arrays(sizes))

    def conv() -> fn.Layer:
        return fn.conv(sizes.channels, 3, use_bias=False)

    net = fn.serial(fn.residual(conv(), fn.batch_norm(), fn.relu, conv(), fn.batch_norm()), fn.relu)
    params, state = net.init(jax.random.key(0), given["x"])
    params["residual_0"] |= {"conv_0": {"w": given["w_1"]}, "conv_1": {"w": given["w_2"]}}

    @jax.jit
    def forward_backward(params: Any, state: Any, x: Any, c: Any) -> Any:
        def forward(params: Any, x: Any) -> Any:
            return net.apply(params, state, x, train=True)

        y, backward, state = jax.vjp(forward, params, x, has_aux=True)
        slopes, slope_x = backward(c)
        return state, Pass(y, slope_x, jax.tree.leaves(slopes))

    def run() -> Pass:
        nonlocal state
        state, seen = jax.block_until_ready(forward_backward(params, state, given["x"], given["c"]))
        return seen

    return run


def torch(sizes: Sizes = SIZES, *, compiled: bool = False) -> Callable[[], Pass]:
    import torch
    from torch import nn

    given = {name: torch.from_numpy(a) for name, a in arrays(sizes).items()}
    channels = sizes.channels

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.norm_1 = nn.BatchNorm2d(channels)
            self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.norm_2 = nn.BatchNorm2d(channels)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.norm_1(self.conv_1(x)))
            return torch.relu(x + self.norm_2(self.conv_2(h)))

    block: Any = Block()
    with torch.no_grad():
        block.conv_1.weight.copy_(given["w_1"].permute(3, 2, 0, 1))
        block.conv_2.weight.copy_(given["w_2"].permute(3, 2, 0, 1))
    block = block.to(memory_format=torch.channels_last)
    # NHWC in memory, channels_last: as fast as its own NCHW or faster.
    x, c = given["x"].permute(0, 3, 1, 2).requires_grad_(), given["c"].permute(0, 3, 1, 2)
    forward = torch.compile(block) if compiled else block

    def run() -> Pass:
        block.zero_grad(set_to_none=True)
        x.grad = None
        y = forward(x)
        y.backward(c)
        assert x.grad is not None
        slopes = [p.grad for p in block.parameters()]
        return Pass(y.detach().permute(0, 2, 3, 1), x.grad.permute(0, 2, 3, 1), slopes)

    return run


def flax(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    from flax import nnx

    given = jax.tree.map(jnp.array, arrays(sizes))
    channels = sizes.channels

    class Block(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv_1 = nnx.Conv(channels, channels, kernel_size=(3, 3), use_bias=False, rngs=rngs)
            self.norm_1 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
            self.conv_2 = nnx.Conv(channels, channels, kernel_size=(3, 3), use_bias=False, rngs=rngs)
            self.norm_2 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = nnx.relu(self.norm_1(self.conv_1(x)))
            return nnx.relu(x + self.norm_2(self.conv_2(h)))

    block: Any = Block(nnx.Rngs(0))
    block.conv_1.kernel[...] = given["w_1"]
    block.conv_2.kernel[...] = given["w_2"]

    @nnx.jit
    def forward_backward(block: Any, x: Any, c: Any) -> Any:
        def objective(block: Any, x: Any) -> Any:
            y = block(x)
            return jnp.sum(y * c), y

        (slopes, slope_x), y = nnx.grad(objective, argnums=(0, 1), has_aux=True)(block, x)
        return Pass(y, slope_x, jax.tree.leaves(slopes))

    def run() -> Pass:
        return jax.block_until_ready(forward_backward(block, given["x"], given["c"]))

    return run


def equinox(sizes: Sizes = SIZES) -> Callable[[], Pass]:
    import equinox as eqx

    given = arrays(sizes)
    channels = sizes.channels

    class Block(eqx.Module):
        conv_1: Any
        norm_1: Any
        conv_2: Any
        norm_2: Any

        def __init__(self, key: Any) -> None:
            self.conv_1 = eqx.nn.Conv2d(channels, channels, 3, padding=1, use_bias=False, key=key)
            self.norm_1 = eqx.nn.BatchNorm(channels, axis_name="batch", momentum=0.9, mode="batch")
            self.conv_2 = eqx.nn.Conv2d(channels, channels, 3, padding=1, use_bias=False, key=key)
            self.norm_2 = eqx.nn.BatchNorm(channels, axis_name="batch", momentum=0.9, mode="batch")

        def __call__(self, x: Any, state: Any) -> Any:
            h, state = self.norm_1(self.conv_1(x), state)
            h, state = self.norm_2(self.conv_2(jax.nn.relu(h)), state)
            return jax.nn.relu(x + h), state

    block, state = eqx.nn.make_with_state(Block)(jax.random.key(0))
    block = eqx.tree_at(
        lambda block: (block.conv_1.weight, block.conv_2.weight),
        block,
        tuple(jnp.array(given[w].transpose(3, 2, 0, 1)) for w in ("w_1", "w_2")),
    )
    x, c = (jnp.array(given[name].transpose(0, 3, 1, 2)) for name in "xc")

    @eqx.filter_jit
    def forward_backward(block: Any, state: Any, x: Any, c: Any) -> Any:
        def forward(block: Any, x: Any) -> Any:
            batched = jax.vmap(block, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            return batched(x, state)

        y, backward, after = eqx.filter_vjp(forward, block, x, has_aux=True)
        slopes, slope_x = backward(c)
        return after, Pass(y, slope_x, jax.tree.leaves(slopes))

    def run() -> Pass:
        nonlocal state
        state, seen = jax.block_until_ready(forward_backward(block, state, x, c))
        # Views: nothing is copied on a CPU.
        y, slope_x = (np.moveaxis(np.asarray(a), 1, -1) for a in seen[:2])
        return Pass(y, slope_x, seen.slopes)

    return run
