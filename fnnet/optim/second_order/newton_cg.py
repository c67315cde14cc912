"""Truncated Newton: conjugate gradients solve its equation as far as is worth while (Dembo & Steihaug 1983)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import cast_like, times
from fnnet.optim.line_search import LineSearch, backtracking, dot, line_function, scale_direction


class NewtonCgState(NamedTuple):
    """What truncated Newton remembers."""

    norm: jax.Array  # float[], |g| at the step before, 0 at first
    evaluations: Evaluations  # all so far, the value and the gradient of each step included


class Carry(NamedTuple):
    """What the conjugate gradients inside a step hand on."""

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

    B, the Hessian, is only multiplied with vectors. Where one of them has no positive curvature (d.Bd <= 0), p is
    what has been reached before; if that is the first vector, p = -g. So p descends whatever B is.

    Args:
        line_search: `backtracking`, `wolfe`, either with other arguments, or any function
            `(phi, phi(0), phi'(0), first step) -> Search`.
        eta_max: at least this accuracy, in [0, 1).
        power: 0.5 (Nocedal & Wright, SciPy) makes the convergence superlinear, of order 1.5; 1 makes it quadratic.
        relative: compare |g| with the last one instead of 1, whatever the units of f (Eisenstat & Walker's choice
            2, with their gamma = 1); their power is 2, which makes the convergence quadratic, or 1.618.
        max_products: the most products with B a step takes.

    Update needs `value`, `grad` and `value_fn`, which must be of the same batch. A step takes 1 value and 1
    gradient, up to max_products products, each about the cost of 2 gradients, and the search's values.

    Baseline: algorithm 7.1 in NumPy, in float64 to rounding; the optima of `scipy.optimize.minimize` with
    method="Newton-CG" and "trust-ncg".

    Raises:
        TypeError, ValueError: eta_max is not in [0, 1), power is negative, max_products is no positive int; `update`
            is called without params, value, grad or value_fn.

    Source: Nocedal & Wright 2006, "Numerical Optimization", algorithm 7.1; Dembo & Steihaug 1983, "Truncated-Newton
    algorithms for large-scale unconstrained optimization"; Eisenstat & Walker 1996, "Choosing the forcing terms in
    an inexact Newton method".

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
    check.between("newton_cg", "eta_max", eta_max, 0, 1)
    check.between("newton_cg", "power", power, 0)
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
        # B v for many v: what does not depend on v is computed once.
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
        descends = dot(grad, end.p) < 0  # not where the first vector was concave: p is 0
        p = jax.tree.map(lambda p, d: jnp.where(descends, p, d), end.p, steepest)

        found = line_search(line_function(value_fn, params, p), value, dot(grad, p), 1.0)
        evaluations = state.evaluations.plus(1, 1, end.products).plus(*found.evaluations)
        return scale_direction(found.step, p), NewtonCgState(cast_like(norm, state.norm), evaluations)

    return optax.GradientTransformationExtraArgs(init, update)
