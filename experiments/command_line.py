"""The terminal: a command line from a dataclass, where a bad value gives one line and exit status 2; a progress bar."""

import contextlib
import io
import sys
import time
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
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


def parse(config: type[T], command: str) -> T:
    """The command line as an instance of the dataclass `config`, by tyro."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config, prog=command)
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


def devices(command: str, count: int | None, batch_size: int) -> jax.sharding.Mesh | None:
    """A mesh of so many devices, before any is used; None where there is to be no more than one.

    A CPU is cut into as many as are asked for: that shows that it works, not that it is faster.
    """
    if count is not None and count > 1:
        jax.config.update("jax_num_cpu_devices", count)
    found = jax.devices()
    count = len(found) if count is None else count
    if not 1 <= count <= len(found):
        fail(command, f"--devices {count}, and there are {len(found)}")
    if batch_size % count:
        fail(command, f"--batch-size {batch_size} is no multiple of the {count} devices")
    return jax.make_mesh((count,), ("data",), devices=found[:count]) if count > 1 else None


def folder_for(command: str, folder: Path | None, resume: bool) -> Path:
    """Where results go: the folder that was given, or a new one under runs/."""
    if folder is None:
        if resume:
            fail(command, "--resume wants --folder, that of the run to go on with")
        return Path("runs") / f"{command}-{time.strftime('%Y%m%d-%H%M%S')}"
    return folder
