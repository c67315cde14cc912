"""Hessian-free optimization beside dense solves and the whole algorithm in NumPy, step by step."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnnet as fn
from tests.optim.small_nets import Problem, classification, curves, regression, run

close = np.testing.assert_allclose
make = fn.optim.hessian_free


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", [regression, classification])
def test_without_early_stopping_it_is_a_dense_solve(kind: Any) -> None:
    """tolerance 0 and a cold start: d = -(G + lambda I)^-1 g, and lambda from the gain."""
    problem = kind()
    ours, state = run(make(0.1, 60, 0.0, decay=0.0, backtracking=False), problem, 4)
    at, value_at = curves(problem)
    theta, lambda_ = ours[0], 0.1
    for step in range(4):
        F, g, G = at(theta)
        d = -np.linalg.solve(G + lambda_ * np.eye(len(g)), g)
        rho = (value_at(theta + d) - F) / (g @ d + d @ G @ d / 2)
        lambda_ *= 2 / 3 if rho > 3 / 4 else 3 / 2 if rho < 1 / 4 else 1
        theta = theta + d if value_at(theta + d) < F else theta
        close(ours[step + 1], theta, rtol=1e-9, atol=1e-10)
        close(state.lambda_[step + 1], lambda_, rtol=1e-12)
    assert lambda_ != 0.1


def minimize(
    A: np.ndarray, g: np.ndarray, x: np.ndarray, most: int, tolerance: float
) -> tuple[list[np.ndarray], list[float]]:
    """The iterates of conjugate gradient and phi of each, until Martens' criterion holds."""
    r = A @ x + g
    v, xs, phis = -r, [x], [x @ A @ x / 2 + g @ x]
    for i in range(1, most + 1):
        a = (r @ r) / (v @ A @ v)
        x, after = x + a * v, r + a * (A @ v)
        v, r = -after + (after @ after) / (r @ r) * v, after
        xs.append(x)
        phis.append(x @ A @ x / 2 + g @ x)
        k = max(10, math.ceil(i / 10))
        if i > k and phis[i] < 0 and (phis[i] - phis[i - k]) / phis[i] < k * tolerance:
            break
    return xs, phis


def far(problem: Problem) -> Problem:
    return problem._replace(params=jax.tree.map(lambda a: 4 * a + 1, problem.params))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("most, tolerance", [(14, 0.0), (40, 0.05)])
def test_equals_the_whole_algorithm(most: int, tolerance: float) -> None:
    """Warm start, stop, backtracking over the iterates, damping, rejection and counts."""
    problem, lambda_ = classification(), 1e-3
    draw = np.random.default_rng(
        4
    )  # a start from which all of that happens, and no two iterates are equally good
    problem = problem._replace(params=jax.tree.map(lambda a: 3 * draw.normal(size=a.shape), problem.params))
    ours, state = run(make(lambda_, most, tolerance, decay=0.9), problem, 6)
    at, value_at = curves(problem)
    theta, x, counts, stopped, back = ours[0], np.zeros_like(ours[0]), [0, 0, 0], [], []
    for step in range(6):
        F, g, G = at(theta)
        A = G + lambda_ * np.eye(len(g))
        xs, _ = minimize(A, g, 0.9 * x, most, tolerance)
        x, i = xs[-1], len(xs) - 1
        marks = sorted({m for m in (math.ceil(1.3**j) for j in range(40)) if m < i} | {i})
        values = [value_at(theta + xs[m]) for m in marks]
        j, used = len(marks) - 1, 2
        while j > 0:
            used += 1
            if values[j - 1] > values[j]:
                break
            j -= 1
        d = xs[marks[j]]
        rho = (values[j] - F) / (g @ d + d @ G @ d / 2)
        lambda_ *= 2 / 3 if rho > 3 / 4 else 1 if rho >= 1 / 4 else 3 / 2
        theta = theta + d if values[j] < F else theta
        counts = [counts[0] + used, counts[1] + 1, counts[2] + 1 + i]
        stopped.append(i < most)
        back.append(j < len(marks) - 1)
        close(ours[step + 1], theta, rtol=1e-7, atol=1e-8)
        close(state.lambda_[step + 1], lambda_, rtol=1e-12)
        close(ravel_pytree(jax.tree.map(lambda a, s=step: a[s + 1], state.x))[0], x, rtol=1e-6, atol=1e-7)
    assert [int(n[-1]) for n in state.evaluations] == counts
    assert any(stopped) == (tolerance > 0)
    assert any(back)


@pytest.mark.slow
def test_learns_two_moons_in_float32() -> None:
    data = {"train": fn.data.two_moons(jax.random.key(0), 100)}
    net = fn.serial(fn.dense(8), fn.tanh, fn.dense(2))
    loss, optimizer = fn.losses.softmax_cross_entropy, partial(make, max_iterations=50)
    runs = fn.train.make_run(
        net, loss, optimizer, steps=25, batch_size=100, metrics={"accuracy": fn.metrics.accuracy}
    )
    history = jax.jit(runs)(jax.random.key(1), data, {"damping": 0.1}).history
    assert history["train_accuracy"][-1] > 0.99
    # Full batches: a step that raises the loss is not taken.
    assert np.all(np.diff(history["train_loss"]) <= 0)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("backtracking", [True, False])
def test_a_step_to_a_loss_that_is_not_finite_is_rejected(bad: float, backtracking: bool) -> None:
    params = jnp.array([1.0, 2.0])
    optimizer = make(0.5, 4, backtracking=backtracking)
    with jax.disable_jit():  # no compiled loops
        updates, state = optimizer.update(
            params,
            optimizer.init(params),
            params,
            value=2.5,
            value_fn=lambda p: jnp.where(jnp.all(p == params), 2.5, bad),
            predict_fn=lambda p: p,
            loss_fn=lambda z: jnp.sum(jnp.square(z)) / 2,
        )
    assert np.all(updates == 0)
    assert float(state.lambda_) == 0.75


def test_at_the_minimum_nothing_moves() -> None:
    params = {"a": jnp.zeros(2), "none": None, "empty": jnp.zeros((0, 3))}
    optimizer = make(0.5)
    with jax.disable_jit():
        updates, state = optimizer.update(
            params,
            optimizer.init(params),
            params,
            value=0.0,
            value_fn=lambda p: jnp.sum(jnp.square(p["a"])),
            predict_fn=lambda p: p["a"],
            loss_fn=lambda z: jnp.sum(jnp.square(z)),
        )
    assert np.all(updates["a"] == 0)
    assert [int(n) for n in state.evaluations] == [2, 1, 1]


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"damping": 0.0}, r"damping=0\.0, wanted in \[1e-20, 1\d+"),
        ({"tolerance": -1.0}, r"tolerance=-1\.0, wanted at least 0"),
        ({"decay": 1.5}, r"decay=1\.5, wanted in \[0, 1"),
        ({"max_iterations": 0}, "max_iterations=0, wanted at least 1"),
    ],
)
def test_errors(bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**bad)


def test_needs_predict_fn() -> None:
    with pytest.raises(ValueError, match="needs predict_fn, which training passes"):
        make().update(jnp.ones(1), make().init(jnp.ones(1)), jnp.ones(1), value=1.0, value_fn=jnp.sum)
    with pytest.raises(TypeError, match=r"max_iterations=2\.5, wanted a positive int"):
        make(max_iterations=2.5)
