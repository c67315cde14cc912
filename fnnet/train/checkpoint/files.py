"""The files of a checkpoint: a record with the digest of each file is written last, and verified before reading."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

FORMAT = 1  # of about.json and the files beside it; a reader accepts its own format and older ones
UNFINISHED = (".saving-", ".removing-")  # hidden names of folders that are not checkpoints


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, not fnnet's, newer than this fnnet, or of another network."""


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints by step, ascending."""
    try:
        names = _names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {int(name[5:]): folder / name for name in names if re.fullmatch(r"step_\d{12}", name)}


def write_record(saving: Path, record: dict[str, Any]) -> None:
    """Flushes the files to the disk, and adds about.json: the record, versions, and each file's size and digest."""
    import fnnet

    files = {}
    for parent, _, names in os.walk(saving):
        for name in names:
            path = Path(parent, name)
            files[path.relative_to(saving).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
            flush(path)
    record = {"format": FORMAT, "fnnet": fnnet.__version__, "jax": jax.__version__, **record, "files": files}
    record["sha256"] = _sha256_of_record(record)
    (saving / "about.json").write_text(json.dumps(record, indent=1))
    flush(saving / "about.json")
    for parent, _, _ in os.walk(saving):
        flush(Path(parent))


def verify(path: Path) -> dict[str, Any]:
    """The record in about.json, after checking that all files are as they were written.

    Raises:
        CheckpointError: a file is missing or has changed.
    """
    damaged = "the checkpoint is damaged; restore it from a copy"
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file, wanted a folder; {damaged}")
    try:
        record = json.loads((path / "about.json").read_bytes())
    except FileNotFoundError:
        names = ", ".join(_names(path)[:5]) or "nothing"
        raise CheckpointError(
            f"{path} has no about.json, but {names}: it is damaged, or was not written by fnnet"
        ) from None
    except (ValueError, RecursionError) as exc:  # brackets in brackets, by the thousand
        raise CheckpointError(f"{path / 'about.json'} is not JSON ({exc}); {damaged}") from None
    if not isinstance(record, dict) or type(record.get("format")) is not int:
        raise CheckpointError(f"{path / 'about.json'} has no format number: it was not written by fnnet")
    if record["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {record['format']}, written by fnnet {record.get('fnnet')}; this one reads "
            f"format {FORMAT}: install that version, or a later one"
        )
    try:
        is_as_written = record.get("sha256") == _sha256_of_record(record) and _has_types(record)
    except RecursionError:
        is_as_written = False
    if not is_as_written:
        raise CheckpointError(f"{path / 'about.json'} has changed since it was written; {damaged}")
    if path.name != f"step_{record['step']:012d}":
        raise CheckpointError(
            f"{path} is of step {record['step']}, and has another name; rename it to its step"
        )
    for name, wanted in record["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {damaged}")
        if (size := file.stat().st_size) != wanted["bytes"]:
            raise CheckpointError(f"{file} has {size} bytes, wanted {wanted['bytes']}; {damaged}")
        if (digest := _sha256(file)) != wanted["sha256"]:
            raise CheckpointError(
                f"{file} has changed since it was written: SHA-256 {digest[:12]}..., wanted "
                f"{wanted['sha256'][:12]}...; {damaged}"
            )
    return record


def _has_types(record: Mapping[str, Any]) -> bool:
    """Whether the entries of a record are of the types that `write_record` and `save` give them."""
    files, leaves = record.get("files"), record.get("leaves")
    return (
        type(record.get("step")) is int
        and isinstance(record.get("about"), dict)
        and isinstance(files, dict)
        and all(isinstance(f, dict) and type(f.get("bytes")) is int for f in files.values())
        and all(isinstance(f.get("sha256"), str) for f in files.values())
        and isinstance(leaves, list)
        and all(isinstance(leaf, dict) and {"path", "array"} <= leaf.keys() for leaf in leaves)
        and all(isinstance(text, str) for leaf in leaves for text in leaf.values())
    )


def suggest_intact(paths: list[Path]) -> str:
    """The end of an error message: which other checkpoint is intact, and how to use it."""
    for path in reversed(paths):
        with suppress(CheckpointError, OSError):
            step = verify(path)["step"]
            return f"; step {step} is intact: pass step={step}, and move later ones away before the run saves again"
    return "; there is no other intact one" if paths else ""


def explain_empty(folder: Path) -> str:
    """The end of an error message: why there is no checkpoint in a folder."""
    if not folder.exists():
        return "there is no such folder"
    if not folder.is_dir():
        return "it is a file, wanted the folder that was given to save"
    names = _names(folder)
    if "about.json" in names:
        return f"it is a checkpoint itself; wanted the folder around it, {folder.parent}"
    if unfinished := [name for name in names if name.startswith(UNFINISHED)]:
        return f"a process was stopped before its first checkpoint was complete, and left {unfinished[0]}; start again"
    return f"it has {', '.join(names[:5])}, which fnnet did not write" if names else "it is empty"


def remove_unfinished(folder: Path) -> None:
    for name in _names(folder):
        if name.startswith(UNFINISHED):
            shutil.rmtree(folder / name, ignore_errors=True)


def flush(path: Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # some network file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


def check_free_space(folder: Path, size: int) -> None:
    """Raises OSError if the disk is too full, before orbax's threads fail one after the other."""
    disk = shutil.disk_usage(folder)
    needed = size + 2**16  # orbax's own, and about.json
    if disk.total and disk.free < needed:
        raise OSError(errno.ENOSPC, "", f"{needed:,} bytes are needed, {disk.free:,} are free")


def errno_of(error: BaseException) -> int | None:
    """The errno of an error. tensorstore, with which orbax writes, has it in the text of a ValueError."""
    if isinstance(error, OSError):
        return error.errno
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return int(number[1]) if number else None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_record(record: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
