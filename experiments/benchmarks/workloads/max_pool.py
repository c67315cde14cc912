"""Max pooling 2x2 of images 24x24 with 32 channels, batch 128."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import normal


class Sizes(NamedTuple):
    batch: int = 128
    size: int = 24
    channels: int = 32


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Images x, and c, the gradient of a loss by y."""
    draw = partial(normal, np.random.default_rng(0))
    return {
        name: draw((sizes.batch, size, size, sizes.channels))
        for name, size in (("x", sizes.size), ("c", sizes.size // 2))
    }


def fnnet(sizes: Sizes, given: dict[str, np.ndarray]) -> tuple[fn.Layer, dict[str, Any]]:
    return fn.max_pool(2), {}


def torch(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    from torch import nn

    return nn.MaxPool2d(2)


def flax(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    from flax import nnx

    class Pool(nnx.Module):
        def __call__(self, x: Any) -> Any:
            return nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))

    return Pool()


def equinox(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    import equinox as eqx

    return eqx.nn.MaxPool2d(2, 2)
