"""Losses and metrics over a whole part of the data."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample, mean
from fnnet.train.arguments import check_network
from fnnet.train.batches import count_examples
from fnnet.train.devices.sharding import shard_batch


def evaluate(
    net: Layer,
    measures: Mapping[str, PerExample | Metric],
    params: Params,
    state: State,
    part: Any,
    batch_size: int = 1000,
    mesh: Mesh | None = None,
) -> dict[str, jax.Array]:
    """Losses and metrics over a part of the data, computed in batches.

    Args:
        net: the network.
        measures: by name, functions `(prediction, target) -> one value per example`, which are averaged, or
            `fn.metrics.Metric`s.
        params: its params.
        state: its state.
        part: dict of arrays "x" and "y" with one leading axis.
        batch_size: examples per batch.
        mesh: devices over which each batch is split, along the mesh's axis "data". A part with fewer examples than
            devices is not split.

    Raises:
        TypeError: net is not a Layer, or the part holds something else than arrays of numbers.
        ValueError: the part is not a dict with x and y alone, or its arrays differ in length; the batch size is not
            positive; a measure does not return one value per example.

    Example:
        >>> net = fn.dense(1, w_init=fn.initializers.zeros)
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> part = {"x": jnp.ones((5, 2)), "y": jnp.full((5, 1), 3.0)}
        >>> fn.train.evaluate(net, {"loss": fn.losses.mean_squared_error}, params, state, part, batch_size=2)
        {'loss': Array(9., dtype=float32)}
    """
    check_network("evaluate", net)
    check.is_positive("evaluate", "batch_size", batch_size)
    n = count_examples("evaluate: part", part)
    part = jax.tree.map(jnp.asarray, dict(part))

    metrics = {name: mean(f, name) for name, f in measures.items()}
    size = min(batch_size, n)
    if is_sharded := mesh is not None and size >= mesh.shape["data"]:
        size -= size % mesh.shape["data"]

    def add_batch(totals: Any, start: jax.Array) -> tuple[Any, None]:
        # The last batch starts earlier if it would be too short, so that one size is compiled. The mask leaves out
        # the examples that were counted before.
        first = jnp.minimum(start, n - size)
        batch = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, size), part)
        if mesh is not None and is_sharded:
            batch = shard_batch(batch, mesh)
        mask = first + jnp.arange(size) >= start if n % size else None
        prediction, _ = net.apply(params, state, batch["x"], train=False)
        return {
            name: m.update(totals[name], prediction, batch["y"], mask) for name, m in metrics.items()
        }, None

    totals = {name: m.init() for name, m in metrics.items()}
    totals, _ = jax.lax.scan(add_batch, totals, jnp.arange(0, n, size))
    return {name: m.result(totals[name]) for name, m in metrics.items()}
