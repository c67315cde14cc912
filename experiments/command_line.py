"""A command line from a dataclass, where a bad value gives one line and exit status 2, not a traceback."""

import contextlib
import io
import sys
from typing import NoReturn, TypeVar

import tyro

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
    # What tyro says stands in a box; its first paragraph is the reason.
    lines = [line.strip("│ ") for line in said.getvalue().splitlines() if line.startswith("│")]
    reason = lines[: next((i for i, line in enumerate(lines) if set(line) == {"─"}), len(lines))]
    fail(command, " ".join(reason) or said.getvalue().strip())


def fail(command: str, reason: str) -> NoReturn:
    """Ends the program with one line and status 2, as for a bad argument."""
    print(f"{command}: {reason} (--help lists the options)", file=sys.stderr)
    raise SystemExit(2)
