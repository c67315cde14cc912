"""Cycles: warm restarts and the one-cycle policy."""

from collections.abc import Iterable
from typing import Any

import chex
import jax.numpy as jnp

from fnnet import check
from fnnet.optim.hyperparameters import Schedule, check_numbers
from fnnet.optim.schedules.decay import is_at_most_0
from fnnet.optim.schedules.piecewise import join_schedules, piecewise_interpolate_schedule
from fnnet.optim.schedules.warm_up import warmup_cosine_decay_schedule


def cosine_restarts_schedule(
    init_value: chex.Numeric, first_decay_steps: int, factor: int = 1, alpha: chex.Numeric = 0.0
) -> Schedule:
    """Cosine decay with warm restarts, the schedule of SGDR. Each period is `factor` times as long as the one before.

        value = init ((1 - alpha) (1 + cos(pi s / T_i)) / 2 + alpha)        T_i = T_0 factor^i

    where s counts the steps since the last restart.

    Args:
        init_value: value at step 0 and after each restart.
        first_decay_steps: T_0, number of steps until the first restart.
        factor: growth of the period at each restart, an int: 1 (PyTorch's default) or 2 (the paper's, and
            TensorFlow's default).
        alpha: the fraction of `init_value` at the end of a period. (PyTorch's `eta_min` is the value itself.)

    Baseline: `optax.sgdr_schedule`, which lists the periods one by one; PyTorch's `CosineAnnealingWarmRestarts`.

    Raises:
        TypeError, ValueError: `first_decay_steps` or `factor` is not a positive int.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5.

    Example:
        >>> schedule = fn.optim.cosine_restarts_schedule(1.0, 10, factor=2)
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 20, 30)]
        ['1.00', '0.50', '1.00', '0.50', '1.00']
    """
    check_numbers("cosine_restarts_schedule", init_value=init_value, alpha=alpha)
    check.is_positive("cosine_restarts_schedule", "first_decay_steps", first_decay_steps)
    check.is_positive("cosine_restarts_schedule", "factor", factor)
    starts, period = [0], first_decay_steps
    while factor > 1 and starts[-1] + period < 2**31:
        starts.append(starts[-1] + period)
        period *= factor

    def schedule(step: Any) -> Any:
        step = jnp.maximum(step, 0)
        since, length = step % first_decay_steps, jnp.full(jnp.shape(step), first_decay_steps, float)
        for i, start in enumerate(starts[1:], start=1):
            since = jnp.where(step < start, since, step - start)
            length = jnp.where(step < start, length, float(first_decay_steps * factor**i))
        wave = 0.5 * (1 + jnp.cos(jnp.pi * since / length))
        return init_value * ((1 - alpha) * wave + alpha)

    return schedule


