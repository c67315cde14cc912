"""The problems of the ladder, from functions of two numbers to small networks, all in the same form.

Each is a network, a loss and data, as `fnnet.train.make_step` takes them. For a function of two numbers, the params
are a point, the prediction is the residuals at that point, and the data is a single empty example.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.comparison.surfaces import SURFACES, Surface
from fnnet.train.step import PerExample


class Problem(NamedTuple):
    """A loss to minimize, and the score that compares the results."""

    name: str
    title: str
    net: fn.Layer  # init draws the start, apply is the prediction
    loss: PerExample
    data: fn.data.Dataset  # for a surface, the same empty example three times
    batch_size: int
    score: PerExample  # what optimizers are compared by, lower is better; has the form of a loss
    unit: str  # of the score
    surface: Surface | None = None


def surface(name: str) -> Problem:
    """A function of two numbers. Its value is the loss in training, validation and test."""
    s = SURFACES[name]

    def init(key: chex.PRNGKey, x: Any) -> tuple[Any, Any]:
        shift = jax.random.uniform(key, (2,), minval=-1, maxval=1) * jnp.array(s.jitter)
        return {"theta": jnp.array(s.start) + shift}, {}

    def apply(params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False) -> tuple[Any, Any]:
        return s.residuals(params["theta"])[None], state

    def loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
        return jax.vmap(s.value)(prediction)

    point = {"x": jnp.zeros((1, 1)), "y": jnp.zeros((1, 1))}
    data, net = fn.data.Dataset(point, point, point), fn.Layer(init, apply, name)
    return Problem(name, s.title, net, loss, data, 1, loss, "f", surface=s)


def noisy_quadratic(size: int = 20, condition: float = 100.0, noise: float = 1.0) -> Problem:
    """A quadratic function with noise in the gradient.

    theta^T A theta / 2, with eigenvalues of A from 1 / condition to 1, evenly spaced on a log scale. The gradient is

        A theta + mean of e_i over the batch,   e_i ~ N(0, noise^2 I) minus their mean

    so that the noise is zero over the whole training part. Validation and test use the value without noise.
    """
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    a = jnp.array(q * np.geomspace(1 / condition, 1, size) @ q.T, jnp.float32)
    e = rng.normal(size=(512, size)) * noise
    e -= e.mean(axis=0)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Any, Any]:
        return {"theta": 3 * jax.random.normal(key, (size,))}, {}

    def apply(params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False) -> tuple[Any, Any]:
        return jnp.broadcast_to(params["theta"], (len(x), size)), state

    def loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.sum(prediction * (prediction @ a / 2 + target), axis=-1)

    train = {"x": jnp.zeros((512, 1)), "y": jnp.array(e, jnp.float32)}
    held_out = {"x": jnp.zeros((1, 1)), "y": jnp.zeros((1, size))}
    title = f"{size} parameters, condition number {condition:g}, noise in the gradient"
    net, data = fn.Layer(init, apply, "quadratic"), fn.data.Dataset(train, held_out, held_out)
    return Problem("noisy_quadratic", title, net, loss, data, 16, loss, "f")


def error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """100 (%) if the most likely class is wrong, else 0."""
    return 100 * (1 - fn.metrics.accuracy(prediction, target))


def _classes(name: str, title: str, net: fn.Layer, data: fn.data.Dataset) -> Problem:
    loss = fn.losses.softmax_cross_entropy
    return Problem(name, title, net, loss, data, 64, error, "error %")


def _digits() -> fn.data.Dataset:
    return fn.data.standardize(fn.data.digits())


def logistic_regression() -> Problem:
    """Convex: one dense layer on the digits."""
    net = fn.serial(fn.flatten, fn.dense(10))
    return _classes("logistic_regression", "digits, 650 parameters, convex", net, _digits())


def digits_mlp() -> Problem:
    """The network of the comparison with optax."""
    net = fn.serial(fn.flatten, fn.dense(64), fn.relu, fn.dense(10))
    return _classes("digits_mlp", "digits, 64-64-10, relu", net, _digits())


def two_spirals() -> Problem:
    """Two interleaved spirals, which are hard to separate."""
    spirals = fn.data.two_spirals(400, turns=1.5, noise=0.1, key=jax.random.key(0))
    net = fn.serial(fn.dense(32), fn.tanh, fn.dense(32), fn.tanh, fn.dense(2))
    data = fn.data.standardize(fn.data.split(spirals))
    return _classes("two_spirals", "two spirals, 2-32-32-2, tanh", net, data)


def small_cnn() -> Problem:
    """Two convolutions on the digits."""
    net = fn.serial(
        *(fn.conv(8, 3), fn.relu, fn.max_pool(2), fn.conv(16, 3), fn.relu, fn.max_pool(2)),
        *(fn.flatten, fn.dense(10)),
    )
    return _classes("small_cnn", "digits, 2 convolutions", net, _digits())


def _as_rows(part: Any) -> Any:
    return {**part, "x": part["x"][..., 0]}


def small_lstm() -> Problem:
    """The digits, read row by row."""
    data = fn.data.Dataset(*map(_as_rows, _digits()))
    net = fn.serial(fn.lstm(24, outputs="last"), fn.dense(10))
    return _classes("small_lstm", "digits row by row, LSTM of 24 units", net, data)


def _as_targets(part: Any) -> Any:
    pixels = part["x"].reshape(len(part["x"]), -1)
    return {"x": pixels, "y": pixels}


def deep_autoencoder() -> Problem:
    """Eight layers with a code of 6 numbers: the task that started second-order methods for deep networks.

    Source: Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks", but smaller:
    sigmoid units and a linear code, as there. Martens 2010 trains it from scratch with Hessian-free optimization.
    """
    data = fn.data.Dataset(*map(_as_targets, fn.data.digits()))
    encoder = [layer for n in (64, 40, 20) for layer in (fn.dense(n), fn.sigmoid)]
    decoder = [layer for n in (20, 40, 64) for layer in (fn.dense(n), fn.sigmoid)]
    net = fn.serial(*encoder, fn.dense(6), *decoder, fn.dense(64))
    loss = fn.losses.mean_squared_error
    title = "digits, 64-64-40-20-6-20-40-64-64, sigmoid"
    return Problem("deep_autoencoder", title, net, loss, data, 64, loss, "loss")


PROBLEMS: dict[str, Callable[[], Problem]] = {
    **{name: partial(surface, name) for name in SURFACES},
    "noisy_quadratic": noisy_quadratic,
    "logistic_regression": logistic_regression,
    "digits_mlp": digits_mlp,
    "two_spirals": two_spirals,
    "small_cnn": small_cnn,
    "small_lstm": small_lstm,
    "deep_autoencoder": deep_autoencoder,
}


def count_params(problem: Problem) -> int:
    """The number of trainable parameters."""
    params = jax.eval_shape(lambda: problem.net.init(jax.random.key(0), problem.data.train["x"][:1])[0])
    return sum(leaf.size for leaf in jax.tree.leaves(params))
