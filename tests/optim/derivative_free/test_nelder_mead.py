"""Nelder-Mead beside SciPy: the simplex and the count after each iteration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import fnnet as fn

SIMPLEX = np.array([[1.5, -1.0, 2.0], [0.3, -1.2, 2.2], [1.1, 0.4, 1.0], [-0.7, 0.2, 0.6]])


def ripples(x: Any, xp: Any = jnp) -> Any:
    """A bent valley with ripples that make the simplex shrink; not finite beyond x_0 = 1.2."""
    valley = 5 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 + (x[2] - x[1]) ** 2
    return xp.where(x[0] > 1.2, xp.nan, valley + xp.cos(25 * x[0]) + xp.cos(31 * x[1]))


def scipy_after(steps: int, x0: Any, **options: Any) -> Any:
    """SciPy's result after some iterations; its counter starts at 1."""
    return minimize(
        lambda x: np.inf if np.isnan(v := float(ripples(x, np))) else v,
        x0,
        method="Nelder-Mead",
        options={"maxiter": steps + 1, "xatol": 0, "fatol": 0, **options},
    )


def run(optimizer: Any, params: Any, steps: int) -> Any:
    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(None, state, params, value_fn=ripples)
        return (params + updates, state), (params + updates, state)

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("adaptive", [False, True])
def test_simplex_equals_that_of_scipy_after_each_iteration(adaptive: bool) -> None:
    steps = 60
    optimizer = fn.optim.nelder_mead(jnp.asarray(SIMPLEX), adaptive)
    params, states = jax.jit(lambda p: run(optimizer, p, steps))(jnp.asarray(SIMPLEX[0]))
    for k in range(1, steps + 1):
        theirs = scipy_after(k, SIMPLEX[0], initial_simplex=SIMPLEX, adaptive=adaptive)
        simplex, values = theirs.final_simplex
        np.testing.assert_allclose(states.simplex[k - 1], simplex, rtol=0, atol=1e-12)
        np.testing.assert_allclose(states.values[k - 1], values, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(params[k - 1], theirs.x, rtol=0, atol=1e-12)
        assert states.evaluations.values[k - 1] == theirs.nfev
    used = set(np.diff(states.evaluations.values).tolist())
    assert used == {1, 2, 5}  # a reflection; an expansion or contraction; a shrink
    assert states.evaluations.gradients[-1] == states.evaluations.products[-1] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_first_simplex_is_that_of_scipy_and_mapped_runs_count_separately() -> None:
    """One program: two starts under vmap, where every branch is computed, count what each asked for."""
    starts = np.array([[0.5, 0.0, -2.0], [-1.0, 0.3, 0.0]])
    params, states = jax.jit(jax.vmap(lambda p: run(fn.optim.nelder_mead(), p, 25)))(jnp.asarray(starts))
    for i, start in enumerate(starts):
        theirs = scipy_after(25, start)
        np.testing.assert_allclose(states.simplex[i, -1], theirs.final_simplex[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(params[i, -1], theirs.x, rtol=0, atol=1e-12)
        assert states.evaluations.values[i, -1] == theirs.nfev
    counts = states.evaluations.values
    assert np.any(counts[0] != counts[1])


def test_the_edges_of_the_first_simplex() -> None:
    state = fn.optim.nelder_mead(relative_edge=0.5, zero_edge=0.1).init({"a": jnp.array([2.0, 0.0])})
    np.testing.assert_allclose(state.simplex, [[2, 0], [3, 0], [2, 0.1]])


def test_a_simplex_of_another_shape_raises() -> None:
    message = r"initial_simplex is float32\[3,3\], wanted \(4, 3\): 4 vertices of 3 parameters"
    with pytest.raises(ValueError, match=message):
        fn.optim.nelder_mead(jnp.ones((3, 3))).init(jnp.ones(3))
