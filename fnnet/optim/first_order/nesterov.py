"""Nesterov's accelerated gradient (Nesterov 1983)."""

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


class NesterovState(NamedTuple):
    """The state of Nesterov's momentum."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule
    v: optax.Params  # velocity, like params


def nesterov(
    learning_rate: ScalarOrSchedule,
    momentum: chex.Numeric = 0.9,
    accumulator_dtype: Any = None,
    *,
    rate_in_velocity: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with Nesterov momentum, which uses the velocity one step ahead.

        v <- mu v + g
        theta <- theta - alpha (mu v + g)

    theta is the point at which Nesterov takes the gradient, theta + mu v in Sutskever's notation. This is the form of
    Bengio et al., PyTorch and optax.

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        momentum: mu, in [0, 1).
        accumulator_dtype: dtype of v; the params' dtype by default.
        rate_in_velocity: v <- mu v - alpha g, theta <- theta + mu v - alpha g, as in Sutskever and Keras: a change of
            alpha then affects only later gradients. With a constant alpha the two are the same.

    Twin: `optax.sgd(learning_rate, momentum, nesterov=True)`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule, or is negative; mu is not in [0,
            1).

    Source: Nesterov 1983; Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning";
    in this form Bengio, Boulanger-Lewandowski & Pascanu 2012, arXiv:1212.0901.

    Example:
        >>> optimizer = fn.optim.nesterov(0.1, 0.9)
        >>> params = jnp.array([1.0])
        >>> updates, state = optimizer.update(jnp.array([1.0]), optimizer.init(params))
        >>> updates
        Array([-0.19], dtype=float32)
    """
    check_flags("nesterov", rate_in_velocity=rate_in_velocity)
    check_learning_rate("nesterov", learning_rate)
    check.number("nesterov", "momentum", momentum, "[0, 1)")

    def init(params: optax.Params) -> NesterovState:
        v = jax.tree.map(lambda p: jnp.zeros_like(p, accumulator_dtype), params)
        return NesterovState(step=init_step(learning_rate), v=v)

    def update(
        grads: optax.Updates, state: NesterovState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NesterovState]:
        alpha = at_step(learning_rate, state.step)
        if rate_in_velocity:
            v = jax.tree.map(lambda v, g: momentum * v - times(alpha, g), state.v, grads)
            updates = jax.tree.map(lambda v, g: momentum * v - times(alpha, g), v, grads)
        else:
            v = jax.tree.map(lambda v, g: g + momentum * v, state.v, grads)
            updates = jax.tree.map(lambda v, g: times(-alpha, g + momentum * v), v, grads)
        return cast_like(updates, grads), NesterovState(next_step(state.step), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
