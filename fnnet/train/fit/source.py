"""Where `fit` takes its batches from: examples in memory, or an iterable of batches."""

import math
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from fnnet.data.stream import Stream
from fnnet.train.fit.source_in_memory import MemorySource, make_memory_source
from fnnet.train.fit.source_of_batches import BatchesSource, make_batches_source

# Both have the same attributes and methods:
#   shapes           of a batch of all processes, jax.ShapeDtypeStructs
#   steps_per_epoch  None where it is not known
#   identity         dict for JSON that tells this data from other data
#   capacity         most steps in one call of the compiled program
#   order            `LoopState.order` before the first step
#   has_position     whether it can say where it is in the data, and resume there
#   position()       after the last step, for JSON; None where it follows from the step
#   seek(position)   go there, before the first step
#   compile(guarded_step, shardings) -> advance(loop, keys, steps) -> (loop, the numbers of the steps taken)
#   batch_at(keys, step)  the batch of a step; None where it is no longer kept
Source = MemorySource | BatchesSource

DEFAULT_BATCH_SIZE = 32


def make_source(train: Any, batch_size: int | None, mesh: Mesh | None, debug: bool) -> Source:
    """The source for `train`: in memory for a dict of arrays, else an iterable.

    Raises:
        TypeError, ValueError: train is neither, it has no batches, or batch_size or debug do not go with it.
    """
    if isinstance(train, Mapping):
        return make_memory_source(train, batch_size or DEFAULT_BATCH_SIZE, mesh)
    if debug:
        raise ValueError(
            "fit: debug=True looks at each batch before its step, wanted train in memory: a dict of x and y"
        )
    if batch_size is not None:
        raise ValueError(
            "fit: batch_size is for train in memory; the batches of an iterable have their own size"
        )
    return make_batches_source(train, mesh)


def check_stream_is_long_enough(train: Any, steps: int) -> None:
    """Raises ValueError where a shuffled stream ends before training does, since its order would repeat."""
    if (
        isinstance(train, Stream)
        and train.order.shuffle
        and steps > (train.epochs or math.inf) * (train.batches_per_epoch)
    ):
        raise ValueError(
            f"fit: train is a shuffled stream of epochs={train.epochs}, {train.batches_per_epoch} batches each, and "
            f"{steps} are wanted: it would start again in the same order; make it with epochs=None"
        )