def sgdr_schedule(cosine_kwargs: Iterable[dict[str, chex.Numeric]]) -> Schedule:
    """Warm restarts with each period given separately, as a `warmup_cosine_decay_schedule`.

    Args:
        cosine_kwargs: the arguments of each period. Its `decay_steps` is its length.

    Twin: `optax.sgdr_schedule`, equal bit for bit.

    Raises:
        ValueError: there is no period.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983.

    Example:
        >>> period = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 6}
        >>> schedule = fn.optim.sgdr_schedule([period, period | {"peak_value": 0.5}])
        >>> [f"{schedule(t):.2f}" for t in (0, 2, 4, 6, 8)]
        ['0.00', '1.00', '0.50', '0.00', '0.50']
    """
    periods, boundaries, end = [], [], 0
    for period in cosine_kwargs:
        periods.append(warmup_cosine_decay_schedule(**period))
        end += period["decay_steps"]
        boundaries.append(end)
    return join_schedules(periods, boundaries[:-1])


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: chex.Numeric,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: chex.Numeric = 25.0,
    final_div_factor: chex.Numeric = 1e4,
) -> Schedule:
    """One cycle in three straight lines: up to a large rate, back to the first one, then down to a tiny one.

        value: peak / div  ->  peak  ->  peak / div  ->  peak / (div final_div)
        at t:  0               0.3 T     0.85 T          T

    Args:
        transition_steps: T, positive.
        peak_value: the largest rate; `fn.train.learning_rate_range` helps you find it.
        pct_start: fraction of T at which the peak is reached.
        pct_final: fraction of T at which the first value is reached again.
        div_factor: the peak divided by the first value.
        final_div_factor: the first value divided by the last.

    Twin: `optax.linear_onecycle_schedule`, equal to 2e-7 of the peak. (PyTorch's `OneCycleLR(three_phase=True)` has
    its peak at step 0.3 T - 1, falls in as many steps as it rose, and ends at step T - 1.)

    Raises:
        ValueError: T is not positive.

    Source: Smith & Topin 2018, arXiv:1708.07120; Smith 2018, arXiv:1803.09820.

    Example:
        >>> schedule = fn.optim.linear_onecycle_schedule(100, peak_value=1.0)
        >>> [f"{schedule(t):.6f}" for t in (0, 30, 85, 100)]
        ['0.040000', '1.000000', '0.040000', '0.000004']
    """
    check_numbers(
        "linear_onecycle_schedule",
        transition_steps=transition_steps,
        peak_value=peak_value,
        pct_start=pct_start,
        pct_final=pct_final,
    )
    check.number("linear_onecycle_schedule", "pct_start", pct_start, "[0, 1]")
    check.number("linear_onecycle_schedule", "pct_final", pct_final, "[0, 1]")
    check.number("linear_onecycle_schedule", "div_factor", div_factor, "(0, inf)")
    check.number("linear_onecycle_schedule", "final_div_factor", final_div_factor, "(0, inf)")
    if is_at_most_0(transition_steps):
        raise ValueError(
            f"linear_onecycle_schedule: transition_steps={transition_steps}, wanted a positive number"
        )
    points = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1.0 / div_factor,
        transition_steps: 1.0 / final_div_factor,
    }
    return piecewise_interpolate_schedule("linear", peak_value / div_factor, points)


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: chex.Numeric,
    pct_start: float = 0.3,
    div_factor: chex.Numeric = 25.0,
    final_div_factor: chex.Numeric = 1e4,
) -> Schedule:
    """One cycle in two cosines: up to a large rate, then down to a tiny one.

        value: peak / div  ->  peak  ->  peak / (div final_div)
        at t:  0               0.3 T     T

    Args:
        transition_steps: T, positive.
        peak_value: the largest rate; `fn.train.learning_rate_range` helps you find it.
        pct_start: fraction of T at which the peak is reached.
        div_factor: the peak divided by the first value.
        final_div_factor: the first value divided by the last.

    Twin: `optax.cosine_onecycle_schedule`, equal to 2e-7 of the peak. (PyTorch's `OneCycleLR` is the same curve with
    its peak at step 0.3 T - 1 and its end at step T - 1.)

    Raises:
        ValueError: T is not positive.

    Source: Smith & Topin 2018, arXiv:1708.07120; the cosines are those of fastai.

    Example:
        >>> schedule = fn.optim.cosine_onecycle_schedule(100, peak_value=1.0)
        >>> [f"{schedule(t):.6f}" for t in (0, 30, 65, 100)]
        ['0.040000', '1.000000', '0.500002', '0.000004']
    """
    check_numbers(
        "cosine_onecycle_schedule",
        transition_steps=transition_steps,
        peak_value=peak_value,
        pct_start=pct_start,
    )
    check.number("cosine_onecycle_schedule", "pct_start", pct_start, "[0, 1]")
    check.number("cosine_onecycle_schedule", "div_factor", div_factor, "(0, inf)")
    check.number("cosine_onecycle_schedule", "final_div_factor", final_div_factor, "(0, inf)")
    if is_at_most_0(transition_steps):
        raise ValueError(
            f"cosine_onecycle_schedule: transition_steps={transition_steps}, wanted a positive number"
        )
    points = {
        int(pct_start * transition_steps): div_factor,
        int(transition_steps): 1.0 / (div_factor * final_div_factor),
    }
    return piecewise_interpolate_schedule("cosine", peak_value / div_factor, points)
