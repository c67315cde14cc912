"""Momentum: the heavy ball (Polyak 1964)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    init_step,
    next_step,
    times,
)


class MomentumState(NamedTuple):
    """The state of momentum."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule, unless the first step differs
    v: optax.Params  # velocity, like params


def momentum(
    learning_rate: ScalarOrSchedule,
    momentum: chex.Numeric = 0.9,
    accumulator_dtype: Any = None,
    *,
    dampening: chex.Numeric = 0.0,
    rate_in_velocity: bool = False,
    dampen_first: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with momentum.

        v <- mu v + g
        theta <- theta - alpha v

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        momentum: mu, in [0, 1).
        accumulator_dtype: dtype of v; the params' dtype by default.
        dampening: v <- mu v + (1 - dampening) g. With dampening = mu, v is a moving average, as in Ng's notes.
        rate_in_velocity: v <- mu v - alpha g, theta <- theta + v, as in Polyak, Sutskever and Keras: a change of
            alpha then affects only later gradients. With a constant alpha the two are the same.
        dampen_first: False for v = g in the first step, as in PyTorch, whose `dampening` spares it.

    Twin: `optax.sgd(learning_rate, momentum)`, which is PyTorch's form, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule, or is negative; mu is not in [0,
            1).

    Source: Polyak 1964, "Some methods of speeding up the convergence of iteration methods".

    Example:
        >>> optimizer = fn.optim.momentum(0.1, 0.9)
        >>> params = jnp.array([1.0])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jnp.array([1.0]), state)
        >>> updates, state = optimizer.update(jnp.array([1.0]), state)
        >>> updates
        Array([-0.19], dtype=float32)
    """
    check_flags("momentum", rate_in_velocity=rate_in_velocity, dampen_first=dampen_first)
    check.number("momentum", "dampening", dampening)
    check_learning_rate("momentum", learning_rate)
    check.number("momentum", "momentum", momentum, "[0, 1)")

    def init(params: optax.Params) -> MomentumState:
        v = jax.tree.map(lambda p: jnp.zeros_like(p, accumulator_dtype), params)
        return MomentumState(step=init_step(learning_rate) if dampen_first else jnp.zeros([], jnp.int32), v=v)

    def update(
        grads: optax.Updates, state: MomentumState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, MomentumState]:
        alpha = at_step(learning_rate, state.step)
        share: Any = 1 - dampening
        if state.step is not None and not dampen_first:
            share = jnp.where(state.step == 0, 1, share)
        if rate_in_velocity:
            v = jax.tree.map(lambda v, g: momentum * v - times(alpha, share * g), state.v, grads)
            updates = v
        else:
            v = jax.tree.map(lambda v, g: share * g + momentum * v, state.v, grads)
            updates = jax.tree.map(lambda v: times(-alpha, v), v)
        return cast_like(updates, grads), MomentumState(next_step(state.step), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
