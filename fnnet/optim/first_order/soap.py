"""SOAP: Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, arXiv:2409.11321)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.copies import each_copy
from fnnet.optim.first_order.shampoo import gram, multiply_along
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    abs_sq,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    check_number_or_schedule,
    times,
)
from fnnet.optim.numerics import root
from fnnet.optim.transforms.weight_decay import add_weight_decay


class SoapState(NamedTuple):
    """The state of SOAP, in float32 for params in half precision."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square in the eigenbasis, like params
    h: Any  # like params, a tuple of L, R, ... for each param, (n, n) for each axis; None for axes left as they are
    q: Any  # their eigenvectors as columns, largest eigenvalue first


def soap(
    learning_rate: ScalarOrSchedule = 3e-3,
    b1: chex.Numeric = 0.95,
    b2: chex.Numeric = 0.95,
    eps: chex.Numeric = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    precondition_every: int = 10,
    max_dim: int = 10_000,
    precondition_1d: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """SOAP.

        m <- b1 m + (1 - b1) g
        g' = Q_L^T g Q_R            m' = Q_L^T m Q_R            for a matrix g
        v <- b2 v + (1 - b2) g'^2
        x' = m' / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        theta <- theta - alpha (Q_L x' Q_R^T + lambda theta)

        L <- b2 L + (1 - b2) g g^T,  R <- b2 R + (1 - b2) g^T g
        Q_L <- QR(L Q_L),  Q_R <- QR(R Q_R)                     every `precondition_every` steps

    A param with k axes has k bases. Each multiplication L Q followed by a QR decomposition brings Q closer to the
    eigenvectors. Before it, the columns of Q, and v with them, are sorted by q^T L q, largest first.

    The first update is 0: it computes the first Q, the eigenvectors of g g^T, and t counts from the second update. If
    the batch never changes, g' is then diagonal except for rounding errors. Adam would scale those up to the size of
    the rest, so choose an eps larger than they are, such as 1e-3 |g|.

    Args:
        learning_rate: alpha, a number or a schedule of the step. All defaults are those of the authors' code.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old v, L and R that is kept, in [0, 1).
        eps: keeps the quotient finite. (The authors' code adds it to sqrt(v), before the bias correction.)
        weight_decay: lambda, a number or a schedule of the step, multiplied by alpha. (The authors' code decays the
            params after the step, so that the step shrinks by alpha lambda, too.)
        mask: which params decay, see `adamw`; all by default.
        precondition_every: number of steps between changes of the bases. The paper uses 10.
        max_dim: for an axis longer than this, Q is the identity. A param without any Q takes the step of `adamw`.
        precondition_1d: whether params with one axis, such as biases, have a Q. Numbers never have one.

    Memory: for a matrix m x n, 2 m n + 2 m^2 + 2 n^2 numbers; for other params twice their size.

    Baseline: the equation in NumPy, to 1e-10 in float64.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, eps or lambda is negative; b1
            or b2 is not in [0, 1); precondition_every or max_dim is not a positive int; `update` is called without
            params while they decay.

    Source: Vyas et al. 2024, arXiv:2409.11321, algorithms 3 and 4; the first step and the order of the columns: the
    authors' code.

    Example:
        >>> optimizer = fn.optim.soap(0.1, weight_decay=0.0)
        >>> params, grads = jnp.eye(2), jnp.diag(jnp.array([100.0, -0.1]))
        >>> updates, state = optimizer.update(grads, optimizer.init(params))
        >>> updates, state = optimizer.update(grads, state)
        >>> [f"{u:.4f}" for u in jnp.diag(updates)]
        ['-0.1000', '0.1000']
    """
    check_flags("soap", precondition_1d=precondition_1d)
    check_learning_rate("soap", learning_rate)
    check.number("soap", "b1", b1, "[0, 1)")
    check.number("soap", "b2", b2, "[0, 1)")
    check.number("soap", "eps", eps, "[0, inf)")
    check_number_or_schedule("soap", "weight_decay", weight_decay, "[0, inf)")
    check.is_positive("soap", "precondition_every", precondition_every)
    check.is_positive("soap", "max_dim", max_dim)

    def init(params: optax.Params) -> SoapState:
        return SoapState(
            step=jnp.zeros([], jnp.int32),
            m=jax.tree.map(lambda p: jnp.zeros_like(p, at_least_float32(p)), params),
            v=jax.tree.map(lambda p: jnp.zeros_like(p, at_least_float32(p)), params),
            h=each_copy(zero_preconditioners, params),
            q=each_copy(zero_preconditioners, params),
        )

    def zero_preconditioners(p: jax.Array) -> tuple[jax.Array | None, ...]:
        rotated = p.size > 0 and (p.ndim > 1 or precondition_1d)
        return tuple(
            jnp.zeros((n, n), at_least_float32(p)) if rotated and n <= max_dim else None for n in p.shape
        )

    def update(
        grads: optax.Updates, state: SoapState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SoapState]:
        g = jax.tree.map(lambda g: g.astype(at_least_float32(g)), grads)
        alpha, decay = at_step(learning_rate, state.step), at_step(weight_decay, state.step)
        stepping = state.step > 0
        t = jnp.maximum(state.step, 1)
        bias1, bias2 = 1 - b1**t, 1 - b2**t

        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.m, g)
        g_turned = each_copy(rotate, g, state.q)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * abs_sq(g), state.v, g_turned)
        m_turned = each_copy(rotate, m, state.q)
        x = jax.tree.map(
            lambda m, v: m / bias1.astype(m.dtype) / (root(v / bias2.astype(v.dtype)) + eps), m_turned, v
        )
        x = each_copy(rotate_back, x, state.q)
        x = add_weight_decay("soap", x, params, decay, mask)
        updates = jax.tree.map(lambda x: jnp.where(stepping, times(-alpha, x), jnp.zeros_like(x)), x)
        m, v = (
            jax.tree.map(lambda new, old: jnp.where(stepping, new, old).astype(old.dtype), *pair)
            for pair in ((m, state.m), (v, state.v))
        )

        h = cast_like(each_copy(update_preconditioners, g, state.h), state.h)
        branch = jnp.where(stepping, jnp.where(state.step % precondition_every == 0, 2, 1), 0)
        q, v = jax.lax.switch(branch, (first_bases, same_bases, next_bases), h, state.q, v)
        return cast_like(updates, grads), SoapState(optax.safe_increment(state.step), m, v, h, q)

    def update_preconditioners(g: jax.Array, h: tuple[jax.Array | None, ...]) -> tuple[jax.Array | None, ...]:
        return tuple(
            None if old is None else b2 * old + (1 - b2) * gram(g, axis) for axis, old in enumerate(h)
        )

    return optax.GradientTransformationExtraArgs(init, update)


