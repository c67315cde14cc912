"""Several processes that train as one: what each finds out by itself, all of them must go by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np


def gathered_from_all(numbers: Sequence[float]) -> np.ndarray:
    """The numbers of every process, float32[processes, numbers], in each of them."""
    mine = np.array(numbers, np.float32)
    if jax.process_count() == 1:
        return mine[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(mine))


@contextmanager
def together(function: str) -> Iterator[None]:
    """All processes leave the block together, by an exception if one has failed: none waits for ever."""
    error: Exception | None = None
    try:
        yield
    except Exception as exc:
        if jax.process_count() == 1:
            raise
        error = exc
    failed = np.flatnonzero(gathered_from_all([error is not None]))
    if error is None and failed.size:
        error = RuntimeError(f"{function}: it failed in process {failed[0]}, which says why")
    if error is not None:
        raise error
