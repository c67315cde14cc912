"""Accuracy: whether the class with the largest score, or one of the k largest, is the target's class."""

from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check, targets
from fnnet.metrics.metric import PerExample


def scores_and_labels(
    name: str, prediction: Any, target: Any, mask: Any = None
) -> tuple[jax.Array, jax.Array]:
    """The scores (batch, ..., classes) and the labels, int32 (batch, ...), of a batch, checked.

    One logit z, of a prediction (batch, ..., 1) or (batch,), becomes the scores (0, z) of no and yes: their softmax is
    sigmoid(z), and the larger one is that of yes where z > 0.

    The label of a distribution is the class with its largest entry. A target without a meaning, such as a label that
    does not exist, raises if it is known and the mask leaves it in; otherwise its label is -1.
    """
    prediction, target = targets.array(prediction), targets.array(target)
    if prediction.ndim == 0:
        raise ValueError(f"{name}: prediction is {check.describe(prediction)}, wanted (batch, ..., classes)")
    got = f"{name}: prediction is {check.describe(prediction)} and target {check.describe(target)}"
    targets.check_not_empty(name, prediction, "(batch, ..., classes)")
    is_flat = prediction.ndim == 1 and target.ndim > 0
    if is_flat or prediction.shape[-1] == 1:
        logit = jnp.asarray(prediction if is_flat else prediction[..., 0])
        if target.shape not in (logit.shape, (*logit.shape, 1)):
            raise ValueError(
                f"{got}, wanted 0 or 1 for each score, of shape {logit.shape} or {(*logit.shape, 1)}"
            )
        label = targets.yes_or_no(name, target.reshape(logit.shape), mask)
        return jnp.stack([jnp.zeros_like(logit), logit], axis=-1), label
    shape, scores = prediction.shape[:-1], jnp.asarray(prediction)
    if jnp.issubdtype(target.dtype, jnp.floating):
        if target.shape == prediction.shape:
            valid = targets.is_distribution(name, target, mask)
            label = jnp.argmax(jnp.asarray(target), axis=-1).astype(jnp.int32)
            return scores, jnp.where(valid, label, -1)
    elif target.shape == shape:
        label = targets.labels(name, target, prediction.shape[-1], mask)
        exists = (label >= 0) & (label < prediction.shape[-1])
        return scores, jnp.where(exists, label.astype(jnp.int32), -1)
    raise ValueError(
        f"{got}, wanted integer labels of shape {shape} or a distribution of shape {prediction.shape}"
        + targets.remedy(target.shape, shape)
    )


def accuracy(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Whether the class with the largest score is the target's class: 1 or 0. The mean is the accuracy.

    Of equal scores the first one counts. One logit z decides yes where z > 0. NaN among the scores gives NaN. A target
    without a meaning, such as a label that does not exist, raises where it is known, and gives NaN under jit.

    Shapes: prediction (batch, ..., classes), target integer labels (batch, ...) or a distribution
    (batch, ..., classes); or one logit per answer, prediction (batch, ..., 1) or (batch,), target 0 or 1 of any dtype,
    with or without the last axis. Result (batch,), the fraction that is right over the axes in between.

    Raises:
        ValueError: the shapes do not match; a known target is no label, distribution, or 0 or 1.

    Example:
        >>> fn.metrics.accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
        Array([1., 0.], dtype=float32)
        >>> fn.metrics.accuracy(jnp.array([[-9.0], [9.0]]), jnp.array([[1.0], [1.0]]))
        Array([0., 1.], dtype=float32)
    """
    scores, label = scores_and_labels("accuracy", prediction, target)
    return _fraction(scores, label, jnp.argmax(scores, axis=-1) == label)


def top_k(k: int) -> PerExample:
    """Whether the target's class is among the k classes with the largest scores: 1 or 0. The mean is top-k accuracy.

        1 if #{j: s_j > s_t} + #{j < t: s_j = s_t} < k, else 0        scores s, label t

    Of equal scores those of lower classes come first, so `top_k(1)` is `accuracy`. (scikit-learn puts the higher
    classes first. Without ties the two agree.)

    Args:
        k: from 1 to the number of classes.

    Returns:
        `(prediction, target) -> values`, with the shapes of `accuracy`: prediction (batch, ..., classes),
        target integer labels (batch, ...) or a distribution (batch, ..., classes), values (batch,). One logit has two
        classes. NaN among the scores gives NaN, and so does, under jit, a target without a meaning.

    Raises:
        TypeError: k is not an int.
        ValueError: k is not positive, or larger than the number of classes; the shapes do not match; a known target
            is no label, distribution, or 0 or 1.

    Example:
        >>> fn.metrics.top_k(2)(jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), jnp.array([1, 2]))
        Array([1., 0.], dtype=float32)
    """
    check.is_positive("top_k", "k", k)

    def among_the_largest(prediction: jax.Array, target: jax.Array) -> jax.Array:
        scores, label = scores_and_labels("top_k", prediction, target)
        classes = scores.shape[-1]
        if k > classes:
            raise ValueError(
                f"top_k: k={k}, wanted at most {classes}, the number of classes in "
                f"{check.describe(targets.array(prediction))}"
            )
        column = label[..., None]
        own = jnp.take_along_axis(scores, jnp.maximum(column, 0), axis=-1)
        before = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) < column
        ahead = (scores > own) | ((scores == own) & before)
        return _fraction(scores, label, jnp.sum(ahead, axis=-1) < k)

    return among_the_largest


def _fraction(scores: jax.Array, label: jax.Array, right: jax.Array) -> jax.Array:
    """The fraction that is right, over all axes but the batch. It is NaN if a score is NaN or a label is -1."""
    # Otherwise the class with NaN would count, since argmax treats NaN as the largest.
    unknown = jnp.isnan(scores).any(axis=-1) | (label < 0)
    values = jnp.where(unknown, jnp.nan, right.astype(jnp.float32))
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))
