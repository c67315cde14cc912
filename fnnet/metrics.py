"""Metrics: `(prediction, target) -> one value an example`, like a loss, to look at, not to minimize."""

import jax
import jax.numpy as jnp

from fnnet import check


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
