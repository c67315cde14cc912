"""Files that are there in full or not at all."""

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` makes the file beside its place, under a hidden name, and once it is on the disk it is put there."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
