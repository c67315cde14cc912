"""The form of a metric: totals that are updated batch by batch, and a result computed from them. The mean is one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.targets import known

# A loss or a metric: (prediction, target) -> one value per example.
PerExample = Callable[[Any, Any], jax.Array]


class Metric(NamedTuple):
    """A metric over any number of batches: three pure functions.

    Attributes:
        init: `() -> totals`, a pytree of arrays, before the first example.
        update: `(totals, prediction, target, mask=None) -> totals`, with a batch added. `mask` is bool[batch]. An
            example where it is False, such as one that pads a short batch, does not count, whatever it holds.
        result: `totals -> value`, a scalar unless the metric says otherwise. It is NaN if no example was counted.

    Example:
        >>> accuracy = fn.metrics.mean(fn.metrics.accuracy)
        >>> totals = accuracy.init()
        >>> totals = accuracy.update(totals, jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
        >>> totals = accuracy.update(totals, jnp.array([[0.1, 0.9]]), jnp.array([1]))
        >>> float(accuracy.result(totals))
        0.6666...
    """

    init: Callable[[], Any]
    update: Callable[..., Any]
    result: Callable[[Any], jax.Array]


def per_example(name: str, f: PerExample, prediction: Any, target: Any) -> jax.Array:
    """f(prediction, target), one value per example, in float32 at least.

    Raises ValueError if f gives something else: a mean over the batch would be averaged twice.
    """
    # In half precision the sum over many examples would have too few digits.
    values, examples = f(prediction, target), len(jax.tree.leaves((target, prediction))[0])
    if jnp.shape(values) != (examples,):
        raise ValueError(
            f"{name} is {check.describe(values)}, wanted one value for each of the {examples} examples: "
            "a loss or a metric does not average over the batch"
        )
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def counted(name: str, mask: Any, examples: int) -> jax.Array:
    """Which examples of a batch count, bool[batch]: the mask, or all if it is None. Raises if it has another form."""
    if mask is None:
        return jnp.ones(examples, bool)
    mask = jnp.asarray(mask)
    if mask.shape != (examples,) or mask.dtype != bool:
        raise ValueError(
            f"{name}: mask is {check.describe(mask)}, wanted bool[{examples}], one for each example"
        )
    return mask


def mean(f: PerExample | Metric, name: str = "metric") -> Metric:
    """The mean of a loss or a similar metric over all examples. A `Metric` is returned unchanged.

        result = sum_i f(prediction_i, target_i) / n

    Args:
        f: `(prediction, target) -> one value per example`.
        name: the name in errors.

    Raises:
        TypeError: f is not a function.
        ValueError: f does not give one value per example.

    Example:
        >>> loss = fn.metrics.mean(fn.losses.mean_squared_error)
        >>> loss.result(loss.update(loss.init(), jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]])))
        Array(2.5, dtype=float32)
    """
    if isinstance(f, Metric):
        return f
    if not callable(f):
        raise TypeError(
            f"{name}: got {f!r}, wanted a function (prediction, target) -> one value per example, such as "
            "fn.metrics.accuracy"
        )

    def init() -> tuple[jax.Array, jax.Array]:
        return jnp.zeros([]), jnp.zeros([], jnp.int32)  # the sum, and the number of examples in it

    def update(totals: Any, prediction: Any, target: Any, mask: jax.Array | None = None) -> Any:
        counts = counted(name, mask, len(jax.tree.leaves((target, prediction))[0]))
        if mask is not None and (kept := known(mask)) is not None:
            # What the mask leaves out may be anything, and f may raise for it.
            prediction, target = jax.tree.map(lambda a: jnp.asarray(a)[kept], (prediction, target))
            counts = counts[kept]
        values = per_example(name, f, prediction, target)
        total, n = totals
        total = (total + jnp.sum(jnp.where(counts, values, 0))).astype(total.dtype)
        return total, n + jnp.sum(counts, dtype=jnp.int32)

    def result(totals: Any) -> jax.Array:
        total, n = totals
        return total / n

    return Metric(init, update, result)
