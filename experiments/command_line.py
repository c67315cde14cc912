"""The terminal: a command line from a dataclass, where a bad value gives one line and exit status 2; a progress bar."""

import contextlib
import io
import sys
from typing import NoReturn, TypeVar

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
