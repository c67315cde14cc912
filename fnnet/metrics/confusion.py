"""The confusion matrix: how often each class is taken for each."""

from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.metrics.accuracy import scores_and_labels
from fnnet.metrics.metric import Metric, counted


def decisions(
    name: str, classes: int, prediction: Any, target: Any, mask: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The true class and that of the largest score, int32[m] each, of the m positions of a batch, or raises.

    Both are `classes`, which is none, for a position that the mask leaves out and for one without an answer:
    its label does not exist, or NaN is among its scores or its target's. Third, int32[]: how many of the
    latter count.
    """
    prediction, label = scores_and_labels(name, prediction, target)
    if prediction.ndim < 2 or prediction.shape[-1] != classes:
        raise ValueError(
            f"{name}: prediction is {check.describe(prediction)}, wanted (batch, ..., {classes})"
        )
    counts = counted(name, mask, label.shape[0]).reshape(-1, *[1] * (label.ndim - 1))
    known = (label >= 0) & ~jnp.isnan(prediction).any(axis=-1)
    truth = jnp.where(counts & known, label, classes)
    guess = jnp.where(counts & known, jnp.argmax(prediction, axis=-1), classes)
    unknown = jnp.sum(counts & ~known, dtype=jnp.int32)
    return truth.ravel().astype(jnp.int32), guess.ravel().astype(jnp.int32), unknown


def confusion_matrix(classes: int) -> Metric:
    """The confusion matrix: row t, column p is how often class t was taken for p.

        C_tp = #{i: target_i = t, argmax prediction_i = p}

    Args:
        classes: their number.

    Returns:
        A metric of predictions (batch, ..., classes), whose largest score counts, the first of equal ones,
        and of targets, integer labels (batch, ...) or a distribution (batch, ..., classes). Each position of
        the axes in between counts as one. The result is int32[classes, classes], rows the truth as in
        scikit-learn. It is 0 where nothing was counted, and -1 everywhere once a position was counted that
        has no place in it: a label that does not exist, NaN among the scores.

    Raises:
        TypeError: classes is no int.
        ValueError: classes is not positive; the shapes do not fit.

    Example:
        >>> confusion = fn.metrics.confusion_matrix(2)
        >>> scores, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 0, 0])
        >>> confusion.result(confusion.update(confusion.init(), scores, labels))
        Array([[1, 1],
               [0, 1]], dtype=int32)
    """
    check.is_positive("confusion_matrix", "classes", classes)

    def init() -> tuple[jax.Array, jax.Array]:
        return jnp.zeros((classes, classes), jnp.int32), jnp.zeros(
            [], jnp.int32
        )  # the matrix, what has no place

    def update(totals: Any, prediction: Any, target: Any, mask: jax.Array | None = None) -> Any:
        matrix, unknown = totals
        truth, guess, more = decisions("confusion_matrix", classes, prediction, target, mask)
        return matrix.at[truth, guess].add(1, mode="drop"), unknown + more

    def result(totals: Any) -> jax.Array:
        matrix, unknown = totals
        return jnp.where(unknown > 0, -1, matrix)

    return Metric(init, update, result)
