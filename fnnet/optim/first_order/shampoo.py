"""Shampoo: a full preconditioner for each axis of a param (Gupta, Koren & Singer 2018, arXiv:1802.09568)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.copies import each_copy
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    abs_sq,
    at_step,
    cast_like,
    check_learning_rate,
    times,
)


class ShampooState(NamedTuple):
    """The state of Shampoo. For an axis of length n a preconditioner is (n, n), or (n,) if n is above `max_dim`."""

    step: jax.Array  # int32[], updates taken
    h: Any  # like params, a tuple of preconditioners L, R, ... for each param, one per axis; stacked where params are
    roots: Any | None  # their inverse roots, unless they are computed at each step
    v: optax.Params | None  # velocity, like params, with momentum


def shampoo(
    learning_rate: ScalarOrSchedule,
    momentum: chex.Numeric | None = None,
    eps: chex.Numeric = 1e-4,
    *,
    decay: chex.Numeric | None = None,
    precondition_every: int = 1,
    max_dim: int = 1024,
) -> optax.GradientTransformationExtraArgs:
    """Shampoo.

        L <- L + g g^T              R <- R + g^T g              for a matrix g
        x = (L + eps I)^(-1/4) g (R + eps I)^(-1/4)
        theta <- theta - alpha x
        v <- mu v + x,  theta <- theta - alpha v                with momentum

    A param with k axes has k preconditioners, with the power -1/(2k). Each sums the products over all other axes. For
    a vector this is Adagrad with the full matrix, for a number plain Adagrad.

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        momentum: mu, in [0, 1); None for no momentum, as in the paper's algorithm. (Its experiments use 0.9.)
        eps: keeps the roots finite, 0 or more. It is added to the sum. (In the paper, L starts as eps I.)
        decay: rho, in [0, 1), for a decaying mean, L <- rho L + (1 - rho) g g^T; None for the sum.
        precondition_every: number of steps between computations of the roots, which are the costly part. L and R
            still take in every gradient. The first step computes the roots.
        max_dim: for an axis longer than this, only the diagonal of the preconditioner is kept.

    Memory: for a matrix m x n, m^2 + n^2 numbers, twice that with precondition_every above 1, and m n with momentum.
    Preconditioners are in float32 if params are in half precision.

    Baseline: the equation in NumPy, to 1e-10 in float64.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or eps is negative; mu or rho
            is not in [0, 1); precondition_every or max_dim is not a positive int.

    Source: Gupta, Koren & Singer 2018, arXiv:1802.09568, algorithms 1 and 2.

    Example:
        >>> optimizer = fn.optim.shampoo(0.1, eps=0.0)
        >>> params = jnp.eye(2)
        >>> updates, state = optimizer.update(jnp.diag(jnp.array([100.0, -0.1])), optimizer.init(params))
        >>> [f"{u:.4f}" for u in jnp.diag(updates)]
        ['-0.1000', '0.1000']
    """
    check_learning_rate("shampoo", learning_rate)
    if momentum is not None:
        check.number("shampoo", "momentum", momentum, "[0, 1)")
    check.number("shampoo", "eps", eps, "[0, inf)")
    if decay is not None:
        check.number("shampoo", "decay", decay, "[0, 1)")
    check.is_positive("shampoo", "precondition_every", precondition_every)
    check.is_positive("shampoo", "max_dim", max_dim)

    def init(params: optax.Params) -> ShampooState:
        return ShampooState(
            step=jnp.zeros([], jnp.int32),
            h=each_copy(zero_preconditioners, params),
            roots=each_copy(zero_preconditioners, params) if precondition_every > 1 else None,
            v=jax.tree.map(jnp.zeros_like, params) if momentum is not None else None,
        )

    def zero_preconditioners(p: jax.Array) -> tuple[jax.Array, ...]:
        dtype = jnp.promote_types(p.dtype, jnp.float32)
        return tuple(jnp.zeros((n, n) if n <= max_dim else n, dtype) for n in shape_of(p))

    def update(
        grads: optax.Updates, state: ShampooState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ShampooState]:
        h = cast_like(each_copy(update_preconditioners, grads, state.h), state.h)
        if precondition_every == 1:
            roots = inverse_roots(grads, h)
        else:
            due = state.step % precondition_every == 0
            roots = jax.lax.cond(due, inverse_roots, lambda grads, h: state.roots, grads, h)
        x = each_copy(precondition, grads, roots)

        v, alpha = state.v, at_step(learning_rate, state.step)
        if momentum is not None:
            v = jax.tree.map(lambda v, x: momentum * v + x, state.v, x)
        updates = jax.tree.map(lambda x: times(-alpha, x), x if momentum is None else v)
        roots = None if precondition_every == 1 else roots
        state = ShampooState(optax.safe_increment(state.step), h, roots, cast_like(v, state.v))
        return cast_like(updates, grads), state

    def update_preconditioners(g: jax.Array, h: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        g = g.reshape(shape_of(g)).astype(jnp.promote_types(g.dtype, jnp.float32)) if h else g
        new = [
            gram(g, axis)
            if old.ndim == 2
            else jnp.sum(abs_sq(g), axis=[a for a in range(g.ndim) if a != axis])
            for axis, old in enumerate(h)
        ]
        return tuple(
            old + n if decay is None else decay * old + (1 - decay) * n for old, n in zip(h, new, strict=True)
        )

    def inverse_roots(grads: optax.Updates, h: Any) -> Any:
        def of_param(_: jax.Array, h: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return tuple(inverse_root(one, 2 * len(h), eps).astype(one.dtype) for one in h)

        return each_copy(of_param, grads, h)

    def precondition(g: jax.Array, roots: tuple[jax.Array, ...]) -> jax.Array:
        x = g.reshape(shape_of(g)) if roots else g
        for axis, root in enumerate(roots):
            x = multiply_along(root, x, axis)
        return x.reshape(g.shape)

    return optax.GradientTransformationExtraArgs(init, update)


def shape_of(p: jax.Array) -> tuple[int, ...]:
    """The shape of p. A number counts as a vector of length 1; an empty array has no axes."""
    return () if p.size == 0 else p.shape or (1,)


def gram(g: jax.Array, axis: int) -> jax.Array:
    """g g^T, float[n, n], summed over all axes but one."""
    rows = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.conj().T


def multiply_along(h: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """h x along an axis, where h is a matrix or the diagonal of one."""
    if h.ndim == 1:
        return jnp.expand_dims(h, [a for a in range(x.ndim) if a != axis]) * x
    return jnp.moveaxis(jnp.tensordot(h, x, axes=(1, axis)), 0, axis)


def inverse_root(h: jax.Array, p: int, eps: chex.Numeric) -> jax.Array:
    """(h + eps I)^(-1/p), where h is positive semidefinite or the diagonal of such a matrix; 0 instead of 1 / 0."""

    def power(eigenvalues: jax.Array) -> jax.Array:
        # Rounding can make an eigenvalue of 0 negative.
        raised = jnp.maximum(eigenvalues, 0) + eps
        return jnp.where(raised > 0, jnp.where(raised > 0, raised, 1) ** (-1 / p), 0)

    if h.ndim == 1:
        return power(h.real)
    eigenvalues, q = jnp.linalg.eigh(h)
    return (q * power(eigenvalues)[None, :]) @ q.conj().T
