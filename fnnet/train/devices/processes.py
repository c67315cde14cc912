"""Several processes that train as one: when one of them fails or decides something, all must follow."""

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
    """If the block raises in one process, it raises in all of them, so that none waits forever for another.

    Args:
        function: its name, for the message.
        kind: of the exception in the processes in which the block did not fail.
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
        error = kind(f"{function}: it failed in process {failed[0]}; see the error of that process")
    if error is not None:
        raise error


def check_same_on_all_processes(settings: Mapping[str, Any]) -> None:
    """Raises ValueError in all processes if their settings differ. They would train apart, or wait forever."""
    # Hashes of 24 bits, which float32 represents exactly.
    numbers = [zlib.crc32(repr(value).encode()) % 2**24 for value in settings.values()]
    gathered = all_gather(numbers)
    if differ := [name for name, column in zip(settings, gathered.T, strict=True) if np.ptp(column)]:
        name = differ[0]
        raise ValueError(
            f"fit: {name} is not the same in all processes, {settings[name]!r} in process {jax.process_index()}; "
            "call fit with the same arguments in each process"
        )


def local_copy(tree: Any, mesh: Mesh | None) -> Any:
    """The full arrays, as arrays of this process alone, on which it can compute without waiting for the others."""
    if mesh is None:
        return tree
    replicated = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)
    return jax.tree.map(lambda a: a.addressable_data(0), replicated)
