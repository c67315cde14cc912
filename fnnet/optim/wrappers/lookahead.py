"""Lookahead: slow weights that follow the fast weights of an optimizer (Zhang et al. 2019, arXiv:1907.08610)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from optax import LookaheadParams

from fnnet import check
from fnnet.optim.hyperparameters import check_count, check_flags, copy_tree, times


class LookaheadState(NamedTuple):
    """The state of Lookahead."""

    fast_state: optax.OptState  # of the wrapped optimizer
    steps_since_sync: jax.Array  # int32[], in 0 .. k - 1
    slow: optax.Params | None  # slow weights, like params; None where the params are LookaheadParams


def lookahead(
    fast_optimizer: optax.GradientTransformation,
    sync_period: chex.Numeric,
    slow_step_size: chex.Numeric,
    reset_state: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Lookahead: k steps forward, one step back.

        theta <- theta + u(theta)              the wrapped optimizer's step
        every k steps:
        phi <- phi + alpha (theta - phi)
        theta <- phi

    The params are `LookaheadParams(fast=theta, slow=phi)` as in optax: gradients are taken at theta, `params.fast`,
    and phi, `params.slow`, is used for evaluation. Or the params are theta alone, as in `train.make_step`. Then phi
    is kept in the state, as `state.slow`, and theta equals phi after every k steps.

    Args:
        fast_optimizer: an optimizer from `fnnet.optim` or optax. It receives the extra arguments of `update`
            unchanged.
        sync_period: k, 1 or more. The paper uses 5 (images) or 10.
        slow_step_size: alpha, 0 or more. The paper uses 0.5 to 0.8.
        reset_state: whether to reset the optimizer's state every k steps. The paper keeps it.

    Memory: the optimizer's state, and phi, like params.

    Twin: `optax.lookahead`, equal bit for bit with LookaheadParams, which is optax's own class.

    Raises:
        TypeError, ValueError: sync_period is not an int of 1 or more; slow_step_size is negative; `update` is called
            without params, or with params of another kind than `init`.

    Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1.

    Example:
        >>> optimizer = fn.optim.lookahead(fn.optim.sgd(1.0), sync_period=2, slow_step_size=0.5)
        >>> params = fn.optim.LookaheadParams.init_synced(jnp.array([4.0]))
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.array([1.0]), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> params
        LookaheadParams(fast=Array([3.], dtype=float32), slow=Array([3.], dtype=float32))
    """
    check_flags("lookahead", reset_state=reset_state)
    check_count("lookahead", "sync_period", sync_period)
    check.number("lookahead", "slow_step_size", slow_step_size, "[0, inf)")
    fast_optimizer = optax.with_extra_args_support(fast_optimizer)

    def init(params: optax.Params) -> LookaheadState:
        paired = isinstance(params, LookaheadParams)
        return LookaheadState(
            fast_state=fast_optimizer.init(params.fast if paired else params),
            steps_since_sync=jnp.zeros([], jnp.int32),
            slow=None if paired else copy_tree(params),
        )

    def update(
        grads: optax.Updates, state: LookaheadState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, LookaheadState]:
        if params is None:
            raise ValueError("lookahead: the step back needs the params, write update(grads, state, params)")
        paired = isinstance(params, LookaheadParams)
        if paired != (state.slow is None):
            raise ValueError(
                "lookahead: init and update take the same params, both LookaheadParams or both not"
            )
        fast, slow = params if paired else (params, state.slow)

        updates, fast_state = fast_optimizer.update(grads, state.fast_state, fast, **extra)
        sync = state.steps_since_sync == sync_period - 1
        ahead = jax.tree.map(lambda f, u, s: f + u - s, fast, updates, slow)
        # phi moves forward by alpha (theta + u - phi); theta moves back by the rest.
        slow_updates = jax.tree.map(lambda a: times(slow_step_size * sync, a), ahead)
        updates = jax.tree.map(lambda u, a: u - times((1 - slow_step_size) * sync, a), updates, ahead)
        if reset_state:
            fast_state = jax.tree.map(
                lambda now, first: jnp.where(sync, first, now), fast_state, fast_optimizer.init(fast)
            )
        steps_since_sync = (state.steps_since_sync + 1) % sync_period
        if paired:
            return LookaheadParams(updates, slow_updates), LookaheadState(fast_state, steps_since_sync, None)
        return updates, LookaheadState(fast_state, steps_since_sync, optax.apply_updates(slow, slow_updates))

    return optax.GradientTransformationExtraArgs(init, update)
