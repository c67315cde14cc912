"""Schedule-free gradient descent (Defazio et al. 2024, arXiv:2405.15682)."""

from typing import Any

import chex
import optax

from fnnet import check
from fnnet.optim.first_order.sgd import sgd
from fnnet.optim.hyperparameters import ScalarOrSchedule, check_flags
from fnnet.optim.transforms.weight_decay import add_weight_decay
from fnnet.optim.wrappers.schedule_free import one_step_ahead, schedule_free, with_warmup


def schedule_free_sgd(
    learning_rate: ScalarOrSchedule = 1.0,
    warmup_steps: int | None = None,
    b1: chex.Numeric = 0.9,
    weight_decay: chex.Numeric | None = None,
    weight_lr_power: chex.Numeric = 2.0,
    state_dtype: Any = None,
    *,
    r: chex.Numeric = 0.0,
    sum_dtype: Any = None,
    rate_from_zero: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free gradient descent: `schedule_free` of `sgd`.

        z <- z - alpha (g + lambda y)

    Args:
        learning_rate: alpha, a number or a schedule of the step. The schedule should not decay.
        warmup_steps: number of steps over which alpha rises linearly from 0; no warm-up by default.
        b1: fraction of x in y, in (0, 1). (The authors call it momentum.)
        weight_decay: lambda; None for none.
        weight_lr_power: exponent of alpha in the weights, as in `schedule_free`.
        state_dtype: dtype of z; the params' dtype by default.
        r: exponent of the step in the weights, as in `schedule_free`.
        sum_dtype: dtype of the sum of the weights, as in `schedule_free`.
        rate_from_zero: True as in optax: step t uses alpha at t - 1, which is 0 in the first step of a warm-up, and
            the weight at t. False as in the authors' code: both are those at t, so that the first step uses alpha /
            warmup_steps.

    Twin: `optax.contrib.schedule_free_sgd`, equal bit for bit.

    Raises:
        TypeError, ValueError: as `schedule_free`; lambda is negative; warmup_steps is not a positive int, or is given
            with a schedule.

    Source: Defazio et al. 2024, arXiv:2405.15682.

    Example:
        >>> optimizer = fn.optim.schedule_free_sgd(0.5, b1=0.5)
        >>> y, state = jnp.array([1.0]), optimizer.init(jnp.array([1.0]))
        >>> optimizer.update(jnp.array([1.0]), state, y)[0]
        Array([-0.5], dtype=float32)
    """
    check_flags("schedule_free_sgd", rate_from_zero=rate_from_zero)
    rate = with_warmup("schedule_free_sgd", learning_rate, warmup_steps)
    if weight_decay is not None:
        check.number("schedule_free_sgd", "weight_decay", weight_decay, "[0, inf)")
    descent = sgd(rate if rate_from_zero else one_step_ahead(rate))

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        if weight_decay is not None:
            grads = add_weight_decay("schedule_free_sgd", grads, params, weight_decay, None)
        return descent.update(grads, state, params)

    base = optax.GradientTransformationExtraArgs(descent.init, update)
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype, r=r, sum_dtype=sum_dtype)
