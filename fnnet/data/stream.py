"""Batches out of files larger than memory, read ahead by grain, from a position that can be saved."""

import functools
import sys
import threading
from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from fnnet import check
from fnnet.data.read import Read, of_arrays, of_single_ones


class Order(NamedTuple):
    """What the order of the batches depends on, and nothing else does."""

    examples: int  # how many there are
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool


class Stream:
    """Batches of a data set, epoch after epoch; `stream` makes it. Each `iter` begins at the first batch.

    Attributes:
        order: what the order of the batches depends on.
        batches_per_epoch: batches in an epoch, a short last one among them.
        epochs: how many, or None: without end.
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
    """The batches of a `Stream`, and the position among them."""

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
            # grain has let go of this batch, and would hand out the one after it next.
            self._batches.set_state(self._position)
            raise
        self._position = self._batches.get_state()
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position after the batch handed out last, whatever was read ahead; `json.dumps` takes it."""
        return {"grain": self._position, "order": self._order._asdict()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on behind the batch at which `get_state` returned this state, in another process maybe.

        Raises:
            ValueError: it is no such state, that of a stream with another order of batches, or behind the
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
                f"{', '.join(f'{name}={here[name]}' for name in differ)}; make the stream as it was made then"
            )
        try:
            self._batches.set_state(dict(state["grain"]))
        except IndexError as exc:
            self._batches.set_state(self._position)
            raise ValueError(
                f"stream: the position {state['grain']} lies behind the last epoch; make the stream "
                "with more epochs"
            ) from exc
        self._position = self._batches.get_state()

    def close(self) -> None:
        """Ends the threads that read ahead."""
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
    """Batches of NumPy arrays for a training loop, read ahead in threads: of files, memory holds no more.

    Shuffled, epoch e goes through the examples in the order of a permutation drawn from (seed, e).

    Args:
        examples: dict, or nested dicts, of arrays with one leading axis, such as `open_arrays` returns; or
            anything with `len` and `examples[i]`, a dict of the arrays of example i, such as a
            `grain.MapDataset` or a list. Up to `prefetch` threads call that at once.
        batch_size: examples a batch, those of all processes together.
        seed: of the permutations, 0 or more.
        shuffle: whether each epoch is a new permutation, which is in memory, 4 bytes an example; False takes
            the examples as they come, for validation.
        epochs: how often to go through the examples; None: without end.
        drop_last: whether the n % batch_size examples left over at an epoch's end are dropped, or else handed
            out as a shorter batch. By default they are dropped if shuffled, since they are others in each
            epoch, and handed out if not.
        prefetch: batches read ahead, each in a thread of its own; 0: none. Two hide the reading behind the
            computation; slow disks want more.
        shard: (index, count) of this process among several, such as
            `(jax.process_index(), jax.process_count())`: it reads its own batch_size / count examples of each
            batch, in order, so that the processes together have the batch that one alone would have.

    Returns:
        An iterable of batches that begins with the first one at each `iter`. Its iterator has `get_state`,
        for the position as a small dict that JSON takes, and `set_state`, which goes on there with the same
        bits, whatever `epochs`, `prefetch` and `shard` are now. An error while reading does not move it.

    Raises:
        ImportError: grain is not installed.
        TypeError, ValueError: examples are none of the above, or there are none; a size is no positive int;
            no batch in an epoch; batches that do not divide by `count`.
        OSError: at `next`, where a file that is mapped has gone or has become shorter.

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
        import grain  # noqa: F401  here, so that a missing one is known before the first batch
    except ImportError as exc:
        raise ImportError(
            "stream: grain is missing, which reads the batches; pip install 'fnnet[data]'"
        ) from exc

    check.is_positive("stream", "batch_size", batch_size)
    if epochs is not None:
        check.is_positive("stream", "epochs", epochs)
    for name, value in (("seed", seed), ("prefetch", prefetch)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"stream: {name}={value!r}, wanted an int")
        check.between("stream", name, value, 0)
    is_pair = isinstance(shard, tuple) and len(shard) == 2 and all(isinstance(i, Integral) for i in shard)
    if not (is_pair and 0 <= shard[0] < shard[1]):
        raise ValueError(f"stream: shard={shard}, wanted (index, count) with 0 <= index < count")
    count = shard[1]

    n, read = of_arrays(examples) if isinstance(examples, Mapping) else of_single_ones(examples)
    drop_last = shuffle if drop_last is None else drop_last
    order = Order(n, int(batch_size), int(seed), bool(shuffle), bool(drop_last))  # of what JSON takes
    if order.drop_last and n < batch_size:
        raise ValueError(
            f"stream: batch_size={batch_size}, wanted {n} at most, the examples there are, or drop_last=False"
        )
    sizes = {batch_size} if n >= batch_size else set()
    if n % batch_size and not order.drop_last:
        sizes.add(n % batch_size)
    if any(size % count for size in sizes):
        raise ValueError(
            f"stream: batches of {' and '.join(map(str, sorted(sizes)))} examples, wanted multiples of "
            f"{count}, the processes that share them: another batch_size, or drop_last=True"
        )
    return Stream(read, order, epochs, int(prefetch), shard)


class _Batches:
    """What grain reads from: all the batches of all the epochs, by number."""

    def __init__(
        self, read: Read, order: Order, per_epoch: int, epochs: int | None, shard: tuple[int, int]
    ) -> None:
        self._read, self._order, self._per_epoch, self._shard = read, order, per_epoch, shard
        self._length = sys.maxsize if epochs is None else epochs * per_epoch
        # Two, since reading ahead crosses the end of an epoch; the lock, since all threads cross it at once.
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
