"""Accuracy: whether the class with the largest score, or one of the k largest, is the target's class."""

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.metrics.metric import PerExample


def scores_and_labels(name: str, prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The scores (batch, ..., classes) and the labels, int32 (batch, ...), of a batch, checked.

    The label of a distribution is the class with its largest entry. A label that does not exist becomes -1, and so
    does that of a distribution that contains NaN.
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.ndim == 0:
        raise ValueError(f"{name}: prediction is {check.describe(prediction)}, wanted (batch, ..., classes)")
    floating = jnp.issubdtype(target.dtype, jnp.floating)
    if target.shape != (prediction.shape if floating else prediction.shape[:-1]):
        raise ValueError(
            f"{name}: prediction is {check.describe(prediction)} and target {check.describe(target)}, "
            f"wanted integer labels of shape {prediction.shape[:-1]} or a distribution of shape "
            f"{prediction.shape}"
        )
    if floating:
        label = jnp.where(jnp.isnan(target).any(axis=-1), -1, jnp.argmax(target, axis=-1))
        return prediction, label.astype(jnp.int32)
    # int8 cannot hold a label of 200 classes.
    label = target.astype(jnp.int32) if target.dtype.itemsize < 4 else target
    exists = (label >= 0) & (label < prediction.shape[-1])
    return prediction, jnp.where(exists, label.astype(jnp.int32), -1)


def accuracy(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Whether the class with the largest score is the target's class: 1 or 0. The mean is the accuracy.

    Of equal scores the first one counts. NaN among the scores gives NaN. A label that does not exist is never
    right.

    Shapes: prediction (batch, ..., classes), target integer labels (batch, ...) or a distribution
    (batch, ..., classes), result (batch,), the fraction that is right over the axes in between.

    Raises:
        ValueError: the shapes do not match.

    Example:
        >>> fn.metrics.accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
        Array([1., 0.], dtype=float32)
    """
    prediction, label = scores_and_labels("accuracy", prediction, target)
    return _fraction(prediction, jnp.argmax(prediction, axis=-1) == label)


def top_k(k: int) -> PerExample:
    """Whether the target's class is among the k classes with the largest scores: 1 or 0. The mean is top-k accuracy.

        1 if #{j: s_j > s_t} + #{j < t: s_j = s_t} < k, else 0        scores s, label t

    Of equal scores those of lower classes come first, so `top_k(1)` is `accuracy`. (scikit-learn puts the higher
    classes first. Without ties the two agree.)

    Args:
        k: from 1 to the number of classes.

    Returns:
        `(prediction, target) -> values`, with the shapes of `accuracy`: prediction (batch, ..., classes),
        target integer labels (batch, ...) or a distribution (batch, ..., classes), values (batch,). NaN among
        the scores gives NaN. A label that does not exist is never right.

    Raises:
        TypeError: k is not an int.
        ValueError: k is not positive, or larger than the number of classes; the shapes do not match.

    Example:
        >>> fn.metrics.top_k(2)(jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), jnp.array([1, 2]))
        Array([1., 0.], dtype=float32)
    """
    check.is_positive("top_k", "k", k)

    def among_the_largest(prediction: jax.Array, target: jax.Array) -> jax.Array:
        prediction, label = scores_and_labels("top_k", prediction, target)
        classes = prediction.shape[-1]
        if k > classes:
            raise ValueError(
                f"top_k: k={k}, wanted at most {classes}, the number of classes in {check.describe(prediction)}"
            )
        label = label[..., None]
        own = jnp.take_along_axis(prediction, jnp.maximum(label, 0), axis=-1)
        before = jax.lax.broadcasted_iota(jnp.int32, prediction.shape, prediction.ndim - 1) < label
        ahead = (prediction > own) | ((prediction == own) & before)
        return _fraction(prediction, (label[..., 0] >= 0) & (jnp.sum(ahead, axis=-1) < k))

    return among_the_largest


def _fraction(prediction: jax.Array, right: jax.Array) -> jax.Array:
    """The fraction that is right, over all axes but the batch. It is NaN if a score is NaN."""
    # Otherwise the class with NaN would count, since argmax treats NaN as the largest.
    values = jnp.where(jnp.isnan(prediction).any(axis=-1), jnp.nan, right.astype(jnp.float32))
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
