"""Gauss-Newton beside optimistix and the equation in NumPy, at every step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest

import fnnet as fn
from fnnet.optim.second_order.curvature import flatten_problem, gauss_newton_matrix
from tests.optim.small_nets import classification, curves, of_optimistix, regression, run

close = np.testing.assert_allclose


def step_of(optimizer: Any, params: Any, predict_fn: Any, loss_fn: Any, **extra: Any) -> Any:
    grads = jax.grad(lambda p: loss_fn(predict_fn(p)))(params)
    given = {"predict_fn": predict_fn, "loss_fn": loss_fn} | extra
    return optimizer.update(grads, optimizer.init(params), params, **given)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_equals_optimistix() -> None:
    problem = regression()
    target = problem.predict_fn(problem.params) - jax.grad(problem.loss_fn)(
        problem.predict_fn(problem.params)
    )
    theirs = of_optimistix(
        optimistix.GaussNewton(0.0, 0.0), problem, lambda p: problem.predict_fn(p) - target, 5
    )
    ours, state = run(fn.optim.gauss_newton(), problem, 5)
    close(ours[1], theirs[1], rtol=1e-12, atol=1e-12)
    close(ours, theirs, rtol=1e-10, atol=1e-10)  # G squares the condition number of J, theirs is a QR of J
    assert np.abs(ours[-1] - ours[0]).max() > 0.1
    assert [int(n[-1]) for n in state.evaluations] == [5, 5, 5 * 6]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_equals_the_equation_with_cross_entropy() -> None:
    """The Hessian of the loss couples the classes, and the rate and the damping are schedules."""
    problem = classification()
    optimizer = fn.optim.gauss_newton(lambda step: 0.5 / (1 + step), lambda step: 0.1 * (1 + step))
    ours, _ = run(optimizer, problem, 4)
    at, _ = curves(problem)
    theta = ours[0]
    for step in range(4):
        _, g, G = at(theta)
        theta = theta - 0.5 / (1 + step) * np.linalg.solve(G + 0.1 * (1 + step) * np.eye(len(g)), g)
        close(ours[step + 1], theta, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("n", [4, 20])  # fewer outputs than the 6 params, and more: J by rows, J by columns
def test_matrix(n: int) -> None:
    problem = regression(n)
    G, products = gauss_newton_matrix(
        flatten_problem("gauss_newton", problem.params, problem.predict_fn, problem.loss_fn)
    )
    at, _ = curves(problem)
    close(G, at(jax.flatten_util.ravel_pytree(problem.params)[0])[2], rtol=1e-12, atol=1e-13)
    assert products == min(n, 6)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_singular_takes_the_shortest_step() -> None:
    """Two examples and three weights, one without effect: NumPy's least squares uses the pseudo-inverse."""
    x, y = jnp.array([[1.0, 2.0, 0.0], [0.5, -1.0, 0.0]]), jnp.array([1.0, 3.0])
    params = jnp.array([0.3, -0.2, 0.7])
    updates, _ = step_of(
        fn.optim.gauss_newton(), params, lambda w: x @ w, lambda z: jnp.mean(jnp.square(z - y))
    )
    close(updates, np.linalg.lstsq(x, y - x @ params, rcond=None)[0], rtol=1e-12, atol=1e-13)
    assert updates[2] == 0


@pytest.mark.slow
def test_one_step_of_linear_least_squares_in_half_precision() -> None:
    """Solved in float32, applied in bfloat16."""
    x = jnp.array([[1.0, 2.0], [0.5, -1.0], [1.0, 0.0]], jnp.bfloat16)
    y = x @ jnp.array([2.0, -1.0], jnp.bfloat16)
    updates, _ = step_of(
        fn.optim.gauss_newton(),
        jnp.zeros(2, jnp.bfloat16),
        lambda w: x @ w,
        lambda z: jnp.mean(jnp.square((z - y).astype(jnp.float32))),
    )
    assert updates.dtype == jnp.bfloat16
    close(updates.astype(jnp.float32), [2.0, -1.0], rtol=1e-2)


@pytest.mark.parametrize("params", [{}, {"a": jnp.ones(2), "none": None, "empty": jnp.zeros((0, 3))}])
def test_odd_trees(params: Any) -> None:
    def predict(params: Any) -> jax.Array:
        return params["a"] if params else jnp.ones(2)

    updates, _ = step_of(fn.optim.gauss_newton(), params, predict, lambda z: jnp.sum(jnp.square(z)))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    if params:
        close(updates["a"], [-1.0, -1.0], rtol=1e-6)


def test_no_step_that_is_not_finite() -> None:
    updates, _ = step_of(
        fn.optim.gauss_newton(), jnp.array([0.0, 1.0]), jnp.log, lambda z: jnp.sum(jnp.square(z))
    )
    assert np.all(updates == 0)


def test_errors() -> None:
    make, one = fn.optim.gauss_newton, jnp.ones(1)
    with pytest.raises(ValueError, match=r"damping=-1\.0, wanted at least 0"):
        make(damping=-1.0)
    with pytest.raises(TypeError, match="learning_rate=None, wanted"):
        make(None)
    with pytest.raises(ValueError, match="needs loss_fn, which training passes"):
        make().update(one, make().init(one), one, predict_fn=jnp.sin)
    with pytest.raises(ValueError, match="needs params"):
        make().update(one, make().init(one))
    with pytest.raises(TypeError, match=r"params are complex64\[1\], wanted real"):
        make().update(one, make().init(one), one + 1j, predict_fn=jnp.sin, loss_fn=jnp.sum)
    with pytest.raises(TypeError, match=r"the prediction is \{z: float32\[1\]\}, wanted one array"):
        make().update(one, make().init(one), one, predict_fn=lambda p: {"z": p}, loss_fn=jnp.sum)
