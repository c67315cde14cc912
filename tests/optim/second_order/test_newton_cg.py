"""Truncated Newton beside its algorithm in NumPy, and SciPy's optima."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fnnet.optim import newton_cg, wolfe
from tests.optim.second_order.logistic import descend, hessian, loss, start, value_and_grad, vector

pytestmark = pytest.mark.usefixtures("float64")


def algorithm(f: Any, grad: Any, hess: Any, theta: np.ndarray, steps: int, forcing: Any) -> Any:
    """Nocedal & Wright 7.1 with backtracking: (thetas, products, steps cut short by negative curvature)."""
    thetas, products, cut, last = [theta], 0, 0, None
    for _ in range(steps):
        g, B = grad(theta), hess(theta)
        norm = np.linalg.norm(g)
        eps, last = forcing(norm, last) * norm, norm
        p, r = np.zeros_like(g), g
        d, first = -r, True
        while np.linalg.norm(r) > eps:
            products += 1
            curvature = d @ B @ d
            if curvature <= 0:
                cut, p = cut + 1, -g if first else p
                break
            a = r @ r / curvature
            p, after = p + a * d, r + a * B @ d
            d, r, first = after @ after / (r @ r) * d - after, after, False
        a = 1.0
        while f(theta + a * p) > f(theta) + 1e-4 * a * g @ p:
            a /= 2
        theta = theta + a * p
        thetas.append(theta)
    return np.stack(thetas), products, cut


FORCINGS = {
    "superlinear": ({}, lambda norm, last: min(0.5, np.sqrt(norm))),
    "quadratic": ({"power": 1.0}, lambda norm, last: min(0.5, norm)),
    "Eisenstat & Walker": (
        {"relative": True, "power": 2.0, "eta_max": 0.9},
        lambda norm, last: min(0.9, (norm / (last or norm)) ** 2),
    ),
}


@pytest.mark.parametrize("forcing", FORCINGS)
def test_equals_the_algorithm_and_reaches_scipys_optimum(forcing: str) -> None:
    arguments, eta = FORCINGS[forcing]
    thetas, state = descend(newton_cg(**arguments), loss, start(), 11)
    value, grad = (lambda t, i=i: value_and_grad(t)[i] for i in range(2))
    wanted, products, _ = algorithm(value, grad, hessian, np.zeros(31), 6, eta)
    np.testing.assert_allclose(vector(thetas)[:7], wanted, rtol=1e-6, atol=1e-9)
    assert state.evaluations.products > products > 15
    for method in ("Newton-CG", "trust-ncg"):
        best = scipy.optimize.minimize(
            value_and_grad, np.zeros(31), jac=True, hess=hessian, method=method, tol=1e-8
        )
        # Newton-CG's criterion looks at the step, so it ends less exactly than trust-ncg.
        np.testing.assert_allclose(vector(thetas)[-1], best.x, atol=1e-4 if method == "Newton-CG" else 1e-6)
        assert value(vector(thetas)[-1]) <= best.fun + 1e-14
    if forcing == "quadratic":
        # |g| after a step over |g|^2 before it stays bounded while |g| falls from 1e-2 to 1e-8.
        norms = np.array([np.linalg.norm(value_and_grad(theta)[1]) for theta in vector(thetas)])
        near = np.flatnonzero((norms[:-1] < 2e-2) & (norms[:-1] > 1e-7))
        assert len(near) >= 3
        assert np.all(norms[near + 1] < 150 * norms[near] ** 2)
        last = np.log(norms[near[-2:] + 1] / norms[near[-2:]])
        assert last[1] / last[0] > 1.8  # the order


def test_negative_curvature() -> None:
    """From close to a saddle point: the first vector has no positive curvature, and later ones neither."""

    def f(x: Any, xp: Any = np) -> Any:
        return x[0] ** 4 / 4 - x[0] ** 2 / 2 + 2 * x[1] ** 2 + x[1] * x[0] + xp.cos(x[2])

    def grad(x: np.ndarray) -> np.ndarray:
        return np.array([x[0] ** 3 - x[0] + x[1], 4 * x[1] + x[0], -np.sin(x[2])])

    def hess(x: np.ndarray) -> np.ndarray:
        return np.array([[3 * x[0] ** 2 - 1, 1, 0], [1, 4, 0], [0, 0, -np.cos(x[2])]])

    cuts = 0
    run = partial(descend, newton_cg(), lambda x: f(x, jnp), steps=12)
    begins = np.array([[0.1, 0.0, 0.1], [0.01, 0.3, 0.2], [-0.2, 1.0, 3.0], [0.3, -0.5, -1.5]])
    many, state = jax.vmap(lambda theta: run(theta=theta))(jnp.asarray(begins))
    for i, begin in enumerate(begins):
        thetas, products, cut = algorithm(f, grad, hess, begin, 6, lambda norm, last: min(0.5, np.sqrt(norm)))
        np.testing.assert_allclose(many[i][:7], thetas, rtol=1e-8, atol=1e-9)
        assert state.evaluations.products[i] >= products
        cuts += cut
        assert np.linalg.norm(grad(np.asarray(many[i][-1]))) < 1e-6
        assert np.all(np.linalg.eigvalsh(hess(np.asarray(many[i][-1]))) > 0)  # a minimum, not a saddle point
    assert cuts > 3


def test_one_step_solves_a_quadratic() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(7, 5))
    a, b = a.T @ a + np.eye(5), rng.normal(size=5)
    f = lambda theta: 0.5 * theta @ jnp.asarray(a) @ theta - jnp.asarray(b) @ theta  # noqa: E731
    thetas, state = descend(newton_cg(wolfe, eta_max=0.0), f, jnp.zeros(5), 1)
    np.testing.assert_allclose(thetas[1], np.linalg.solve(a, b), rtol=1e-8)
    cut, state = descend(newton_cg(eta_max=0.0, max_products=2), f, jnp.zeros(5), 1)
    assert jax.tree.map(int, tuple(state.evaluations)) == (2, 1, 2)
    assert f(cut[1]) < f(cut[0])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"newton_cg: eta_max=1\.0, wanted in \[0, 1\)"):
        newton_cg(eta_max=1.0)
    with pytest.raises(ValueError, match="newton_cg: power=-1, wanted at least 0"):
        newton_cg(power=-1)
    with pytest.raises(ValueError, match="newton_cg: max_products=0, wanted at least 1"):
        newton_cg(max_products=0)
