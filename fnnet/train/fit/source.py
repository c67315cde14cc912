"""Where `fit` takes its batches from: examples in memory, or an iterable of batches; and steps on them."""

import itertools
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnnet import check
from fnnet.train.batches import count_examples, epoch_order
from fnnet.train.checkpoint.files import CheckpointError
from fnnet.train.compiler import options
from fnnet.train.devices.sharding import shard_batch
from fnnet.train.fit.prefetch import Fed, decoded, feed, has_position
from fnnet.train.fit.program import Guarded, Keys, Loop, make_advance
from fnnet.train.step import Batch

CAPACITY = 1000  # steps in one call of the compiled program, at most
STREAMED = 16  # the same for batches from an iterable, which are kept until their steps are known to be good

Seen = dict[str, np.ndarray]  # the numbers of some steps, by name


class Source(NamedTuple):
    """Batches, and what training needs to know of them."""

    shapes: Batch  # of a batch of all processes, jax.ShapeDtypeStructs
    steps_per_epoch: int | None  # None where it is not known
    identity: dict[str, Any]  # what tells this data from other data, for JSON
    capacity: int  # steps in one call, at most
    order: jax.Array  # `Loop.order` before the first step
    seek: Callable[[Any], None]  # to a position, before the first call
    has_position: bool  # whether it can say where it stands, and go on from there
    position: Callable[[], Any]  # behind the last step, for JSON; None where it follows from the step
    # (how a loop is compiled, where it lies) -> (loop, keys, steps) -> (loop, the numbers of the steps taken)
    compile: Callable[[Guarded, Any], Callable[[Loop, Keys, int], tuple[Loop, Seen]]]
    batch_at: Callable[[Keys, int], Batch | None]  # of a step; None where it is not at hand


def in_memory(train: Mapping[str, Any], batch_size: int, mesh: Mesh | None) -> Source:
    """Examples on the device, each epoch a permutation of them."""
    n = count_examples("fit: train", train)
    if batch_size > n:
        raise ValueError(f"fit: batch_size={batch_size}, wanted {n} at most, the examples there are")
    batch_size = int(batch_size)  # NumPy's is none for JSON
    if mesh is not None and batch_size % mesh.shape["data"]:
        raise ValueError(
            f"fit: batch_size={batch_size}, wanted a multiple of {mesh.shape['data']}, the size of axis 'data' of the "
            f"mesh {dict(mesh.shape)}"
        )
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    examples = on_each_device("train", train, mesh)

    def compile(guarded: Guarded, lies: Any) -> Callable[[Loop, Keys, int], tuple[Loop, Seen]]:
        place = (lambda batch: batch) if mesh is None else (lambda batch: shard_batch(batch, mesh))
        advance = jax.jit(
            make_advance(guarded, batch_size, CAPACITY, place),
            donate_argnums=0,
            out_shardings=(lies, whole),
            compiler_options=options(),
        )

        def run(loop: Loop, keys: Keys, steps: int) -> tuple[Loop, Seen]:
            before = int(loop.now.step)
            loop, seen = advance(loop, examples, keys, np.int32(steps))
            after, halted, seen = jax.device_get((loop.now.step, loop.halted, seen))
            return loop, {name: values[: after + halted - before] for name, values in seen.items()}

        return run

    def batch_at(keys: Keys, step: int) -> Batch:
        begin = step % (n // batch_size) * batch_size
        chosen = epoch_order(keys.order, step, n, batch_size)[begin : begin + batch_size]
        # Of this process's own copy: an operation on all processes' would wait for them.
        return jax.tree.map(lambda a: np.asarray(a.addressable_data(0)[chosen]), examples)

    return Source(
        shapes=jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), examples),
        steps_per_epoch=n // batch_size,
        identity={
            "batch_size": batch_size,
            "examples": check.describe(examples),
            "digest": _digest(train),
        },
        capacity=CAPACITY,
        order=jnp.zeros(n, jnp.int32),
        seek=lambda position: None,
        has_position=True,
        position=lambda: None,
        compile=compile,
        batch_at=batch_at,
    )


