"""Levenberg-Marquardt beside optimistix, SciPy and its rules in NumPy; and fits in a few dozen steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import least_squares

import fnnet as fn
from tests.optim.small_nets import Problem, classification, curves, of_optimistix, regression, run

close = np.testing.assert_allclose
make = fn.optim.levenberg_marquardt
OF_OPTIMISTIX = {
    "rule": "marquardt",
    "accept_above": 0.01,
    "lower_above": 0.99,
    "lower_by": 3.5,
    "raise_by": 4.0,
}


def far(problem: Problem) -> Problem:
    """Starts further away, so that some steps are rejected."""
    return problem._replace(params=jax.tree.map(lambda a: -2 * a, problem.params))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_equals_optimistix() -> None:
    problem = far(regression())
    z = problem.predict_fn(problem.params)
    target = z - jax.grad(problem.loss_fn)(z)
    theirs = of_optimistix(
        optimistix.LevenbergMarquardt(0.0, 0.0), problem, lambda p: problem.predict_fn(p) - target, 10
    )
    ours, state = run(make(1.0, **OF_OPTIMISTIX), problem, 10)
    close(ours, theirs, rtol=1e-10, atol=1e-11)
    assert [int(n[-1]) for n in state.evaluations] == [20, 10, 10 * 6]


def in_numpy(problem: Problem, theta: np.ndarray, mu: float, scaling: str, rule: str, steps: int) -> Any:
    """The params and the damping before each step and after the last, and whether each step was taken."""
    at, value_at = curves(problem)
    nu, seen, taken = 2.0, [(theta, mu)], []
    for _ in range(steps):
        F, g, G = at(theta)
        D = np.diag(G) if scaling == "diagonal" else np.ones(len(g))
        d = np.linalg.solve(G + mu * np.diag(D), -g)
        model = g @ d + d @ G @ d / 2
        rho = (value_at(theta + d) - F) / model
        taken.append(rho > 0)
        if rho > 0:
            theta = theta + d
        if rule == "marquardt":
            mu = mu / 10 if rho > 0 else mu * 10
        elif rho > 0:
            mu, nu = mu * max(1 / 3, 1 - (2 * rho - 1) ** 3), 2.0
        else:
            mu, nu = mu * nu, nu * 2
        seen.append((theta, mu))
    return np.array([theta for theta, _ in seen]), np.array([mu for _, mu in seen]), taken


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "scaling, rule, kind",
    [
        ("identity", "nielsen", regression),
        ("diagonal", "marquardt", regression),
        ("identity", "marquardt", classification),
    ],
)
def test_equals_the_rule(scaling: str, rule: str, kind: Any) -> None:
    problem = far(kind())
    ours, state = run(make(1e-2, scaling, rule), problem, 10)
    theta, mu, taken = in_numpy(problem, ours[0], 1e-2, scaling, rule, 10)
    close(ours, theta, rtol=1e-9, atol=1e-10)
    close(state.mu, mu, rtol=1e-7)
    assert any(taken)
    if kind is regression:
        assert not all(taken)  # a rejection leaves the params as they are, bit for bit
        i = taken.index(False)
        assert np.all(ours[i] == ours[i + 1])
        assert state.mu[i + 1] > state.mu[i]


@pytest.mark.usefixtures("float64")
def test_ends_where_scipy_ends() -> None:
    problem = regression()
    theta, unravel = ravel_pytree(problem.params)
    z = problem.predict_fn(problem.params)
    target = z - jax.grad(problem.loss_fn)(z)
    residual = jax.jit(lambda theta: (problem.predict_fn(unravel(theta)) - target).ravel())
    wanted = least_squares(
        residual, theta, jax.jit(jax.jacobian(residual)), method="lm", xtol=1e-15, ftol=1e-15
    )
    close(run(make(), problem, 40)[0][-1], wanted.x, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_fits_a_sine() -> None:
    """A 1-30-1 network reaches a mean squared error below 1e-10 from at least two of four starts."""
    x = jnp.linspace(-jnp.pi, jnp.pi, 20)[:, None]
    normal = fn.initializers.normal
    net = fn.serial(fn.dense(30, w_init=normal(1.0), b_init=normal(2.0)), fn.tanh, fn.dense(1))
    train = jax.jit(fn.train.make_run(net, fn.losses.mean_squared_error, make, steps=80, batch_size=20))
    data = {"train": {"x": x, "y": jnp.sin(x)}}
    ends = [train(jax.random.key(i), data, {"damping": 1e-3}).history["train_loss"][-1] for i in range(4)]
    assert np.sum(np.array(ends) < 1e-10) >= 2, ends


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_solves_two_spirals() -> None:
    """A 2-12-8-1 network classifies all 194 points correctly in 100 steps."""
    points, wide = fn.data.two_spirals(), fn.initializers.normal(1.0)
    first, second = (fn.dense(n, w_init=wide, b_init=wide) for n in (12, 8))

    def loss(z: jax.Array, y: jax.Array) -> jax.Array:
        return fn.losses.mean_squared_error(z, (2 * y - 1)[:, None].astype(z.dtype))

    def right(z: jax.Array, y: jax.Array) -> jax.Array:
        return ((z[:, 0] > 0) == (y == 1)).astype(z.dtype)

    net = fn.serial(first, fn.tanh, second, fn.tanh, fn.dense(1))
    train = jax.jit(fn.train.make_run(net, loss, make, steps=100, batch_size=194, metrics={"right": right}))
    data = {"train": {"x": points["x"].astype(jnp.float64) / 3, "y": points["y"]}}

    def solved(seed: int) -> bool:
        history = train(jax.random.key(seed), data, {"damping": 0.1}).history
        return bool(history["train_right"][-1] > 1 - 0.5 / 194)

    assert solved(1)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_vmap_over_the_damping_equals_separate_runs() -> None:
    problem, dampings = far(regression()), jnp.array([1e-3, 1.0])

    def end(damping: Any) -> jax.Array:
        optimizer, params = make(damping), problem.params
        state = optimizer.init(params)
        for _ in range(2):
            value, grads = jax.value_and_grad(problem.value_fn)(params)
            updates, state = optimizer.update(
                grads,
                state,
                params,
                value=value,
                value_fn=problem.value_fn,
                predict_fn=problem.predict_fn,
                loss_fn=problem.loss_fn,
            )
            params = jax.tree.map(jnp.add, params, updates)
        return ravel_pytree(params)[0]

    many = jax.jit(jax.vmap(end))(dampings)
    for damping, one in zip((1e-3, 1.0), many, strict=True):
        close(one, run(make(damping), problem, 2)[0][-1], rtol=1e-9)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_to_a_loss_that_is_not_finite_is_rejected(bad: float) -> None:
    params = jnp.array([1.0, 2.0])
    optimizer = make(0.5)
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
    assert float(state.mu) == 1.0


def test_a_gradient_that_is_not_finite_is_rejected() -> None:
    params = jnp.array([0.0, 2.0])
    optimizer = make(0.5, "diagonal", "marquardt")
    updates, state = optimizer.update(
        jnp.array([jnp.nan, 1.0]),
        optimizer.init(params),
        params,
        value=2.5,
        value_fn=lambda p: jnp.sum(p),
        predict_fn=lambda p: p,
        loss_fn=lambda z: jnp.sum(jnp.square(z)) / 2,
    )
    assert np.all(updates == 0)
    assert float(state.mu) == 5.0


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"damping": 0.0}, r"damping=0\.0, wanted in \[1e-20, 1\d+"),
        ({"accept_above": 1.0}, r"accept_above=1\.0, wanted in \[0, 1\)"),
        ({"lower_above": -0.1}, r"lower_above=-0\.1, wanted in \[0, 1\)"),
        ({"lower_by": 0.5}, r"lower_by=0\.5, wanted at least 1"),
        ({"raise_by": 0.5}, r"raise_by=0\.5, wanted at least 1"),
        ({"scaling": "marquardt"}, "scaling='marquardt', wanted one of 'identity', 'diagonal'"),
        ({"rule": "levenberg"}, "rule='levenberg', wanted one of 'nielsen', 'marquardt'"),
    ],
)
def test_errors(bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**bad)


def test_needs_value_fn() -> None:
    with pytest.raises(ValueError, match="needs value_fn, which training passes"):
        make().update(jnp.ones(1), make().init(jnp.ones(1)), jnp.ones(1), value=1.0)
