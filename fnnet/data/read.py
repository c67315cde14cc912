"""How `stream` reads a batch: from arrays, which may be files, or from a source of single examples."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fnnet import check

Read = Callable[[np.ndarray], Any]  # indices of examples -> a batch, in memory


def arrays_reader(examples: Mapping[str, Any]) -> tuple[int, Read]:
    """(n, read): the number of examples in the arrays, and a function that reads a batch."""
    arrays = jax.tree.map(np.asarray, dict(examples))
    leading = {a.shape[:1] for a in jax.tree.leaves(arrays)}
    if len(leading) != 1 or leading <= {(), (0,)}:
        raise ValueError(
            f"stream: examples are {check.describe(examples)}, wanted arrays with equal leading axes, the number "
            "of examples, which is not 0"
        )
    files: dict[str, int] = {}  # the size in bytes of each file that the arrays are in
    for a in map(_mapped, jax.tree.leaves(arrays)):
        if a is not None and a.filename is not None:
            path = str(a.filename)
            files[path] = max(files.get(path, 0), _size(path), a.offset + a.nbytes)

    def read(indices: np.ndarray) -> Any:
        # Reading a map beyond the end of its file kills the process without a message, so the size is checked. A
        # file that is truncated during the read still does that. pread would not, but takes 210 us instead of 65
        # (128 x 3 KB).
        for path, size in files.items():
            now = _size(path)
            if now < size:
                raise OSError(
                    f"stream: {path} has become shorter, {now} bytes of {size}; restore the file, and resume"
                )
        return jax.tree.map(lambda a: a[indices], arrays)

    return leading.pop()[0], read


def _mapped(a: np.ndarray | None) -> np.memmap | None:
    """The memory map that an array is, or is a view of."""
    while a is not None and not isinstance(a, np.memmap):
        a = getattr(a, "base", None)
    return a


def _size(path: str) -> int:
    """The size of a file in bytes. Raises OSError if it is missing."""
    try:
        return Path(path).stat().st_size
    except OSError as exc:
        raise OSError(exc.errno, f"stream: {exc.strerror}; restore the file, and resume", path) from exc


def examples_reader(examples: Any) -> tuple[int, Read]:
    """(n, read): the number of examples in the source, and a function that reads a batch."""
    if isinstance(examples, tuple) or not (hasattr(examples, "__len__") and hasattr(examples, "__getitem__")):
        raise TypeError(
            f"stream: examples are {check.describe(examples)}, wanted a dict of arrays, such as data.train, "
            "or something with len() and [i], such as a grain.MapDataset"
        )
    n = len(examples)
    if not 0 < n < sys.maxsize:
        raise ValueError(
            f"stream: {n} examples, wanted at least one, and no endless .repeat(): use epochs instead"
        )

    def one(i: int) -> Any:
        example = examples[i]
        if not isinstance(example, Mapping):
            raise TypeError(f"stream: example {i} is {check.describe(example)}, wanted a dict of arrays")
        return example

    def read(indices: np.ndarray) -> Any:
        rows = [one(int(i)) for i in indices]
        try:
            return jax.tree.map(lambda *row: np.stack(row), *rows)
        except ValueError as exc:
            exc.add_note(
                f"stream: examples {indices} have different shapes or names, wanted the same for all"
            )
            raise

    one(0)  # raises now instead of at the first batch
    return n, read