def on_each_device(name: str, part: Mapping[str, Any], mesh: Mesh | None) -> Any:
    """A part of the data, whole on each device of the mesh."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, dict(part))
    try:
        return jax.device_put(dict(part), NamedSharding(mesh, PartitionSpec()))
    except AssertionError as error:
        raise ValueError(
            f"fit: {name} is not the same in all processes, wanted the same dict in each, or an iterable of each one's "
            "share of the batches"
        ) from error


def streamed(train: Iterable[Batch], mesh: Mesh | None) -> Source:
    """Batches as an iterable hands them out."""
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
    if it is train:  # what was looked at must not be lost
        if has_position(it):
            it.set_state(begin)  # type: ignore[attr-defined]
        else:
            train = itertools.chain([first], it)

    def put(batch: Batch) -> Batch:
        return jax.tree.map(jnp.asarray, dict(batch)) if mesh is None else shard_batch(dict(batch), mesh)

    several = mesh is not None and jax.process_count() > 1
    shapes = jax.eval_shape(put, first) if mesh is None else jax.tree.map(_shape, put(first))
    fed: Any = None
    position: Any = None
    last: dict[int, Batch] = {}

    def seek(to: Any) -> None:
        nonlocal position
        position = to
        if to is None:
            return
        try:
            iter(train).set_state(decoded(to["state"]))  # type: ignore[attr-defined]
        except Exception as error:  # before the first step, rather than at it
            raise CheckpointError(
                f"fit: train does not go on where the checkpoint stands: {error}"
            ) from error

    def compile(guarded: Guarded, lies: Any) -> Callable[[Loop, Keys, int], tuple[Loop, Seen]]:
        def one(
            loop: Loop, batch: Batch, keys: Keys, lost: Any
        ) -> tuple[Loop, dict[str, jax.Array], jax.Array]:
            # Steps are under way before the host has seen that one before them halted, or that a process has no batch.
            is_lost = jnp.zeros([], bool) if lost is None else jnp.any(lost)
            _, shapes = jax.eval_shape(guarded, loop, batch, keys)
            nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            loop, seen = jax.lax.cond(
                loop.halted | is_lost, lambda: (loop, nothing), lambda: guarded(loop, batch, keys)
            )
            return loop, seen, is_lost

        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        compiled = jax.jit(
            one, donate_argnums=0, out_shardings=(lies, whole, whole), compiler_options=options()
        )

        def tell(is_lost: bool) -> jax.Array | None:
            """To the other processes, by the next step: they would wait for ever for one that does not take it."""
            if mesh is None or not several:
                return None
            mine = np.full(mesh.local_mesh.size, is_lost)
            return jax.make_array_from_process_local_data(
                NamedSharding(mesh, PartitionSpec(mesh.axis_names)), mine
            )

        well = tell(False)

        def run(loop: Loop, keys: Keys, steps: int) -> tuple[Loop, Seen]:
            nonlocal fed, position
            if fed is None:
                fed = feed(train, put, position)
            before, rows, lost = int(loop.now.step), [], well
            last.clear()
            error: Exception | None = None
            batch: Fed | None = None
            for i in range(steps):
                try:
                    batch = batch if error else next(fed)
                except Exception as exc:
                    if not several:
                        raise
                    error, lost = exc, tell(True)
                device = put(first) if batch is None else batch.device
                loop, seen, is_lost = compiled(loop, device, keys, lost)
                rows.append(seen)
                if batch is not None and not error:
                    last[before + i], position = batch.host, batch.position
            after, halted, rows, is_lost = jax.device_get((loop.now.step, loop.halted, rows, is_lost))
            if is_lost:
                raise error or RuntimeError("fit: another process has no batch of train, and says why")
            taken = after + halted - before
            return loop, {name: np.stack([row[name] for row in rows[:taken]]) for name in rows[0]}

        return run

    return Source(
        shapes=shapes,
        steps_per_epoch=getattr(train, "batches_per_epoch", None),
        identity={"batch_size": jax.tree.leaves(shapes)[0].shape[0], "examples": "batches of an iterable"},
        capacity=STREAMED,
        order=jnp.zeros(0, jnp.int32),
        seek=seek,
        has_position=has_position(it),
        position=lambda: position,
        compile=compile,
        batch_at=lambda keys, step: last.get(step),
    )


def _shape(a: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype)


def _digest(train: Mapping[str, Any]) -> int:
    """A number that other data hardly has: of the first and last examples, for all of them would take time."""
    digest = 0
    for leaf in jax.tree.leaves(dict(train)):
        ends = np.concatenate([np.asarray(leaf[:16]), np.asarray(leaf[-16:])])
        digest = zlib.crc32(ends.tobytes(), digest)
    return digest
