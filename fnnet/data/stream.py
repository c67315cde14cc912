"""Batches from files larger than memory, read ahead by grain, with a position that can be saved."""

import functools
import sys
import threading
from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from fnnet import check
from fnnet.data.read import Read, arrays_reader, examples_reader


class Order(NamedTuple):
    """Everything that the order of the batches depends on."""

    examples: int  # their number
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool


class Stream:
    """Batches of a data set, epoch after epoch, made by `stream`. Each `iter` starts at the first batch.

    Attributes:
        order: everything that the order of the batches depends on.
        batches_per_epoch: number of batches in an epoch, including a shorter last one.
        epochs: number of epochs; None is endless.
    """

    def __init__(self, read: Read, order: Order, epochs: int | None, prefetch: int, shard: tuple[int, int]):
        whole, rest = divmod(order.examples, order.batch_size)
        self.order = order
        self.batches_per_epoch = whole + (rest > 0 and not order.drop_last)
        self.epochs = epochs
        self._read, self._prefetch, self._shard = read, prefetch, shard

    def __iter__(self) -> "StreamIterator":
        import grain

        options = grain.ReadOptions(num_threads=self._prefetch, prefetch_buffer_size=self._prefetch)
        batches = _Batches(self._read, self.order, self.batches_per_epoch, self.epochs, self._shard)
        return StreamIterator(iter(grain.MapDataset.source(batches).to_iter_dataset(options)), self.order)


class StreamIterator:
    """An iterator over the batches of a `Stream`, with a position that can be saved and restored."""

    def __init__(self, batches: Any, order: Order):
        self._batches, self._order = batches, order
        self._position = batches.get_state()

    def __iter__(self) -> "StreamIterator":
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except StopIteration:
            raise
        except BaseException:
            # grain has dropped this batch, and would give the next one at the next call.
            self._batches.set_state(self._position)
            raise
        self._position = self._batches.get_state()
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch that was returned, whatever was read ahead. It can be saved as JSON."""
        return {"grain": self._position, "order": self._order._asdict()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Resumes after the batch at which `get_state` returned this state, also in another process.

        Raises:
            ValueError: it is not such a state, it is of a stream with another order of batches, or it is after the
                last epoch.
        """
        shape = {"grain": set(self._position), "order": set(Order._fields)}
        if not isinstance(state, Mapping) or shape != {
            name: set(part) if isinstance(part, Mapping) else None for name, part in state.items()
        }:
            raise ValueError(
                f"stream: the position is {check.describe(state)}, wanted what the get_state of a stream's "
                "iterator returned"
            )
        here, there = self._order._asdict(), state["order"]
        if differ := [name for name in here if here[name] != there[name]]:
            raise ValueError(
                "stream: the position is one in another order of batches, with "
                f"{', '.join(f'{name}={there[name]}' for name in differ)}, here "
                f"{', '.join(f'{name}={here[name]}' for name in differ)}; use the same arguments as then"
            )
        try:
            self._batches.set_state(dict(state["grain"]))
        except IndexError as exc:
            self._batches.set_state(self._position)
            raise ValueError(
                f"stream: the position {state['grain']} is after the last epoch; make the stream "
                "with more epochs"
            ) from exc
        self._position = self._batches.get_state()

    def close(self) -> None:
        """Stops the threads that read ahead."""
        self._batches.close()


