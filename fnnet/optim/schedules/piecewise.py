"""Piecewise schedules: jumps at given steps, interpolation between them, one schedule after another."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax.numpy as jnp

from fnnet import check
from fnnet.optim.hyperparameters import Schedule, check_numbers


def piecewise_constant_schedule(
    init_value: chex.Numeric, boundaries_and_scales: dict[int, chex.Numeric] | None = None
) -> Schedule:
    """Jumps at given steps: from each boundary on, the value is multiplied by a scale.

        value = init * product of the scales whose boundary <= t

    Args:
        init_value: value before the first boundary.
        boundaries_and_scales: the scale at each boundary, such as {1000: 0.1, 2000: 0.1}. Each scale multiplies the
            value so far. (Keras' `PiecewiseConstantDecay` takes the values themselves, and changes one step later: at
            t > boundary.)

    Twin: `optax.piecewise_constant_schedule`, equal bit for bit; PyTorch's `MultiStepLR`, where all scales are gamma.

    Raises:
        ValueError: a scale is negative.

    Example:
        >>> schedule = fn.optim.piecewise_constant_schedule(1.0, {10: 0.1, 20: 0.5})
        >>> [f"{schedule(t):.2f}" for t in (9, 10, 19, 20)]
        ['1.00', '0.10', '0.10', '0.05']
    """
    check_numbers("piecewise_constant_schedule", init_value=init_value)
    jumps = in_order("piecewise_constant_schedule", boundaries_and_scales)

    def schedule(step: Any) -> Any:
        value = jnp.asarray(init_value) if jumps else init_value
        for boundary, scale in jumps:
            value = jnp.where(step < boundary, value, scale * value)
        return value

    return schedule


def piecewise_interpolate_schedule(
    interpolate_type: str,
    init_value: chex.Numeric,
    boundaries_and_scales: dict[int, chex.Numeric] | None = None,
) -> Schedule:
    """Interpolates between given steps along straight lines or cosines; constant after the last one.

        v_i = init * product of the first i scales
        s from 0 to 1 between the boundaries b_i and b_(i+1)
        value = v_i + (v_(i+1) - v_i) s                             linear
        value = v_(i+1) + (v_i - v_(i+1)) (1 + cos(pi s)) / 2       cosine

    Args:
        interpolate_type: "linear" or "cosine".
        init_value: value at step 0. (Before step 0 the value is 0, as in optax.)
        boundaries_and_scales: the scale at each boundary. Each scale multiplies the value so far.

    Twin: `optax.piecewise_interpolate_schedule`, equal to 2e-7 of the largest value, since XLA turns some quotients
    into products.

    Raises:
        ValueError: the type is neither of the two, or a scale is negative.

    Example:
        >>> schedule = fn.optim.piecewise_interpolate_schedule("linear", 1.0, {10: 0.5, 20: 0.0})
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 15, 20, 30)]
        ['1.00', '0.75', '0.50', '0.25', '0.00', '0.00']
    """
    check_numbers("piecewise_interpolate_schedule", init_value=init_value)
    check.one_of("piecewise_interpolate_schedule", "interpolate_type", interpolate_type, ("linear", "cosine"))
    points = in_order("piecewise_interpolate_schedule", boundaries_and_scales)

    def schedule(step: Any) -> Any:
        bounds = jnp.stack([0, *(boundary for boundary, _ in points)])
        values = jnp.cumprod(jnp.stack([init_value, *(scale for _, scale in points)]))
        now = jnp.where(bounds[-1] <= step, values[-1], 0)
        for i in range(len(points)):
            fraction = (step - bounds[i]) / jnp.maximum(bounds[i + 1] - bounds[i], 1)
            if interpolate_type == "linear":
                value = (values[i + 1] - values[i]) * fraction + values[i]
            else:
                value = values[i + 1] + (values[i] - values[i + 1]) / 2.0 * (jnp.cos(jnp.pi * fraction) + 1)
            now = jnp.where((bounds[i] <= step) & (step < bounds[i + 1]), value, now)
        return now

    return schedule


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[chex.Numeric]) -> Schedule:
    """One schedule after another. Each counts its steps from its own start.

        value = schedules[i](t - boundaries[i - 1])         boundaries[i - 1] <= t < boundaries[i]

    Args:
        schedules: at least one.
        boundaries: the steps at which the second, the third, ... schedule starts.

    Twin: `optax.join_schedules`, equal bit for bit. (Where the lengths do not match, optax ignores the surplus.)

    Raises:
        ValueError: there is no schedule, or the number of boundaries is not the number of schedules less one.

    Example:
        >>> schedule = fn.optim.join_schedules(
        ...     [fn.optim.constant_schedule(1.0), fn.optim.linear_schedule(1.0, 0.0, 10)], [5])
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 15)]
        ['1.00', '1.00', '0.50', '0.00']
    """
    for i, part in enumerate(schedules):
        if not callable(part):
            raise TypeError(f"join_schedules: schedules[{i}]={part!r}, wanted a function of the step")
    for i, boundary in enumerate(boundaries):
        check.number("join_schedules", f"boundaries[{i}]", boundary)
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            f"join_schedules: {len(schedules)} schedules and {len(boundaries)} boundaries, wanted one boundary "
            "between each schedule and the next"
        )

    def schedule(step: Any) -> Any:
        value = schedules[0](step)
        for boundary, later in zip(boundaries, schedules[1:], strict=True):
            value = jnp.where(step < boundary, value, later(step - boundary))
        return value

    return schedule


def in_order(function: str, boundaries_and_scales: Any) -> list[tuple[chex.Numeric, chex.Numeric]]:
    """The boundaries and their scales, by boundary; raises unless all are numbers and no scale is negative."""
    given = {} if boundaries_and_scales is None else boundaries_and_scales
    if not isinstance(given, Mapping):
        raise TypeError(f"{function}: boundaries_and_scales={given!r}, wanted a dict such as {{1000: 0.1}}")
    for boundary, scale in given.items():
        check.number(function, "boundary", boundary)
        check.number(function, f"scale at {boundary}", scale, "[0, inf)")
    return sorted(given.items())
