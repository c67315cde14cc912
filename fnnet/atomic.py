"""Files that are complete or not there at all."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a hidden name beside its place, and moves it there once it is on the disk.

    A process that is killed leaves the old file, or none.

    Args:
        path: where the file goes; what was there is replaced.
        write: makes the file at the path that it is called with.

    Raises:
        OSError: the file cannot be written. Whatever `write` raises. Either way, what was at `path` stays.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
