"""A basic block of a ResNet on images 32x32 with 64 channels, batch 16, in training.

    y = relu(x + batch_norm(conv(relu(batch_norm(conv(x))))))        conv 3x3, without bias

Source: He et al. 2016, "Deep residual learning for image recognition".
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import normal
from experiments.benchmarks.workloads.weights import into_equinox, into_flax, into_torch


class Sizes(NamedTuple):
    batch: int = 16
    size: int = 32
    channels: int = 64


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Images x, and c, the gradient of a loss by y; kernels w_1 and w_2, HWIO."""
    draw = partial(normal, np.random.default_rng(0))
    image = (sizes.batch, sizes.size, sizes.size, sizes.channels)
    kernel, scale = (3, 3, sizes.channels, sizes.channels), np.float32((2 / 9 / sizes.channels) ** 0.5)
    return {"x": draw(image), "c": draw(image), "w_1": draw(kernel) * scale, "w_2": draw(kernel) * scale}


def fnnet(sizes: Sizes, given: dict[str, np.ndarray]) -> tuple[fn.Layer, dict[str, Any]]:
    conv = fn.conv(sizes.channels, 3, use_bias=False)
    net = fn.serial(fn.residual(conv, fn.batch_norm(), fn.relu, conv, fn.batch_norm()), fn.relu)
    return net, {"residual_0": {"conv_0": {"w": given["w_1"]}, "conv_1": {"w": given["w_2"]}}}


def torch(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    import torch
    from torch import nn

    channels = sizes.channels

    def conv(w: np.ndarray) -> Any:
        return into_torch(nn.Conv2d(channels, channels, 3, padding=1, bias=False), w)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv_1, self.norm_1 = conv(given["w_1"]), nn.BatchNorm2d(channels)
            self.conv_2, self.norm_2 = conv(given["w_2"]), nn.BatchNorm2d(channels)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.norm_1(self.conv_1(x)))
            return torch.relu(x + self.norm_2(self.conv_2(h)))

    return Block()


def flax(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    from flax import nnx

    channels = sizes.channels

    def conv(w: np.ndarray, rngs: Any) -> Any:
        return into_flax(nnx.Conv(channels, channels, kernel_size=(3, 3), use_bias=False, rngs=rngs), w)

    class Block(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv_1 = conv(given["w_1"], rngs)
            self.norm_1 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
            self.conv_2 = conv(given["w_2"], rngs)
            self.norm_2 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = nnx.relu(self.norm_1(self.conv_1(x)))
            return nnx.relu(x + self.norm_2(self.conv_2(h)))

    return Block(nnx.Rngs(0))


def equinox(sizes: Sizes, given: dict[str, np.ndarray]) -> tuple[Any, Any]:
    """The module and its state, with which it is called."""
    import equinox as eqx

    channels = sizes.channels

    def conv(w: np.ndarray, key: Any) -> Any:
        return into_equinox(eqx.nn.Conv2d(channels, channels, 3, padding=1, use_bias=False, key=key), w)

    def norm() -> Any:
        return eqx.nn.BatchNorm(channels, axis_name="batch", momentum=0.9, mode="batch")

    class Block(eqx.Module):
        conv_1: Any
        norm_1: Any
        conv_2: Any
        norm_2: Any

        def __init__(self, key: Any) -> None:
            self.conv_1, self.norm_1 = conv(given["w_1"], key), norm()
            self.conv_2, self.norm_2 = conv(given["w_2"], key), norm()

        def __call__(self, x: Any, state: Any) -> Any:
            h, state = self.norm_1(self.conv_1(x), state)
            h, state = self.norm_2(self.conv_2(jax.nn.relu(h)), state)
            return jax.nn.relu(x + h), state

    return eqx.nn.make_with_state(Block)(jax.random.key(0))
