"""A part of the accelerator benchmark, and how the parts share the time."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
LATE = "out of time"  # how a note begins that says so
LEAST_SHARE = 0.25  # a part that would get less than this share of its time is skipped


class Settings(NamedTuple):
    """The arguments of a part."""

    tiny: bool  # sizes for a test on a CPU
    deadline: float  # of this part, on the clock of time.perf_counter
    data: Path | None = None  # folder of Fashion-MNIST

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.perf_counter()


class Part(NamedTuple):
    """One table of the results."""

    title: str
    seconds: float  # its time on a GPU, approximately
    columns: Mapping[str, str]  # heading of each column, by the name of its value in a row
    rows: Callable[[Settings], Iterator[Row]]


def out_of_time(settings: Settings, seconds: float) -> str | None:
    """Why something that takes about so many seconds is not begun, or None if there is time for it."""
    left = settings.left()
    if settings.tiny or left > seconds:
        return None
    return f"{LATE}: {max(left, 0):.0f} s left, and it takes about {seconds:.0f} s"


def share(seconds: float, left: float, later: Sequence[float]) -> float:
    """The seconds that a part may take.

    The remaining time is divided in proportion to the parts' own times. A part that is faster than expected leaves
    time to the later ones, and one that is slower takes some of theirs.

    Args:
        seconds: the part's own time, approximately.
        left: seconds until the whole benchmark must end.
        later: the own time of each later part.
    """
    return max(left, 0.0) * seconds / (seconds + sum(later))


def too_short(part: Part, allowed: float) -> str | None:
    """Why a part is skipped, or None if it has enough time."""
    if allowed >= LEAST_SHARE * part.seconds:
        return None
    return f"{LATE}: {max(allowed, 0):.0f} s left, and it takes about {part.seconds:.0f} s"


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
