"""Pictures of each optimizer beside its optax twin: learning curves, parity, error against learning rate, banana paths.

Small panels in two columns, to be read on a phone too. Ours is a blue line with a band from the lowest to the highest
seed. Optax is a dashed orange line on top of it. The other optimizers are grey lines in the background.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.comparison.surface_pictures import SHADES, clipped, draw_path, path_legend
from experiments.comparison.twins.results import Result, best_rate
from experiments.comparison.twins.twin_run import BANANA, rosenbrock
from experiments.comparison.wording import count, lowest
from experiments.plotting import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    WIDTH,
    Band,
    band,
    finish,
    log_axis,
    panels,
    set_log_ticks,
    thin,
)

DASHES = (0, (3, 3))


def learning_curves(results: Sequence[Result]) -> tuple[Figure, str]:
    """Two panels per optimizer at its best rate: error on the validation part, and training loss."""
    best = [best_rate(r) for r in results]
    steps = (results[0].run.eval_step[0, 0], thin(results[0].run.ours["train_loss"][0], np.mean, 25)[0])

    def curves(side: str) -> list[tuple[Band, Band]]:
        runs = [(getattr(r.run, side), i) for r, i in zip(results, best, strict=True)]
        errors = [band(100 * (1 - run["valid_accuracy"][i])) for run, i in runs]
        losses = [band(thin(run["train_loss"][i], np.mean, 25)[1]) for run, i in runs]
        return list(zip(errors, losses, strict=True))

    ours, baseline = curves("ours"), curves("baseline")
    figure, axes = panels(2 * len(results), 1.55)
    for k, result in enumerate(results):
        for column, label in enumerate(("error, %", "training loss")):
            ax = axes[2 * k + column]
            medians = [both[column].median for both in ours]
            _draw_both(
                ax, steps[column], ours[k][column], baseline[k][column], medians[:k] + medians[k + 1 :]
            )
            log_axis(ax, np.concatenate(medians))
            ax.set(xlim=(0, 1.03 * steps[0][-1]), ylabel=label)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes[2 * k].set_title(f"{result.name}, rate {result.rates[best[k]]:.2g}")
    finish(figure, axes, "steps", _legend(results))

    same = sum(
        all(np.array_equal(r.run.ours[m][i], r.run.baseline[m][i], equal_nan=True) for m in r.run.ours)
        for r, i in zip(results, best, strict=True)
    )
    return figure, (
        "Each optimizer at its best learning rate: error on the validation part on the left, training loss on the "
        "right, both on log axes. If the twins agree, the orange dashes cover the blue line. "
        f"{_share(same, results)} exactly the same losses and accuracies as optax."
    )


def parity(results: Sequence[Result]) -> tuple[Figure, str]:
    """The distance at each step on a log axis. Bars below show where it is 0, which a log axis can't."""
    worst = [_worst(r) for r in results]
    zeros = sum(size == 0 for size, *_ in worst)
    height = 2.0 if zeros < len(results) else 1.2
    figure = Figure(figsize=(WIDTH, height + 1.1 + 0.2 * len(results)), layout="constrained")
    lines, bars = figure.subplots(2, 1, sharex=True, height_ratios=[height, 0.2 * len(results) + 0.05])
    meanings = {GREEN: "0: equal bit for bit", BLACK: "not finite on one side"}
    entries: list[Artist] = [Patch(color=GREEN, label=meanings[GREEN])]
    if not all(np.isfinite(size) for size, *_ in worst):
        entries.append(Patch(color=BLACK, label=meanings[BLACK]))
    seen = [np.array([1e-8, 1e-6])]
    for k, (result, (_, i, j)) in enumerate(zip(results, worst, strict=True)):
        step, distance = thin(_distance(result)[i, j], np.max, 250)  # a NaN stays
        above = np.isfinite(distance) & (distance > 0)
        colour, dashes = (BLUE, RED, PINK, SKY, ORANGE)[k % 5], ("-", "--", ":")[k // 5 % 3]
        for mask, fill in ((distance == 0, GREEN), (above, colour), (~np.isfinite(distance), BLACK)):
            bars.broken_barh(_stretches(step, mask), (k - 0.3, 0.6), facecolor=fill)
        if above.any():
            seen.append(distance[above])
            rate = f"rate {result.rates[i]:.2g}"
            bars.text(1.02, k, rate, transform=bars.get_yaxis_transform(), va="center", fontsize=8)
            dot = "." if len(step) < 20 else ""
            line = np.where(above, distance, np.nan)
            entries += lines.plot(step, line, dashes, color=colour, lw=1.3, marker=dot, label=result.name)
    log_axis(lines, np.concatenate(seen))
    lines.set_ylabel("distance")
    eps = float(np.finfo(np.float32).eps)
    lines.axhline(eps, color="#555555", lw=1, linestyle=":")
    lines.text(1.02, eps, "eps of\nfloat32", transform=lines.get_yaxis_transform(), va="center", fontsize=8)
    if zeros == len(results):
        lines.text(0.5, 0.8, "nothing above 0", transform=lines.transAxes, ha="center", va="center")
    bars.set_yticks(range(len(results)), [r.name for r in results])
    rates, seeds, steps = results[0].run.distance.shape
    bars.set(ylim=(len(results) - 0.5, -0.5), xlim=(0.5, steps + 0.5))
    bars.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    bars.grid(False)
    finish(figure, [lines, bars], "steps", entries, rows=1)

    size, k = max((size, k) for k, (size, *_) in enumerate(worst))
    largest = f"{size:.1e}" if np.isfinite(size) else meanings[BLACK]
    return figure, (
        "|fnnet - optax| / |optax|, Euclidean norms over all params, for the run in which it is largest. "
        f"{_share(zeros, results)} distance 0 at all {count(steps, 'step')} of all {count(rates * seeds, 'run')}."
        + (
            f" The largest distance: {results[k].name} at rate {results[k].rates[worst[k][1]]:.2g}, {largest}."
            if size
            else ""
        )
    )


def learning_rates(results: Sequence[Result]) -> tuple[Figure, str]:
    """Validation error after the last step against the learning rate, both on log axes."""
    ours, baseline = (
        [band(100 * (1 - getattr(r.run, side)["valid_accuracy"][..., -1].T)) for r in results]
        for side in ("ours", "baseline")
    )
    figure, axes = panels(len(results), 1.75)
    ring: dict[str, Any] = {"ls": "", "marker": "o", "ms": 8, "mfc": "none", "mec": BLACK, "mew": 1.3}
    cross: dict[str, Any] = {"ls": "", "marker": "x", "ms": 6, "color": RED, "mew": 1.5}
    rates = results[0].rates.astype(float)
    medians = np.concatenate([b.median for b in ours])
    within = {}  # at how many rates the error is at most twice the best
    for k, (result, ax) in enumerate(zip(results, axes, strict=True)):
        best, median = best_rate(result), ours[k].median
        _draw_both(ax, rates, ours[k], baseline[k], [b.median for i, b in enumerate(ours) if i != k])
        log_axis(ax, medians)
        ax.plot(rates[best], median[best], **ring)
        diverged = rates[np.isnan(median)]
        ax.plot(diverged, np.full(len(diverged), 0.93), transform=ax.get_xaxis_transform(), **cross)
        ax.set_title(f"{result.name}\nbest at {rates[best]:.2g}")
        ax.set(xscale="log", xlim=(rates[0] / 1.5, rates[-1] * 1.5))
        set_log_ticks(ax.xaxis, rates[0] / 1.5, rates[-1] * 1.5, most=4)
        within[result.name] = -float(np.sum(median <= 2 * median[best]))
    for ax in axes[::2]:
        ax.set_ylabel("error, %")
    entries = [*_legend(results), Line2D([], [], label="best rate", **ring)]
    if any(np.isnan(b.median).any() for b in ours):
        entries.append(Line2D([], [], label="diverged", **cross))
    finish(figure, axes, "learning rate", entries)
    return figure, (
        "Error on the validation part after the last step, on log axes; lower is better. The wider the valley, the "
        "less the choice of the rate matters. Most rates with at most twice the error of the best one: "
        f"{lowest(within, lambda n: f'{-n:.0f} of {len(rates)} rates')}."
    )


def banana(results: Sequence[Result]) -> tuple[Figure, str]:
    """Both paths over the contours of (1 - x)^2 + 100 (y - x^2)^2."""
    marks = np.array([1, 3, 10, 30, 100, 300])
    rings: dict[str, Any] = {"ls": "", "marker": "o", "ms": 6, "mfc": "none", "mec": ORANGE, "mew": 1.5}
    figure, axes = panels(len(results), 2.2)
    ends = {r.name: float(rosenbrock(jnp.array(r.paths.ours[-1]))) for r in results}
    for result, ax in zip(results, axes, strict=True):
        draw_path(ax, BANANA, result.paths.ours)
        baseline = clipped(BANANA, result.paths.baseline)
        ax.plot(*baseline[marks[marks < len(baseline)]].T, **rings)
        ax.set_title(f"{result.name}\nrate {result.paths.rate:.2g}, f = {ends[result.name]:.2g}")
        ax.set(xticks=range(-2, 3), yticks=range(-1, 4))
    for ax in axes[::2]:
        ax.set_ylabel("y")
    finish(figure, axes, "x", [*path_legend("fnnet"), Line2D([], [], label="optax", **rings)])
    steps = len(results[0].paths.ours) - 1
    return figure, (
        f"f = {BANANA.title}. {count(steps, 'step')} at the learning rate whose path ends lowest. The rings show optax "
        f"after {', '.join(str(m) for m in marks[marks <= steps])} steps: if the twins agree, they are on the blue "
        f"path. Lowest f at the end: {lowest(ends, lambda f: f'{f:.1e}')}. {SHADES}"
    )


def _draw_both(ax: Axes, x: np.ndarray, ours: Band, baseline: Band, others: Sequence[np.ndarray]) -> None:
    """Ours, optax on top of it, and the other optimizers in the background."""
    dot = "o" if len(x) == 1 else ""
    apart = [np.append(other, np.nan) for other in others]  # one line with gaps makes a smaller file
    ax.plot(np.tile(np.append(x, np.nan), len(others)), np.ravel(apart), color=GREY, lw=0.6, marker=dot, ms=3)
    if len(x) == 1:
        ax.vlines(x, ours.low, ours.high, color=BLUE, alpha=0.25, lw=6)
    ax.fill_between(x, ours.low, ours.high, color=BLUE, alpha=0.25, lw=0)
    ax.plot(x, ours.median, color=BLUE, lw=2.2, marker=dot)
    ax.plot(x, baseline.median, color=ORANGE, lw=1.3, linestyle=DASHES, marker=dot, ms=3)
    if not np.isfinite(ours.median).any():
        ax.text(
            0.5, 0.5, "not finite", transform=ax.transAxes, ha="center", va="center", backgroundcolor="white"
        )


def _legend(results: Sequence[Result]) -> list[Artist]:
    seeds = len(results[0].seeds)
    ours = f"fnnet, median of {seeds} seeds" if seeds > 1 else "fnnet"
    entries: list[Artist] = [
        Line2D([], [], color=BLUE, lw=2.2, label=ours),
        Line2D([], [], color=ORANGE, lw=1.3, linestyle=DASHES, label="optax"),
    ]
    if seeds > 1:
        entries.append(Patch(color=BLUE, alpha=0.25, lw=0, label="lowest to highest"))
    if len(results) > 1:
        entries.append(Line2D([], [], color=GREY, lw=0.8, label="other optimizers"))
    return entries


def _stretches(step: np.ndarray, mask: np.ndarray) -> list[tuple[float, float]]:
    """(start, width) of each stretch of steps where `mask` is true."""
    half = (step[1] - step[0]) / 2 if len(step) > 1 else 0.5
    edges = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0)).reshape(-1, 2)
    return [(step[a] - half, step[b - 1] - step[a] + 2 * half) for a, b in edges]


def _distance(result: Result) -> np.ndarray:
    """0 only where the params are equal. The squares of tiny differences underflow to 0; the ulp does not."""
    least = np.maximum(result.run.distance, np.finfo(np.float32).tiny)
    return np.where(result.run.ulp == 0, 0, least)


def _worst(result: Result) -> tuple[float, int, int]:
    """(largest distance, infinity for NaN; index of the rate; of the seed) of the run where it is largest."""
    size = np.nan_to_num(_distance(result), nan=np.inf, posinf=np.inf).max(axis=-1)
    i, j = np.unravel_index(np.argmax(size), size.shape)
    return float(size[i, j]), int(i), int(j)


def _share(n: int, results: Sequence[Result]) -> str:
    return f"{n} of {len(results)} optimizer{'s have' if len(results) > 1 else ' has'}"
