"""Small problems for second-order methods, with their Gauss-Newton matrix by jax.jacobian and jax.hessian."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from equinox import filter_closure_convert
from jax.flatten_util import ravel_pytree

import fnnet as fn


class Problem(NamedTuple):
    params: Any
    predict_fn: Any
    loss_fn: Any

    def value_fn(self, params: Any) -> jax.Array:
        return self.loss_fn(self.predict_fn(params))


def regression(n: int = 20, noise: float = 0.05) -> Problem:
    """A 1-2-1 network close to its teacher. The loss is half the sum of squares, as in optimistix."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(np.linspace(-2, 2, n)[:, None])
    teacher = {"w": jnp.array([[1.5, -0.7]]), "b": jnp.array([0.5, 1.0]), "v": jnp.array([[1.0], [2.0]])}

    def predict(params: Any) -> jax.Array:
        return jnp.tanh(x @ params["w"] + jnp.broadcast_to(params["b"], (n, 2))) @ params["v"]

    y = predict(teacher) + noise * draw.normal(size=(n, 1))
    params = jax.tree.map(lambda a: a + 0.2 * draw.normal(size=a.shape), teacher)
    return Problem(params, predict, lambda z: jnp.sum(jnp.square(z - y)) / 2)


def classification(dtype: Any = np.float64) -> Problem:
    """A 2-3-3 network and 8 examples of 3 classes. The loss is the mean cross-entropy; its Hessian couples classes."""
    draw = np.random.default_rng(1)
    net = fn.serial(fn.dense(3), fn.tanh, fn.dense(3))
    x, y = jnp.asarray(draw.normal(size=(8, 2)), dtype), jnp.asarray(draw.integers(0, 3, 8))
    params, _ = net.init(jax.random.key(0), x)
    return Problem(
        params, lambda params: net(params, x), lambda z: jnp.mean(fn.losses.softmax_cross_entropy(z, y))
    )


def run(optimizer: Any, problem: Problem, steps: int) -> tuple[np.ndarray, Any]:
    """The params as a vector and the state, before each step and after the last, as one program."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = jax.value_and_grad(problem.value_fn)(params)
        extra = {"value": value, "grad": grad, "value_fn": problem.value_fn}
        extra |= {"predict_fn": problem.predict_fn, "loss_fn": problem.loss_fn}
        updates, new = optimizer.update(grad, state, params, **extra)
        return (optax.apply_updates(params, updates), new), (ravel_pytree(params)[0], state)

    def all_steps(params: Any) -> Any:
        (end, state), (thetas, states) = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
        states = jax.tree.map(lambda many, last: jnp.append(many, last[None], axis=0), states, state)
        return jnp.append(thetas, ravel_pytree(end)[0][None], axis=0), states

    thetas, states = jax.jit(all_steps)(problem.params)
    return np.asarray(thetas), states


def curves(problem: Problem) -> Any:
    """theta -> (F, g, G) in NumPy, by jax.jacobian and jax.hessian; and F alone."""
    _, unravel = ravel_pytree(problem.params)

    @jax.jit
    def all_three(theta: jax.Array) -> Any:
        def predict(theta: jax.Array) -> jax.Array:
            return problem.predict_fn(unravel(theta)).ravel()

        z = problem.predict_fn(unravel(theta))
        J = jax.jacobian(predict)(theta)
        H = jax.hessian(lambda flat: problem.loss_fn(flat.reshape(z.shape)))(z.ravel())
        return problem.loss_fn(z), jax.grad(lambda t: problem.value_fn(unravel(t)))(theta), J.T @ H @ J

    value = jax.jit(lambda theta: problem.value_fn(unravel(theta)))
    return lambda theta: tuple(map(np.asarray, all_three(theta))), lambda theta: float(value(theta))


def of_optimistix(solver: Any, problem: Problem, residual: Any, steps: int) -> np.ndarray:
    """The accepted params after 0, 1, ... steps of optimistix. Its first step only evaluates the start."""
    theta, unravel = ravel_pytree(problem.params)
    tags: frozenset[object] = frozenset()

    def all_steps(theta: jax.Array) -> Any:
        f = filter_closure_convert(lambda y, _: (residual(unravel(y)), None), theta, None)
        out_struct, aux_struct = f.out_struct
        state, y, seen = solver.init(f, theta, None, {}, out_struct, aux_struct, tags), theta, []
        for _ in range(steps + 1):
            y, state, _ = solver.step(f, y, None, {}, state, tags)
            seen.append(y)
        return jnp.stack(seen)

    return np.asarray(jax.jit(all_steps)(theta))
