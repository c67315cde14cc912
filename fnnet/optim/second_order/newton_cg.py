"""Truncated Newton: conjugate gradients solve the Newton equation approximately (Dembo & Steihaug 1983)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import cast_like, check_flags, times
from fnnet.optim.line_search import LineSearch, backtracking, dot, line_function, scale_direction


class NewtonCgState(NamedTuple):
    """The state of truncated Newton."""

    norm: jax.Array  # float[], |g| at the last step; 0 at the start
    evaluations: Evaluations  # all so far, the value and the gradient of each step included


class Carry(NamedTuple):
    """The state of the conjugate gradients inside a step."""

    p: Any  # like params, the solution so far
    r: Any  # B p + g
    d: Any  # the next vector
    rr: jax.Array  # float[], r.r
    products: jax.Array  # int32[]
    concave: jax.Array  # bool[], d.Bd <= 0


def newton_cg(
    line_search: LineSearch = backtracking,
    *,
    eta_max: chex.Numeric = 0.5,
    power: chex.Numeric = 0.5,
    relative: bool = False,
    max_products: int = 100,
) -> optax.GradientTransformationExtraArgs:
    """Truncated Newton, or line-search Newton-CG.

        B p = -g by conjugate gradients from p = 0, until |B p + g| <= eta |g|
        theta <- theta + alpha p,   alpha by a line search that tries 1 first
        eta = min(eta_max, |g|^power), or with relative=True min(eta_max, (|g| / |g_before|)^power)

    The Hessian B is only multiplied with vectors. If one of them has no positive curvature (d.Bd <= 0), p is the
    solution so far; if it is the first vector, p = -g. So p descends for any B.

    Args:
        line_search: `backtracking`, `wolfe`, either of them with other arguments, or any function `(phi, phi(0),
            phi'(0), first step) -> Search`.
        eta_max: upper bound of eta, in [0, 1).
        power: 0.5 (Nocedal & Wright, SciPy) makes convergence superlinear, of order 1.5; 1 makes it quadratic.
        relative: True to compare |g| with the last one instead of 1, which does not depend on the units of f
            (Eisenstat & Walker's choice 2, with gamma = 1). They use a power of 2, which makes convergence quadratic,
            or 1.618.
        max_products: upper bound of the products with B per step.

    `update` needs `value`, `grad` and `value_fn`, all from the same batch. A step takes 1 value, 1 gradient, the
    values of the search, and up to max_products products, each at about the cost of 2 gradients.

    Baseline: algorithm 7.1 in NumPy, equal up to rounding in float64; the optima of `scipy.optimize.minimize` with
    method="Newton-CG" and "trust-ncg".

    Raises:
        TypeError, ValueError: eta_max is not in [0, 1); power is negative; max_products is not a positive int;
            `update` is called without params, value, grad or value_fn.

    Source: Nocedal & Wright 2006, "Numerical Optimization", algorithm 7.1; Dembo & Steihaug 1983, "Truncated-Newton
    algorithms for large-scale unconstrained optimization"; Eisenstat & Walker 1996, "Choosing the forcing terms in an
    inexact Newton method".

    Example:
        >>> f = lambda theta: jnp.sum(jnp.cosh(theta))
        >>> optimizer, theta = fn.optim.newton_cg(), jnp.array([1.0, -2.0])
        >>> state = optimizer.init(theta)
        >>> for _ in range(5):
        ...     value, grad = jax.value_and_grad(f)(theta)
        ...     updates, state = optimizer.update(grad, state, theta, value=value, grad=grad, value_fn=f)
        ...     theta = theta + updates
        >>> bool(jnp.max(jnp.abs(theta)) < 1e-3)
        True
    """
    check_flags("newton_cg", relative=relative)
    check.number("newton_cg", "eta_max", eta_max, "[0, 1)")
    check.number("newton_cg", "power", power, "[0, inf)")
    check.is_positive("newton_cg", "max_products", max_products)

    def init(params: optax.Params) -> NewtonCgState:
        return NewtonCgState(jnp.zeros([], jax.eval_shape(dot, params, params).dtype), no_evaluations())

    def update(
        grads: optax.Updates,
        state: NewtonCgState,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, NewtonCgState]:
        require("newton_cg", params=params, value=value, grad=grad, value_fn=value_fn)
        # For products B v with many v: what does not depend on v is computed once.
        _, times_hessian = jax.linearize(jax.grad(value_fn), params)
        norm = jnp.sqrt(dot(grads, grads))
        scale = jnp.where(state.norm > 0, state.norm, norm) if relative else 1
        eta = jnp.minimum(eta_max, (norm / scale) ** power)

        def solving(now: Carry) -> jax.Array:
            return (jnp.sqrt(now.rr) > eta * norm) & ~now.concave & (now.products < max_products)

        def iterate(now: Carry) -> Carry:
            Bd = times_hessian(now.d)
            curvature = dot(now.d, Bd)
            concave = ~((curvature > 0) & jnp.isfinite(curvature))
            a = jnp.where(concave, 0, now.rr / jnp.where(concave, 1, curvature))
            p = jax.tree.map(lambda p, d: p + times(a, d), now.p, now.d)
            r = jax.tree.map(lambda r, Bd: r + jnp.where(concave, 0, times(a, Bd)), now.r, Bd)
            rr = dot(r, r)
            d = jax.tree.map(lambda r, d: times(rr / now.rr, d) - r, r, now.d)
            return Carry(p, r, d, rr, now.products + 1, concave)

        steepest = jax.tree.map(jnp.negative, grads)
        zeros = jax.tree.map(jnp.zeros_like, grads)
        none = jnp.zeros([], jnp.int32)
        end = jax.lax.while_loop(
            solving, iterate, Carry(zeros, grads, steepest, norm**2, none, jnp.zeros([], bool))
        )
        descends = dot(grad, end.p) < 0  # False if the first vector was concave: p is 0
        p = jax.tree.map(lambda p, d: jnp.where(descends, p, d), end.p, steepest)

        found = line_search(line_function(value_fn, params, p), value, dot(grad, p), 1.0)
        evaluations = state.evaluations.plus(1, 1, end.products).plus(*found.evaluations)
        return scale_direction(found.step, p), NewtonCgState(cast_like(norm, state.norm), evaluations)

    return optax.GradientTransformationExtraArgs(init, update)
