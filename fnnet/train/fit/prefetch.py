"""Batches from an iterator, read and put on the device by a thread while the step before them is computed."""

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


class Fed(NamedTuple):
    """A batch, and what is known of it."""

    host: Batch  # as it came
    device: Batch  # as the step takes it
    position: dict[str, Any] | None  # of the iterator behind this batch, for JSON; None where it has none


def has_position(it: Iterator[Batch]) -> bool:
    """Whether an iterator can say where it stands, and go on from there."""
    return hasattr(it, "get_state") and hasattr(it, "set_state")


def feed(
    batches: Iterable[Batch], place: Callable[[Batch], Batch], position: dict[str, Any] | None
) -> Iterator[Fed]:
    """Batch after batch, pass after pass, without end, from a position on.

    Raises:
        ValueError: the batches are no dicts of x and y, or there is none; an iterator that cannot begin anew ends.
    """
    it = iter(batches)
    passes, got = 0, 0
    # Each thread has its own.
    x64, device = jax.config.jax_enable_x64, jax.config.jax_default_device  # type: ignore[attr-defined]
    if position is not None:
        passes = position["passes"]
        it.set_state(decoded(position["state"]))  # type: ignore[attr-defined]

    def fetch() -> Fed:
        nonlocal it, passes, got
        try:
            batch = next(it)
        except StopIteration:
            again = iter(batches)
            if again is it or (got == 0 and position is None):
                raise ValueError(
                    f"fit: train ended after {got} batches, and begins no new pass: it is an iterator, wanted an "
                    "iterable such as fn.data.stream, or fewer steps"
                    if got
                    else "fit: train has no batches"
                ) from None
            it, passes, got = again, passes + 1, 0
            try:
                batch = next(it)
            except StopIteration:
                raise ValueError("fit: train has no batches") from None
        got += 1
        count_examples("fit: a batch of train", batch)
        # A copy, for an iterator may fill the same arrays again, ahead of the step.
        batch = jax.tree.map(lambda a: np.array(a) if isinstance(a, np.ndarray) else a, dict(batch))
        state = None
        if hasattr(it, "get_state"):
            state = {"passes": passes, "state": _encoded(it.get_state())}
        with jax.enable_x64(x64), jax.default_device(device):
            return Fed(batch, place(batch), state)

    # One thread: the order stays.
    with ThreadPoolExecutor(1, thread_name_prefix="fnnet-feed") as thread:
        coming = deque(thread.submit(fetch) for _ in range(AHEAD))
        try:
            while True:
                yield coming.popleft().result()
                coming.append(thread.submit(fetch))
        finally:
            for future in coming:
                future.cancel()


def _encoded(state: Any) -> Any:
    return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else state


def decoded(state: Any) -> Any:
    """A state as the iterator takes it, from what was in JSON."""
    bytes_given = isinstance(state, dict) and set(state) == {"base64"}
    return base64.b64decode(state["base64"]) if bytes_given else state
