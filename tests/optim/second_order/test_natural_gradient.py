"""The natural gradient beside NumPy: both Fisher matrices of softmax regression from their definitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnnet as fn
from tests.optim.small_nets import Problem, classification, run

close = np.testing.assert_allclose
draw = np.random.default_rng(0)
X, Y = draw.normal(size=(10, 3)), draw.integers(0, 4, 10)
W = draw.normal(size=(3, 4))


def softmax_regression() -> Problem:
    x, y = jnp.asarray(X), jnp.asarray(Y)
    return Problem(jnp.asarray(W), lambda w: x @ w, lambda z: jnp.mean(fn.losses.softmax_cross_entropy(z, y)))


def probabilities(w: np.ndarray) -> np.ndarray:
    z = X @ w.reshape(3, 4)
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def score(x: np.ndarray, p: np.ndarray, y: int) -> np.ndarray:
    """d log p(y | x) / dW, a vector."""
    return np.outer(x, np.eye(4)[y] - p).ravel()


def exact(w: np.ndarray) -> np.ndarray:
    """The mean over the examples of the model's expectation of the score's outer product."""
    expectations = [
        sum(p[y] * np.outer(score(x, p, y), score(x, p, y)) for y in range(4))
        for x, p in zip(X, probabilities(w), strict=True)
    ]
    return np.mean(expectations, axis=0)


def scores(w: np.ndarray) -> np.ndarray:
    return np.array([score(x, p, y) for x, p, y in zip(X, probabilities(w), Y, strict=True)])


def empirical(w: np.ndarray) -> np.ndarray:
    return np.mean([np.outer(s, s) for s in scores(w)], axis=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fisher, matrix, products", [("exact", exact, 12), ("empirical", empirical, 10)])
def test_equals_the_definition(fisher: str, matrix: Any, products: int) -> None:
    ours, state = run(fn.optim.natural_gradient(0.5, 1e-2, fisher=fisher), softmax_regression(), 4)
    theta = W.ravel()
    for step in range(4):
        g = -scores(theta).mean(axis=0)
        theta = theta - 0.5 * np.linalg.solve(matrix(theta) + 1e-2 * np.eye(12), g)
        close(ours[step + 1], theta, rtol=1e-12, atol=1e-12)
    assert [int(n[-1]) for n in state.evaluations] == [4, 4, 4 * products]


@pytest.mark.usefixtures("float64")
def test_empirical_of_a_network_by_gradients_of_single_examples() -> None:
    problem, N = classification(), 8
    theta, unravel = ravel_pytree(problem.params)

    def single(theta: jax.Array, i: Any) -> jax.Array:
        """The loss of example i alone: the logits of the others are constant, and the mean is undone."""
        z = problem.predict_fn(unravel(theta))
        others = jnp.arange(N)[:, None] != i
        return N * problem.loss_fn(jnp.where(others, jax.lax.stop_gradient(z), z))

    s = np.asarray(jax.jit(jax.vmap(jax.grad(single), in_axes=(None, 0)))(theta, jnp.arange(N)))
    ours, _ = run(fn.optim.natural_gradient(1.0, 0.1, fisher="empirical"), problem, 1)
    d = np.linalg.solve(s.T @ s / N + 0.1 * np.eye(s.shape[1]), s.mean(axis=0))
    close(ours[1] - ours[0], -d, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_does_not_depend_on_the_units_of_the_params() -> None:
    """The purpose of the method: rescaled weights give the same functions, step by step."""
    problem, scale = softmax_regression(), jnp.array([1.0, 10.0, 0.2])[:, None]
    scaled = Problem(problem.params / scale, lambda w: problem.predict_fn(w * scale), problem.loss_fn)
    optimizer = fn.optim.natural_gradient(0.3, 0.0)  # F is singular: softmax ignores a shift of all logits
    ends = [run(optimizer, p, 3)[0][-1].reshape(3, 4) for p in (problem, scaled)]
    close(probabilities(ends[0]), probabilities(ends[1] * np.asarray(scale)), rtol=1e-9)


def test_errors() -> None:
    make, one = fn.optim.natural_gradient, jnp.float32(1)
    with pytest.raises(
        ValueError, match="fisher='emperical', wanted one of 'exact', 'empirical'; did you mean 'empirical'"
    ):
        make(fisher="emperical")
    with pytest.raises(ValueError, match=r"damping=-1\.0, wanted at least 0"):
        make(damping=-1.0)
    with pytest.raises(ValueError, match="needs predict_fn, which training passes"):
        make().update(one, make().init(one), one, loss_fn=jnp.sum)
    empirical = make(fisher="empirical")
    with pytest.raises(ValueError, match="the prediction is a scalar, wanted an axis of examples"):
        empirical.update(one, empirical.init(one), one, predict_fn=jnp.sin, loss_fn=jnp.sum)
