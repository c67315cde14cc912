"""What all pictures share: colours, line styles, grids of panels, log axes with ticks, and saving to files."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

# The palette of Okabe & Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, BLACK = "#BBBBBB", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, "#8C6D00")
OTHER: dict[str, Any] = {"color": GREY, "lw": 0.8}
WIDTH = 4.3  # inches: at this width, a 9-point font is still 9 pixels high on a phone
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
    "svg.hashsalt": "fnnet",  # equal results give equal files
}


class Picture(NamedTuple):
    """A picture with its title and caption."""

    name: str  # of its files, NAME.png and NAME.svg
    title: str
    caption: str
    svg: str


def save(folder: Path, name: str, title: str, figure: Figure, caption: str) -> Picture:
    """Writes NAME.png and NAME.svg."""
    FigureCanvasAgg(figure).print_png(folder / f"{name}.png")
    figure.set_layout_engine("none")  # the layout is done, and takes as long as all else
    svg = svg_text(figure)
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return Picture(name, title, caption, svg)


def svg_text(figure: Figure) -> str:
    """The figure as SVG without a date. Coordinates have two decimals, which makes the file a third smaller."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), text.getvalue())


def line_styles(ranking: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line style for the first eight names; the others are thin and grey."""
    return {
        name: {"color": COLOURS[i], "lw": 1.5, "ls": ("-", "--")[i % 2]} if i < len(COLOURS) else OTHER
        for i, name in enumerate(ranking)
    }


def legend_of(styles: Mapping[str, Mapping[str, Any]]) -> list[Artist]:
    """Legend entries: the coloured names one by one, and a single entry for all others."""
    entries: list[Artist] = [
        Line2D([], [], label=name, **style) for name, style in styles.items() if style is not OTHER
    ]
    if any(style is OTHER for style in styles.values()):
        entries.append(Line2D([], [], label="others", **OTHER))
    return entries


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """`count` axes in two columns, each row `height` inches high."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, rows * height + (0.8 if count > 2 else 1.6)), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def finish(
    figure: Figure, axes: Sequence[Axes], xlabel: str, entries: Sequence[Artist], rows: int = 2
) -> None:
    """Adds the x label below the last axes of each column, and the legend above all axes."""
    for ax in axes[-1:] if rows == 1 else axes[-2:]:
        ax.set_xlabel(xlabel)
    figure.legend(handles=list(entries), loc="outside upper left", ncols=2)


def log_axis(ax: Axes, values: np.ndarray) -> None:
    """A log y axis for the finite values, with at least two labelled ticks. If some are 0, it has a 0 at the bottom."""
    values = values[np.isfinite(values)]
    above = np.clip(values[values > 0], 1e-12, 1e4)  # values above 1e4 have diverged and leave the axis
    low, high = (above.min(), above.max()) if above.size else (1.0, 1.0)
    if high < 2.25 * low:  # together with the margins of 1.5 below, room for two ticks
        middle = float(np.sqrt(low * high))
        low, high = middle / 1.5, middle * 1.5
    zero = bool((values == 0).any())
    if zero:
        ax.set_yscale("symlog", linthresh=low, linscale=0.5)
    else:
        ax.set_yscale("log")
    set_log_ticks(ax.yaxis, low / 1.5, high * 1.5, zero=zero)
    ax.set_ylim(-low / 5 if zero else low / 1.5, high * 1.5)


def set_log_ticks(axis: Axis, low: float, high: float, *, zero: bool = False, most: int = 6) -> None:
    """At most `most` labelled ticks from low to high, without minor ticks."""
    ticks = log_ticks(low, high, most)
    axis.set_major_locator(FixedLocator([0.0, *ticks] if zero else ticks))
    axis.set_major_formatter(FixedFormatter([*(["0"] if zero else []), *map(_tick_label, ticks)]))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """The closest of these that are at most `most`: 1, 2 and 5 of each decade, 1 and 3, 1, or every n-th decade's 1."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    spacings = [((1, 2, 5), 1), ((1, 3), 1), *(((1,), every) for every in range(1, last - first + 2))]
    for digits, every in spacings:
        ticks = [float(f"{d}e{e}") for e in range(first, last + 1) if e % every == 0 for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    return ticks


def _tick_label(x: float) -> str:
    if 1e-3 <= x <= 1e4:
        return f"{x:g}"
    mantissa, exponent = f"{x:.0e}".split("e")
    factor = "" if mantissa == "1" else rf"{mantissa} \times "
    return f"${factor}10^{{{int(exponent)}}}$"


class Band(NamedTuple):
    """The spread over the seeds at each point. NaN where not even the median is finite."""

    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(a: np.ndarray) -> Band:
    """Median, lowest and highest over the seeds of a[seeds, n]; values that are not finite count as infinite."""
    a = np.where(np.isfinite(a), a, np.inf).astype(float)
    median, low, high = np.median(a, axis=0), a.min(axis=0), a.max(axis=0)
    diverged = np.isinf(median)
    return Band(*(np.where(diverged, np.nan, np.minimum(part, 1e30)) for part in (median, low, high)))


def thin(a: np.ndarray, reduce: Callable[..., Any], points: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a[..., steps]: neighbours reduced to one value, so that at most `points` are drawn."""
    parts = np.array_split(np.arange(a.shape[-1]), min(points, a.shape[-1]))
    reduced = [reduce(a[..., part].astype(float), axis=-1) for part in parts]
    return np.array([part.mean() + 1 for part in parts]), np.stack(reduced, axis=-1)


def spaced(path: np.ndarray, gap: float) -> np.ndarray:
    """The path without points nearer than `gap` to the last one kept: they would only make the file larger."""
    kept = [path[0]]
    for point in path[1:]:
        if not np.hypot(*(point - kept[-1])) < gap:  # NaN stays, as a gap in the line
            kept.append(point)
    return np.array(kept)
