"""L-BFGS beside optax, its two loops in NumPy, and SciPy's optimum."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import fnnet as fn
from fnnet.optim import backtracking, lbfgs, wolfe
from tests.optim.second_order.logistic import descend, loss, start, value_and_grad, vector

pytestmark = pytest.mark.usefixtures("float64")


def two_loops(g: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]], gamma: float) -> np.ndarray:
    """The inverse Hessian times g, by the matrix products that the loops compute (Nocedal & Wright 7.19)."""
    h = gamma * np.eye(len(g))
    for s, y in pairs:
        rho = 1 / (s @ y)
        v = np.eye(len(g)) - rho * np.outer(y, s)
        h = v.T @ h @ v + rho * np.outer(s, s)
    return h @ g


SCHEDULED = {
    "memory_size": 3,
    "scale_init_precond": False,
    "learning_rate": optax.linear_schedule(0.9, 0.5, 40),
}


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("arguments", [{}, SCHEDULED])
def test_equals_optax(arguments: dict[str, Any]) -> None:
    ours, _ = descend(lbfgs(**arguments), loss, start(), 40)
    theirs, _ = descend(optax.lbfgs(**arguments), loss, start(), 40)
    ours, theirs = vector(ours), vector(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
    assert np.max(np.abs(ours[-1] - ours[0])) > 0.5


def test_equals_optax_with_backtracking() -> None:
    theirs = optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(29, decrease_factor=0.5))
    ours, state = descend(lbfgs(linesearch=backtracking), loss, start(), 25)
    theirs, _ = descend(theirs, loss, start(), 25)
    np.testing.assert_allclose(vector(ours), vector(theirs), rtol=1e-9, atol=1e-11)
    assert state.evaluations.gradients == 25


def test_equals_the_matrices() -> None:
    """Without a search: the inverse Hessian of the last four pairs as a matrix."""
    thetas, state = descend(lbfgs(0.5, memory_size=4, linesearch=None), loss, start(), 15)
    theta, old, pairs = np.zeros(31), None, []
    for ours in vector(thetas):
        np.testing.assert_allclose(ours, theta, rtol=1e-10, atol=1e-12)
        g = value_and_grad(theta)[1]
        gamma = min(1, 1 / np.linalg.norm(g))
        if old is not None:
            s, y = theta - old[0], g - old[1]
            pairs = [*pairs, (s, y)][-4:]
            gamma = (s @ y) / (y @ y)
        old = theta, g
        theta = theta - 0.5 * two_loops(g, pairs, gamma)
    assert jax.tree.map(int, tuple(state.evaluations)) == (15, 15, 0)


def test_optimum_of_scipy() -> None:
    best = scipy.optimize.minimize(
        value_and_grad, np.zeros(31), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 0}
    )
    thetas, state = descend(lbfgs(), loss, start(), 80)
    np.testing.assert_allclose(vector(thetas)[-1], best.x, atol=1e-6)
    assert state.evaluations.values < 2.5 * best.nfev  # the value of each step is counted, too


def test_a_pair_without_positive_curvature_is_not_stored() -> None:
    """A hill: the gradient grows on the way down. optax's next direction ascends; ours does not."""

    def change(optimizer: Any, theta: jax.Array) -> jax.Array:
        """Of the value in the second step."""
        state, value = optimizer.init(theta), jnp.zeros([])
        for _ in range(2):
            before = -jnp.sum(jnp.square(theta))
            updates, state = optimizer.update(-2 * theta, state, theta)
            theta = theta + updates
            value = -jnp.sum(jnp.square(theta))
        return value - before

    ours, theirs = (partial(change, module.lbfgs(0.1, linesearch=None)) for module in (fn.optim, optax))
    changes = jax.jit(lambda theta: (ours(theta), theirs(theta)))(jnp.array([1.0, -0.5]))
    assert changes[0] < 0 < changes[1]


def test_forgets_where_the_search_finds_nothing() -> None:
    optimizer = lbfgs(linesearch=partial(wolfe, max_evaluations=1))
    g = jnp.array([1.0, -1.0])

    @jax.jit
    def update(state: Any, factor: jax.Array) -> Any:
        theta = jnp.array([1.0, 2.0])
        return optimizer.update(g, state, theta, value=0.0, grad=g, value_fn=lambda t: factor * (t @ g))

    state = optimizer.init(g)._replace(rho=jnp.ones(10), pairs=jnp.int32(10))
    updates, state = update(state, jnp.nan)
    assert not np.any(updates)
    assert not np.any(state.rho)
    updates, state = update(state, jnp.ones([]))
    np.testing.assert_allclose(updates, -g / np.sqrt(2), rtol=1e-12)


def test_complex_params() -> None:
    """Gradients come conjugated, so that theta - g descends, as in optax."""
    target, optimizer = jnp.array([1.0 + 2.0j, -0.5j]), lbfgs()

    def f(z: jax.Array) -> jax.Array:
        return jnp.sum(jnp.array([1.0, 5.0]) * jnp.square(jnp.abs(z - target)))

    def step(carry: Any, _: None) -> Any:
        z, state = carry
        value, grad = jax.value_and_grad(f)(z)
        updates, state = optimizer.update(grad.conj(), state, z, value=value, grad=grad.conj(), value_fn=f)
        return (z + updates, state), None

    z = jnp.zeros(2, complex)
    (end, _), _ = jax.jit(lambda z: jax.lax.scan(step, (z, optimizer.init(z)), length=12))(z)
    np.testing.assert_allclose(end, target, atol=1e-6)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="lbfgs: memory_size=0, wanted at least 1"):
        lbfgs(memory_size=0)
    with pytest.raises(ValueError, match="lbfgs: learning_rate=-1, wanted at least 0"):
        lbfgs(-1)
    optimizer, theta = lbfgs(linesearch=None), jnp.ones(2)
    with pytest.raises(ValueError, match=r"lbfgs.* params"):
        optimizer.update(theta, optimizer.init(theta))
