"""What every optimizer does with its hyperparameters: read a schedule, and keep the dtype of what it scales."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fnnet import check

Schedule: TypeAlias = Callable[[Any], ArrayLike]
ScalarOrSchedule: TypeAlias = ArrayLike | Schedule


def check_number_or_schedule(optimizer: str, name: str, value: Any) -> None:
    """Raises TypeError for what is neither a number nor a schedule."""
    if value is None or isinstance(value, str):
        raise TypeError(f"{optimizer}: {name}={value!r}, wanted a number or a schedule: step -> number")


def check_learning_rate(optimizer: str, learning_rate: Any) -> None:
    """Raises where the learning rate is neither a number that may be one (0 or more) nor a schedule."""
    check_number_or_schedule(optimizer, "learning_rate", learning_rate)
    check.between(optimizer, "learning_rate", learning_rate, 0)


def at_step(value: ScalarOrSchedule, step: jax.Array | None) -> Any:
    """The value of a schedule at a step, which counts from 0; a number is the same at all steps."""
    return value(step) if callable(value) else value


def init_step(*values: ScalarOrSchedule) -> jax.Array | None:
    """The step's counter at 0, int32[], or None where no value is a schedule: nobody reads it, and it has a cost."""
    return jnp.zeros([], jnp.int32) if any(map(callable, values)) else None


def next_step(step: jax.Array | None) -> jax.Array | None:
    """One step more; the last that int32 holds stays."""
    return None if step is None else optax.safe_increment(step)


def zeros_like(params: optax.Params) -> optax.Params:
    """Zeros like params, new ones at each call: a state whose leaves share a buffer could not be donated."""
    return jax.tree.map(jnp.zeros_like, params)


def copy_tree(params: optax.Params) -> optax.Params:
    """Copies of the params for a state: both may then be donated to a compiled step."""
    return jax.tree.map(lambda p: jnp.array(p, copy=True), params)


def times(scalar: ArrayLike, x: jax.Array) -> jax.Array:
    """scalar * x in the dtype of x: a learning rate in float32, mapped over by vmap, leaves bfloat16 what it is."""
    return jnp.asarray(scalar, x.dtype) * x


def cast_like(new: Any, old: Any) -> Any:
    """The tree `new` in the dtypes of `old`, so that a state is a scan's carry whatever the hyperparameters' dtype."""
    return jax.tree.map(lambda n, o: n.astype(o.dtype), new, old)


def abs_sq(x: jax.Array) -> jax.Array:
    """|x|^2, for complex numbers too."""
    return (x.conj() * x).real
