"""Exponentially weighted averages of a sequence of values, such as the losses of a run."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import check_flags


class ExponentialAverageState(NamedTuple):
    """The state of an exponentially weighted average."""

    step: jax.Array  # int32[], values seen
    mean: Any  # v, not corrected, like x


def exponential_average_init(x: Any) -> ExponentialAverageState:
    """The state before the first value. x is an array or a tree of arrays; only shapes and dtypes are read."""
    return ExponentialAverageState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, x))


def exponential_average_update(
    state: ExponentialAverageState, x: Any, decay: chex.Numeric = 0.9, debias: bool = True
) -> tuple[ExponentialAverageState, Any]:
    """Adds one value to an exponentially weighted average. A pure function, usable as the step of a scan.

        v <- decay v + (1 - decay) x        v = 0 at the start
        average = v / (1 - decay^t)         t = 1 for the first value; v without the correction

    The values have the weights (1 - decay) decay^0, (1 - decay) decay^1, ..., the newest first. They sum to 1 -
    decay^t, and the correction divides by that sum. Without it the first averages are too close to 0.

    Args:
        state: from `exponential_average_init` or the previous update.
        x: an array or a tree of arrays.
        decay: fraction of the old v that is kept, in [0, 1). The average covers about 1 / (1 - decay) values.
        debias: whether to correct the bias.

    Twin: `optax.ema(decay, debias)`, equal bit for bit.

    Raises:
        ValueError: decay is not in [0, 1).

    Source: Kingma & Ba 2015, arXiv:1412.6980, section 3.

    Example:
        >>> state = fn.optim.exponential_average_init(jnp.zeros(()))
        >>> state, average = fn.optim.exponential_average_update(state, jnp.array(3.0), decay=0.5)
        >>> state, average = fn.optim.exponential_average_update(state, jnp.array(6.0), decay=0.5)
        >>> average
        Array(5., dtype=float32)
    """
    check_flags("exponential_average_update", debias=debias)
    check.number("exponential_average_update", "decay", decay, "[0, 1)")
    t = optax.safe_increment(state.step)
    mean = jax.tree.map(lambda v, x: ((1 - decay) * x + decay * v).astype(v.dtype), state.mean, x)
    bias: Any = 1 - decay**t
    average = jax.tree.map(lambda v: v / bias.astype(v.dtype), mean) if debias else mean
    return ExponentialAverageState(t, mean), average


def exponential_average(values: Any, decay: chex.Numeric = 0.9, debias: bool = True) -> Any:
    """The exponentially weighted average after each value: a smoothed curve.

    Args:
        values: an array, or a tree of arrays, whose first axis is time, such as the losses of a run.
        decay: fraction of the old average that is kept, in [0, 1).
        debias: whether to correct the bias, see `exponential_average_update`.

    Returns:
        The averages, in the shape of the values.

    Raises:
        ValueError: decay is not in [0, 1); values has no first axis.

    Example:
        >>> [f"{average:.2f}" for average in fn.optim.exponential_average(jnp.array([3.0, 6.0, 6.0]), decay=0.5)]
        ['3.00', '5.00', '5.57']
        >>> fn.optim.exponential_average(jnp.array([3.0, 6.0, 6.0]), decay=0.5, debias=False)
        Array([1.5  , 3.75 , 4.875], dtype=float32)
    """
    check_flags("exponential_average", debias=debias)
    check.number("exponential_average", "decay", decay, "[0, 1)")
    values = jax.tree.map(jnp.asarray, values)
    if not all(jnp.ndim(v) for v in jax.tree.leaves(values)):
        raise ValueError(
            f"exponential_average: values is {check.describe(values)}, wanted a first axis, time"
        )
    # Averages of integers would be rounded to integers.
    values = jax.tree.map(lambda v: v if jnp.issubdtype(v.dtype, jnp.inexact) else v.astype(float), values)
    first = exponential_average_init(jax.tree.map(lambda v: jnp.zeros(v.shape[1:], v.dtype), values))
    return jax.lax.scan(lambda s, x: exponential_average_update(s, x, decay, debias), first, values)[1]
