"""Perplexity: the exponential of the mean loss."""

from typing import Any

import jax
import jax.numpy as jnp

from fnnet import losses
from fnnet.metrics.metric import Metric, PerExample, mean


def perplexity(loss: PerExample = losses.softmax_cross_entropy) -> Metric:
    """Perplexity: the number of equally likely classes among which guessing would be as hard.

        exp(sum_i loss(prediction_i, target_i) / n)

    Args:
        loss: `(prediction, target) -> one value per example`, in nats. `fn.losses.softmax_cross_entropy` is the
            mean over the tokens of a sequence, so the result is the perplexity per token if all sequences have
            the same length. If not, make each token an example: prediction (tokens, classes), target (tokens,).

    Returns:
        A metric of predictions and targets, in the form that the loss takes. It is NaN if nothing was counted, or
        if the loss is NaN, as for a label that does not exist, under jit.

    Raises:
        TypeError: loss is not a function.
        ValueError: the loss does not give one value per example.

    Example:
        >>> perplexity = fn.metrics.perplexity()
        >>> logits, labels = jnp.zeros((4, 10)), jnp.array([0, 1, 2, 3])
        >>> round(float(perplexity.result(perplexity.update(perplexity.init(), logits, labels))), 3)
        10.0
    """
    averaged = mean(loss, "perplexity")

    def result(totals: Any) -> jax.Array:
        return jnp.exp(averaged.result(totals))

    return Metric(averaged.init, averaged.update, result)
