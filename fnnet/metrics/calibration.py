"""The calibration error: how much confidence differs from accuracy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check
from fnnet.metrics.accuracy import scores_and_labels
from fnnet.metrics.metric import Metric, counted


def calibration_error(bins: int = 15) -> Metric:
    """Expected calibration error: the gap between accuracy and confidence, averaged over bins of confidence.

        confidence_i = max softmax(z_i),   B_b = {i: (b - 1) / bins < confidence_i <= b / bins}
        ECE = sum_b |B_b| / n |accuracy(B_b) - confidence(B_b)|

    The sizes of the bins cancel, so it is computed as sum_b |sum_{i in B_b} (right_i - confidence_i)| / n.

    Args:
        bins: number of bins of equal width, over [0, 1].

    Returns:
        A metric of logits z (batch, ..., classes) and targets: integer labels (batch, ...), or a distribution
        (batch, ..., classes), whose largest entry gives the label; or of one logit per answer, (batch, ..., 1) or
        (batch,), and targets 0 or 1, with confidence max(sigmoid(z), sigmoid(-z)). Each position of the axes in
        between counts as one. The result is NaN if nothing was counted, or, under jit, a label that does not exist, or
        logits that have no softmax, such as NaN.

    Raises:
        TypeError: bins is not an int.
        ValueError: bins is not positive; the shapes do not match; a known target is no label, distribution, or 0 or 1.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2; Naeini et al. 2015, "Obtaining well calibrated
    probabilities using Bayesian binning".

    Example:
        >>> error = fn.metrics.calibration_error()
        >>> logits, labels = jnp.array([[0.0, 100.0], [0.0, 100.0]]), jnp.array([1, 0])
        >>> error.result(error.update(error.init(), logits, labels))
        Array(0.5, dtype=float32)
    """
    check.is_positive("calibration_error", "bins", bins)

    def init() -> tuple[jax.Array, jax.Array]:
        # The sum of right - confidence in each bin, and how many were counted.
        return jnp.zeros(bins), jnp.zeros([], jnp.int32)

    def update(totals: Any, logits: Any, target: Any, mask: jax.Array | None = None) -> Any:
        gaps, n = totals
        logits, label = scores_and_labels("calibration_error", logits, target, mask)
        if logits.ndim < 2:
            raise ValueError(
                f"calibration_error: prediction is {check.describe(logits)}, wanted (batch, ..., classes)"
            )
        counts = counted("calibration_error", mask, label.shape[0]).reshape(-1, *[1] * (label.ndim - 1))
        counts = jnp.broadcast_to(counts, label.shape).ravel()
        confidence = jnp.max(jax.nn.softmax(logits.astype(gaps.dtype), axis=-1), axis=-1)
        gap = (jnp.argmax(logits, axis=-1) == label) - confidence
        gap = jnp.where(counts, jnp.where(label >= 0, gap, jnp.nan).ravel(), 0)
        edges = np.arange(1, bins).reshape(1, -1) / bins
        place = jnp.sum(confidence.reshape(-1, 1) > edges.astype(gaps.dtype), axis=1, keepdims=True)  # NaN: 0
        # Not by a scatter, which adds up in any order on a GPU.
        in_bin = place == jnp.arange(bins).reshape(1, -1)
        return gaps + jnp.sum(jnp.where(in_bin, gap[:, None], 0), axis=0), n + jnp.sum(
            counts, dtype=jnp.int32
        )

    def result(totals: Any) -> jax.Array:
        gaps, n = totals
        return jnp.sum(jnp.abs(gaps)) / n

    return Metric(init, update, result)
