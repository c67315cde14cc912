"""A sweep on disk: what it was asked for, and one file for each chunk of trials that is done."""

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.train.sweep.program import to_host

SETTINGS = "sweep.json"
DECIDED = {"chunk", "mapping", "why", "program"}  # by the sweep itself


def read_settings(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the sweep in the folder, or None where there is none yet.

    Raises:
        ValueError: it is not the one that is asked for; the folder holds other files; the settings cannot be read.
    """
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found.keys() >= DECIDED:
            raise ValueError("settings are missing in it")
    except FileNotFoundError:
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise ValueError(
                f"sweep: {folder} has files in it and no {SETTINGS}, wanted a new folder, or that of a sweep"
            ) from None
        return None
    except ValueError as exc:
        raise ValueError(f"sweep: {path} is damaged ({exc}); give a new folder") from exc
    _compare(folder, found, asked)
    return found


def settle(
    folder: Path, found: Mapping[str, Any] | None, asked: Mapping[str, Any], decided: Mapping[str, Any]
) -> None:
    """Writes the settings, or raises ValueError where those that were found go with another program."""
    if found is not None:
        _compare(folder, found, decided)
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**asked, **decided}, indent=2) + "\n"
    write_atomically(folder / SETTINGS, lambda path: path.write_text(text, encoding="utf-8"))


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differ = [
        f"{name} was {_short(found.get(name))} and is {_short(value)}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if differ:
        raise ValueError(
            f"sweep: {folder} holds another sweep: {'; '.join(differ)}. Ask for the same one to go on with it, or "
            "give a new folder"
        )


def write_chunk(folder: Path, name: str, tree: Any) -> None:
    """A tree of NumPy arrays, as one file."""

    def write(path: Path) -> None:
        with path.open("wb") as f:
            arrays: dict[str, Any] = {k: _plain(a) for k, a in _by_path(tree).items()}
            np.savez(f, **arrays)

    write_atomically(folder / f"{name}.npz", write)


def read_chunk(folder: Path, name: str, like: Any) -> Any:
    """The tree of a chunk that is done, or None where it is not.

    Args:
        folder: of the sweep.
        name: of the chunk.
        like: the same tree, for its shapes and dtypes.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    path = folder / f"{name}.npz"
    if not path.exists():
        return None
    wanted = _by_path(like)
    try:
        with path.open("rb") as f, np.load(f) as file:
            found = {k: file[k] for k in file.files}
        if found.keys() != wanted.keys():
            raise ValueError(f"it holds {sorted(found)}, wanted {sorted(wanted)}")
        arrays = {k: found[k].view(a.dtype) if _is_extended(a.dtype) else found[k] for k, a in wanted.items()}
        for k, a in wanted.items():
            if (arrays[k].shape, arrays[k].dtype) != (a.shape, a.dtype):
                raise ValueError(f"{k} is {check.describe(arrays[k])}, wanted {check.describe(a)}")
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as exc:
        raise ValueError(
            f"sweep: {path} is damaged ({exc}); delete it, and its trials are run again"
        ) from exc
    return jax.tree.unflatten(jax.tree.structure(like), arrays.values())


def fingerprint(traced: Any) -> str:
    """Of what a program computes, its constants included, without what is another in each process."""
    closed = traced.jaxpr
    text = re.sub(r" at 0x[0-9a-f]+", "", str(closed))
    return digest((np.frombuffer(text.encode(), np.uint8), list(closed.consts)))


def digest(tree: Any) -> str:
    """Of the arrays of a tree, and of its structure."""
    leaves, structure = jax.tree.flatten(tree)
    sha = hashlib.sha256(str(structure).encode())
    for leaf in map(to_host, leaves):
        sha.update(f"{leaf.dtype}{leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).view(np.uint8).data if leaf.size else b"")
    return sha.hexdigest()[:16]


def _is_extended(dtype: Any) -> bool:
    """Of a type that a file of NumPy does not know, such as bfloat16."""
    return np.dtype(dtype).kind == "V"


def _plain(a: np.ndarray) -> np.ndarray:
    return a.view(f"u{a.dtype.itemsize}") if _is_extended(a.dtype) else a


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
