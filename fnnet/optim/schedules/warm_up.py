"""Warm-up: schedules that rise in a straight line before they decay."""

from numbers import Real
from typing import Any

import chex
import jax.numpy as jnp

from fnnet import check
from fnnet.optim.hyperparameters import Schedule, check_flags, check_numbers
from fnnet.optim.schedules.decay import cosine_decay_schedule, exponential_decay, linear_schedule
from fnnet.optim.schedules.piecewise import join_schedules


def warmup_schedule(
    schedule: Schedule, warmup_steps: chex.Numeric, init_value: chex.Numeric = 0.0
) -> Schedule:
    """A linear warm-up before any schedule.

        value = init + (schedule(0) - init) t / W       t < W
        value = schedule(t - W)                         from then on

    Args:
        schedule: the schedule that follows. Use `constant_schedule` for a warm-up alone.
        warmup_steps: W. With 0 the schedule starts at once.
        init_value: value at step 0.

    Baseline: `optax.warmup_cosine_decay_schedule` and similar ones, which put this warm-up before a fixed schedule.

    Raises:
        TypeError: the schedule is not a function.
        ValueError: `warmup_steps` is negative.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2.

    Example:
        >>> schedule = fn.optim.warmup_schedule(fn.optim.step_decay_schedule(1.0, 0.5, every=10), 4)
        >>> [f"{schedule(t):.2f}" for t in (0, 1, 4, 13, 14)]
        ['0.00', '0.25', '1.00', '1.00', '0.50']
    """
    check_numbers("warmup_schedule", init_value=init_value)
    if not callable(schedule):
        raise TypeError(
            f"warmup_schedule: schedule={schedule!r}, wanted a function of the step; write "
            f"constant_schedule({schedule!r}) for a number"
        )
    check.number("warmup_schedule", "warmup_steps", warmup_steps, "[0, inf)")

    def warmed(step: Any) -> Any:
        fraction = jnp.asarray(jnp.maximum(step, 0), float) / jnp.maximum(warmup_steps, 1)
        warming = init_value + (schedule(0) - init_value) * fraction
        return jnp.where(step < warmup_steps, warming, schedule(jnp.maximum(step - warmup_steps, 0)))

    return warmed


def warmup_constant_schedule(
    init_value: chex.Numeric, peak_value: chex.Numeric, warmup_steps: chex.Numeric
) -> Schedule:
    """A linear warm-up, then a constant.

    Args:
        init_value: value at step 0.
        peak_value: value from step `warmup_steps` on.
        warmup_steps: number of steps of the warm-up. With 0 the value stays at `init_value`, as in optax.
            (`warmup_schedule` then starts at the peak.)

    Twin: `optax.warmup_constant_schedule`, equal bit for bit.

    Example:
        >>> schedule = fn.optim.warmup_constant_schedule(0.0, 1.0, 10)
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 20)]
        ['0.00', '0.50', '1.00', '1.00']
    """
    check_numbers(
        "warmup_constant_schedule",
        init_value=init_value,
        peak_value=peak_value,
        warmup_steps=warmup_steps,
    )
    return linear_schedule(init_value, peak_value, warmup_steps)


def warmup_cosine_decay_schedule(
    init_value: chex.Numeric,
    peak_value: chex.Numeric,
    warmup_steps: chex.Numeric,
    decay_steps: chex.Numeric,
    end_value: chex.Numeric = 0.0,
    exponent: chex.Numeric = 1.0,
) -> Schedule:
    """A linear warm-up, then cosine decay.

    Args:
        init_value: value at step 0.
        peak_value: value at step `warmup_steps`.
        warmup_steps: number of steps of the warm-up.
        decay_steps: number of steps in total, the warm-up included.
        end_value: value from step `decay_steps` on.
        exponent: bends the cosine, see `cosine_decay_schedule`.

    Twin: `optax.warmup_cosine_decay_schedule`, equal bit for bit.

    Raises:
        ValueError: `decay_steps` is not greater than `warmup_steps`.

    Example:
        >>> schedule = fn.optim.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=10, decay_steps=30)
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 20, 30)]
        ['0.00', '0.50', '1.00', '0.50', '0.00']
    """
    check_numbers(
        "warmup_cosine_decay_schedule",
        init_value=init_value,
        peak_value=peak_value,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        end_value=end_value,
        exponent=exponent,
    )
    check.number("warmup_cosine_decay_schedule", "exponent", exponent, "[0, inf)")
    if isinstance(peak_value, Real):
        alpha = 0.0 if peak_value == 0 else end_value / peak_value
    else:
        alpha = jnp.where(peak_value == 0, 0.0, end_value / jnp.where(peak_value == 0, 1.0, peak_value))
    warm = linear_schedule(init_value, peak_value, warmup_steps)
    decay = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    return join_schedules([warm, decay], [warmup_steps])


def warmup_exponential_decay_schedule(
    init_value: chex.Numeric,
    peak_value: chex.Numeric,
    warmup_steps: chex.Numeric,
    transition_steps: chex.Numeric,
    decay_rate: chex.Numeric,
    transition_begin: chex.Numeric = 0,
    staircase: bool = False,
    end_value: chex.Numeric | None = None,
) -> Schedule:
    """A linear warm-up, then exponential decay.

    Args:
        init_value: value at step 0.
        peak_value: value at step `warmup_steps`.
        warmup_steps: number of steps of the warm-up.
        transition_steps: like the arguments below, that of `exponential_decay`, whose steps count from the end of the
            warm-up.
        decay_rate: of `exponential_decay`.
        transition_begin: of `exponential_decay`.
        staircase: of `exponential_decay`.
        end_value: of `exponential_decay`.

    Twin: `optax.warmup_exponential_decay_schedule`, equal bit for bit.

    Example:
        >>> schedule = fn.optim.warmup_exponential_decay_schedule(0.0, 1.0, 10, 10, 0.5)
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 20, 30)]
        ['0.00', '0.50', '1.00', '0.50', '0.25']
    """
    check_numbers(
        "warmup_exponential_decay_schedule",
        init_value=init_value,
        peak_value=peak_value,
        warmup_steps=warmup_steps,
        transition_steps=transition_steps,
        decay_rate=decay_rate,
        transition_begin=transition_begin,
    )
    check.number("warmup_exponential_decay_schedule", "decay_rate", decay_rate, "[0, inf)")
    if end_value is not None:
        check.number("warmup_exponential_decay_schedule", "end_value", end_value)
    check_flags("warmup_exponential_decay_schedule", staircase=staircase)
    warm = linear_schedule(init_value, peak_value, warmup_steps)
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return join_schedules([warm, decay], [warmup_steps])
