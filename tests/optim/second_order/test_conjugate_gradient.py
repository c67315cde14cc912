"""Conjugate gradients beside their rule in NumPy, optimistix's beta, linear CG and SciPy's optimum."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
import scipy.optimize

import fnnet as fn
from fnnet.optim import Search, conjugate_gradient
from fnnet.optim.evaluations import no_evaluations
from fnnet.optim.second_order.conjugate_gradient import Beta
from tests.optim.second_order.logistic import descend, loss, start, value_and_grad, vector

pytestmark = pytest.mark.usefixtures("float64")
BETAS = get_args(Beta)


def secant(phi: Any, value: Any, slope: Any, step: Any) -> Search:
    """The zero of the line through the slopes at 0 and 1: exact on a quadratic."""
    _, after = phi(jnp.ones_like(slope))
    return Search(slope / (slope - after), value, jnp.array(True), no_evaluations().plus(1, 1))


def beta_of(rule: str, g: np.ndarray, before: np.ndarray, d: np.ndarray) -> float:
    y = g - before
    return {
        "fletcher_reeves": (g @ g) / (before @ before),
        "polak_ribiere": max(0.0, (g @ y) / (before @ before)),
        "hestenes_stiefel": (g @ y) / (d @ y),
        "dai_yuan": (g @ g) / (d @ y),
    }[rule]


@pytest.mark.parametrize("rule", BETAS)
class TestBeta:
    def test_equals_the_rule_and_optimistix(self, rule: str) -> None:
        """Each step on a logistic regression with the same search, and its beta by optimistix."""
        f = jax.jit(getattr(optimistix, rule))
        negative = -1 if rule in ("hestenes_stiefel", "dai_yuan") else 1  # see optimistix's sign, below
        thetas, state = descend(conjugate_gradient(rule, secant), loss, start(), 25)
        theta, d, before = np.zeros(31), None, None
        for ours in vector(thetas):
            np.testing.assert_allclose(ours, theta, rtol=1e-8, atol=1e-10)
            g = value_and_grad(theta)[1]
            if d is None:
                d = -g
            else:
                beta = beta_of(rule, g, before, d)
                np.testing.assert_allclose(f(negative * g, negative * before, d), beta, rtol=1e-6, atol=1e-9)
                conjugate = beta * d - g
                d = conjugate if g @ conjugate < 0 else -g
            after = value_and_grad(theta + d)[1] @ d
            theta, before = theta + g @ d / (g @ d - after) * d, g
        assert jax.tree.map(int, tuple(state.evaluations)) == (50, 50, 0)

    def test_is_linear_on_a_quadratic(self, rule: str) -> None:
        """With exact steps it ends after n steps, and each step is that of the linear method."""
        rng = np.random.default_rng(0)
        a = rng.normal(size=(8, 6))
        a, b = a.T @ a + np.eye(6), rng.normal(size=6)
        f = lambda theta: 0.5 * theta @ jnp.asarray(a) @ theta - jnp.asarray(b) @ theta  # noqa: E731
        thetas, _ = descend(conjugate_gradient(rule, secant), f, jnp.zeros(6), 6)
        x, r = np.zeros(6), b
        d = r
        for ours in thetas:
            np.testing.assert_allclose(ours, x, rtol=1e-9, atol=1e-12)
            alpha = (r @ r) / (d @ a @ d)
            x, after = x + alpha * d, r - alpha * a @ d
            d, r = after + (after @ after) / (r @ r) * d, after
        np.testing.assert_allclose(thetas[-1], np.linalg.solve(a, b), rtol=1e-9)
        assert np.max(np.abs(thetas[-2] - thetas[-1])) > 1e-4


def test_optimum_of_scipy() -> None:
    best = scipy.optimize.minimize(
        value_and_grad, np.zeros(31), jac=True, method="CG", options={"gtol": 1e-9}
    )
    thetas, state = descend(conjugate_gradient(), loss, start(), 95)
    np.testing.assert_allclose(vector(thetas)[-1], best.x, atol=1e-6)
    assert state.evaluations.values < 3 * best.nfev


def test_single_precision_goes_as_far_as_it_can() -> None:
    """Values that are exactly equal do not stop the search: it continues by the slopes."""
    thetas, _ = descend(conjugate_gradient(), loss, start(jnp.float32), 80)
    assert np.max(np.abs(value_and_grad(vector(thetas)[-1].astype(float))[1])) < 1e-6


def test_sign_of_optimistix() -> None:
    """In 0.1.0 two of its rules expect negative gradients, but its solver passes gradients."""
    g, before, d = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0]), jnp.array([-2.0, 0.5])
    for rule in ("hestenes_stiefel", "dai_yuan"):
        beta = beta_of(rule, g, before, d)
        np.testing.assert_allclose(getattr(optimistix, rule)(g, before, d), -beta)
        np.testing.assert_allclose(getattr(optimistix, rule)(-g, -before, d), beta)


class TestRestarts:
    def directions(self, **arguments: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """d and -g at each of nine steps."""
        optimizer = conjugate_gradient("fletcher_reeves", secant, **arguments)
        theta, ds, gs = start(), [], []
        state = optimizer.init(theta)

        @jax.jit
        def step(theta: Any, state: Any) -> Any:
            value, grad = jax.value_and_grad(loss)(theta)
            updates, state = optimizer.update(grad, state, theta, value=value, grad=grad, value_fn=loss)
            return jax.tree.map(jnp.add, theta, updates), state, grad

        for _ in range(9):
            theta, state, grad = step(theta, state)
            ds.append(vector(state.d))
            gs.append(-vector(grad))
        return ds, gs

    def test_every_four_steps(self) -> None:
        restarted = [np.array_equal(d, g) for d, g in zip(*self.directions(restart_every=4), strict=True)]
        assert restarted == [i % 4 == 0 for i in range(9)]

    def test_where_gradients_overlap(self) -> None:
        ds, gs = self.directions(restart_overlap=0.2)
        overlaps = [True] + [abs(g @ h) >= 0.2 * g @ g for g, h in zip(gs[1:], gs[:-1], strict=True)]
        assert [np.array_equal(d, g) for d, g in zip(ds, gs, strict=True)] == overlaps
        assert 1 < sum(overlaps) < 9

    def test_where_the_direction_ascends(self) -> None:
        optimizer = conjugate_gradient("fletcher_reeves", secant)
        theta = jnp.array([1.0, 2.0])
        state = optimizer.init(theta)._replace(since=jnp.int32(3), g=theta, d=5 * theta)
        with jax.disable_jit():
            _, state = optimizer.update(
                theta, state, theta, value=2.5, grad=theta, value_fn=lambda t: jnp.sum(jnp.square(t)) / 2
            )
        np.testing.assert_array_equal(state.d, -theta)
        assert state.since == 1

    @pytest.mark.slow
    def test_after_a_search_that_found_nothing(self) -> None:
        optimizer, theta = conjugate_gradient(), jnp.array([1.0, 2.0])
        state = optimizer.init(theta)._replace(since=jnp.int32(3), g=theta, d=-theta)
        with jax.disable_jit():
            updates, state = optimizer.update(
                -theta, state, theta, value=2.5, grad=-theta, value_fn=lambda t: jnp.sum(jnp.square(t)) / 2
            )
        assert state.since == 0
        assert not np.any(updates)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="beta='newton', wanted one of 'fletcher_reeves', 'polak"):
        conjugate_gradient("newton")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="restart_every=0, wanted at least 1"):
        conjugate_gradient(restart_every=0)
    with pytest.raises(ValueError, match="restart_overlap=-1, wanted at least 0"):
        conjugate_gradient(restart_overlap=-1)
    with pytest.raises(ValueError, match=r"conjugate_gradient.* value_fn"):
        fn.optim.conjugate_gradient().update(1.0, None, 1.0, value=1.0, grad=1.0)
