"""The terminal: a command line from a dataclass, where a bad value gives one line and exit status 2; a progress bar."""

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, TypeVar

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

T = TypeVar("T")


def parse(config: type[T], command: str, default: T | None = None) -> T:
    """The command line as an instance of the dataclass `config`, by tyro; what is not on it is as in `default`."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if default is None:
                return tyro.cli(config, prog=command)
            return tyro.cli(config, prog=command, default=default)
    except SystemExit as stop:
        if stop.code == 0:  # --help
            raise
        fail(command, _reason(said.getvalue()))


def _reason(box: str) -> str:
    """Why tyro refuses, out of what it prints."""
    # A title, the reason, advice: in a box, or between rules where the terminal has no lines.
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    rules = [*(i for i, line in enumerate(lines) if not set(line) - set("─-")), len(lines)]
    first = 1 if rules[0] == 0 else 0
    return " ".join(lines[first : rules[first]])


def fail(command: str, reason: str) -> NoReturn:
    """Ends the program with one line and status 2, as for a bad argument."""
    print(f"{command}: {reason} (--help lists the options)", file=sys.stderr)
    raise SystemExit(2)


def progress_on(console: Console) -> Progress:
    """A bar with what is being done, how much of it is, and the time it took and will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console)


@contextlib.contextmanager
def failing(command: str, *errors: type[Exception]) -> Iterator[None]:
    """Such an error ends the program as `fail` does; Ctrl-C ends it with one line and status 130, as in a shell."""
    try:
        yield
    except errors as error:
        fail(command, " ".join(str(error).split()))
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def devices(command: str, count: int | None, *, of_a_cpu: int | None = None) -> list[jax.Device]:
    """So many devices, all there are by default. To be called before JAX has used one.

    A CPU is cut into `count`, by default `of_a_cpu`: that shows that a program is right, not that it is faster.
    """
    if count is not None and count < 1:
        fail(command, f"--devices {count} is too small, wanted at least 1")
    if parts := count or of_a_cpu:
        # Once JAX has devices, this cannot change, and what there is must do.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", parts)
    found = jax.devices()
    if count is not None and count > len(found):
        fail(command, f"--devices {count} is too many: JAX sees {len(found)} ({found[0].platform})")
    return found[:count]


def new_folder(command: str) -> Path:
    """The name of one under runs/, with the time in it."""
    return Path("runs") / f"{command}-{time.strftime('%Y%m%d-%H%M%S')}"
