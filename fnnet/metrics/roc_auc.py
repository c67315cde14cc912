"""The exact area under the ROC curve: all scores are stored and sorted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnnet import check, targets
from fnnet.metrics.accuracy import scores_and_labels
from fnnet.metrics.metric import Metric, counted


class RocAucTotals(NamedTuple):
    """The scores and labels so far."""

    scores: jax.Array  # float[capacity, columns]; NaN in a row without an answer
    labels: jax.Array  # int32[capacity]
    n: jax.Array  # int32[], rows used; more than the capacity if there was no room for some


def roc_auc(capacity: int, classes: int = 2) -> Metric:
    """The area under the ROC curve: the probability that a positive example has a higher score than a negative one.

        AUC = (#{i, j: s_i > s_j} + #{i, j: s_i = s_j} / 2) / (positives negatives)     i positive, j negative

    It is exact: every score is stored, and the result sorts them. With more than two classes it is the mean over the
    classes of the area for this class against all others, with its probability as the score.

    Args:
        capacity: number of examples that there is room for, such as those of the evaluated part. If more are
            counted, the result is NaN.
        classes: number of classes.

    Returns:
        A metric. For two classes, predictions are scores of class 1, (batch,) or (batch, 1), with targets 0 or 1 of
        either shape and of any dtype; or logits (batch, 2), whose difference is the score. For more classes,
        predictions are logits (batch, classes). Targets of logits are integer labels (batch,) or a distribution
        (batch, classes), whose largest entry gives the label. The result is NaN if a class has no example or all of
        them, where scikit-learn's area is undefined, if a score is NaN, or, under jit, if a label does not exist.

    Raises:
        TypeError: capacity or classes is not an int.
        ValueError: capacity is not positive, or 2^30 or more; classes is less than 2; the shapes do not match;
            a known target is no label, distribution, or 0 or 1.

    Source: Hanley & McNeil 1982, "The meaning and use of the area under a receiver operating characteristic
    (ROC) curve"; Fawcett 2006, "An introduction to ROC analysis", for more than two classes.

    Example:
        >>> auc = fn.metrics.roc_auc(capacity=100)
        >>> scores, labels = jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])
        >>> jax.jit(auc.result)(auc.update(auc.init(), scores, labels))
        Array(0.75, dtype=float32)
    """
    check.is_positive("roc_auc", "capacity", capacity)
    check.number("roc_auc", "capacity", capacity, f"[1, {2**30})")
    check.is_positive("roc_auc", "classes", classes)
    check.number("roc_auc", "classes", classes, "[2, inf)")
    columns = 1 if classes == 2 else classes

    def init() -> RocAucTotals:
        scores, labels = jnp.zeros((capacity, columns)), jnp.zeros(capacity, jnp.int32)
        return RocAucTotals(scores, labels, jnp.zeros([], jnp.int32))

    def update(
        totals: RocAucTotals, prediction: Any, target: Any, mask: jax.Array | None = None
    ) -> RocAucTotals:
        kept, labels, n = totals
        scores, label = _scores(classes, targets.array(prediction), target, mask, kept.dtype)
        counts = counted("roc_auc", mask, len(label))
        scores = jnp.where(label[:, None] >= 0, scores, jnp.nan)
        place = jnp.where(counts, n + jnp.cumsum(counts, dtype=jnp.int32) - 1, capacity)
        return RocAucTotals(
            kept.at[place].set(scores, mode="drop"),
            labels.at[place].set(label, mode="drop"),
            jnp.minimum(n + jnp.sum(counts, dtype=jnp.int32), capacity + 1),
        )

    def result(totals: RocAucTotals) -> jax.Array:
        scores, labels, n = totals
        taken = jnp.arange(capacity) < n
        one_of = jnp.array([1]) if classes == 2 else jnp.arange(classes)
        areas = jax.vmap(lambda s, c: _area(s, taken & (labels == c), taken & (labels != c)), (1, 0))(
            scores, one_of
        )
        wrong = (n > capacity) | jnp.any(jnp.isnan(scores) & taken[:, None])
        return jnp.where(wrong, jnp.nan, jnp.mean(areas))

    return Metric(init, update, result)


def _scores(classes: int, prediction: Any, target: Any, mask: Any, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Scores (batch, columns) and labels int32[batch], -1 for an invalid one. Raises if the shapes do not match."""
    one_logit = classes == 2 and prediction.shape[1:] in ((), (1,)) and prediction.ndim
    if not one_logit and prediction.shape[1:] != (classes,):
        wanted = "(batch,), (batch, 1) or (batch, 2)" if classes == 2 else f"(batch, {classes})"
        raise ValueError(
            f"roc_auc: prediction is {check.describe(prediction)}, wanted {wanted} for classes={classes}"
        )
    logits, label = scores_and_labels("roc_auc", prediction, target, mask)
    logits = logits.astype(dtype)
    # Logarithms, because probabilities near 0 or 1 would round to equal numbers.
    return (logits[:, 1:] - logits[:, :1] if classes == 2 else jax.nn.log_softmax(logits)), label


def _area(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """The area for scores[n]. Those that are neither positive nor negative do not count."""
    order = jnp.argsort(scores)
    scores, positive, negative = scores[order], positive[order], negative[order].astype(jnp.int32)
    # How many negatives are below each score, and how many not above it, taken at the ends of a run of ties.
    upto = jnp.cumsum(negative, dtype=jnp.int32)
    new = jnp.concatenate([jnp.ones(1, bool), scores[1:] != scores[:-1]])
    last = jnp.concatenate([new[1:], jnp.ones(1, bool)])
    below = jax.lax.cummax(jnp.where(new, upto - negative, 0))
    not_above = jax.lax.cummin(jnp.where(last, upto, upto[-1]), reverse=True)
    pairs = jnp.where(positive, below + not_above, 0)
    # From 65,536 examples on the sum can exceed 2^31. So each number is split into parts of a few bits, whose sums
    # are exact.
    bits = 31 - len(scores).bit_length()
    total = jnp.zeros([])
    for shift in range(0, 31, bits):
        part = jnp.sum((pairs >> shift) & (2**bits - 1), dtype=jnp.int32)
        total += part.astype(total.dtype) * 2.0**shift
    return total / jnp.sum(positive) / (2 * upto[-1])
