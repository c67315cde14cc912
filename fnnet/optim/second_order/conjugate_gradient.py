"""Nonlinear conjugate gradients (Fletcher & Reeves 1964; Polak & Ribière 1969; Dai & Yuan 1999)."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import cast_like, times, zeros_like
from fnnet.optim.line_search import LineSearch, dot, line_function, scale_direction, wolfe

Beta = Literal["fletcher_reeves", "polak_ribiere", "hestenes_stiefel", "dai_yuan"]
NEAR_EXACT: LineSearch = partial(wolfe, c2=0.1)


class ConjugateGradientState(NamedTuple):
    """The state of nonlinear conjugate gradients."""

    since: jax.Array  # int32[], steps since the last restart
    g: optax.Params  # the last gradient, like params
    d: optax.Params  # the last direction, like params
    alpha: jax.Array  # float[], the last step
    slope: jax.Array  # float[], g . d at the last step
    evaluations: Evaluations  # all so far, the value and the gradient of each step included


def conjugate_gradient(
    beta: Beta = "polak_ribiere",
    line_search: LineSearch = NEAR_EXACT,
    *,
    restart_every: int | None = None,
    restart_overlap: chex.Numeric | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Nonlinear conjugate gradients.

        d <- -g + beta d,   theta <- theta + alpha d,   alpha by a line search
        y = g - g_before
        beta = g.g / g_before.g_before              fletcher_reeves
               max(0, g.y / g_before.g_before)      polak_ribiere, its PR+ form
               g.y / d.y                            hestenes_stiefel
               g.g / d.y                            dai_yuan

    A restart sets beta to 0, so that d = -g. It happens at the first step, when d would not descend, after a search
    that found no step, and as the arguments say. On a quadratic in n params with exact steps all four rules are the
    linear method, which ends after n steps.

    The search first tries alpha_before slope_before / slope, which assumes that f falls as much as in the last step.
    At the start, and after a search that found no step, it first tries min(1, 1 / |g|).

    Args:
        beta: one of the four rules.
        line_search: `wolfe`, `backtracking`, either of them with other arguments, or any function `(phi, phi(0),
            phi'(0), first step) -> Search`. Conjugate directions need nearly exact steps: the default uses c2 = 0.1,
            as Nocedal & Wright do. (SciPy: 0.4.)
        restart_every: number of steps between restarts, often the number of params. None for never.
        restart_overlap: restart when |g.g_before| is at least this fraction of g.g (Powell 1977; 0.1 in Nocedal &
            Wright). None for never, as in SciPy and optimistix.

    `update` needs `value`, `grad` and `value_fn`, all from the same batch. Successive steps should use the same
    batch, too: a beta from gradients of two batches is noise.

    Baseline: the rule in NumPy with the same steps, in float64 to rounding; the beta functions of
    `optimistix.NonlinearCG`, to rounding (in optimistix 0.1.0, those of hestenes_stiefel and dai_yuan expect negative
    gradients); and the optimum of `scipy.optimize.minimize(method="CG")`.

    Raises:
        TypeError, ValueError: beta is not one of the four rules; restart_every is not a positive int; restart_overlap
            is negative; `update` is called without params, value, grad or value_fn.

    Source: Nocedal & Wright 2006, "Numerical Optimization", section 5.2.

    Example:
        >>> f = lambda theta: jnp.sum(jnp.array([1.0, 10.0]) * jnp.square(theta))
        >>> optimizer, theta = fn.optim.conjugate_gradient(), jnp.array([1.0, -2.0])
        >>> state = optimizer.init(theta)
        >>> for _ in range(4):
        ...     value, grad = jax.value_and_grad(f)(theta)
        ...     updates, state = optimizer.update(grad, state, theta, value=value, grad=grad, value_fn=f)
        ...     theta = theta + updates
        >>> bool(f(theta) < 1e-4)
        True
    """
    check.one_of("conjugate_gradient", "beta", beta, get_args(Beta))
    if restart_every is not None:
        check.is_positive("conjugate_gradient", "restart_every", restart_every)
    if restart_overlap is not None:
        check.number("conjugate_gradient", "restart_overlap", restart_overlap, "[0, inf)")

    def init(params: optax.Params) -> ConjugateGradientState:
        dtype = jax.eval_shape(dot, params, params).dtype
        return ConjugateGradientState(
            jnp.zeros([], jnp.int32),
            zeros_like(params),
            zeros_like(params),
            jnp.zeros([], dtype),
            jnp.zeros([], dtype),
            no_evaluations(),
        )

    def update(
        grads: optax.Updates,
        state: ConjugateGradientState,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ConjugateGradientState]:
        require("conjugate_gradient", params=params, value=value, grad=grad, value_fn=value_fn)
        y = jax.tree.map(jnp.subtract, grads, state.g)
        gg, gg_before = dot(grads, grads), dot(state.g, state.g)
        if beta == "fletcher_reeves":
            b = quotient(gg, gg_before)
        elif beta == "polak_ribiere":
            b = jnp.maximum(0, quotient(dot(grads, y), gg_before))
        elif beta == "hestenes_stiefel":
            b = quotient(dot(grads, y), dot(state.d, y))
        else:
            b = quotient(gg, dot(state.d, y))

        restart = state.since == 0
        if restart_every is not None:
            restart |= state.since >= restart_every
        if restart_overlap is not None:
            restart |= jnp.abs(dot(grads, state.g)) >= restart_overlap * gg
        conjugate = jax.tree.map(lambda g, d: times(b, d) - g, grads, state.d)
        restart |= ~(dot(grad, conjugate) < 0)
        d = jax.tree.map(lambda g, c: jnp.where(restart, -g, c), grads, conjugate)

        slope = dot(grad, d)
        first = jnp.minimum(1, quotient(1, jnp.sqrt(gg)))
        as_before = quotient(state.alpha * state.slope, slope)
        first = jnp.where((state.since > 0) & (as_before > 0), as_before, first)
        found = line_search(line_function(value_fn, params, d), value, slope, first)

        since = jnp.where(found.step > 0, jnp.where(restart, 1, state.since + 1), 0)
        evaluations = state.evaluations.plus(values=1, gradients=1).plus(*found.evaluations)
        new = ConjugateGradientState(since, grads, d, found.step, slope, evaluations)
        return scale_direction(found.step, d), cast_like(new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def quotient(a: chex.Numeric, b: chex.Numeric) -> jax.Array:
    """a / b, or 0 where that is not finite."""
    q = jnp.asarray(a / jnp.where(b == 0, 1, b))
    return jnp.where((b != 0) & jnp.isfinite(q), q, 0)
