"""Batches from an iterable: one compiled step per batch, and the next batches are read meanwhile."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnnet import check
from fnnet.train.batches import count_examples
from fnnet.train.checkpoint.files import CheckpointError
from fnnet.train.compiler import options
from fnnet.train.devices.sharding import shard_batch
from fnnet.train.fit.guarded_step import GuardedStep, Keys, LoopState
from fnnet.train.fit.prefetch import PrefetchedBatch, decode_state, has_position, prefetch
from fnnet.train.fit.source_in_memory import Advance, Measured
from fnnet.train.step import Batch

CAPACITY = 16  # most steps in one call: their batches are kept until the steps are known to be good


@dataclass
class BatchesSource:
    """An iterable of batches, see `fnnet.train.fit.source.Source`."""

    train: Iterable[Batch]
    mesh: Mesh | None
    first: Batch  # the first batch of the iterable
    shapes: Batch
    steps_per_epoch: int | None
    identity: dict[str, Any]
    has_position: bool
    order: jax.Array
    capacity: int = CAPACITY
    prefetched: Iterator[PrefetchedBatch] | None = None  # from the first step on
    after: Any = None  # the iterator's position after the last batch, for JSON
    recent: dict[int, Batch] = field(default_factory=dict)  # batches of the last call, by step

    def position(self) -> Any:
        """Where the iterator is after the last step."""
        return self.after

    def seek(self, position: Any) -> None:
        """Starts from a position that a checkpoint has. An error is raised now rather than at the first step."""
        self.after = position
        if position is None:
            return
        try:
            iter(self.train).set_state(decode_state(position["state"]))  # type: ignore[attr-defined]
        except Exception as error:
            raise CheckpointError(f"fit: train does not resume where the checkpoint is: {error}") from error

    def batch_at(self, keys: Keys, step: int) -> Batch | None:
        """The batch of a step of the last call."""
        return self.recent.get(step)

    def compile(self, guarded_step: GuardedStep, shardings: Any) -> Advance:
        """A function that takes some steps, each one a call of the compiled step."""
        mesh = self.mesh
        replicated = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        compiled_step = jax.jit(
            _make_step_unless_lost(guarded_step),
            donate_argnums=0,
            out_shardings=(shardings, replicated, replicated),
            compiler_options=options(),
        )
        not_lost, lost = None, None
        if mesh is not None and jax.process_count() > 1:
            not_lost, lost = _flag_for_all(mesh, False), _flag_for_all(mesh, True)

        def advance(loop: LoopState, keys: Keys, steps: int) -> tuple[LoopState, Measured]:
            if self.prefetched is None:
                # Not a method: the generator would hold its source, and its thread would outlive the run.
                self.prefetched = prefetch(self.train, partial(_put, mesh=mesh), self.after)
            self.recent.clear()
            before, rows, is_lost = int(loop.now.step), [], None
            error: Exception | None = None
            batch: PrefetchedBatch | None = None
            for i in range(steps):
                try:
                    batch = batch if error else next(self.prefetched)
                except Exception as exc:
                    if lost is None:
                        raise
                    # The other processes would wait forever if this one did not take the step: it takes it with a
                    # batch that it has, and the flag makes all of them do nothing.
                    error = exc
                on_device = _put(self.first, mesh) if batch is None else batch.on_device
                loop, measured, is_lost = compiled_step(loop, on_device, keys, lost if error else not_lost)
                rows.append(measured)
                if batch is not None and not error:
                    self.recent[before + i], self.after = batch.as_read, batch.position
            after, halted, rows, is_lost = jax.device_get((loop.now.step, loop.halted, rows, is_lost))
            if is_lost:
                raise error or RuntimeError("fit: another process has no batch of train, and says why")
            taken = after + halted - before
            return loop, {name: np.stack([row[name] for row in rows[:taken]]) for name in rows[0]}

        return advance


def make_batches_source(train: Iterable[Batch], mesh: Mesh | None) -> BatchesSource:
    """Looks at the first batch. An iterator still gives each batch once, the first included."""
    try:
        it = iter(train)
    except TypeError:
        raise TypeError(
            f"fit: train is {check.describe(train)}, wanted a dict of x and y, or an iterable of such batches"
        ) from None
    begin = it.get_state() if it is train and has_position(it) else None  # type: ignore[attr-defined]
    first = next(it, None)
    if first is None:
        raise ValueError("fit: train has no batches")
    count_examples("fit: a batch of train", first)
    if it is train:  # the batch that was looked at must not be lost
        if has_position(it):
            it.set_state(begin)  # type: ignore[attr-defined]
        else:
            train = itertools.chain([first], it)
    if mesh is None:
        shapes = jax.eval_shape(lambda batch: _put(batch, None), first)
    else:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _put(first, mesh))
    return BatchesSource(
        train,
        mesh,
        first,
        shapes,
        steps_per_epoch=getattr(train, "batches_per_epoch", None),
        identity={"batch_size": jax.tree.leaves(shapes)[0].shape[0], "examples": "batches of an iterable"},
        has_position=has_position(it),
        order=jnp.zeros(0, jnp.int32),
    )


def _make_step_unless_lost(guarded_step: GuardedStep) -> Any:
    """A step that does nothing once a step before it has halted the loop, or where a process has no batch.

    Steps are under way before the results of those before them are known here.
    """

    def one(
        loop: LoopState, batch: Batch, keys: Keys, lost: Any
    ) -> tuple[LoopState, dict[str, jax.Array], jax.Array]:
        is_lost = jnp.zeros([], bool) if lost is None else jnp.any(lost)
        _, shapes = jax.eval_shape(guarded_step, loop, batch, keys)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        loop, measured = jax.lax.cond(
            loop.halted | is_lost, lambda: (loop, nothing), lambda: guarded_step(loop, batch, keys)
        )
        return loop, measured, is_lost

    return one


def _flag_for_all(mesh: Mesh, flag: bool) -> jax.Array:
    """A flag of this process that the compiled step combines with those of all other processes."""
    mine = np.full(mesh.local_mesh.size, flag)
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(mesh.axis_names)), mine)


def _put(batch: Batch, mesh: Mesh | None) -> Batch:
    """The batch on the device, or its share on each device of the mesh."""
    return jax.tree.map(jnp.asarray, dict(batch)) if mesh is None else shard_batch(dict(batch), mesh)
