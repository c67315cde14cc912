"""The confusion matrix: how often each class was predicted for each true class."""

from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check, targets
from fnnet.metrics.accuracy import scores_and_labels
from fnnet.metrics.metric import Metric, counted


def decisions(
    name: str, classes: int, prediction: Any, target: Any, mask: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(truth, guess, unknown): the true class and the class with the largest score, for the m positions of a batch.

    truth and guess are int32[m]. Both are `classes`, which is not a class, for a position that the mask leaves out,
    and for one without an answer, whose label does not exist or whose scores or target contain NaN. unknown,
    int32[], is the number of positions without an answer that the mask does not leave out. Raises if the shapes do
    not match, or if a known target has no meaning.
    """
    given = targets.array(prediction)
    is_flat = given.ndim == 1 and targets.array(target).ndim > 0
    one_logit = classes == 2 and (is_flat or given.shape[-1:] == (1,))
    if not one_logit and (given.ndim < 2 or given.shape[-1] != classes):
        raise ValueError(
            f"{name}: prediction is {check.describe(given)}, wanted (batch, ..., {classes})"
            + (", or one logit, (batch, ..., 1)" if classes == 2 else f" for classes={classes}")
        )
    scores, label = scores_and_labels(name, given, target, mask)
    counts = counted(name, mask, label.shape[0]).reshape(-1, *[1] * (label.ndim - 1))
    known = (label >= 0) & ~jnp.isnan(scores).any(axis=-1)
    truth = jnp.where(counts & known, label, classes)
    guess = jnp.where(counts & known, jnp.argmax(scores, axis=-1), classes)
    unknown = jnp.sum(counts & ~known, dtype=jnp.int32)
    return truth.ravel().astype(jnp.int32), guess.ravel().astype(jnp.int32), unknown


def confusion_matrix(classes: int) -> Metric:
    """The confusion matrix: the entry in row t and column p is how often class p was predicted for class t.

        C_tp = #{i: target_i = t, argmax prediction_i = p}

    Args:
        classes: number of classes, at least 2.

    Returns:
        A metric of predictions (batch, ..., classes), whose largest score counts, the first of equal ones, and
        targets: integer labels (batch, ...), or a distribution (batch, ..., classes). With two classes the prediction
        may be one logit, (batch, ..., 1) or (batch,), which means class 1 where it is more than 0, and the targets 0
        or 1. Each position of the axes in between counts as one. The result is int32[classes, classes], with the true
        classes as rows, as in scikit-learn. It is 0 if nothing was counted, and -1 everywhere if a position was
        counted that has no place in it: one with NaN among its scores or, under jit, with a label that does not exist.

    Raises:
        TypeError: classes is not an int.
        ValueError: classes is less than 2; the shapes do not match; a known target is no label or distribution.

    Example:
        >>> confusion = fn.metrics.confusion_matrix(2)
        >>> scores, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 0, 0])
        >>> confusion.result(confusion.update(confusion.init(), scores, labels))
        Array([[1, 1],
               [0, 1]], dtype=int32)
    """
    check.is_positive("confusion_matrix", "classes", classes)
    check.number("confusion_matrix", "classes", classes, "[2, inf)")

    def init() -> tuple[jax.Array, jax.Array]:
        # The matrix, and how many positions have no place in it.
        return jnp.zeros((classes, classes), jnp.int32), jnp.zeros([], jnp.int32)

    def update(totals: Any, prediction: Any, target: Any, mask: jax.Array | None = None) -> Any:
        matrix, unknown = totals
        truth, guess, more = decisions("confusion_matrix", classes, prediction, target, mask)
        return matrix.at[truth, guess].add(1, mode="drop"), unknown + more

    def result(totals: Any) -> jax.Array:
        matrix, unknown = totals
        return jnp.where(unknown > 0, -1, matrix)

    return Metric(init, update, result)
