"""Pictures of a sweep: which values of the hyperparameters are good, and how much each matters."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.train.sweep.results import Sweep

DPI, WIDTH = 100, 12.0  # 1,200 pixels
FONT = 20  # points: legible on a phone, where the picture is a third as wide
SPAN = 20.0  # a hyperparameter whose largest value is more than this times its smallest has a log axis
BAD = "#c1121f"


def parallel_coordinates(swept: Sweep, path: str | os.PathLike[str]) -> None:
    """Draws one axis per hyperparameter and one for the score, with one line per trial, coloured by its score.

    The best trial has a dot on each axis. Trials that diverged are dashed red lines that end before the score's
    axis. Scores that are far worse than most are drawn at the end of the axis.

    Args:
        swept: of hyperparameters that are numbers.
        path: of the picture, a PNG 1,200 pixels wide. It is written completely or not at all.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a hyperparameter is an array.
    """
    path = check.local_path("parallel_coordinates", "path", path)
    figure, plt = _figure("parallel_coordinates", 1, 6.4)
    values, score, good = _columns("parallel_coordinates", swept)
    axes = figure.add_subplot()
    places, ticks = {}, {}
    for name, column in values.items():
        places[name], ticks[name] = _scaled(column, name in swept.log_scaled)
    score = _clipped(score, swept.maximize)
    places[swept.score], ticks[swept.score] = _scaled(score[good] if good.any() else np.ones(1), False)
    on_score = np.full(len(score), np.nan)
    on_score[good] = places[swept.score] if good.any() else []
    heights = np.column_stack([*(places[name] for name in values), on_score])

    low, high = (score[good].min(), score[good].max()) if good.any() else (0.0, 1.0)
    colours = plt.colormaps["viridis" if swept.maximize else "viridis_r"]
    norm = plt.Normalize(low, high if high > low else low + 1)
    x = np.arange(heights.shape[1])
    for i in swept.order[::-1]:  # the best on top
        if good[i]:
            best = i == swept.order[0]
            axes.plot(
                x, heights[i], color=colours(norm(score[i])), lw=5 if best else 2, zorder=3 if best else 2
            )
        else:
            axes.plot(x, heights[i], color=BAD, lw=1.5, ls="--", alpha=0.7, zorder=1)
    axes.plot(x, heights[swept.order[0]], "o", color="black", ms=11, zorder=4, label="best")
    if not good.all():
        axes.plot([], [], color=BAD, lw=1.5, ls="--", label=f"diverged ({(~good).sum()})")
    for i, name in enumerate([*values, swept.score]):
        axes.axvline(i, color="0.35", lw=1.5, zorder=0)
        for height, text in ticks[name]:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
            axes.annotate(
                text,
                (i, height),
                (7, 0),
                textcoords="offset points",
                va="center",
                fontsize=FONT - 3,
                bbox=box,
                zorder=5,
            )
    axes.set(xticks=x, xlim=(-0.1, len(x) - 0.62), ylim=(-0.06, 1.06), yticks=[])
    axes.set_xticklabels([_words(name) for name in [*values, swept.score]])
    axes.spines[:].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    bar = figure.colorbar(plt.cm.ScalarMappable(norm, colours), ax=axes, pad=0.01, fraction=0.05)
    bar.set_label(f"{_words(swept.score, ' ')}, mean of {_seeds(swept)}")
    _write(figure, plt, path)


def sensitivity(swept: Sweep, path: str | os.PathLike[str]) -> None:
    """Draws one panel per hyperparameter: the score of every run against its value, and a line of medians.

    In a grid there is one median per value, in a random search one for each of eight groups of neighbouring values.
    The best trial's runs are ringed. Runs that diverged, or are far worse than most, are crosses at the worse edge.

    Args:
        swept: of hyperparameters that are numbers.
        path: of the picture, a PNG 1,200 pixels wide. It is written completely or not at all.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a hyperparameter is an array.
    """
    path = check.local_path("sensitivity", "path", path)
    across = min(len(swept.hparams), 2)
    rows = -(-len(swept.hparams) // across)
    figure, plt = _figure("sensitivity", across, 5.2 * rows + 0.6)
    values, _, _ = _columns("sensitivity", swept)
    shown = _clipped(swept.scores, swept.maximize)
    good = np.isfinite(swept.scores) & (shown == swept.scores)
    low, high = (swept.scores[good].min(), swept.scores[good].max()) if good.any() else (0.0, 1.0)
    margin = 0.06 * (high - low or 1)
    edge = low - margin if swept.maximize else high + margin
    panels = figure.subplots(rows, across, squeeze=False, sharey=True)
    for panel in panels.flat[len(values) :]:
        panel.set_visible(False)
    for k, (name, column) in enumerate(values.items()):
        axes = panels.flat[k]
        each = np.broadcast_to(column[:, None], swept.scores.shape)
        axes.plot(
            each[good], swept.scores[good], "o", color="#2a6f97", alpha=0.45, ms=8, mec="none", label="run"
        )
        if not good.all():
            axes.plot(
                each[~good],
                np.full((~good).sum(), edge),
                "x",
                color=BAD,
                ms=11,
                mew=2.5,
                label="diverged, or far off",
            )
        levels = np.unique(column)
        groups = [column == v for v in levels]
        if len(levels) > 12:
            groups = [np.isin(column, part) for part in np.array_split(levels, 8)]
        lines = [(np.median(column[g]), np.median(swept.scores[g][good[g]])) for g in groups if good[g].any()]
        if lines:
            axes.plot(*zip(*lines, strict=True), color="#e07a00", lw=3.5, label="median")
        best = swept.order[0]
        style = {"mfc": "none", "mec": "black", "mew": 3, "ms": 16, "ls": "none"}
        axes.plot(each[best], swept.scores[best], "o", **style, label="best trial")
        if _logarithmic(column, name in swept.log_scaled):
            axes.set_xscale("log")
        axes.set_xlabel(_words(name, " "))
        axes.grid(alpha=0.3)
        if k % across == 0:
            axes.set_ylabel(_words(swept.score, " "))
    handles = dict(zip(*reversed(panels.flat[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
    _write(figure, plt, path)


def _figure(function: str, across: int, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib import pyplot
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ImportError(
            f"{function}: pictures need matplotlib, which is missing; pip install matplotlib"
        ) from exc
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no window, and not in pyplot's list of open figures
    return figure, pyplot


def _columns(function: str, swept: Sweep) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The hyperparameters, the mean scores, and which scores are finite."""
    for name, column in swept.hparams.items():
        if column.ndim != 1:
            raise ValueError(
                f"{function}: {name} is an array in each trial, wanted hyperparameters that are numbers"
            )
    score = swept.scores.mean(axis=1)
    return {name: column.astype(float) for name, column in swept.hparams.items()}, score, np.isfinite(score)


