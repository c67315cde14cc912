"""A LeNet-like CNN on images 28x28x1, trained with Adam in batches of 128.

    conv 5x5, 32 - relu - max_pool 2 - conv 5x5, 64 - relu - max_pool 2 - dense 256 - relu - dense 10

Both convolutions keep the size of the image.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import Optimizer, normal
from experiments.benchmarks.workloads.weights import into_equinox, into_flax, into_torch

OPTIMIZER = Optimizer(learning_rate=1e-3)


class Sizes(NamedTuple):
    batch: int = 128
    size: int = 28  # of the image, a multiple of 4
    channels: tuple[int, int] = (32, 64)
    hidden: int = 256
    classes: int = 10


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, Any]:
    """Images x (batch, height, width, 1), labels y, weights w, HWIO and (in, out), and biases b."""
    rng = np.random.default_rng(0)
    draw = partial(normal, rng)
    first, second = sizes.channels
    flat = (sizes.size // 4) ** 2 * second
    shapes = ((5, 5, 1, first), (5, 5, first, second), (flat, sizes.hidden), (sizes.hidden, sizes.classes))
    return {
        "w": [draw(shape) * np.float32((2 / np.prod(shape[:-1])) ** 0.5) for shape in shapes],
        "b": [draw(shape[-1]) * np.float32(0.1) for shape in shapes],
        "x": draw((sizes.batch, sizes.size, sizes.size, 1)),
        "y": rng.integers(sizes.classes, size=sizes.batch, dtype=np.int32),
    }


def fnnet(sizes: Sizes, given: dict[str, Any]) -> tuple[fn.Layer, dict[str, Any]]:
    first, second = sizes.channels
    net = fn.serial(
        *(fn.conv(first, 5), fn.relu, fn.max_pool(2)),
        *(fn.conv(second, 5), fn.relu, fn.max_pool(2)),
        *(fn.flatten, fn.dense(sizes.hidden), fn.relu, fn.dense(sizes.classes)),
    )
    names = ("conv_0", "conv_1", "dense_0", "dense_1")
    return net, {name: {"w": w, "b": b} for name, w, b in zip(names, given["w"], given["b"], strict=True)}


def torch(sizes: Sizes, given: dict[str, Any]) -> Any:
    from torch import nn

    first, second = sizes.channels
    net: Any = nn.Sequential(
        *(nn.Conv2d(1, first, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear((sizes.size // 4) ** 2 * second, sizes.hidden), nn.ReLU()),
        nn.Linear(sizes.hidden, sizes.classes),
    )
    weights = zip(_weights_of_nchw(sizes, given), given["b"], strict=True)
    for i, (w, b) in zip((0, 3, 7, 9), weights, strict=True):
        into_torch(net[i], w, b)
    return net


def flax(sizes: Sizes, given: dict[str, Any]) -> Any:
    from flax import nnx

    first, second = sizes.channels

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv_1 = nnx.Conv(1, first, kernel_size=(5, 5), rngs=rngs)
            self.conv_2 = nnx.Conv(first, second, kernel_size=(5, 5), rngs=rngs)
            self.linear_1 = nnx.Linear((sizes.size // 4) ** 2 * second, sizes.hidden, rngs=rngs)
            self.linear_2 = nnx.Linear(sizes.hidden, sizes.classes, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(nnx.relu(self.conv_1(x)), window_shape=(2, 2), strides=(2, 2))
            x = nnx.max_pool(nnx.relu(self.conv_2(x)), window_shape=(2, 2), strides=(2, 2))
            x = x.reshape(x.shape[0], -1)
            return self.linear_2(nnx.relu(self.linear_1(x)))

    net = Net(nnx.Rngs(0))
    layers = (net.conv_1, net.conv_2, net.linear_1, net.linear_2)
    for layer, w, b in zip(layers, given["w"], given["b"], strict=True):
        into_flax(layer, w, b)
    return net


def equinox(sizes: Sizes, given: dict[str, Any]) -> Any:
    import equinox as eqx

    (first, second), size = sizes.channels, sizes.size // 4

    class Net(eqx.Module):
        layers: list[Any]
        pool: Any

        def __init__(self, key: Any) -> None:
            layers = (
                eqx.nn.Conv2d(1, first, 5, padding="SAME", key=key),
                eqx.nn.Conv2d(first, second, 5, padding="SAME", key=key),
                eqx.nn.Linear(size * size * second, sizes.hidden, key=key),
                eqx.nn.Linear(sizes.hidden, sizes.classes, key=key),
            )
            weights = zip(layers, _weights_of_nchw(sizes, given), given["b"], strict=True)
            self.layers = [into_equinox(layer, w, b) for layer, w, b in weights]
            self.pool = eqx.nn.MaxPool2d(2, 2)

        def __call__(self, x: Any) -> Any:
            conv_1, conv_2, linear_1, linear_2 = self.layers
            x = self.pool(jax.nn.relu(conv_1(x)))
            x = self.pool(jax.nn.relu(conv_2(x)))
            return linear_2(jax.nn.relu(linear_1(x.ravel())))

    return Net(jax.random.key(0))


def _weights_of_nchw(sizes: Sizes, given: dict[str, Any]) -> list[np.ndarray]:
    """The weights for images NCHW: the first dense layer's rows are in the order in which these are flattened."""
    *convolutions, w_3, w_4 = given["w"]
    size = sizes.size // 4
    rows = w_3.reshape(size, size, sizes.channels[1], -1).transpose(2, 0, 1, 3)
    return [*convolutions, rows.reshape(w_3.shape), w_4]
