"""Losses and metrics over a whole part of the data."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.train.batches import count_examples
from fnnet.train.step import PerExample, per_example


def evaluate(
    net: Layer,
    measures: Mapping[str, PerExample],
    params: Params,
    state: State,
    part: Any,
    batch_size: int = 1000,
) -> dict[str, jax.Array]:
    """Means of losses and metrics over a part of the data, some examples at a time.

    Args:
        net: the network.
        measures: functions `(prediction, target) -> one value an example`, by name.
        params: its params.
        state: its state.
        part: dict of arrays "x" and "y" with one leading axis.
        batch_size: examples at once.

    Raises:
        ValueError: the part is no dict with x and y, or its arrays differ in length; the batch size is not
            positive; a measure is not one value an example.

    Example:
        >>> net = fn.dense(1, w_init=fn.initializers.zeros)
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> part = {"x": jnp.ones((5, 2)), "y": jnp.full((5, 1), 3.0)}
        >>> fn.train.evaluate(net, {"loss": fn.losses.mean_squared_error}, params, state, part, batch_size=2)
        {'loss': Array(9., dtype=float32)}
    """
    check.is_positive("evaluate", "batch_size", batch_size)
    n = count_examples("evaluate: part", part)
    part = jax.tree.map(jnp.asarray, dict(part))

    def totals(batch: Any) -> dict[str, jax.Array]:
        prediction, _ = net.apply(params, state, batch["x"], train=False)
        return {name: jnp.sum(per_example(name, f, prediction, batch["y"])) for name, f in measures.items()}

    whole, rest = divmod(n, batch_size)
    total = totals(jax.tree.map(lambda a: a[n - rest :], part)) if rest else None
    if whole:
        batches = jax.tree.map(lambda a: a[: n - rest].reshape(whole, batch_size, *a.shape[1:]), part)
        sums = jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.lax.map(totals, batches))
        total = sums if total is None else jax.tree.map(jnp.add, sums, total)
    return jax.tree.map(lambda a: a / n, total)
