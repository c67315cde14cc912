"""The evaluation of `fit`: over a part in memory as one program, or over batches as they come."""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample, mean
from fnnet.train.batches import count_examples
from fnnet.train.compiler import options
from fnnet.train.devices.processes import all_gather, raise_together
from fnnet.train.devices.sharding import shard_batch
from fnnet.train.evaluate import evaluate
from fnnet.train.fit.source import on_each_device
from fnnet.train.step import Batch


def make_evaluation(
    net: Layer, measures: Mapping[str, PerExample | Metric], valid: Any, batch_size: int, mesh: Mesh | None
) -> Callable[[Params, State], dict[str, float]]:
    """A function of params and state: the losses and metrics of the validation part, and the norm of the params."""
    metrics = {name: mean(f, name) for name, f in measures.items()}
    norm = jax.jit(optax.tree.norm)

    def named(scores: Mapping[str, Any], norm: jax.Array) -> dict[str, float]:
        scores, norm = jax.device_get((dict(scores), norm))
        shown = {f"valid_{name}": np.asarray(value).tolist() for name, value in scores.items()}
        return shown | {"params_norm": float(norm)}

    if valid is None:
        return lambda params, state: named({}, norm(params))

    if isinstance(valid, Mapping):
        count_examples("fit: valid", valid)
        part = on_each_device("valid", valid, mesh)

        @partial(jax.jit, compiler_options=options())
        def score(params: Params, state: State, part: Any) -> Any:
            scores = evaluate(net, metrics, params, state, part, batch_size, mesh)
            return scores, optax.tree.norm(params)

        return lambda params, state: named(*score(params, state, part))

    @partial(jax.jit, compiler_options=options())
    def add(totals: Any, params: Params, state: State, batch: Batch, mask: Any) -> Any:
        prediction, _ = net.apply(params, state, batch["x"], train=False)
        return {name: m.update(totals[name], prediction, batch["y"], mask) for name, m in metrics.items()}

    def over_batches(params: Params, state: State) -> dict[str, float]:
        totals, batches = {name: m.init() for name, m in metrics.items()}, 0
        it = itertools.islice(iter(valid), getattr(valid, "batches_per_epoch", None))
        while True:
            with raise_together("fit"):
                if (batch := next(it, None)) is not None:
                    count_examples("fit: a batch of valid", batch)
            ended = all_gather([batch is None])
            if batch is None and ended.all():
                break
            if batch is None or ended.any():
                raise ValueError("fit: valid has more batches in one process than in another")
            batch, mask = _padded(dict(batch), mesh)
            if mesh is not None:
                batch, mask = shard_batch((batch, mask), mesh)
            totals, batches = add(totals, params, state, batch, mask), batches + 1
        if not batches:
            raise ValueError("fit: valid has no batches left: it must begin anew at each evaluation")
        scores = {name: m.result(totals[name]) for name, m in metrics.items()}
        return named(scores, norm(params))

    return over_batches


def _padded(batch: Batch, mesh: Mesh | None) -> tuple[Batch, Any]:
    """A batch whose examples the mesh divides, and which of them count, None where all do."""
    if mesh is None:
        return batch, None
    n, parts = len(jax.tree.leaves(batch)[0]), mesh.local_mesh.shape["data"]
    if n % parts == 0:
        return batch, None
    index = np.arange(n + -n % parts)
    return jax.tree.map(lambda a: np.asarray(a)[index % n], batch), index < n
