"""Perplexity: the exponential of the mean loss."""

from typing import Any

import jax
import jax.numpy as jnp

from fnnet import losses
from fnnet.metrics.metric import Metric, PerExample, mean


def perplexity(loss: PerExample = losses.softmax_cross_entropy) -> Metric:
    """Perplexity: the number of equally likely classes that would be as hard to guess.

        exp(sum_i loss(prediction_i, target_i) / n)

    Args:
        loss: `(prediction, target) -> one value an example`, in nats. `fn.losses.softmax_cross_entropy` is
            the mean over the tokens of each sequence, so the result is that by token where all have one
            length; where they differ, make each token an example: prediction (tokens, classes), target
            (tokens,).

    Returns:
        A metric of predictions and targets as the loss takes them. NaN where nothing was counted, or where
        the loss is NaN, as for a label that does not exist.

    Raises:
        ValueError: the loss is not one value an example.

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
