"""Reads batches ahead: a thread puts them on the device while the step before them is computed."""

import base64
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from fnnet.train.batches import count_examples
from fnnet.train.step import Batch

AHEAD = 2  # batches on the device before their turn


class PrefetchedBatch(NamedTuple):
    """A batch, in memory and on the device."""

    as_read: Batch
    on_device: Batch
    position: dict[str, Any] | None  # of the iterator after this batch, for JSON; None where it has none


def has_position(it: Iterator[Batch]) -> bool:
    """Whether an iterator can say where it is, and resume there."""
    return hasattr(it, "get_state") and hasattr(it, "set_state")


def prefetch(
    batches: Iterable[Batch], put: Callable[[Batch], Batch], position: dict[str, Any] | None
) -> Iterator[PrefetchedBatch]:
    """Batch after batch, pass after pass, without end.

    Args:
        batches: an iterable of dicts of x and y.
        put: puts a batch on the device.
        position: of the iterator, where to start; None for the beginning.

    Raises:
        ValueError: a batch is not a dict of x and y, there is no batch, or an iterator ends that cannot start again.
    """
    it = iter(batches)
    passes, count = 0, 0
    # Each thread has its own settings of these.
    x64, device = jax.config.jax_enable_x64, jax.config.jax_default_device  # type: ignore[attr-defined]
    if position is not None:
        passes = position["passes"]
        it.set_state(decode_state(position["state"]))  # type: ignore[attr-defined]

    def fetch() -> PrefetchedBatch:
        nonlocal it, passes, count
        try:
            batch = next(it)
        except StopIteration:
            again = iter(batches)
            if again is it or (count == 0 and position is None):
                raise ValueError(
                    f"fit: train ended after {count} batches and cannot start again, since it is an iterator; wanted "
                    "an iterable such as fn.data.stream, or fewer steps"
                    if count
                    else "fit: train has no batches"
                ) from None
            it, passes, count = again, passes + 1, 0
            try:
                batch = next(it)
            except StopIteration:
                raise ValueError("fit: train has no batches") from None
        count += 1
        count_examples("fit: a batch of train", batch)
        # A copy, since an iterator may write the next batch into the same arrays before the step has read them.
        batch = jax.tree.map(lambda a: np.array(a) if isinstance(a, np.ndarray) else a, dict(batch))
        state = None
        if hasattr(it, "get_state"):
            state = {"passes": passes, "state": encode_state(it.get_state())}
        with jax.enable_x64(x64), jax.default_device(device):
            return PrefetchedBatch(batch, put(batch), state)

    # One thread, so that the batches keep their order.
    with ThreadPoolExecutor(1, thread_name_prefix="fnnet-prefetch") as thread:
        pending = deque(thread.submit(fetch) for _ in range(AHEAD))
        try:
            while True:
                yield pending.popleft().result()
                pending.append(thread.submit(fetch))
        finally:
            for future in pending:
                future.cancel()


def encode_state(state: Any) -> Any:
    """An iterator's state for JSON, which has no bytes."""
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else state


def decode_state(state: Any) -> Any:
    """The state as the iterator takes it, from JSON."""
    is_bytes = isinstance(state, dict) and set(state) == {"base64"}
    return base64.b64decode(state["base64"]) if is_bytes else state