def _clipped(scores: np.ndarray, maximize: bool) -> np.ndarray:
    """The scores, at most four times as far from the best as the median is: an outlier would hide the rest."""
    finite = scores[np.isfinite(scores)]
    if not finite.size:
        return scores
    best = finite.max() if maximize else finite.min()
    limit = best + 4 * (np.median(finite) - best)
    return np.maximum(scores, limit) if maximize else np.minimum(scores, limit)


def _logarithmic(values: np.ndarray, is_log: bool) -> bool:
    return bool(is_log or (values.min() > 0 and values.max() > SPAN * values.min()))


def _scaled(values: np.ndarray, is_log: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """The values scaled to [0, 1], and the positions and labels of the axis's ticks."""
    log = _logarithmic(values, is_log)
    shown = np.log10(values) if log else values
    low, high = shown.min(), shown.max()
    if high == low:
        return np.full(len(values), 0.5), [(0.5, f"{values[0]:.3g}")]
    levels = np.unique(shown)
    marks = levels if len(levels) <= 6 else np.linspace(low, high, 5)
    text = [(float((m - low) / (high - low)), f"{10**m if log else m:.3g}") for m in marks]
    apart = [m for i, m in enumerate(text) if i == 0 or m[0] - text[i - 1][0] > 0.05]
    return (shown - low) / (high - low), apart


def _words(name: str, between: str = "\n") -> str:
    return name.replace("_", between)


def _seeds(swept: Sweep) -> str:
    return f"{len(swept.seeds)} seeds" if len(swept.seeds) > 1 else "one seed"


def _write(figure: Any, plt: Any, path: Path) -> None:
    for text in figure.findobj(plt.Text):
        if text.get_fontsize() < FONT - 3:
            text.set_fontsize(FONT - 2)
    write_atomically(path, lambda beside: figure.savefig(beside, format="png"))
