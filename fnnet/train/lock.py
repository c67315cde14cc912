"""A lock on a folder, so that two runs do not write to it at the same time."""

import errno
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system

_held: set[int] = set()  # descriptors of this process's locks


@contextmanager
def locked(function: str, folder: Path, kind: type[Exception]) -> Iterator[None]:
    """Makes a folder and holds its lock. The operating system releases it when the process ends, however it ends.

    The file goes with the lock. One that a killed process leaves behind is not locked, and in nobody's way. A new
    folder that stays empty goes, too.

    Args:
        function: its name, for the message.
        folder: to lock.
        kind: of the error.

    Raises:
        kind: another run holds the lock, in this process or in another one.
        OSError: the folder cannot be made, or the file cannot be written.
    """
    path, is_new = folder / NAME, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno, f"{function}: cannot make the folder {folder}: {error.strerror}"
        ) from error
    descriptor = _open_and_lock(function, path, kind)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # it is not in a forked child
            _held.discard(descriptor)
            with suppress(OSError):
                if _is_at(path, descriptor):
                    path.unlink()  # before the lock is released: see below
            os.close(descriptor)
            if is_new:
                with suppress(OSError):
                    folder.rmdir()


def _open_and_lock(function: str, path: Path, kind: type[Exception]) -> int:
    """The descriptor of the file, locked. A file that another run removed after it was opened here is opened again."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OSError(error.errno, f"{function}: cannot write {path}: {error.strerror}") from error
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                owner = os.read(descriptor, 100).decode(errors="replace")
                os.close(descriptor)
                raise kind(
                    f"{function}: {path.parent} is in use by another run{f', {owner}' if owner else ''}; wait until it "
                    "ends, or use another folder"
                ) from None
            warnings.warn(
                f"{function}: the file system of {path.parent} has no locks ({error.strerror}): take care that no "
                "second run uses this folder",
                stacklevel=4,
            )
            return descriptor
        if _is_at(path, descriptor):
            with suppress(OSError):  # of a full disk: the name is for the message alone
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Takes the lock of an open file, or raises OSError."""
    if sys.platform == "win32":
        os.lseek(descriptor, 1000, os.SEEK_SET)  # behind the name, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at the path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _forget() -> None:
    """In a forked child, such as one that reads data: the lock would outlive a parent that is killed."""
    while _held:
        with suppress(OSError):
            os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
