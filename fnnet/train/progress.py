"""The progress bar of `fit`, by rich."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Show = Callable[[int, str, Mapping[str, float]], None]  # steps taken, description, numbers by name

SECONDS = 0.5  # between two refreshes: each takes some milliseconds of a core


@contextmanager
def progress_bar(wanted: bool | None, total: int, begin: int) -> Iterator[Show]:
    """A function that shows how far training is; it does nothing where no bar is wanted.

    Args:
        wanted: None: where rich is installed and the output is a terminal.
        total: steps in all.
        begin: steps that were taken before.

    Raises:
        ImportError: it is wanted, and rich is not installed.
    """
    try:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text
    except ImportError as exc:
        if wanted:
            raise ImportError(
                "progress=True, and rich is missing; pip install 'fnnet[experiments]', or progress=False"
            ) from exc
        wanted = False
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield lambda step, description, numbers: None
        return

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    task = bar.add_task("", total=total, completed=begin)
    shown = 0.0
    with Live(console=Console(stderr=True), auto_refresh=False) as live:

        def show(step: int, description: str, numbers: Mapping[str, float]) -> None:
            nonlocal shown
            bar.update(task, completed=step, description=description)
            now = bar.get_time()
            if now - shown < SECONDS and step < total:
                return
            shown = now
            text = "  ".join(f"{name} {_short(value)}" for name, value in numbers.items())
            live.update(Group(bar, Text(text)), refresh=True)

        yield show


def _short(value: Any) -> str:
    """A number as briefly as it can be read: 12,345 or 0.0123 or 1.2e-05."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
