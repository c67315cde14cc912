"""The Gauss-Newton matrix of small networks, and solving with it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.vector import as_vector


class FlatProblem(NamedTuple):
    """The network and its loss as functions of vectors, in float32 at least."""

    theta: jax.Array  # float[p], the params
    predict: Callable[[jax.Array], jax.Array]  # theta -> z, float[n]: all entries of the prediction
    loss: Callable[[jax.Array], jax.Array]  # z -> scalar
    to_tree: Callable[[jax.Array], optax.Params]  # float[p] -> a tree like params, in its dtypes


def dtype_of(params: optax.Params) -> Any:
    """The common dtype of the params, float32 at least."""
    return jnp.result_type(jnp.float32, *jax.tree.leaves(params))


def flatten_problem(optimizer: str, params: optax.Params, predict_fn: Any, loss_fn: Any) -> FlatProblem:
    """The network and its loss as functions of vectors.

    Raises:
        TypeError: params are complex; the prediction is not a single array.
    """
    theta, to_tree = as_vector(optimizer, params)
    shape = jax.eval_shape(predict_fn, params)
    if not hasattr(shape, "shape"):
        raise TypeError(f"{optimizer}: the prediction is {check.describe(shape)}, wanted one array")

    def predict(theta: jax.Array) -> jax.Array:
        return predict_fn(to_tree(theta)).ravel().astype(theta.dtype)

    def loss(z: jax.Array) -> jax.Array:
        return loss_fn(z.reshape(shape.shape).astype(shape.dtype)).astype(theta.dtype)

    return FlatProblem(theta, predict, loss, to_tree)


def gauss_newton_matrix(flat: FlatProblem) -> tuple[jax.Array, int]:
    """G = J^T H J, float[p, p], and the number of products that J took, min(n, p).

    H is never built: it is multiplied with the p columns of J, at the cost of p passes through the loss alone.
    """
    z, push = jax.linearize(flat.predict, flat.theta)  # push(v) = J v
    n, p = z.size, flat.theta.size
    if n < p:
        _, pull = jax.vjp(flat.predict, flat.theta)  # pull(u) = u^T J
        J = jax.vmap(lambda u: pull(u)[0])(jnp.eye(n, dtype=z.dtype))
    else:
        J = jax.vmap(push, out_axes=1)(jnp.eye(p, dtype=z.dtype))
    _, hessian = jax.linearize(jax.grad(flat.loss), z)  # hessian(u) = H u
    G = J.T @ jax.vmap(hessian, in_axes=1, out_axes=1)(J)
    return (G + G.T) / 2, min(n, p)


def solve_damped(A: jax.Array, b: jax.Array, damping: Any) -> jax.Array:
    """(A + damping I)^-1 b for a positive semidefinite A; if singular, the shortest least-squares solution.

    Eigenvalues of the sum below p eps times the largest are rounding errors and count as 0.
    """
    if b.size == 0:
        return b
    values, vectors = jnp.linalg.eigh(A)
    values = jnp.maximum(values, 0) + jnp.asarray(damping, A.dtype)
    real = values > b.size * jnp.finfo(A.dtype).eps * values[-1]
    inverse = jnp.where(real, 1 / jnp.where(real, values, 1), 0)
    return vectors @ (inverse * (vectors.T @ b))


def finite_or_zero(d: jax.Array) -> jax.Array:
    """The step d, or 0 if one of its entries is not finite."""
    return jnp.where(jnp.all(jnp.isfinite(d)), d, 0)
