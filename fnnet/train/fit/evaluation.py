"""The evaluation of `fit`: over data in memory as one program, or over an iterable of batches; and its row."""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample, mean
from fnnet.train.batches import count_examples
from fnnet.train.compiler import options
from fnnet.train.devices.processes import all_gather, raise_together
from fnnet.train.devices.sharding import shard_batch
from fnnet.train.evaluate import evaluate
from fnnet.train.fit.source_in_memory import put_on_each_device
from fnnet.train.norm import euclidean_norm
from fnnet.train.step import Batch


def make_evaluation(
    net: Layer, measures: Mapping[str, PerExample | Metric], valid: Any, batch_size: int, mesh: Mesh | None
) -> Callable[[Params, State], dict[str, Any]]:
    """A function of params and state: the losses and metrics on the validation data, and the norm of the params.

    Args:
        net: the network.
        measures: losses and metrics by name.
        valid: dict of arrays, an iterable of batches, or None.
        batch_size: examples at once, where valid is a dict.
        mesh: devices, or None.

    Returns:
        `(params, state) -> {"valid_loss": ..., "params_norm": ...}`.
    """
    metrics = {name: mean(f, name) for name, f in measures.items()}
    norm = jax.jit(euclidean_norm)

    def to_python(scores: Mapping[str, Any], norm: jax.Array) -> dict[str, Any]:
        scores, norm = jax.device_get((dict(scores), norm))
        numbers = {f"valid_{name}": np.asarray(value).tolist() for name, value in scores.items()}
        return numbers | {"params_norm": float(norm)}

    if valid is None:
        return lambda params, state: to_python({}, norm(params))

    if isinstance(valid, Mapping):
        count_examples("fit: valid", valid)
        part = put_on_each_device("valid", valid, mesh)

        @partial(jax.jit, compiler_options=options())
        def score(params: Params, state: State, part: Any) -> Any:
            scores = evaluate(net, metrics, params, state, part, batch_size, mesh)
            return scores, euclidean_norm(params)

        return lambda params, state: to_python(*score(params, state, part))

    @partial(jax.jit, compiler_options=options())
    def add(totals: Any, params: Params, state: State, batch: Batch, mask: Any) -> Any:
        prediction, _ = net.apply(params, state, batch["x"], train=False)
        return {name: m.update(totals[name], prediction, batch["y"], mask) for name, m in metrics.items()}

    def over_batches(params: Params, state: State) -> dict[str, Any]:
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
            raise ValueError(
                "fit: valid has no batches left: wanted an iterable that starts again at each evaluation"
            )
        scores = {name: m.result(totals[name]) for name, m in metrics.items()}
        return to_python(scores, norm(params))

    return over_batches


def _padded(batch: Batch, mesh: Mesh | None) -> tuple[Batch, Any]:
    """A batch whose number of examples the mesh divides, and a mask of those that count, None where all do."""
    if mesh is None:
        return batch, None
    n, parts = len(jax.tree.leaves(batch)[0]), mesh.local_mesh.shape["data"]
    if n % parts == 0:
        return batch, None
    index = np.arange(n + -n % parts)
    return jax.tree.map(lambda a: np.asarray(a)[index % n], batch), index < n


def make_row(
    *,
    step: int,
    steps_per_epoch: int | None,
    seconds: float,
    examples_per_second: float,
    learning_rate: float | None,
    measured: Mapping[str, np.ndarray],
    scores: Mapping[str, Any],
    skipped: int | None,
) -> dict[str, Any]:
    """A row of the history, one line in history.jsonl.

    Args:
        step: steps taken.
        steps_per_epoch: None where it is not known.
        seconds: of training so far.
        examples_per_second: since the last row.
        learning_rate: of the next update; None where it is not known.
        measured: the numbers of the steps since the last row; of those that are finite the row has the mean.
        scores: of the evaluation.
        skipped: steps left out so far; None where none is.
    """
    finite = {name: values[np.isfinite(values)] for name, values in measured.items() if values.ndim == 1}
    row = {
        "step": step,
        "epoch": step / steps_per_epoch if steps_per_epoch else math.nan,
        "seconds": seconds,
        "examples_per_second": examples_per_second,
        "learning_rate": learning_rate,
        **{f"train_{name}": float(np.mean(values)) for name, values in finite.items() if values.size},
        **scores,
        "skipped": skipped,
    }
    return {name: value for name, value in row.items() if value is not None}