def stream(
    examples: Any,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    epochs: int | None = None,
    drop_last: bool | None = None,
    prefetch: int = 2,
    shard: tuple[int, int] = (0, 1),
) -> Stream:
    """Batches of NumPy arrays for a training loop, read ahead in threads. Of files, only these batches are in memory.

    If shuffled, epoch e goes through the examples in the order of a permutation drawn from (seed, e).

    Args:
        examples: dict, or nested dicts, of arrays with equal leading axes, such as those from `open_arrays`; or
            anything with `len` and `examples[i]`, which gives the dict of arrays of example i, such as a
            `grain.MapDataset` or a list. Up to `prefetch` threads call it at the same time.
        batch_size: examples per batch, over all processes together.
        seed: seed of the permutations, 0 or more.
        shuffle: whether each epoch is a new permutation, which takes 4 bytes of memory per example. False keeps the
            order of the examples, for validation.
        epochs: how often to go through the examples. None is endless.
        drop_last: whether to drop the n % batch_size examples left over at the end of an epoch, or to return them
            as a shorter batch. By default they are dropped if shuffled, since they differ from epoch to epoch, and
            returned if not.
        prefetch: number of batches read ahead, each in its own thread; 0 reads none ahead. Two hide the reading
            behind the computation. Slow disks need more.
        shard: (index, count) of this process, if there are several, such as
            `(jax.process_index(), jax.process_count())`. Each process reads its own batch_size / count examples of
            each batch, in order, so that together they have the same batch as a single process would.

    Returns:
        An iterable of batches that starts with the first one at each `iter`. Its iterator has `get_state`, which
        returns the position as a small dict that can be saved as JSON, and `set_state`, which resumes there with
        exactly the same batches, even if `epochs`, `prefetch` and `shard` have changed. An error while reading does
        not change the position.

    Raises:
        ImportError: grain is not installed.
        TypeError, ValueError: examples have another form, or there are none; a size is not a positive int; an epoch
            has no batch; `count` does not divide the size of a batch.
        OSError: at `next`, if a mapped file is missing or has become shorter.

    Example:
        >>> batches = iter(fn.data.stream({"x": jnp.arange(5)}, 2, shuffle=False))
        >>> next(batches)["x"], next(batches)["x"], next(batches)["x"]
        (array([0, 1], dtype=int32), array([2, 3], dtype=int32), array([4], dtype=int32))
        >>> position = batches.get_state()
        >>> resumed = iter(fn.data.stream({"x": jnp.arange(5)}, 2, shuffle=False))
        >>> resumed.set_state(position)
        >>> next(resumed)["x"]
        array([0, 1], dtype=int32)
    """
    try:
        import grain  # noqa: F401  here, so that it raises before the first batch if grain is missing
    except ImportError as exc:
        raise ImportError("stream: grain, which reads the batches, is missing; pip install grain") from exc

    check.is_positive("stream", "batch_size", batch_size)
    if epochs is not None:
        check.is_positive("stream", "epochs", epochs)
    for name, value in (("seed", seed), ("prefetch", prefetch)):
        check.integer("stream", name, value, "[0, inf)")
    check.flag("stream", "shuffle", shuffle)
    if drop_last is not None:
        check.flag("stream", "drop_last", drop_last)
    is_pair = (
        isinstance(shard, tuple)
        and len(shard) == 2
        and all(isinstance(i, Integral) and not isinstance(i, bool) for i in shard)
    )
    if not (is_pair and 0 <= shard[0] < shard[1]):
        raise ValueError(f"stream: shard={shard}, wanted (index, count) with 0 <= index < count")
    count = shard[1]

    n, read = arrays_reader(examples) if isinstance(examples, Mapping) else examples_reader(examples)
    drop_last = shuffle if drop_last is None else drop_last
    order = Order(n, int(batch_size), int(seed), shuffle, drop_last)  # only types that JSON has
    if order.drop_last and n < batch_size:
        raise ValueError(
            f"stream: batch_size={batch_size}, wanted at most {n}, the number of examples, or drop_last=False"
        )
    sizes = {batch_size} if n >= batch_size else set()
    if n % batch_size and not order.drop_last:
        sizes.add(n % batch_size)
    if any(size % count for size in sizes):
        raise ValueError(
            f"stream: batches of {' and '.join(map(str, sorted(sizes)))} examples, wanted multiples of "
            f"{count}, the number of processes: use another batch_size, or drop_last=True"
        )
    return Stream(read, order, epochs, int(prefetch), shard)


class _Batches:
    """The source that grain reads from: the batches of all epochs, by number."""

    def __init__(
        self, read: Read, order: Order, per_epoch: int, epochs: int | None, shard: tuple[int, int]
    ) -> None:
        self._read, self._order, self._per_epoch, self._shard = read, order, per_epoch, shard
        self._length = sys.maxsize if epochs is None else epochs * per_epoch
        # Two permutations, since reading ahead crosses the end of an epoch, and a lock, since all threads do so.
        self._permutation = functools.lru_cache(maxsize=2)(self._permute)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, k: int) -> Any:
        epoch, place = divmod(k, self._per_epoch)
        start = place * self._order.batch_size
        stop = min(start + self._order.batch_size, self._order.examples)
        index, count = self._shard
        share = (stop - start) // count
        own = slice(start + index * share, start + (index + 1) * share)
        if not self._order.shuffle:
            return self._read(np.arange(own.start, own.stop))
        with self._lock:
            permutation = self._permutation(epoch)
        return self._read(permutation[own])

    def _permute(self, epoch: int) -> np.ndarray:
        n = self._order.examples
        examples = np.arange(n, dtype=np.int32 if n <= 2**31 else np.int64)
        np.random.default_rng([self._order.seed, epoch]).shuffle(examples)
        return examples
