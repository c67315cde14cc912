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
from fnnet.train.batches import count_examples, order_at
from fnnet.train.feed import feed, has_position
from fnnet.train.loop import Guarded, Keys, Loop, make_advance
from fnnet.train.shard import spread
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
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    examples = jax.tree.map(jnp.asarray, dict(train)) if whole is None else jax.device_put(dict(train), whole)

    def compile(guarded: Guarded, lies: Any) -> Callable[[Loop, Keys, int], tuple[Loop, Seen]]:
        place = (lambda batch: batch) if mesh is None else (lambda batch: spread(batch, mesh))
        advance = jax.jit(
            make_advance(guarded, batch_size, CAPACITY, place), donate_argnums=0, out_shardings=(lies, whole)
        )

        def run(loop: Loop, keys: Keys, steps: int) -> tuple[Loop, Seen]:
            before = int(loop.now.step)
            loop, seen = advance(loop, examples, keys, np.int32(steps))
            after, halted, seen = jax.device_get((loop.now.step, loop.halted, seen))
            return loop, {name: values[: after + halted - before] for name, values in seen.items()}

        return run

    def batch_at(keys: Keys, step: int) -> Batch:
        begin = step % (n // batch_size) * batch_size
        chosen = order_at(keys.order, step, n, batch_size)[begin : begin + batch_size]
        return jax.tree.map(lambda a: a[chosen], examples)

    return Source(
        shapes=jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), examples),
        steps_per_epoch=n // batch_size,
        identity={"batch_size": batch_size, "examples": check.describe(examples), "digest": _digest(train)},
        capacity=CAPACITY,
        order=jnp.zeros(n, jnp.int32),
        seek=lambda position: None,
        has_position=True,
        position=lambda: None,
        compile=compile,
        batch_at=batch_at,
    )


def streamed(train: Iterable[Batch], mesh: Mesh | None) -> Source:
    """Batches as an iterable hands them out."""
    try:
        it = iter(train)
    except TypeError:
        raise TypeError(
            f"fit: train is {check.describe(train)}, wanted a dict of x and y, or an iterable of such batches"
        ) from None
    first = next(it, None)
    if first is None:
        raise ValueError("fit: train has no batches")
    n = count_examples("fit: a batch of train", first)
    if it is train and not has_position(it):
        train = itertools.chain([first], it)  # what was looked at must not be lost

    def put(batch: Batch) -> Batch:
        return jax.tree.map(jnp.asarray, dict(batch)) if mesh is None else spread(dict(batch), mesh)

    fed: Any = None
    position: Any = None
    last: dict[int, Batch] = {}

    def seek(to: Any) -> None:
        nonlocal position
        position = to

    def compile(guarded: Guarded, lies: Any) -> Callable[[Loop, Keys, int], tuple[Loop, Seen]]:
        def one(loop: Loop, batch: Batch, keys: Keys) -> tuple[Loop, dict[str, jax.Array]]:
            # Steps are under way before the host has seen that one before them halted.
            _, shapes = jax.eval_shape(guarded, loop, batch, keys)
            nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            return jax.lax.cond(loop.halted, lambda: (loop, nothing), lambda: guarded(loop, batch, keys))

        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        compiled = jax.jit(one, donate_argnums=0, out_shardings=(lies, whole))

        def run(loop: Loop, keys: Keys, steps: int) -> tuple[Loop, Seen]:
            nonlocal fed, position
            if fed is None:
                fed = feed(train, put, position)
            before, rows = int(loop.now.step), []
            last.clear()
            for i in range(steps):
                batch = next(fed)
                loop, seen = compiled(loop, batch.device, keys)
                rows.append(seen)
                last[before + i], position = batch.host, batch.position
            after, halted, rows = jax.device_get((loop.now.step, loop.halted, rows))
            taken = after + halted - before
            return loop, {name: np.stack([row[name] for row in rows[:taken]]) for name in rows[0]}

        return run

    return Source(
        shapes=jax.eval_shape(put, first) if mesh is None else jax.tree.map(_shape, put(first)),
        steps_per_epoch=getattr(train, "batches_per_epoch", None),
        identity={"batch_size": n, "examples": "batches of an iterable"},
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
