"""Batches from examples in memory: each epoch is a permutation of them, drawn inside the compiled program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnnet import check
from fnnet.train.batches import count_examples, epoch_order
from fnnet.train.compiler import options
from fnnet.train.devices.sharding import shard_batch
from fnnet.train.fit.guarded_step import GuardedStep, Keys, LoopState, make_advance
from fnnet.train.step import Batch

CAPACITY = 1000  # most steps in one call of the compiled program

Measured = dict[str, np.ndarray]  # the numbers of some steps, by name
Advance = Callable[[LoopState, Keys, int], tuple[LoopState, Measured]]


@dataclass(frozen=True)
class MemorySource:
    """Examples on the device, see `fnnet.train.fit.source.Source`."""

    examples: Any
    batch_size: int
    mesh: Mesh | None
    shapes: Batch
    steps_per_epoch: int
    identity: dict[str, Any]
    order: jax.Array
    capacity: int
    has_position: bool = True

    def position(self) -> None:
        """None: the position follows from the step."""

    def seek(self, position: None) -> None:
        """Nothing to do: the position follows from the step."""

    def compile(self, guarded_step: GuardedStep, shardings: Any) -> Advance:
        """A function that takes some steps in one call."""
        mesh = self.mesh
        replicated = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        place = (lambda batch: batch) if mesh is None else (lambda batch: shard_batch(batch, mesh))
        compiled = jax.jit(
            make_advance(guarded_step, self.batch_size, self.capacity, place),
            donate_argnums=0,
            out_shardings=(shardings, replicated),
            compiler_options=options(),
        )

        def advance(loop: LoopState, keys: Keys, steps: int) -> tuple[LoopState, Measured]:
            before = int(loop.now.step)
            loop, measured = compiled(loop, self.examples, keys, np.int32(steps))
            after, halted, measured = jax.device_get((loop.now.step, loop.halted, measured))
            return loop, {name: values[: after + halted - before] for name, values in measured.items()}

        return advance

    def batch_at(self, keys: Keys, step: int) -> Batch:
        """The batch of a step."""
        n = len(self.order)
        begin = step % self.steps_per_epoch * self.batch_size
        chosen = epoch_order(keys.order, step, n, self.batch_size)[begin : begin + self.batch_size]
        # From this process's own copy: an operation on arrays of all processes would wait for the others.
        return jax.tree.map(lambda a: np.asarray(a.addressable_data(0)[chosen]), self.examples)


def make_memory_source(train: Mapping[str, Any], batch_size: int, mesh: Mesh | None) -> MemorySource:
    """Puts the examples on the device, or on each device of the mesh."""
    n = count_examples("fit: train", train)
    if batch_size > n:
        raise ValueError(f"fit: batch_size={batch_size}, wanted at most {n}, the number of examples")
    batch_size = int(batch_size)  # JSON has no NumPy integers
    if mesh is not None and batch_size % mesh.shape["data"]:
        raise ValueError(
            f"fit: batch_size={batch_size}, wanted a multiple of {mesh.shape['data']}, the size of axis 'data' of the "
            f"mesh {dict(mesh.shape)}"
        )
    examples = put_on_each_device("train", train, mesh)
    return MemorySource(
        examples,
        batch_size,
        mesh,
        shapes=jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), examples),
        steps_per_epoch=n // batch_size,
        identity={"batch_size": batch_size, "examples": check.describe(examples)},
        order=jnp.zeros(n, jnp.int32),
        capacity=CAPACITY,
    )


def put_on_each_device(name: str, part: Mapping[str, Any], mesh: Mesh | None) -> Any:
    """A part of the data, all of it on each device of the mesh."""
    if mesh is None:
        return jax.tree.map(jnp.asarray, dict(part))
    try:
        return jax.device_put(dict(part), NamedSharding(mesh, PartitionSpec()))
    except AssertionError as error:
        raise ValueError(
            f"fit: {name} is not the same in all processes, wanted the same dict in each, or an iterable of each "
            "process's share of the batches"
        ) from error
