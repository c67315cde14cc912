"""Stochastic gradient descent (Robbins & Monro 1951)."""

from typing import Any, NamedTuple

import jax
import optax

from fnnet.optim.first_order.momentum import momentum as with_momentum
from fnnet.optim.first_order.nesterov import nesterov as with_nesterov
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    check_flags,
    check_learning_rate,
    init_step,
    next_step,
    times,
)


class SgdState(NamedTuple):
    """The state of gradient descent."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule


def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent.

        theta <- theta - alpha g

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        momentum: None for the rule above; a number for `momentum(learning_rate, momentum)`.
        nesterov: True for `nesterov(learning_rate, momentum)`, if there is a momentum.
        accumulator_dtype: dtype of the velocity; the params' dtype by default.

    Twin: `optax.sgd`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule, or is negative.

    Source: Robbins & Monro 1951, "A stochastic approximation method".

    Example:
        >>> optimizer = fn.optim.sgd(0.1)
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, state = optimizer.update(2 * params, optimizer.init(params))
        >>> params + updates
        Array([0.8, 1.6], dtype=float32)
    """
    check_flags("sgd", nesterov=nesterov)
    if momentum is not None:
        rule = with_nesterov if nesterov else with_momentum
        return rule(learning_rate, momentum, accumulator_dtype)
    check_learning_rate("sgd", learning_rate)

    def init(params: optax.Params) -> SgdState:
        return SgdState(step=init_step(learning_rate))

    def update(
        grads: optax.Updates, state: SgdState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SgdState]:
        alpha = at_step(learning_rate, state.step)
        updates = jax.tree.map(lambda g: times(-alpha, g), grads)
        return updates, SgdState(next_step(state.step))

    return optax.GradientTransformationExtraArgs(init, update)
