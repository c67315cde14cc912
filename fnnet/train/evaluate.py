"""Losses and metrics over a whole part of the data."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample, mean
from fnnet.train.batches import count_examples


def evaluate(
    net: Layer,
    measures: Mapping[str, PerExample | Metric],
    params: Params,
    state: State,
    part: Any,
    batch_size: int = 1000,
) -> dict[str, jax.Array]:
    """Losses and metrics over a part of the data, some examples at a time.

    Args:
        net: the network.
        measures: functions `(prediction, target) -> one value an example`, whose means are taken, or
            `fn.metrics.Metric`s, by name.
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

    metrics = {name: mean(f, name) for name, f in measures.items()}

    def add(totals: Any, batch: Any) -> Any:
        prediction, _ = net.apply(params, state, batch["x"], train=False)
        return {name: m.update(totals[name], prediction, batch["y"]) for name, m in metrics.items()}

    whole, rest = divmod(n, batch_size)
    totals = {name: m.init() for name, m in metrics.items()}
    if whole:
        batches = jax.tree.map(lambda a: a[: n - rest].reshape(whole, batch_size, *a.shape[1:]), part)
        totals, _ = jax.lax.scan(lambda totals, batch: (add(totals, batch), None), totals, batches)
    if rest:
        totals = add(totals, jax.tree.map(lambda a: a[n - rest :], part))
    return {name: m.result(totals[name]) for name, m in metrics.items()}
