"""Shows how far training is: a bar in a terminal or a notebook, else plain lines for a log file."""

import html
import importlib.util
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from fnnet import check

REFRESH_SECONDS = 0.5  # between two refreshes of a bar: each takes some milliseconds of a core
WINDOW_SECONDS = 30.0  # the least time that the speed is averaged over


class Show(Protocol):
    """The function that shows the progress."""

    def __call__(
        self, step: int, description: str, numbers: Mapping[str, float], report: bool = True
    ) -> None:
        """Shows the steps taken, a description, and numbers by name. Plain lines are printed for reports only."""


class Speed(NamedTuple):
    """How fast the work is: an average in which old steps count less and less."""

    step: int  # the last one seen
    clock: float  # seconds, when it was seen
    began: float  # seconds of the clock, when the work began
    steps: float = 0.0  # weighted
    seconds: float = 0.0  # weighted


@contextmanager
def progress_bar(wanted: bool | None, total: int, begin: int, unit: str = "step") -> Iterator[Show]:
    """A function that shows the progress on stderr, in the form that `choose_display` names.

    The bar shows the steps, the description, the numbers and the time left. A line has the time passed as well.

    Args:
        wanted: True, False or None, see `choose_display`.
        total: steps in all.
        begin: steps that were taken before.
        unit: what is counted, for the lines.

    Raises:
        ImportError: wanted is True, and rich is not installed.
    """
    display = choose_display(wanted)
    if display == "nothing":
        yield lambda step, description, numbers, report=True: None
    elif display == "lines":
        yield _show_lines(total, begin, unit)
    elif display == "notebook":
        yield _show_in_notebook(total, begin)
    else:
        with _terminal_bar(total, begin) as show:
            yield show


def choose_display(wanted: bool | None) -> str:
    """The form of the progress: "bar", "notebook", "lines" or "nothing".

    Args:
        wanted: False: nothing. None: a bar in a notebook, or where stderr is a terminal and rich is installed; lines
            elsewhere, such as in the log of a batch job. True: a bar, even where stderr is not a terminal.

    Raises:
        ImportError: wanted is True, there is no notebook, and rich is not installed.
    """
    if wanted is not None:
        check.flag("progress_bar", "progress", wanted)
    if wanted is False:
        return "nothing"
    if _in_notebook():
        return "notebook"
    has_rich = importlib.util.find_spec("rich") is not None
    if wanted and not has_rich:
        raise ImportError(
            "progress=True wanted a bar, and rich is not installed: pip install rich, or pass progress=None for "
            "plain lines"
        )
    return "bar" if wanted or (has_rich and sys.stderr.isatty()) else "lines"


def update_speed(speed: Speed, step: int, clock: float, compiling: bool = False) -> Speed:
    """The speed after more steps.

    It is averaged over the last half of the time or so, and over `WINDOW_SECONDS` at least: a slow evaluation does not
    make the time left jump. A stretch in which a program was compiled does not count.

    Args:
        speed: as it was.
        step: steps taken.
        clock: the time, in seconds.
        compiling: whether a program was compiled since.
    """
    if compiling:
        return speed._replace(step=step, clock=clock)
    passed = max(clock - speed.clock, 0.0)  # a clock may be set back
    window = max(WINDOW_SECONDS, (clock - speed.began) / 2)
    weight = math.exp(-passed / window)
    return speed._replace(
        step=step,
        clock=clock,
        steps=weight * speed.steps + step - speed.step,
        seconds=weight * speed.seconds + passed,
    )


def seconds_left(speed: Speed, total: int) -> float | None:
    """Seconds until all steps are taken; None while the speed is not known."""
    if speed.step >= total:
        return 0.0
    return (total - speed.step) * speed.seconds / speed.steps if speed.steps else None


class _Timer:
    """Follows the speed. The first steps compile the training program, the first report that of the evaluation."""

    def __init__(self, total: int, begin: int):
        now = time.perf_counter()
        self.total, self.speed = total, Speed(begin, now, began=now)
        self.stepped = self.reported = False

    def left(self, step: int, report: bool) -> str:
        """The time left, as text."""
        compiling = not self.stepped or (report and not self.reported)
        self.stepped, self.reported = True, self.reported or report
        self.speed = update_speed(self.speed, step, time.perf_counter(), compiling)
        return format_seconds(seconds_left(self.speed, self.total))

    def passed(self) -> str:
        """The time since the beginning, as text."""
        return format_seconds(max(self.speed.clock - self.speed.began, 0.0))


def _show_lines(total: int, begin: int, unit: str) -> Show:
    """One line per report. A log file keeps them, and needs no terminal."""
    timer = _Timer(total, begin)

    def show(step: int, description: str, numbers: Mapping[str, float], report: bool = True) -> None:
        left = timer.left(step, report)
        if report:
            parts = [f"{unit} {step:,}/{total:,}", description, _as_text(numbers)]
            parts.append(f"{timer.passed()} passed, {left} left")
            print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)

    return show


def _show_in_notebook(total: int, begin: int) -> Show:
    """A bar as HTML in the output of a cell; it needs neither rich nor ipywidgets."""
    from IPython.display import HTML, display

    timer, handle, shown = _Timer(total, begin), display(HTML(""), display_id=True), -math.inf

    def show(step: int, description: str, numbers: Mapping[str, float], report: bool = True) -> None:
        nonlocal shown
        left = timer.left(step, report)
        if timer.speed.clock - shown < REFRESH_SECONDS and step < total:
            return
        shown = timer.speed.clock
        text = "  ".join([description, f"{step:,}/{total:,}", f"{left} left", _as_text(numbers)])
        bar = f'<progress value="{step}" max="{total}"></progress>'
        handle.update(HTML(f'{bar} <span style="white-space: pre-wrap">{html.escape(text)}</span>'))

    return show


@contextmanager
def _terminal_bar(total: int, begin: int) -> Iterator[Show]:
    """A bar in a terminal, by rich."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.text import Text

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]} left"),
    )
    task = bar.add_task("", total=total, completed=begin, left=format_seconds(None))
    timer, shown = _Timer(total, begin), -math.inf
    with Live(console=Console(stderr=True), auto_refresh=False) as live:

        def show(step: int, description: str, numbers: Mapping[str, float], report: bool = True) -> None:
            nonlocal shown
            bar.update(task, completed=step, description=description, left=timer.left(step, report))
            if timer.speed.clock - shown < REFRESH_SECONDS and step < total:
                return
            shown = timer.speed.clock
            live.update(Group(bar, Text(_as_text(numbers))), refresh=True)

        yield show


def _in_notebook() -> bool:
    """Whether the code runs in a Jupyter notebook, which has a kernel; IPython in a terminal has none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def _as_text(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {format_number(value)}" for name, value in numbers.items())


def format_seconds(seconds: float | None) -> str:
    """A time as 0:07 or 12:34 or 3:04:05; -:-- where it is not known.

    Example:
        >>> from fnnet.train.progress import format_seconds
        >>> format_seconds(754.3), format_seconds(11045), format_seconds(None)
        ('12:34', '3:04:05', '-:--')
    """
    if seconds is None:
        return "-:--"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_number(value: Any) -> str:
    """A number as briefly as it can be read: 12,345 or 0.0123 or 1.2e-05.

    Example:
        >>> from fnnet.train.progress import format_number
        >>> format_number(12345.6), format_number(0.0123), format_number(0.0000123)
        ('12,346', '0.0123', '1.2e-05')
    """
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
