"""Arrays in a folder, one .npy file each, read through memory maps, so that data may be larger than memory."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from fnnet import check
from fnnet.data.dataset import Examples

INDEX = "arrays.json"
FORMAT = "fnnet arrays"
VERSION = 1
NAME = re.compile(r"[A-Za-z0-9_-]+")  # of an array or a dict, which becomes that of a file or a folder
PATH = re.compile(rf"{NAME.pattern}(/{NAME.pattern})*")  # of an array in nested dicts
CHUNK = 1 << 24  # bytes copied at a time


class Kind(NamedTuple):
    """What is the same in all batches of an array."""

    dtype: np.dtype[Any]
    axes: tuple[int, ...]  # without the first, the examples


def save_arrays(
    folder: str | os.PathLike[str], examples: Mapping[str, Any] | Iterable[Mapping[str, Any]]
) -> None:
    """Writes arrays with equal leading axes to a new folder, completely or not at all.

    Each array becomes a .npy file that any program can read: `x.npy`, or `x/tokens.npy` for nested dicts. The file
    `arrays.json` has their names, shapes, dtypes and sizes. Dtypes that NumPy does not have, such as bfloat16, are
    stored as unsigned integers with the same bits. The folder is first written next to its final place, under a
    hidden name that ends in `.part`, and renamed when it is complete. If the process is killed, that folder is left
    behind.

    Args:
        folder: the folder to write. It must not exist. Its parents are created.
        examples: dict, or nested dicts, of arrays whose leading axis is the examples; or an iterable of such dicts,
            which are batches of any sizes. They are written one after the other, so that only one is in memory.

    Raises:
        FileExistsError: the folder exists.
        TypeError: examples has another form, or an array is not of numbers or booleans.
        ValueError: the leading axes differ, there is no example, a name cannot be that of a file, or the names,
            dtypes or other axes of a batch differ from those of the first one.
        OSError: the disk is full, or the folder cannot be written.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "squares"
        >>> fn.data.save_arrays(folder, ({"x": jnp.arange(i, i + 3.0), "y": jnp.ones(3)} for i in (0, 3)))
        >>> fn.data.open_arrays(folder)["x"]
        memmap([0., 1., 2., 3., 4., 5.], dtype=float32)
    """
    folder = check.local_path("save_arrays", "folder", folder)
    if os.path.lexists(folder):
        raise FileExistsError(f"save_arrays: {folder} exists; choose another folder, or remove it first")
    batches = [examples] if isinstance(examples, Mapping) else examples
    if not isinstance(batches, Iterable) or hasattr(batches, "dtype"):
        raise TypeError(
            f"save_arrays: got {check.describe(examples)}, wanted a dict of arrays or batches of them"
        )

    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        _write(part, batches)
        part.rename(folder)
    except BaseException as exc:
        shutil.rmtree(part, ignore_errors=True)
        exc.add_note(f"save_arrays: nothing was written to {folder}")
        raise


def open_arrays(folder: str | os.PathLike[str]) -> Examples:
    """Opens the arrays that `save_arrays` wrote, as read-only memory maps. Data is read only when it is used.

    Args:
        folder: the folder given to `save_arrays`.

    Returns:
        The dict, or nested dicts, of `np.memmap`, for `stream` or for slicing: `arrays["x"][:1000]`.

    Raises:
        FileNotFoundError: the folder, its arrays.json, or one of the files is missing.
        ValueError: a file has another length than when it was written, or is not what arrays.json says; arrays.json
            is damaged, or was not written by `save_arrays`, or by that of a newer fnnet.

    Example:
        See `save_arrays`.
    """
    folder = check.local_path("open_arrays", "folder", folder)
    index = folder / INDEX
    if not index.is_file():
        missing = f"has no {INDEX}" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(f"open_arrays: {folder} {missing}; wanted a folder that save_arrays wrote")
    try:
        found = json.loads(index.read_bytes())
    except ValueError as exc:
        raise ValueError(f"open_arrays: {index} is damaged ({exc}); write the folder again") from exc
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"open_arrays: {index} was not written by save_arrays; wanted a folder that was")
    if found.get("version") != VERSION:
        raise ValueError(
            f"open_arrays: {index} has version {found.get('version')}, this fnnet reads {VERSION}; "
            "update fnnet"
        )
    arrays: Examples = {}
    for path, (shape, dtype, size) in _entries(index, found).items():
        *above, name = path.split("/")
        inside = arrays
        for parent in above:
            inside = inside.setdefault(parent, {})
        inside[name] = _open(folder / f"{path}.npy", shape, dtype, size)
    return arrays


def _write(folder: Path, batches: Iterable[Mapping[str, Any]]) -> None:
    """Writes the files into an empty folder."""
    kinds: dict[str, Kind] = {}  # of the first batch
    files: dict[str, BinaryIO] = {}
    n = 0
    with ExitStack() as closing:
        for k, batch in enumerate(batches):
            arrays = dict(_flatten(batch, ""))
            leading = {a.shape[:1] for a in arrays.values()}
            if len(leading) != 1 or leading == {()}:
                raise ValueError(
                    f"save_arrays: batch {k} is {check.describe(batch)}, wanted arrays with equal "
                    "leading axes"
                )
            got = {path: Kind(a.dtype, a.shape[1:]) for path, a in arrays.items()}
            if k == 0:
                kinds = got
                for path, kind in kinds.items():
                    place = folder / f"{path}.npy"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    files[path] = closing.enter_context(place.open("xb"))
                    _write_header(files[path], kind, 0)
            if got != kinds:
                wanted = {path: np.empty((0, *kind.axes), kind.dtype) for path, kind in kinds.items()}
                raise ValueError(
                    f"save_arrays: batch {k} is {check.describe(batch)}, wanted names, dtypes and other "
                    f"axes as in the first batch: {check.describe(wanted)}"
                )
            for path, a in arrays.items():
                rows = max(1, CHUNK // max(1, a[:1].nbytes))
                for start in range(0, len(a), rows):
                    files[path].write(a[start : start + rows].tobytes())
            n += leading.pop()[0]
        if n == 0:
            raise ValueError("save_arrays: got no example, wanted at least one")

        entries = {}
        for path, kind in kinds.items():
            size = files[path].tell()
            files[path].seek(0)
            # This header has the same length as that for 0 examples: NumPy leaves room for the first axis to grow.
            _write_header(files[path], kind, n)
            entries[path] = {"shape": (n, *kind.axes), "dtype": kind.dtype.name, "bytes": size}
        index = closing.enter_context((folder / INDEX).open("xb"))
        index.write(json.dumps({"format": FORMAT, "version": VERSION, "arrays": entries}, indent=1).encode())
        for file in (*files.values(), index):
            file.flush()
            os.fsync(file.fileno())


def _flatten(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of nested dicts with their paths, such as "x/tokens"."""
    if not isinstance(tree, Mapping):
        raise TypeError(f"save_arrays: a batch is {check.describe(tree)}, wanted a dict of arrays")
    for name, child in tree.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"save_arrays: the name {name!r} cannot be that of a file; wanted letters, digits, _ and -"
            )
        path = f"{above}{name}"
        if isinstance(child, Mapping):
            yield from _flatten(child, f"{path}/")
            continue
        a = np.asarray(child)
        if not (a.dtype == bool or jnp.issubdtype(a.dtype, jnp.number)):
            raise TypeError(f"save_arrays: {path} is {check.describe(a)}, wanted numbers or booleans")
        yield path, a.astype(a.dtype.newbyteorder("="), copy=False)


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in the file: that of the array, or an unsigned integer for one that NumPy does not have."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.isbuiltin == 2 else dtype


