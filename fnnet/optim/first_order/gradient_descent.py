"""Gradient descent with a line search, which finds the learning rate at each step (Cauchy 1847)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import cast_like
from fnnet.optim.line_search import LineSearch, backtracking, dot, line_function, scale_direction


class GradientDescentState(NamedTuple):
    """The state of gradient descent with a line search."""

    alpha: jax.Array  # float[], the step that the next search tries first
    evaluations: Evaluations  # all so far, the value and the gradient of each step included


def gradient_descent(
    line_search: LineSearch = backtracking,
    first_step: chex.Numeric = 1.0,
    grow: chex.Numeric = 2.0,
    max_step: chex.Numeric = 1e6,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with a line search.

        d = -g
        alpha = line_search(a -> f(theta + a d)), which tries min(grow alpha, max_step) first
        theta <- theta + alpha d

    If the search finds no step, the params stay, and the next search tries the same first step again.

    Args:
        line_search: `backtracking` (Armijo), `wolfe`, either of them with other arguments, such as `partial(wolfe,
            c2=0.1)`, or any function `(phi, phi(0), phi'(0), first step) -> Search`.
        first_step: the first try of the first search, in the units of a learning rate.
        grow: the next search first tries this many times the last step, so that steps can grow again; at least 1.
        max_step: upper bound of the first try, for objectives without a minimum.

    `update` needs `value`, `grad` and `value_fn`, all from the same batch. The search compares values, and those of
    another batch, or of another dropout mask, differ by noise.

    Baseline: the rule in NumPy, and `optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(...))` or
    `optax.scale_by_zoom_linesearch(...)`: the same params at each step, up to rounding in float64.

    Raises:
        ValueError: first_step or max_step is negative; grow is less than 1; `update` is called without params, value,
            grad or value_fn.

    Source: Cauchy 1847, "Méthode générale pour la résolution des systèmes d'équations simultanées"; Nocedal & Wright
    2006, "Numerical Optimization", chapter 3.

    Example:
        >>> f = lambda theta: jnp.sum(jnp.square(theta))
        >>> optimizer, theta = fn.optim.gradient_descent(), jnp.array([1.0, -2.0])
        >>> value, grad = jax.value_and_grad(f)(theta)
        >>> state = optimizer.init(theta)
        >>> updates, state = optimizer.update(grad, state, theta, value=value, grad=grad, value_fn=f)
        >>> updates, int(state.evaluations.values)
        (Array([-1.,  2.], dtype=float32), 3)
    """
    check.number("gradient_descent", "first_step", first_step, "[0, inf)")
    check.number("gradient_descent", "grow", grow, "[1, inf)")
    check.number("gradient_descent", "max_step", max_step, "[0, inf)")

    def init(params: optax.Params) -> GradientDescentState:
        alpha = jnp.asarray(first_step).astype(jax.eval_shape(dot, params, params).dtype)
        return GradientDescentState(alpha, no_evaluations())

    def update(
        grads: optax.Updates,
        state: GradientDescentState,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GradientDescentState]:
        require("gradient_descent", params=params, value=value, grad=grad, value_fn=value_fn)
        d = jax.tree.map(jnp.negative, grads)
        found = line_search(line_function(value_fn, params, d), value, dot(grad, d), state.alpha)
        alpha = jnp.where(found.step > 0, jnp.minimum(grow * found.step, max_step), state.alpha)
        evaluations = state.evaluations.plus(values=1, gradients=1).plus(*found.evaluations)
        return scale_direction(found.step, d), GradientDescentState(
            cast_like(alpha, state.alpha), evaluations
        )

    return optax.GradientTransformationExtraArgs(init, update)
