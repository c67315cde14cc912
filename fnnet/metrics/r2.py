"""R2, the coefficient of determination: the fraction of the targets' variance that the predictions explain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnnet import check, targets
from fnnet.metrics.metric import Metric, counted


class R2Totals(NamedTuple):
    """Statistics of the examples so far, float[1, outputs] except for n."""

    n: jax.Array  # int32[], the number of examples
    origin: (
        jax.Array
    )  # the first target, which is subtracted from all others: a large mean must not cost digits
    mean: jax.Array  # mean of the targets minus the origin
    spread: jax.Array  # sum of (target - mean)^2
    error: jax.Array  # sum of (target - prediction)^2


def r2(outputs: int = 1) -> Metric:
    """R2, the coefficient of determination, averaged over the outputs.

        R2 = mean_k [1 - sum_i (t_ik - y_ik)^2 / sum_i (t_ik - mean_k)^2]        mean_k = sum_i t_ik / n

    1 is perfect, 0 is as good as predicting the mean of the targets, and less than 0 is worse. Sums of squares about
    the mean are merged batch by batch without subtracting large numbers (Chan et al.).

    Args:
        outputs: number of predicted values per example.

    Returns:
        A metric of predictions and targets of equal shape, (batch, outputs), or (batch,) for one output. As in
        scikit-learn, the R2 of an output with constant targets is 1 if every prediction is right, else 0, and the
        result is NaN for fewer than two examples. NaN in an example that is counted gives NaN.

    Raises:
        TypeError: outputs is not an int.
        ValueError: outputs is not positive; the shapes do not match.

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".

    Example:
        >>> r2 = fn.metrics.r2()
        >>> totals = r2.update(r2.init(), jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0]))
        >>> r2.result(r2.update(totals, jnp.array([5.0]), jnp.array([5.0])))
        Array(0.875, dtype=float32)
    """
    check.is_positive("r2", "outputs", outputs)

    def init() -> R2Totals:
        # Separate arrays, so that all of them can be donated.
        return R2Totals(jnp.zeros([], jnp.int32), *(jnp.zeros((1, outputs)) for _ in range(4)))

    def update(totals: R2Totals, prediction: Any, target: Any, mask: jax.Array | None = None) -> R2Totals:
        y, t = targets.array(prediction), targets.array(target)
        if (
            y.shape != t.shape
            or y.shape[1:] not in ([(), (1,)] if outputs == 1 else [(outputs,)])
            or not y.ndim
        ):
            raise ValueError(
                f"r2: prediction is {check.describe(y)} and target {check.describe(t)}, wanted both "
                f"(batch, {outputs})"
                + (" or both (batch,)" if outputs == 1 else "")
                + f" for outputs={outputs}"
                + targets.remedy(t.shape, y.shape)
            )
        counts = counted("r2", mask, len(t))[:, None]
        if len(t) == 0:
            return totals
        n, origin, mean, spread, error = totals
        y, t = (jnp.asarray(a, mean.dtype).reshape(-1, outputs) for a in (y, t))  # never by way of int32
        origin = jnp.where(n == 0, jnp.where(jnp.any(counts), t[jnp.argmax(counts)][None], 0), origin)

        before, more = n.astype(mean.dtype), jnp.sum(counts, dtype=mean.dtype)
        distance = jnp.where(counts, t - origin, 0)
        batch_mean = jnp.sum(distance, axis=0, keepdims=True) / jnp.maximum(more, 1)
        batch_spread = jnp.sum(jnp.where(counts, jnp.square(distance - batch_mean), 0), axis=0, keepdims=True)
        batch_error = jnp.sum(jnp.where(counts, jnp.square(t - y), 0), axis=0, keepdims=True)

        share = more / jnp.maximum(before + more, 1)
        gap = batch_mean - mean
        return R2Totals(
            n + jnp.sum(counts, dtype=jnp.int32),
            origin,
            mean + gap * share,
            spread + batch_spread + jnp.square(gap) * before * share,
            error + batch_error,
        )

    def result(totals: R2Totals) -> jax.Array:
        n, _, _, spread, error = totals
        constant = jnp.where(error == 0, 1, jnp.where(jnp.isnan(error), jnp.nan, 0))
        by_output = jnp.where(spread == 0, constant, 1 - error / jnp.where(spread == 0, 1, spread))
        return jnp.where(n < 2, jnp.nan, jnp.mean(by_output))

    return Metric(init, update, result)
