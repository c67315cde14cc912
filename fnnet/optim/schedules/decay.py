"""Decay: schedules that fall from one value to another, or stay constant."""

from numbers import Real
from typing import Any

import chex
import jax.numpy as jnp

from fnnet import check
from fnnet.optim.hyperparameters import Schedule, check_flags, check_numbers


def constant_schedule(value: chex.Numeric) -> Schedule:
    """The same value at every step.

    Twin: `optax.constant_schedule`.

    Example:
        >>> fn.optim.constant_schedule(0.1)(1000)
        0.1
    """
    check_numbers("constant_schedule", value=value)
    return lambda step: value


def polynomial_schedule(
    init_value: chex.Numeric,
    end_value: chex.Numeric,
    power: chex.Numeric,
    transition_steps: chex.Numeric,
    transition_begin: chex.Numeric = 0,
) -> Schedule:
    """Moves from one value to another along a polynomial.

        value = (init - end) (1 - s / T)^power + end        s = min(max(t - begin, 0), T)

    Args:
        init_value: value up to step `transition_begin`.
        end_value: value from step `transition_begin` + T on.
        power: 1 for a straight line, 2 for a parabola that ends flat.
        transition_steps: T. With 0 or less the value stays at `init_value`, as in optax.
        transition_begin: number of steps to wait. A negative number counts as 0.

    Twin: `optax.polynomial_schedule`, equal bit for bit. Keras' `PolynomialDecay` is the same curve.

    Example:
        >>> schedule = fn.optim.polynomial_schedule(1.0, 0.0, power=2, transition_steps=10)
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 20)]
        ['1.00', '0.25', '0.00', '0.00']
    """
    check_numbers(
        "polynomial_schedule",
        init_value=init_value,
        end_value=end_value,
        power=power,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
    )
    check.number("polynomial_schedule", "power", power, "[0, inf)")
    if is_at_most_0(transition_steps):
        return constant_schedule(init_value)
    begin = 0 if is_at_most_0(transition_begin) else transition_begin

    def schedule(step: Any) -> Any:
        left = 1 - jnp.clip(step - begin, 0, transition_steps) / transition_steps
        return (init_value - end_value) * left**power + end_value

    return schedule


