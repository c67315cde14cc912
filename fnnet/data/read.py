"""How `stream` reads a batch: of arrays, files among them, or of a source of single examples."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fnnet import check

Read = Callable[[np.ndarray], Any]  # indices of examples -> a batch, in memory


def of_arrays(examples: Mapping[str, Any]) -> tuple[int, Read]:
    """The number of examples in arrays, and the function that reads a batch of them."""
    arrays = jax.tree.map(np.asarray, dict(examples))
    leading = {a.shape[:1] for a in jax.tree.leaves(arrays)}
    if len(leading) != 1 or leading <= {(), (0,)}:
        raise ValueError(
            f"stream: examples are {check.describe(examples)}, wanted arrays with one leading axis, that of "
            "the examples, of one size that is not 0"
        )
    files: dict[str, int] = {}  # bytes of the files that the arrays are in
    for a in map(_mapped, jax.tree.leaves(arrays)):
        if a is not None and a.filename is not None:
            path = str(a.filename)
            files[path] = max(files.get(path, 0), _size(path), a.offset + a.nbytes)

    def read(indices: np.ndarray) -> Any:
        # To read from a map beyond the end of its file kills the process without a word. So does, still, a
        # file that is cut off during the read; pread would not, but takes 210 us in place of 65 (128 x 3 KB).
        for path, size in files.items():
            now = _size(path)
            if now < size:
                raise OSError(
                    f"stream: {path} has become shorter, {now} bytes of {size}; bring the file back, and "
                    "resume"
                )
        return jax.tree.map(lambda a: a[indices], arrays)

    return leading.pop()[0], read


def _mapped(a: np.ndarray | None) -> np.memmap | None:
    """The memory map that an array is, or is a view of."""
    while a is not None and not isinstance(a, np.memmap):
        a = getattr(a, "base", None)
    return a


def _size(path: str) -> int:
    """Bytes of a file that has to be there."""
    try:
        return Path(path).stat().st_size
    except OSError as exc:
        raise OSError(exc.errno, f"stream: {exc.strerror}; bring the file back, and resume", path) from exc


def of_single_ones(examples: Any) -> tuple[int, Read]:
    """The number of examples in a source of single ones, and the function that reads a batch of them."""
    if isinstance(examples, tuple) or not (hasattr(examples, "__len__") and hasattr(examples, "__getitem__")):
        raise TypeError(
            f"stream: examples are {check.describe(examples)}, wanted a dict of arrays, such as data.train, "
            "or something with len() and [i], such as a grain.MapDataset"
        )
    n = len(examples)
    if not 0 < n < sys.maxsize:
        raise ValueError(
            f"stream: {n} examples, wanted one at least, and no .repeat() without end: see epochs"
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
                f"stream: examples {indices} are of different shapes or names, wanted the same for all"
            )
            raise

    one(0)  # known now, rather than at the first batch
    return n, read
