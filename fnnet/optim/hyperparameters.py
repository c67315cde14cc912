"""What all optimizers do with hyperparameters and state: check, evaluate schedules, copy, and keep dtypes."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fnnet import check

Schedule: TypeAlias = Callable[[Any], ArrayLike]
ScalarOrSchedule: TypeAlias = ArrayLike | Schedule


def check_number_or_schedule(optimizer: str, name: str, value: Any, interval: str = "(-inf, inf)") -> None:
    """Raises TypeError or ValueError unless the value is a number in the interval or a schedule."""
    if value is None or isinstance(value, str):
        raise TypeError(f"{optimizer}: {name}={value!r}, wanted a number or a schedule: step -> number")
    if not callable(value):
        check.number(optimizer, name, value, interval)


def check_numbers(function: str, **given: Any) -> None:
    """Raises TypeError or ValueError unless each of the arguments is a finite number."""
    for name, value in given.items():
        check.number(function, name, value)


def check_count(function: str, name: str, value: Any, least: int = 1) -> None:
    """Raises TypeError or ValueError unless the value is a whole number, `least` or more. A tracer passes."""
    check.number(function, name, value, f"[{least}, inf)")
    if not isinstance(value, jax.core.Tracer) and float(value) != int(value):
        raise TypeError(f"{function}: {name}={value}, wanted a whole number")


def check_flags(function: str, **given: Any) -> None:
    """Raises TypeError unless each of the arguments is True or False."""
    for name, value in given.items():
        check.flag(function, name, value)


def check_learning_rate(optimizer: str, learning_rate: Any, name: str = "learning_rate") -> None:
    """Raises TypeError or ValueError unless the learning rate is a number, 0 or more, or a schedule."""
    check_number_or_schedule(optimizer, name, learning_rate, "[0, inf)")


def at_step(value: ScalarOrSchedule, step: jax.Array | None) -> Any:
    """The value of a schedule at a step, counted from 0. A number is its own value at every step."""
    return value(step) if callable(value) else value


def init_step(*values: ScalarOrSchedule) -> jax.Array | None:
    """The step counter, int32[] 0; None if no value is a schedule, since nothing would read the counter."""
    return jnp.zeros([], jnp.int32) if any(map(callable, values)) else None


def next_step(step: jax.Array | None) -> jax.Array | None:
    """The step counter plus 1. It stays at the largest int32."""
    return None if step is None else optax.safe_increment(step)


def zeros_like(params: optax.Params) -> optax.Params:
    """Zeros like params. Each call makes new arrays: a state whose leaves share a buffer could not be donated."""
    return jax.tree.map(jnp.zeros_like, params)


def copy_tree(params: optax.Params) -> optax.Params:
    """Copies of the params to keep in a state, so that both can be donated to a compiled step."""
    return jax.tree.map(lambda p: jnp.array(p, copy=True), params)


def times(scalar: ArrayLike, x: jax.Array) -> jax.Array:
    """scalar * x in the dtype of x: a float32 learning rate mapped by vmap leaves bfloat16 params bfloat16."""
    return jnp.asarray(scalar, x.dtype) * x


def cast_like(new: Any, old: Any) -> Any:
    """`new` in the dtypes of `old`, so that a state can be a scan's carry whatever the hyperparameters' dtypes."""
    return jax.tree.map(lambda n, o: n.astype(o.dtype), new, old)


def abs_sq(x: jax.Array) -> jax.Array:
    """|x|^2, for complex numbers too."""
    return (x.conj() * x).real
