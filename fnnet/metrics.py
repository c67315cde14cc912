"""Metrics, to look at, not to minimize.

Most are `(prediction, target) -> one value an example`, like a loss, and what is reported is their mean. What is no
mean over examples is a `Metric`: totals that grow from batch to batch, and a result that is computed of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnnet import check

# A loss or a metric: (prediction, target) -> one value an example.
PerExample = Callable[[Any, Any], jax.Array]


class Metric(NamedTuple):
    """A metric over any number of batches: three pure functions.

    Attributes:
        init: `() -> totals`, a pytree of arrays, those of no example.
        update: `(totals, prediction, target, mask=None) -> totals`, with a batch added. `mask` is bool[batch]: an
            example where it is False, such as one that fills up a short batch, does not count.
        result: `totals -> value`, a scalar unless the metric says otherwise; NaN where no example was counted.

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
    """f(prediction, target), one value an example, or raises: a mean over the batch would be averaged twice.

    It is float32 at least: the sum of a part's values is large for half precision.
    """
    values, examples = f(prediction, target), len(jax.tree.leaves((target, prediction))[0])
    if jnp.shape(values) != (examples,):
        raise ValueError(
            f"{name} is {check.describe(values)}, wanted one value for each of the {examples} examples: "
            "a loss or a metric takes no mean over the batch"
        )
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def mean(f: PerExample | Metric, name: str = "metric") -> Metric:
    """The mean over all examples of a loss or of a metric of its form; a `Metric` comes back as it is.

        result = sum_i f(prediction_i, target_i) / n

    Args:
        f: `(prediction, target) -> one value an example`.
        name: for errors.

    Raises:
        ValueError: f is not one value an example.

    Example:
        >>> loss = fn.metrics.mean(fn.losses.mean_squared_error)
        >>> loss.result(loss.update(loss.init(), jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]])))
        Array(2.5, dtype=float32)
    """
    if isinstance(f, Metric):
        return f

    def init() -> tuple[jax.Array, jax.Array]:
        return jnp.zeros([]), jnp.zeros([], jnp.int32)  # the sum, and how many there are in it

    def update(totals: Any, prediction: Any, target: Any, mask: jax.Array | None = None) -> Any:
        values = per_example(name, f, prediction, target)
        if mask is not None:
            values = jnp.where(mask, values, 0)
        count = values.size if mask is None else jnp.sum(mask, dtype=jnp.int32)
        total, n = totals
        return (total + jnp.sum(values)).astype(total.dtype), n + count

    def result(totals: Any) -> jax.Array:
        total, n = totals
        return total / n

    return Metric(init, update, result)


def accuracy(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Whether the class of the largest score is the target's: 1 or 0; its mean is the accuracy.

    Shapes: prediction (batch, ..., classes), target integer labels (batch, ...) or a distribution
    (batch, ..., classes), result (batch,): the share that is right, over the axes in between. NaN among the
    scores gives NaN.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> fn.metrics.accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
        Array([1., 0.], dtype=float32)
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.ndim == 0:
        raise ValueError(
            f"accuracy: prediction is {check.describe(prediction)}, wanted (batch, ..., classes)"
        )
    label = jnp.argmax(target, axis=-1) if jnp.issubdtype(target.dtype, jnp.floating) else target
    if label.shape != prediction.shape[:-1] or target.shape not in (label.shape, prediction.shape):
        raise ValueError(
            f"accuracy: prediction is {check.describe(prediction)} and target {check.describe(target)}, "
            f"wanted integer labels of shape {prediction.shape[:-1]} or a distribution of shape "
            f"{prediction.shape}"
        )
    right = (jnp.argmax(prediction, axis=-1) == label).astype(jnp.float32)
    right = jnp.where(jnp.isnan(prediction).any(axis=-1), jnp.nan, right)  # argmax takes NaN for the largest
    return jnp.mean(right, axis=tuple(range(1, right.ndim)))
