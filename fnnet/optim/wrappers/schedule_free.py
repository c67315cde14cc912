"""Schedule-free learning: gradients between a fast sequence and its average (Defazio et al. 2024, arXiv:2405.15682)."""

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
    check_learning_rate,
    check_numbers,
)
from fnnet.optim.schedules.warm_up import warmup_constant_schedule


class ScheduleFreeState(NamedTuple):
    """The state of schedule-free learning. The params are y."""

    step: jax.Array  # int32[], number of the next update, from 1
    z: optax.Params  # the fast sequence, like params
    weight_sum: jax.Array  # float[], sum of the weights in the average
    largest_rate: jax.Array  # float[], the largest alpha so far
    b1: jax.Array  # float[], for `schedule_free_eval_params`
    base: optax.OptState  # state of the base optimizer


def schedule_free(
    base_optimizer: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    weight_lr_power: chex.Numeric = 2.0,
    state_dtype: Any = None,
    *,
    r: chex.Numeric = 0.0,
    sum_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes any optimizer without momentum schedule-free.

        z <- z + base(g)                        base(g): the base optimizer's step, -alpha g for sgd
        w = t^r (largest alpha so far)^p
        c = w / (sum of all w so far)           1 / t while alpha is constant, with r = 0
        x <- (1 - c) x + c z                    the average: the params to evaluate
        y <- b1 x + (1 - b1) z                  the params: gradients are taken here

    x is not stored: it is (y - (1 - b1) z) / b1. `schedule_free_eval_params` returns it.

    Args:
        base_optimizer: an optimizer without momentum (for Adam, b1 = 0), with the same learning rate.
        learning_rate: alpha, a number or a schedule of the step, used only for the weights w. A schedule should have
            a warm-up and no decay. Its step counts from 1 here, but from 0 in the base optimizer. Pass `lambda step:
            schedule(step + 1)` to the base optimizer if each step should use the same alpha as its weight.
        b1: fraction of x in y, in (0, 1).
        weight_lr_power: p; 0 for the plain average.
        state_dtype: dtype of z; the params' dtype by default.
        r: exponent of the step in the weights, as in the authors' package, where the default is 0, too.
        sum_dtype: dtype of the sum of the weights; by default the lowest precision among the params, but float32
            instead of float16. (A sum in bfloat16 stops growing at 256 equal weights: use float32 for a true average.)

    Twin: `optax.contrib.schedule_free`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule, or negative; b1 is not in (0, 1);
            `update` is called without params.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1.

    Example:
        >>> optimizer = fn.optim.schedule_free(fn.optim.sgd(0.5), 0.5, b1=0.5)
        >>> y, state = jnp.array([1.0]), optimizer.init(jnp.array([1.0]))
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.array([1.0]), state, y)
        ...     y = y + updates
        >>> state.z, fn.optim.schedule_free_eval_params(state, y), y
        (Array([0.], dtype=float32), Array([0.25], dtype=float32), Array([0.125], dtype=float32))
    """
    check_numbers("schedule_free", weight_lr_power=weight_lr_power, r=r)
    check_learning_rate("schedule_free", learning_rate)
    check.number("schedule_free", "b1", b1, "(0, 1)")  # x is found from y = b1 x + (1 - b1) z
    base = optax.with_extra_args_support(base_optimizer)

    def init(params: optax.Params) -> ScheduleFreeState:
        dtype = optax.tree.dtype(params, "lowest")
        # The square of a rate of 1e-4 is 0 in float16.
        lowest = jnp.float32 if dtype == jnp.float16 else dtype
        sum_type = lowest if sum_dtype is None else sum_dtype
        return ScheduleFreeState(
            step=jnp.ones([], jnp.int32),
            # A copy, so that both params and state can be donated to a compiled step.
            z=jax.tree.map(lambda p: jnp.array(p, state_dtype, copy=True), params),
            weight_sum=jnp.zeros([], sum_type),
            largest_rate=jnp.zeros([], sum_type),
            b1=jnp.asarray(b1, dtype),
            base=base.init(params),
        )

    def update(
        grads: optax.Updates, state: ScheduleFreeState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ScheduleFreeState]:
        if params is None:
            raise ValueError(
                "schedule_free: needs the params, which are y; write update(grads, state, params)"
            )
        alpha = jnp.asarray(at_step(learning_rate, state.step), state.largest_rate.dtype)
        largest = jnp.maximum(state.largest_rate, alpha)
        w = largest**weight_lr_power
        if not (isinstance(r, int | float) and r == 0):
            w = w * state.step**r
        weight_sum = state.weight_sum + w
        c = w / jnp.where(weight_sum == 0, 1, weight_sum)  # 0 while all alphas are 0

        steps, memory = base.update(grads, state.base, params, **extra)
        z = jax.tree.map(lambda z, u: (z + u).astype(z.dtype), state.z, steps)
        x = jax.tree.map(lambda y, z: (y - (1.0 - b1) * z) / b1, params, state.z)
        x = jax.tree.map(lambda x, z: (1.0 - c) * x + c * z, x, z)
        y = jax.tree.map(lambda x, z: b1 * x + (1.0 - b1) * z, x, z)
        # y is rounded first, so that params + update is exactly the new y in half precision, too.
        updates = jax.tree.map(lambda y, p: y - p, cast_like(y, params), params)
        new = ScheduleFreeState(optax.safe_increment(state.step), z, weight_sum, largest, state.b1, memory)
        return cast_like(updates, grads), cast_like(new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def schedule_free_eval_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """Returns the average x, which is to be evaluated and saved, from the trained params y.

        x = (y - (1 - b1) z) / b1

    Args:
        state: the state of `schedule_free`, `schedule_free_sgd` or `schedule_free_adamw`.
        params: y.

    Baseline: `optax.contrib.schedule_free_eval_params`, equal bit for bit.

    Raises:
        TypeError: the state is that of another optimizer.

    Example: see `schedule_free`.
    """
    if not isinstance(state, ScheduleFreeState):
        raise TypeError(
            f"schedule_free_eval_params: state is a {type(state).__name__}, wanted the ScheduleFreeState of "
            "schedule_free, which inside a chain is one of the states"
        )
    return jax.tree.map(lambda y, z: (y - (1.0 - state.b1) * z) / state.b1, params, state.z)


def with_warmup(optimizer: str, learning_rate: Any, warmup_steps: int | None) -> ScalarOrSchedule:
    """The learning rate, or a schedule that rises from 0 at step 0 to it at step `warmup_steps`."""
    check_learning_rate(optimizer, learning_rate)
    if warmup_steps is None:
        return learning_rate
    check.is_positive(optimizer, "warmup_steps", warmup_steps)
    if callable(learning_rate):
        raise TypeError(
            f"{optimizer}: learning_rate is a schedule, wanted a number with warmup_steps={warmup_steps}"
        )

    return warmup_constant_schedule(0.0, learning_rate, warmup_steps)


def one_step_ahead(rate: ScalarOrSchedule) -> ScalarOrSchedule:
    """The schedule shifted by one step: its value at the next step."""
    return (lambda step: rate(step + 1)) if callable(rate) else rate
