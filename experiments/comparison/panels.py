"""What the pictures of a comparison are made of: colours, panels, bands, axes."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from experiments.comparison.results import Result

# The palette of Okabe & Ito, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, BLACK = "#BBBBBB", "#000000"
WIDTH = 4.3  # inches, at which 9 points are still 9 pixels on a phone
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "svg.hashsalt": "fnnet",  # equal results, equal file
}


class Band(NamedTuple):
    """Of the seeds, at each point. NaN where not even the median is finite."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """`count` axes, two in a row, rows `height` inches high."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, rows * height + (0.8 if count > 2 else 1.6)), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def compare(ax: Axes, x: np.ndarray, ours: Band, baseline: Band, others: Sequence[np.ndarray]) -> None:
    dot = "o" if len(x) == 1 else ""
    apart = [np.append(other, np.nan) for other in others]  # one line with gaps: a lighter file
    ax.plot(np.tile(np.append(x, np.nan), len(others)), np.ravel(apart), color=GREY, lw=0.6, marker=dot, ms=3)
    if len(x) == 1:
        ax.vlines(x, ours.low, ours.high, color=BLUE, alpha=0.25, lw=6)
    ax.fill_between(x, ours.low, ours.high, color=BLUE, alpha=0.25, lw=0)
    ax.plot(x, ours.median, color=BLUE, lw=2.2, marker=dot)
    ax.plot(x, baseline.median, color=ORANGE, lw=1.3, linestyle=(0, (3, 3)), marker=dot, ms=3)
    if not np.isfinite(ours.median).any():
        ax.text(
            0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", va="center", backgroundcolor="white"
        )


def keys_of(results: Sequence[Result]) -> list[Artist]:
    seeds = len(results[0].seeds)
    keys: list[Artist] = [
        Line2D([], [], color=BLUE, lw=2.2, label=f"fnnet, median of {seeds} seeds" if seeds > 1 else "fnnet")
    ]
    keys.append(Line2D([], [], color=ORANGE, lw=1.3, linestyle=(0, (3, 3)), label="optax"))
    if seeds > 1:
        keys.append(Patch(color=BLUE, alpha=0.25, lw=0, label="lowest to highest"))
    if len(results) > 1:
        keys.append(Line2D([], [], color=GREY, lw=0.8, label="other optimizers"))
    return keys


def finish(figure: Figure, axes: Sequence[Axes], below: str, keys: Sequence[Artist], rows: int = 2) -> None:
    """The label below the last row of axes, and the legend above the first, where it hides nothing."""
    for ax in axes[-1:] if rows == 1 or len(axes) % 2 else axes[-2:]:
        ax.set_xlabel(below)
    figure.legend(handles=list(keys), loc="outside upper left", ncols=2)


def log_axis(ax: Axes, values: np.ndarray, plain: bool = False) -> None:
    """A log axis for what is finite among `values`; where some are 0, with a 0 of its own at the bottom."""
    values = values[np.isfinite(values)]
    above = np.clip(values[values > 0], 1e-12, 1e4)  # what leaves the axis has diverged
    low, high = (above.min(), above.max()) if above.size else (1.0, 1.0)
    if high < 4 * low:
        low, high = low / 2, 2 * high
    zero = bool((values == 0).any())
    if zero:
        ax.set_yscale("symlog", linthresh=low, linscale=0.5)
    else:
        ax.set_yscale("log")
    if plain:
        digits = (1, 2, 5) if high < 30 * low else (1,)
        ticks = [t for e in range(-2, 3) for d in digits if low / 1.5 <= (t := d * 10.0**e) <= high * 1.5]
        ax.set_yticks([0, *ticks] if zero else ticks)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.minorticks_off()
    ax.set_ylim(-low / 5 if zero else low / 1.5, high * 1.5)


def band(a: np.ndarray) -> Band:
    """Over the seeds of a[seeds, n]. What is not finite counts as infinite: the band goes to the top."""
    a = np.where(np.isfinite(a), a, np.inf).astype(float)
    median, low, high = np.median(a, axis=0), a.min(axis=0), a.max(axis=0)
    lost = np.isinf(median)
    return Band(*(np.where(lost, np.nan, np.minimum(part, 1e30)) for part in (median, low, high)))


def merge(a: np.ndarray, merge: Callable[..., Any], points: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a[..., steps]: neighbours merged, so that at most `points` are left to draw."""
    parts = np.array_split(np.arange(a.shape[-1]), min(points, a.shape[-1]))
    merged = [merge(a[..., part].astype(float), axis=-1) for part in parts]
    return np.array([part.mean() + 1 for part in parts]), np.stack(merged, axis=-1)


def spans(step: np.ndarray, mask: np.ndarray) -> list[tuple[float, float]]:
    """(start, width) of each stretch of steps where `mask` holds."""
    half = (step[1] - step[0]) / 2 if len(step) > 1 else 0.5
    edges = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0)).reshape(-1, 2)
    return [(step[a] - half, step[b - 1] - step[a] + 2 * half) for a, b in edges]


def spaced(way: np.ndarray, gap: float) -> np.ndarray:
    """Without the points nearer than `gap` to the last that stays: unseen, they would only weigh."""
    kept = [way[0]]
    for point in way[1:]:
        if not np.hypot(*(point - kept[-1])) < gap:  # NaN stays, a gap in the line
            kept.append(point)
    return np.array(kept)


def svg_text(figure: Figure) -> str:
    """Without a date, and to a hundredth of a point, which makes the file a third lighter."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), text.getvalue())