def linear_schedule(
    init_value: chex.Numeric,
    end_value: chex.Numeric,
    transition_steps: chex.Numeric,
    transition_begin: chex.Numeric = 0,
) -> Schedule:
    """Moves from one value to another along a straight line: `polynomial_schedule` with power 1.

    Twin: `optax.linear_schedule`, equal bit for bit.

    Example:
        >>> schedule = fn.optim.linear_schedule(1.0, 0.0, transition_steps=10)
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 20)]
        ['1.00', '0.50', '0.00', '0.00']
    """
    check_numbers(
        "linear_schedule",
        init_value=init_value,
        end_value=end_value,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
    )
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def step_decay_schedule(init_value: chex.Numeric, factor: chex.Numeric, every: chex.Numeric) -> Schedule:
    """Multiplies the value by a factor every given number of steps.

        value = init factor^floor(t / every)

    Args:
        init_value: value at the start.
        factor: 0.5 halves the value.
        every: number of steps from one jump to the next, at least 1.

    Baseline: `optax.exponential_decay(init_value, every, factor, staircase=True)`; PyTorch's `StepLR`.

    Raises:
        ValueError: `every` is less than 1, or the factor is negative.

    Example:
        >>> schedule = fn.optim.step_decay_schedule(1.0, 0.5, every=10)
        >>> [f"{schedule(t):.2f}" for t in (0, 9, 10, 20)]
        ['1.00', '1.00', '0.50', '0.25']
    """
    check_numbers("step_decay_schedule", init_value=init_value)
    check.number("step_decay_schedule", "every", every, "[1, inf)")
    check.number("step_decay_schedule", "factor", factor, "[0, inf)")
    return lambda step: init_value * jnp.power(factor, jnp.maximum(step, 0) // every)


def exponential_decay(
    init_value: chex.Numeric,
    transition_steps: chex.Numeric,
    decay_rate: chex.Numeric,
    transition_begin: chex.Numeric = 0,
    staircase: bool = False,
    end_value: chex.Numeric | None = None,
) -> Schedule:
    """Exponential decay.

        value = init rate^((t - begin) / T)         after step begin; init before it

    Args:
        init_value: value up to step `transition_begin`.
        transition_steps: T, the number of steps in which the value falls to `decay_rate` times itself. With 0 or less
            it stays at `init_value`, as in optax.
        decay_rate: rate. With 0 the value stays at `init_value`, as in optax.
        transition_begin: number of steps to wait. A negative number counts as 0.
        staircase: rounds the exponent down, so that the value jumps every T steps.
        end_value: lower bound of the value; upper bound if the rate is 1 or more.

    Twin: `optax.exponential_decay`, equal bit for bit. PyTorch's `ExponentialLR(gamma)` has T = 1.

    Example:
        >>> schedule = fn.optim.exponential_decay(1.0, transition_steps=10, decay_rate=0.5)
        >>> [f"{schedule(t):.4f}" for t in (0, 5, 10, 20)]
        ['1.0000', '0.7071', '0.5000', '0.2500']
    """
    check_numbers(
        "exponential_decay",
        init_value=init_value,
        transition_steps=transition_steps,
        decay_rate=decay_rate,
        transition_begin=transition_begin,
    )
    check.number("exponential_decay", "decay_rate", decay_rate, "[0, inf)")
    if end_value is not None:
        check.number("exponential_decay", "end_value", end_value)
    check_flags("exponential_decay", staircase=staircase)
    if is_at_most_0(transition_steps) or (isinstance(decay_rate, Real) and decay_rate == 0):
        return constant_schedule(init_value)
    begin = 0 if is_at_most_0(transition_begin) else transition_begin

    def schedule(step: Any) -> Any:
        since = step - begin
        exponent = since / transition_steps
        if staircase:
            exponent = jnp.floor(exponent)
        value = jnp.where(since <= 0, init_value, init_value * jnp.power(decay_rate, exponent))
        if end_value is not None:
            falls = decay_rate < 1
            value = jnp.where(falls, jnp.maximum(value, end_value), jnp.minimum(value, end_value))
        return value if isinstance(decay_rate, Real) else jnp.where(decay_rate == 0, init_value, value)

    return schedule


def inverse_time_schedule(
    init_value: chex.Numeric,
    transition_steps: chex.Numeric,
    decay_rate: chex.Numeric = 1.0,
    transition_begin: chex.Numeric = 0,
    staircase: bool = False,
) -> Schedule:
    """Decays like 1/t: slowly enough to reach any point, fast enough for noise to average out (Robbins & Monro 1951).

        value = init / (1 + rate s / T)         s = max(t - begin, 0)

    Args:
        init_value: value up to step `transition_begin`.
        transition_steps: T. With a rate of 1 the value has halved after T steps.
        decay_rate: rate.
        transition_begin: number of steps to wait.
        staircase: rounds s / T down, so that the value jumps every T steps.

    Baseline: the formula; Keras' `InverseTimeDecay`, which has no `transition_begin`.

    Raises:
        ValueError: `transition_steps` is less than 1, or the rate is negative.

    Source: Robbins & Monro 1951, "A stochastic approximation method".

    Example:
        >>> schedule = fn.optim.inverse_time_schedule(1.0, transition_steps=10)
        >>> [f"{schedule(t):.2f}" for t in (0, 10, 30, 90)]
        ['1.00', '0.50', '0.25', '0.10']
    """
    check_numbers("inverse_time_schedule", init_value=init_value, transition_begin=transition_begin)
    check_flags("inverse_time_schedule", staircase=staircase)
    check.number("inverse_time_schedule", "transition_steps", transition_steps, "[1, inf)")
    check.number("inverse_time_schedule", "decay_rate", decay_rate, "[0, inf)")

    def schedule(step: Any) -> Any:
        passed = jnp.asarray(jnp.maximum(step - transition_begin, 0), float) / transition_steps
        return init_value / (1 + decay_rate * (jnp.floor(passed) if staircase else passed))

    return schedule


def cosine_decay_schedule(
    init_value: chex.Numeric,
    decay_steps: chex.Numeric,
    alpha: chex.Numeric = 0.0,
    exponent: chex.Numeric = 1.0,
) -> Schedule:
    """Follows half a cosine wave from the first value to a fraction of it.

        value = init ((1 - alpha) ((1 + cos(pi min(t, T) / T)) / 2)^exponent + alpha)

    Args:
        init_value: value at step 0.
        decay_steps: T, positive. After T steps the value stays constant. (In PyTorch's `CosineAnnealingLR` it rises
            again.)
        alpha: the fraction of `init_value` that is left at the end. (PyTorch's `eta_min` is the value itself.)
        exponent: bends the curve.

    Twin: `optax.cosine_decay_schedule`, equal bit for bit.

    Raises:
        ValueError: `decay_steps` is not positive.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5.

    Example:
        >>> schedule = fn.optim.cosine_decay_schedule(1.0, decay_steps=10)
        >>> [f"{schedule(t):.2f}" for t in (0, 5, 10, 20)]
        ['1.00', '0.50', '0.00', '0.00']
    """
    check_numbers(
        "cosine_decay_schedule",
        init_value=init_value,
        decay_steps=decay_steps,
        alpha=alpha,
        exponent=exponent,
    )
    check.number("cosine_decay_schedule", "exponent", exponent, "[0, inf)")
    if is_at_most_0(decay_steps):
        raise ValueError(f"cosine_decay_schedule: decay_steps={decay_steps}, wanted a positive number")
    # A float, so that pi * step is not computed in a small integer type.
    end = float(decay_steps) if isinstance(decay_steps, int) else decay_steps

    def schedule(step: Any) -> Any:
        step = jnp.minimum(float(step) if isinstance(step, int) else step, end)
        wave = 0.5 * (1 + jnp.cos(jnp.pi * step / end))
        return init_value * ((1 - alpha) * wave**exponent + alpha)

    return schedule


def is_at_most_0(value: chex.Numeric) -> bool:
    """Whether a number is 0 or less. A tracer, which has no value yet, counts as positive."""
    return isinstance(value, Real) and float(value) <= 0
