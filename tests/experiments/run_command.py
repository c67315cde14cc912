"""Runs a command of `experiments` in this process."""

import sys
from collections.abc import Callable
from typing import Any

import pytest


def exit_status(
    monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *args: Any, columns: int = 80
) -> int:
    """Runs the command with these arguments on a terminal with `columns` columns. Returns its exit status."""
    monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, args)])
    monkeypatch.setenv("COLUMNS", str(columns))
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0
