"""Precision, recall and F1, per class or averaged."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.metrics.confusion import decisions
from fnnet.metrics.metric import Metric

AVERAGES = ("macro", "micro", "weighted", "binary", None)


def precision(
    classes: int, average: str | None = "macro", *, positive: int = 1, zero_division: float = 0.0
) -> Metric:
    """Precision: of the examples predicted as a class, the fraction that belongs to it.

        P_c = tp_c / (tp_c + fp_c)        tp: predicted as c and in c, fp: predicted as c, but in another class

    Args:
        classes: number of classes, at least 2.
        average: "macro", the mean over the classes; "weighted", the same, weighted by the number of examples in
            each class; "micro", computed from the counts of all classes together, which is the accuracy; "binary",
            that of the class `positive` of two; None, one number per class, float[classes].
        positive: the class for "binary", 0 or 1.
        zero_division: the value of 0 / 0, in [0, 1], which arises for a class that was never predicted.

    Returns:
        A metric of predictions (batch, ..., classes), whose largest score counts, the first of equal ones, and
        targets: integer labels (batch, ...), or a distribution (batch, ..., classes). With two classes the prediction
        may be one logit, (batch, ..., 1) or (batch,), which means class 1 where it is more than 0, and the targets 0
        or 1. Each position of the axes in between counts as one. The numbers are those of scikit-learn with
        `labels=range(classes)`: averages include classes that never occur. The result is NaN if nothing was counted,
        or NaN among the scores or, under jit, a label that does not exist.

    Raises:
        TypeError: classes or positive is not an int, or zero_division is not a number.
        ValueError: classes is less than 2; average is unknown, or "binary" with a number of classes other than 2;
            positive is not 0 or 1; zero_division is not in [0, 1]; the shapes do not match; a known target is no label
            or distribution.

    Example:
        >>> precision = fn.metrics.precision(2, average=None)
        >>> scores, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), jnp.array([1, 0, 0])
        >>> precision.result(precision.update(precision.init(), scores, labels))
        Array([1. , 0.5], dtype=float32)
    """
    return _averaged(
        "precision", lambda right, guessed, true: (right, guessed), classes, average, positive, zero_division
    )


def recall(
    classes: int, average: str | None = "macro", *, positive: int = 1, zero_division: float = 0.0
) -> Metric:
    """Recall: of the examples in a class, the fraction that was predicted as it.

        R_c = tp_c / (tp_c + fn_c)        tp: predicted as c and in c, fn: in c, but predicted as another class

    Args:
        classes: number of classes, at least 2.
        average: as in `precision`. The weighted average is the accuracy.
        positive: the class for "binary", 0 or 1.
        zero_division: the value of 0 / 0, in [0, 1], which arises for a class without examples.

    Returns:
        A metric. Predictions, targets and NaN are as in `precision`.

    Raises:
        TypeError, ValueError: as in `precision`.

    Example:
        >>> recall = fn.metrics.recall(2, average="binary")
        >>> scores, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]]), jnp.array([1, 0, 1])
        >>> recall.result(recall.update(recall.init(), scores, labels))
        Array(0.5, dtype=float32)
    """
    return _averaged(
        "recall", lambda right, guessed, true: (right, true), classes, average, positive, zero_division
    )


def f1(
    classes: int, average: str | None = "macro", *, positive: int = 1, zero_division: float = 0.0
) -> Metric:
    """F1: the harmonic mean of precision and recall.

        F_c = 2 tp_c / (2 tp_c + fp_c + fn_c)

    Args:
        classes: number of classes, at least 2.
        average: as in `precision`. It is an average of each class's F1, not the F1 of averages.
        positive: the class for "binary", 0 or 1.
        zero_division: the value of 0 / 0, in [0, 1], which arises for a class without examples that was never
            predicted.

    Returns:
        A metric. Predictions, targets and NaN are as in `precision`.

    Raises:
        TypeError, ValueError: as in `precision`.

    Example:
        >>> f1 = fn.metrics.f1(2, average="binary")
        >>> scores, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]]), jnp.array([1, 0, 1])
        >>> float(f1.result(f1.update(f1.init(), scores, labels)))
        0.6666...

    Source: van Rijsbergen 1979, "Information Retrieval", chapter 7.
    """
    return _averaged(
        "f1",
        lambda right, guessed, true: (2 * right, guessed + true),
        classes,
        average,
        positive,
        zero_division,
    )


def _averaged(
    name: str,
    fraction: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    classes: int,
    average: str | None,
    positive: int,
    zero_division: float,
) -> Metric:
    """A metric that is a fraction of the counts right, guessed and true of each class."""
    check.is_positive(name, "classes", classes)
    check.number(name, "classes", classes, "[2, inf)")
    check.number(name, "zero_division", zero_division, "[0, 1]")
    check.one_of(name, "average", average, AVERAGES)
    if average == "binary" and classes != 2:
        raise ValueError(f"{name}: average='binary' with classes={classes}, wanted 2, or another average")
    check.integer(name, "positive", positive, "[0, 1]")

    def init() -> tuple[jax.Array, jax.Array]:
        # How many are right, guessed and true, for each class; how many positions have no class.
        return jnp.zeros((3, classes), jnp.int32), jnp.zeros([], jnp.int32)

    def update(totals: Any, prediction: Any, target: Any, mask: jax.Array | None = None) -> Any:
        counts, unknown = totals
        truth, guess, more = decisions(name, classes, prediction, target, mask)
        which = jnp.stack([jnp.where(truth == guess, truth, classes), guess, truth])
        # Not by a scatter: a sum of comparisons is fast on every device, also under vmap.
        is_class = which[:, :, None] == jnp.arange(classes).reshape(1, 1, classes)
        return counts + jnp.sum(is_class, axis=1, dtype=jnp.int32), unknown + more

    def result(totals: Any) -> jax.Array:
        counts, unknown = totals
        n = jnp.sum(counts[2])
        right, guessed, true = counts.astype(jnp.result_type(float))
        if average == "micro":
            right, guessed, true = jnp.sum(right), jnp.sum(guessed), jnp.sum(true)
        numerator, denominator = fraction(right, guessed, true)
        empty = denominator == 0
        value = jnp.where(empty, zero_division, numerator / jnp.where(empty, 1, denominator))
        if average == "macro":
            value = jnp.mean(value)
        elif average == "weighted":
            value = jnp.sum(value * true) / jnp.sum(true)
        elif average == "binary":
            value = value[positive]
        return jnp.where((unknown > 0) | (n == 0), jnp.nan, value)

    return Metric(init, update, result)
