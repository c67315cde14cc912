"""What a target may be: labels, distributions, probabilities, yes or no, signs. Losses and metrics check it here.

A target without a meaning would still give a number. So it raises where its values are known. Under jit nothing can be
raised, and its example becomes NaN. What is checked is the array that was given, since JAX converts int64 to int32:
2^32 + 1 would become label 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check

# How far probabilities may be from [0, 1], and their sum from 1: mixed, smoothed or rounded to half precision, they
# are off by a little.
ROUNDING = 0.01


def array(x: Any) -> Any:
    """An array as it is, with its own dtype; numbers and nested lists as an array."""
    if isinstance(x, np.ndarray | jax.Array):
        return x
    return jnp.asarray(x) if (values := known(x)) is None else values


def known(x: Any) -> np.ndarray | None:
    """The values of an array or of nested lists. None if there are none yet, as under jit, or none on this process."""
    for leaf in jax.tree.leaves(x):
        if isinstance(leaf, jax.core.Tracer) or (
            isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        ):
            return None
    return np.asarray(x)


def labels(function: str, target: Any, classes: int, mask: Any = None) -> jax.Array:
    """Integer labels, in 32 bits at least. Raises for a known one outside 0 .. classes - 1 that the mask leaves in."""
    values = known(target)
    if values is None:
        label = jnp.asarray(target)
        # int8 cannot hold a label of 200 classes.
        return label.astype(jnp.int32) if label.dtype.itemsize < 4 else label
    outside = (values < 0) | (values >= classes)
    _refuse(function, values, outside, f"a label from 0 to {classes - 1}", mask)
    return jnp.asarray(np.where(outside, -1, values.astype(np.int32)))


def is_distribution(function: str, target: Any, mask: Any = None) -> jax.Array:
    """Which targets (..., classes) are distributions, bool(...). Raises for a known one that is none."""
    values = known(target)
    xp: Any = jnp if values is None else np
    # A test has no derivative.
    t = jax.lax.stop_gradient(at_least_float32(target)) if values is None else values.astype(np.float64)
    slack = _slack(target)
    low, total = xp.min(t, axis=-1), xp.sum(t, axis=-1)
    valid = (low >= -slack) & (xp.abs(total - 1) <= slack)
    if values is not None and (place := _first(~valid, mask)) is not None:
        raise ValueError(
            f"{function}: target[{', '.join(map(str, place))}] has the sum {total[place]:.6g} and the smallest entry "
            f"{low[place]:.6g}, wanted a distribution: numbers of at least 0 whose sum is 1"
        )
    return jnp.asarray(valid)


def probabilities(function: str, target: Any) -> jax.Array:
    """Probabilities in float32 at least; NaN for one outside [0, 1]. Raises for a known one."""
    values, t, slack = known(target), at_least_float32(target), _slack(target)
    if values is None:
        return t if target.dtype == bool else jnp.where((t >= -slack) & (t <= 1 + slack), t, jnp.nan)
    _refuse(function, values, ~((values >= -slack) & (values <= 1 + slack)), "a probability, from 0 to 1")
    return t


def signs(function: str, target: Any) -> jax.Array:
    """Targets -1 or 1 in float32 at least; NaN for another one. Raises for a known one."""
    values, t = known(target), at_least_float32(target)
    if values is None:
        return jnp.where(jnp.abs(t) == 1, t, jnp.nan)
    _refuse(
        function, values, ~((values == 1) | (values == -1)), "-1 or 1; from labels 0 and 1: 2 * target - 1"
    )
    return t


def yes_or_no(function: str, target: Any, mask: Any = None) -> jax.Array:
    """Targets 0 or 1 of any dtype as int32; -1 for another one. Raises for a known one."""
    if (values := known(target)) is not None:
        wanted = "0 or 1, since the prediction is one logit per example"
        _refuse(function, values, ~((values == 0) | (values == 1)), wanted, mask)
    t = jnp.asarray(target)
    return jnp.where(t == 1, 1, jnp.where(t == 0, 0, -1)).astype(jnp.int32)


def at_least_float32(x: Any) -> jax.Array:
    """Converts to float32 at least: half precision has too few digits for a sum over classes or pixels."""
    # NumPy's int64 first: JAX would cut it to int32.
    x = jnp.asarray(x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype.kind in "iu" else x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_not_empty(function: str, x: Any, layout: str) -> None:
    """Raises ValueError if an axis other than the batch is empty: the mean over no numbers is NaN."""
    if 0 in x.shape[1:]:
        raise ValueError(
            f"{function}: prediction is {check.describe(x)}, wanted {layout}, no axis but the batch empty"
        )


def remedy(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """`; use y[:, None]` if the target's shape differs from the wanted one by a last axis of 1, else nothing."""
    if shape == (*wanted, 1):
        return f"; take the target's last axis away: y[{':' if len(wanted) == 1 else '...'}, 0]"
    if (*shape, 1) == wanted:
        return f"; give the target a last axis: y[{':' if len(shape) == 1 else '...'}, None]"
    return ""


def _slack(target: Any) -> float:
    """The tolerance for probabilities: a few of the last digits, if these are coarse."""
    dtype = target.dtype
    return max(ROUNDING, 4 * float(jnp.finfo(dtype).eps)) if jnp.issubdtype(dtype, jnp.floating) else ROUNDING


def _refuse(function: str, values: np.ndarray, wrong: np.ndarray, wanted: str, mask: Any = None) -> None:
    if (place := _first(wrong, mask)) is not None:
        at = f"[{', '.join(map(str, place))}]" if place else ""
        raise ValueError(f"{function}: target{at}={values[place]}, wanted {wanted}")


def _first(wrong: np.ndarray, mask: Any) -> tuple[int, ...] | None:
    """The place of the first wrong target that counts: what the mask leaves out may be anything."""
    if mask is not None:
        counts = known(mask)
        if counts is None or counts.shape != wrong.shape[:1]:
            return None
        wrong = wrong & counts.astype(bool).reshape(-1, *[1] * (wrong.ndim - 1))
    return tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else None
