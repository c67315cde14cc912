"""Several processes that train as one: what each finds out by itself, all of them must go by."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def all_gather(numbers: Sequence[float]) -> np.ndarray:
    """The numbers of every process, float32[processes, numbers], in each of them."""
    mine = np.array(numbers, np.float32)
    if jax.process_count() == 1:
        return mine[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(mine))


@contextmanager
def raise_together(function: str, kind: type[Exception] = RuntimeError) -> Iterator[None]:
    """All processes leave the block together, by an exception if one has failed: none waits for ever.

    In the others it is one of this kind.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as exc:
        if jax.process_count() == 1:
            raise
        error = exc
    failed = np.flatnonzero(all_gather([error is not None]))
    if error is None and failed.size:
        error = kind(f"{function}: it failed in process {failed[0]}, which says why")
    if error is not None:
        raise error


def check_same_on_all_processes(settings: Mapping[str, Any]) -> None:
    """Raises in all processes where what they were given differs: they would train apart, or wait for ever."""
    numbers = [zlib.crc32(repr(value).encode()) % 2**24 for value in settings.values()]  # which float32 holds
    of_all = all_gather(numbers)
    if differ := [name for name, column in zip(settings, of_all.T, strict=True) if np.ptp(column)]:
        name = differ[0]
        raise ValueError(
            f"fit: {name} is not the same in all processes, {settings[name]!r} in process {jax.process_index()}: call "
            "fit alike in each"
        )


def local_copy(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays whole, and this process's own: an operation on those of all would wait for the others."""
    if mesh is None:
        return tree
    whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    return jax.tree.map(lambda a: a.addressable_data(0), whole)
