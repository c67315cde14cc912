"""What commands share: options from a dataclass, errors in one line with exit status 2, a progress bar, devices."""

import contextlib
import io
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, TypeVar, get_type_hints

import jax

if missing := [name for name in ("matplotlib", "rich", "sklearn", "tyro") if find_spec(name) is None]:
    raise ImportError(f"this script needs {', '.join(missing)}: pip install -e '.[experiments]'")

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fnnet.check import did_you_mean, local_path

T = TypeVar("T")


def parse(config: type[T], command: str, default: T | None = None) -> T:
    """The command line as an instance of the dataclass `config`, by tyro. Options not given are as in `default`."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if default is None:
                given = tyro.cli(config, prog=command)
            else:
                given = tyro.cli(config, prog=command, default=default)
    except SystemExit as stop:
        if stop.code == 0:  # --help
            raise
        flags = ["--" + field.replace("_", "-") for field in get_type_hints(config)]
        fail(command, _reason(said.getvalue(), flags))
    for name, value in vars(given).items():
        if isinstance(value, Path):
            try:
                local_path(command, f"--{name}", value)
            except ValueError as error:
                fail(command, str(error).removeprefix(f"{command}: "))
    return given


def _reason(box: str, flags: Sequence[str]) -> str:
    """The reason why tyro refuses a command line, taken from what it prints, and the flag that may be meant."""
    # A title, the reason, advice: in a box, or between rules if the terminal can't draw boxes.
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    rules = [*(i for i, line in enumerate(lines) if not set(line) - set("─-")), len(lines)]
    first = 1 if rules[0] == 0 else 0
    reason = " ".join(lines[first : rules[first]])
    unknown = [word for word in re.findall(r"--[\w-]+", reason) if word not in flags]
    return reason + next(filter(None, (did_you_mean(word, flags) for word in unknown)), "")


def check_known(command: str, option: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Ends the program like `fail` for the first name that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            wanted = f"wanted one of {', '.join(known)}{did_you_mean(name, known)}"
            fail(command, f"--{option} {name} is unknown, {wanted}")


def fail(command: str, reason: str) -> NoReturn:
    """Ends the program with one line and status 2, as for a bad argument."""
    print(f"{command}: {reason} (--help lists the options)", file=sys.stderr)
    raise SystemExit(2)


def progress_on(console: Console) -> Progress:
    """A progress bar with a description, a count, the time so far and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console)


@contextlib.contextmanager
def failing(command: str, *errors: type[Exception]) -> Iterator[None]:
    """These errors end the program like `fail`. Ctrl-C ends it with one line and status 130, as in a shell."""
    try:
        yield
    except errors as error:
        fail(command, " ".join(str(error).split()))
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def devices(command: str, count: int | None, *, of_a_cpu: int | None = None) -> list[jax.Device]:
    """The first `count` devices, by default all. Call this before JAX has used a device.

    A CPU is split into `count` devices (by default `of_a_cpu`). That tests whether a program is correct on several
    devices, but does not make it faster.
    """
    if count is not None and count < 1:
        fail(command, f"--devices {count} is too small, wanted at least 1")
    if parts := count or of_a_cpu:
        # Once JAX has used its devices, their number can't change.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", parts)
    found = jax.devices()
    if count is not None and count > len(found):
        fail(command, f"--devices {count} is too many: JAX sees {len(found)} ({found[0].platform})")
    return found[:count]


def check_writable(command: str, option: str, file: Path | None) -> None:
    """Ends the program like `fail` if the file cannot be written: before it computes, not after."""
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder")
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        fail(command, f"--{option} {file} cannot be written: {error}")


def new_folder(command: str) -> Path:
    """A new name under runs/: the command and the time."""
    return Path("runs") / f"{command}-{time.strftime('%Y%m%d-%H%M%S')}"