def at_least_float32(p: jax.Array) -> Any:
    """The dtype of the state for p."""
    return jnp.promote_types(p.dtype, jnp.float32)


def rotate(x: jax.Array, q: tuple[jax.Array | None, ...]) -> jax.Array:
    """Rotates x into the bases q: Q_L^T x Q_R."""
    for axis, one in enumerate(q):
        x = x if one is None else multiply_along(one.conj().T, x, axis)
    return x


def rotate_back(x: jax.Array, q: tuple[jax.Array | None, ...]) -> jax.Array:
    """Rotates x out of the bases q: Q_L x Q_R^T."""
    for axis, one in enumerate(q):
        x = x if one is None else multiply_along(one, x, axis)
    return x


Bases = tuple[jax.Array | None, ...]


def first_bases(h: Any, q: Any, v: Any) -> tuple[Any, Any]:
    """The eigenvectors of h, largest eigenvalue first. v is still 0."""
    return each_copy(lambda _, h: jax.tree.map(lambda h: jnp.linalg.eigh(h)[1][:, ::-1], h), v, h), v


def same_bases(h: Any, q: Any, v: Any) -> tuple[Any, Any]:
    """q and v, unchanged."""
    return q, v


def next_bases(h: Any, q: Any, v: Any) -> tuple[Any, Any]:
    """q after one step of orthogonal iteration, with its columns and the entries of v sorted by q^T h q."""

    def of_param(v: jax.Array, h: Bases, q: Bases) -> tuple[jax.Array, Bases]:
        power = jax.tree.map(jnp.matmul, h, q)
        order = jax.tree.map(lambda q, p: jnp.argsort(-jnp.sum(q.conj() * p, axis=0).real), q, power)
        for axis, one in enumerate(order):
            v = v if one is None else jnp.take(v, one, axis)
        return v, jax.tree.map(lambda p, order: jnp.linalg.qr(p[:, order])[0], power, order)

    both = each_copy(of_param, v, h, q)
    return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], v, both) for i in (1, 0))
