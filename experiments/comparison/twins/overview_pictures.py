"""All optimizers against each other, each at its best rate: error against steps and seconds, time to a target."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.comparison.twins.results import Result
from experiments.comparison.twins.time_to_target import TimeToTarget, valid_error
from experiments.comparison.wording import lowest, number
from experiments.plotting import (
    BLUE,
    GREY,
    OTHER,
    WIDTH,
    band,
    finish,
    legend_of,
    line_styles,
    log_axis,
    set_log_ticks,
)


def error_against_steps(
    results: Sequence[Result], times: Sequence[TimeToTarget], target: float
) -> tuple[Figure, str]:
    """One line per optimizer: the median validation error after each evaluation."""
    figure = _errors(results, times, target, seconds=False)
    finals = {r.name: _percent(r)[-1] for r in results}
    return figure, (
        "Share of the validation examples that the network gets wrong, on a log axis; median of the seeds, each "
        f"optimizer at its best learning rate. Lowest at the end: {lowest(finals, lambda e: f'{e:.1f} %')}."
    )


def error_against_seconds(
    results: Sequence[Result], times: Sequence[TimeToTarget], target: float
) -> tuple[Figure, str]:
    """The same against the time that the steps take."""
    figure = _errors(results, times, target, seconds=True)
    steps = {r.name: 1e6 * r.step_seconds for r in results}
    slowest = max(steps, key=lambda name: steps[name])
    return figure, (
        "The same curves against time: steps, times the seconds of one training step of one network on this device. "
        f"Fastest step: {lowest(steps, lambda t: f'{number(t)} µs')}. "
        f"Slowest: {slowest} ({number(steps[slowest])} µs)."
    )


def _percent(result: Result) -> np.ndarray:
    return band(100 * valid_error(result)).median


def _errors(
    results: Sequence[Result], times: Sequence[TimeToTarget], target: float, *, seconds: bool
) -> Figure:
    styles = line_styles([time.name for time in times])
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    ax = figure.subplots()
    ends, seen = [], []
    for r in sorted(results, key=lambda r: styles[r.name] is not OTHER):  # the grey ones lie below
        x = r.run.eval_step[0, 0] * (r.step_seconds if seconds else 1)
        error = _percent(r)
        ax.plot(x, error, **styles[r.name], marker="." if len(x) == 1 else "")
        ends.append(x[-1])
        seen.append(error)
    log_axis(ax, np.append(np.concatenate(seen), 100 * target))
    if np.isfinite(target):
        ax.axhline(100 * target, color="#555555", lw=1, linestyle=":", zorder=0)
        ax.text(
            1.0,
            100 * target,
            f"target {100 * target:.2g} %",
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="bottom",
            fontsize=8,
        )
    ax.set(xlim=(0, 1.02 * max(ends)), ylabel="validation error, %")
    finish(figure, [ax], "seconds" if seconds else "steps", legend_of(styles), rows=1)
    return figure


def steps_and_seconds_to_target(times: Sequence[TimeToTarget], target: float) -> tuple[Figure, str]:
    """A row of dots per optimizer, one per seed: steps on the left, seconds on the right."""
    figure = Figure(figsize=(WIDTH, 1.3 + 0.2 * len(times)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    reached = False
    for ax, label, of in (
        (axes[0], "steps", lambda t: (t.steps, t.median_steps)),
        (axes[1], "seconds", lambda t: (t.seconds, t.median_seconds)),
    ):
        seen = []
        for k, time in enumerate(times):
            seeds, median = of(time)
            there = seeds[np.isfinite(seeds)]
            if there.size:  # an empty unclipped line has a size, which spoils the layout
                ax.plot(
                    there, np.full(len(there), k), "o", ms=4, mfc="none", mec=BLUE, mew=0.8, clip_on=False
                )
            if np.isfinite(median):
                ax.plot(median, k, "o", ms=6, color=BLUE, clip_on=False)
            else:
                ax.text(
                    0.5,
                    k,
                    "not reached",
                    transform=ax.get_yaxis_transform(),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="#555555",
                )
            seen.append(there)
        values = np.concatenate(seen)
        reached = reached or values.size > 0
        low, high = (values.min() / 1.5, values.max() * 1.5) if values.size else (1.0, 10.0)
        if high < 4 * low:
            low, high = low / 1.5, high * 1.5
        ax.set(xscale="log", xlim=(low, high), xlabel=label)
        set_log_ticks(ax.xaxis, low, high, most=3)
    axes[0].set_yticks(range(len(times)), [time.name for time in times])
    axes[0].set_ylim(len(times) - 0.5, -0.5)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(color="#F0F0F0", axis="y")
        ax.spines["left"].set_color(GREY)
    entries = [
        Line2D([], [], ls="", marker="o", ms=6, color=BLUE, label="median of the seeds"),
        Line2D([], [], ls="", marker="o", ms=4, mfc="none", mec=BLUE, mew=0.8, label="one seed"),
    ]
    figure.legend(handles=entries, loc="outside upper left", ncols=2)
    if not reached:
        return figure, "No run gets to a finite error."
    steps = {time.name: time.median_steps for time in times}
    seconds = {time.name: time.median_seconds for time in times}
    return figure, (
        f"To {100 * target:.2g} % validation error, which is twice the lowest that any optimizer ends with (at least "
        f"1 %). Fewest steps: {lowest(steps, lambda n: f'{n:.0f}')}. "
        f"Least time: {lowest(seconds, lambda s: f'{number(s)} s')}. The steps are those of the first evaluation "
        "at or below the target."
    )
