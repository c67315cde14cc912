"""L-BFGS: Newton's method with an inverse Hessian estimated from the last few steps (Liu & Nocedal 1989)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    times,
    zeros_like,
)
from fnnet.optim.line_search import LineSearch, dot, line_function, scale_direction, wolfe


class LbfgsState(NamedTuple):
    """The state of L-BFGS, with m = memory_size pairs."""

    step: jax.Array  # int32[], updates taken
    pairs: jax.Array  # int32[], pairs stored so far; the newest is at (pairs - 1) % m
    params: optax.Params  # before the last update
    grads: optax.Params  # there, like params
    s: optax.Params  # [m, ...] for each leaf of params: changes of the params
    y: optax.Params  # [m, ...] for each leaf: the changes of the gradient
    rho: jax.Array  # float[m], 1 / s.y; 0 for an empty place
    gamma: jax.Array  # float[], the initial inverse Hessian is gamma I
    evaluations: Evaluations  # all so far, the value and the gradient of each step included


def lbfgs(
    learning_rate: ScalarOrSchedule | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: LineSearch | None = wolfe,
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS.

        s = theta - theta_before,   y = g - g_before,   rho = 1 / s.y   the last m of each are kept
        gamma = s.y / y.y                                               of the newest pair
        q = g;          from the newest to the oldest:  a_i = rho_i s_i.q,   q <- q - a_i y_i
        r = gamma q;    from the oldest to the newest:  b = rho_i y_i.r,     r <- r + (a_i - b) s_i
        theta <- theta - alpha r                        alpha by a line search that tries 1 first

    Without pairs, gamma is min(1, 1 / |g|), so that the first try is no longer than 1. A pair whose s.y is not
    positive is not stored, since r would no longer descend. If the search finds no step, all pairs are dropped, so
    that the next direction is -g. (optax stores every pair, and can then take a step that does not descend.)

    Args:
        learning_rate: multiplies r, a number or a schedule of the step; None is 1.
        memory_size: m, a positive int.
        scale_init_precond: True for gamma as above; False for gamma = 1.
        linesearch: `wolfe`, whose conditions make s.y positive; `backtracking`; either of them with other arguments,
            such as `partial(wolfe, c2=0.5)`; or any function `(phi, phi(0), phi'(0), first step) -> Search`. None for
            no search: theta <- theta - learning_rate r. (optax takes one of its own transformations; its default is
            `wolfe` with the same arguments.)

    With a search, `update` needs `value`, `grad` and `value_fn`, all from the same batch. Successive steps should use
    the same batch, too: the difference of the gradients of two batches is noise, not curvature.

    Memory: 2 m + 2 copies of the params.

    Twin: `optax.lbfgs`, in float64 to 1e-8 at each step while the searches succeed (inner products are summed in a
    different order); the two loops in NumPy, to 1e-12; the optimum of SciPy's `L-BFGS-B`.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule, or is negative; memory_size is
            not a positive int; `update` is called without params, or with a search and without value, grad or
            value_fn.

    Source: Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization"; Nocedal & Wright
    2006, "Numerical Optimization", algorithms 7.4 and 7.5.

    Example:
        >>> f = lambda theta: jnp.sum(jnp.array([1.0, 10.0]) * jnp.square(theta))
        >>> optimizer, theta = fn.optim.lbfgs(), jnp.array([1.0, -2.0])
        >>> state = optimizer.init(theta)
        >>> for _ in range(8):
        ...     value, grad = jax.value_and_grad(f)(theta)
        ...     updates, state = optimizer.update(grad, state, theta, value=value, grad=grad, value_fn=f)
        ...     theta = theta + updates
        >>> bool(f(theta) < 1e-6)
        True
    """
    check_flags("lbfgs", scale_init_precond=scale_init_precond)
    if learning_rate is not None:
        check_learning_rate("lbfgs", learning_rate)
    check.is_positive("lbfgs", "memory_size", memory_size)

    def init(params: optax.Params) -> LbfgsState:
        def memory() -> optax.Params:
            return jax.tree.map(lambda p: jnp.zeros((memory_size, *p.shape), jnp.result_type(p)), params)

        dtype = jax.eval_shape(dot, params, params).dtype
        return LbfgsState(
            step=jnp.zeros([], jnp.int32),
            pairs=jnp.zeros([], jnp.int32),
            params=zeros_like(params),
            grads=zeros_like(params),
            s=memory(),
            y=memory(),
            rho=jnp.zeros([memory_size], dtype),
            gamma=jnp.ones([], dtype),
            evaluations=no_evaluations(),
        )

    def update(
        grads: optax.Updates,
        state: LbfgsState,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, LbfgsState]:
        require("lbfgs", params=params)
        if linesearch is not None:
            require("lbfgs", value=value, grad=grad, value_fn=value_fn)

        s = jax.tree.map(jnp.subtract, params, state.params)
        y = jax.tree.map(jnp.subtract, grads, state.grads)
        sy = dot(s, y)
        keep = (state.step > 0) & (sy > 0) & jnp.isfinite(1 / sy)
        oldest = state.pairs % memory_size

        def store(memory: jax.Array, new: jax.Array) -> jax.Array:
            return memory.at[oldest].set(jnp.where(keep, new, memory[oldest]).astype(memory.dtype))

        s, y, rho = jax.tree.map(store, (state.s, state.y, state.rho), (s, y, 1 / sy))
        pairs = jnp.where(keep, optax.safe_increment(state.pairs), state.pairs)
        newest_first = (pairs - 1 - jnp.arange(memory_size)) % memory_size

        gamma = jnp.ones_like(state.gamma)
        if scale_init_precond:
            yy = dot(*2 * (jax.tree.map(lambda y: y[newest_first[0]], y),))
            gamma = jnp.where(keep, sy / yy, state.gamma)
            at_first = jnp.minimum(1, 1 / jnp.sqrt(dot(grads, grads)))
            gamma = jnp.where(jnp.any(rho > 0), gamma, at_first).astype(state.gamma.dtype)

        def pair(i: jax.Array) -> tuple[Any, Any]:
            return jax.tree.map(lambda memory: memory[i], (s, y))

        def first_loop(q: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            s, y = pair(i)
            a = rho[i] * dot(s, q)
            return jax.tree.map(lambda q, y: q - times(a, y), q, y), a

        def second_loop(r: Any, i_a: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            i, a = i_a
            s, y = pair(i)
            b = rho[i] * dot(y, r)
            return jax.tree.map(lambda r, s: r + times(a - b, s), r, s), None

        q, a = jax.lax.scan(first_loop, grads, newest_first)
        r = jax.tree.map(lambda q: times(gamma, q), q)
        r, _ = jax.lax.scan(second_loop, r, (newest_first, a), reverse=True)
        alpha = 1 if learning_rate is None else at_step(learning_rate, state.step)
        d = jax.tree.map(lambda r: times(-alpha, r), r)

        evaluations = state.evaluations.plus(values=1, gradients=1)
        if linesearch is not None:
            found = linesearch(line_function(value_fn, params, d), value, dot(grad, d), 1.0)
            d = scale_direction(found.step, d)
            rho = jnp.where(found.step > 0, rho, 0)
            evaluations = evaluations.plus(*found.evaluations)
        step = optax.safe_increment(state.step)
        return d, LbfgsState(
            step, pairs, cast_like(params, state.params), grads, s, y, rho, gamma, evaluations
        )

    return optax.GradientTransformationExtraArgs(init, update)