def _write_header(file: BinaryIO, kind: Kind, n: int) -> None:
    """Writes the header of a .npy file with n examples."""
    descr = np.lib.format.dtype_to_descr(_stored(kind.dtype))
    header = {"descr": descr, "fortran_order": False, "shape": (n, *kind.axes)}
    np.lib.format.write_array_header_1_0(file, header)


def _entries(index: Path, found: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any], int]]:
    """Shape, dtype and bytes of each file, from the contents of arrays.json."""
    try:
        entries = found["arrays"]
        if not isinstance(entries, dict) or not entries or not all(map(PATH.fullmatch, entries)):
            raise ValueError("no names of arrays")
        return {
            path: (tuple(map(int, entry["shape"])), np.dtype(entry["dtype"]), int(entry["bytes"]))
            for path, entry in entries.items()
        }
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"open_arrays: {index} is damaged ({exc!r}); write the folder again") from exc


def _open(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> np.ndarray:
    """One array, as a memory map. The size is checked first: a map longer than its file would kill the process."""
    if not file.is_file():
        raise FileNotFoundError(f"open_arrays: {file} is missing; restore it, or write the folder again")
    found = file.stat().st_size
    if found != size:
        raise ValueError(f"open_arrays: {file} has {found} bytes, wanted {size}; write the folder again")
    try:
        a = np.load(file, mmap_mode="r")
    except ValueError as exc:
        raise ValueError(f"open_arrays: {file} is damaged ({exc}); write the folder again") from exc
    if a.shape != shape or a.dtype != _stored(dtype):
        raise ValueError(
            f"open_arrays: {file} is {check.describe(a)}, wanted {dtype}[{','.join(map(str, shape))}], as in "
            f"{INDEX}; write the folder again"
        )
    return a.view(dtype)
