"""An MLP, 784-512-512-10 with relu, trained with Adam in batches of 128."""

import itertools
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
    features: tuple[int, ...] = (784, 512, 512, 10)


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, Any]:
    """Examples x, labels y, weights w (in, out) and biases b."""
    rng = np.random.default_rng(0)
    draw = partial(normal, rng)
    pairs = list(itertools.pairwise(sizes.features))
    return {
        "x": draw((sizes.batch, sizes.features[0])),
        "y": rng.integers(sizes.features[-1], size=sizes.batch, dtype=np.int32),
        "w": [draw((n, m)) * np.float32((2 / n) ** 0.5) for n, m in pairs],
        "b": [draw(m) * np.float32(0.1) for _, m in pairs],
    }


def fnnet(sizes: Sizes, given: dict[str, Any]) -> tuple[fn.Layer, dict[str, Any]]:
    *hidden, classes = sizes.features[1:]
    net = fn.serial(*(layer for n in hidden for layer in (fn.dense(n), fn.relu)), fn.dense(classes))
    pairs = zip(given["w"], given["b"], strict=True)
    return net, {f"dense_{i}": {"w": w, "b": b} for i, (w, b) in enumerate(pairs)}


def torch(sizes: Sizes, given: dict[str, Any]) -> Any:
    from torch import nn

    layers: list[Any] = []
    for w, b in zip(given["w"], given["b"], strict=True):
        layers += [into_torch(nn.Linear(*w.shape), w, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def flax(sizes: Sizes, given: dict[str, Any]) -> Any:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            pairs = zip(given["w"], given["b"], strict=True)
            self.layers = nnx.List([into_flax(nnx.Linear(*w.shape, rngs=rngs), w, b) for w, b in pairs])

        def __call__(self, x: Any) -> Any:
            *hidden, last = self.layers
            for layer in hidden:
                x = nnx.relu(layer(x))
            return last(x)

    return Net(nnx.Rngs(0))


def equinox(sizes: Sizes, given: dict[str, Any]) -> Any:
    import equinox as eqx

    class Net(eqx.Module):
        layers: list[eqx.nn.Linear]

        def __init__(self, key: Any) -> None:
            pairs = zip(given["w"], given["b"], strict=True)
            self.layers = [into_equinox(eqx.nn.Linear(*w.shape, key=key), w, b) for w, b in pairs]

        def __call__(self, x: Any) -> Any:
            *hidden, last = self.layers
            for layer in hidden:
                x = jax.nn.relu(layer(x))
            return last(x)

    return Net(jax.random.key(0))
