"""Pictures of the ladder: loss against evaluations, all problems at once, the hyperparameter, the number of trials."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from experiments.comparison.ladder.tuning import Outcome
from experiments.comparison.statistics import (
    best_of_k,
    cost_to_reach,
    performance_profile,
    quartiles,
    targets,
)
from experiments.comparison.wording import listed, lowest
from experiments.plotting import (
    BLACK,
    BLUE,
    OTHER,
    RED,
    WIDTH,
    finish,
    legend_of,
    line_styles,
    log_axis,
    panels,
    set_log_ticks,
)

RING: dict[str, Any] = {"ls": "", "marker": "o", "ms": 8, "mfc": "none", "mec": BLACK, "mew": 1.3}
CROSS: dict[str, Any] = {"ls": "", "marker": "x", "ms": 6, "color": RED, "mew": 1.5}
Styles = Mapping[str, Mapping[str, Any]]


def styles_of(outcomes: Sequence[Outcome], reference: str) -> dict[str, dict[str, Any]]:
    """Colours for the reference and the seven best by mean rank over the problems. The others are grey."""
    names = list(dict.fromkeys(o.name for o in outcomes))
    ranks: dict[str, list[float]] = {name: [] for name in names}
    for problem in problems_of(outcomes):
        order = sorted(on_problem(outcomes, problem), key=lambda o: float(np.median(o.scores)))
        for place, o in enumerate(order):
            ranks[o.name].append(place)
    ranking = sorted(names, key=lambda name: (name != reference, np.mean(ranks[name])))
    styles = line_styles(ranking)
    return {name: styles[name] for name in names}


def problems_of(outcomes: Sequence[Outcome]) -> list[str]:
    """The names of the problems, in order."""
    return list(dict.fromkeys(o.problem.name for o in outcomes))


def on_problem(outcomes: Sequence[Outcome], problem: str) -> list[Outcome]:
    """The outcomes on one problem."""
    return [o for o in outcomes if o.problem.name == problem]


def losses(outcomes: Sequence[Outcome], styles: Styles) -> tuple[Figure, str]:
    """One panel per problem, one line per optimizer with its best hyperparameter."""
    names = problems_of(outcomes)
    figure, axes = panels(len(names), 2.1)
    ends: dict[str, dict[str, float]] = {}
    for name, ax in zip(names, axes, strict=True):
        seen, ends[name] = [], {}
        for o in _grey_first(on_problem(outcomes, name), styles):
            used = np.median(o.test_runs.used[:, -1].sum(axis=-1), axis=0)
            _, median, _ = quartiles(o.test_runs.valid_loss[:, -1])
            ends[name][o.name] = float(median[-1])
            median = np.where(np.isfinite(median), np.clip(median, 1e-10, 1e10), np.nan)
            ax.plot(used, median, **styles[o.name])
            seen.append(median[median < 10 * median[0]] if np.isfinite(median[0]) else median)
        log_axis(ax, np.concatenate(seen))
        ax.set_title(name)
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    for ax in axes[::2]:
        ax.set_ylabel("validation loss")
    finish(figure, axes, "evaluations", legend_of(dict(styles)))
    found = "; ".join(f"{name}: {lowest(values)}" for name, values in ends.items())
    return figure, (
        "Loss on the validation part, median of the test seeds, each optimizer with its best hyperparameter. An "
        "evaluation is a value, a gradient or a product with a vector. The reference and the seven optimizers with "
        f"the best ranks are coloured. Lowest at the end: {found}."
    )


def sensitivity(outcomes: Sequence[Outcome]) -> tuple[Figure, str]:
    """One problem: the score of each optimizer against its hyperparameter, with the quartiles of the tuning seeds."""
    shown = [o for o in outcomes if len(o.values) > 1]
    figure, axes = panels(len(shown), 1.85)
    curves = []
    for o in shown:
        order = np.argsort(o.values)
        loss, score = o.tuning_runs.valid_loss[:, order, -1], o.tuning_runs.valid_score[:, order, -1]
        curves.append((o.values[order], *quartiles(np.where(np.isfinite(loss), score, np.inf))))
    finite = np.concatenate([m[np.isfinite(m)] for _, _, m, _ in curves])
    floor = max(finite[finite > 0].min(initial=1.0), 1e-10)
    for k, (o, ax) in enumerate(zip(shown, axes, strict=True)):
        for i, (x, _, median, _) in enumerate(curves):
            if i != k and shown[i].tunable.argument == o.tunable.argument:
                ax.plot(x, _for_log_axis(median, floor), **OTHER)
        x, low, median, high = curves[k]
        band = (_for_log_axis(low, floor), np.minimum(np.maximum(high, floor), 1e30))
        ax.fill_between(x, *band, color=BLUE, alpha=0.25, lw=0)
        ax.plot(x, _for_log_axis(median, floor), color=BLUE, lw=1.8, marker=".", ms=4)
        best = int(np.flatnonzero(x == o.best)[0])
        if np.isfinite(median[best]):
            ax.plot(x[best], max(median[best], floor), **RING)
        ax.set_xscale("log")
        ax.set_xlim(x[0] / 1.5, x[-1] * 1.5)
        set_log_ticks(ax.xaxis, x[0] / 1.5, x[-1] * 1.5, most=4)
        log_axis(ax, np.maximum(finite, floor))
        diverged = x[np.isinf(median)]
        ax.plot(diverged, np.full(len(diverged), 0.93), transform=ax.get_xaxis_transform(), **CROSS)
        argument = "" if o.tunable.argument == "learning_rate" else f"{o.tunable.argument} "
        ax.set_title(f"{o.name}\nbest at {argument}{o.best:.2g}{'*' if o.on_edge else ''}")
    for ax in axes[::2]:
        ax.set_ylabel(outcomes[0].problem.unit)
    entries: list[Artist] = [
        Line2D([], [], color=BLUE, lw=1.8, marker=".", ms=4, label="median"),
        Patch(color=BLUE, alpha=0.25, lw=0, label="quartiles"),
        Line2D([], [], label="best value", **RING),
        Line2D([], [], label="others", **OTHER),
    ]
    if any(np.isinf(m).any() for _, _, m, _ in curves):
        entries.append(Line2D([], [], label="diverged", **CROSS))
    finish(figure, axes, "hyperparameter", entries)
    edge = [o.name for o in shown if o.on_edge]
    return figure, (
        "Score on the validation part at the end of the budget, over the tuning seeds, against the learning rate or "
        "the hyperparameter that the title names. If a band reaches the top, some of its runs diverged."
        + (f" Best at the edge of the values that were tried (*): {listed(edge)}." if edge else "")
    )


def trials(outcomes: Sequence[Outcome], styles: Styles) -> tuple[Figure, str]:
    """One panel per problem: the best score after k trials, median over orders of the trials."""
    names = problems_of(outcomes)
    figure, axes = panels(len(names), 2.1)
    for name, ax in zip(names, axes, strict=True):
        seen = []
        for o in _grey_first(on_problem(outcomes, name), styles):
            if len(o.values) < 2:
                continue
            loss, score = o.tuning_runs.valid_loss[..., -1], o.tuning_runs.valid_score[..., -1]
            scores = np.median(np.where(np.isfinite(loss), score, np.inf), axis=0)
            low, median, high = (_for_log_axis(a, 1e-10) for a in best_of_k(scores))
            k = np.arange(1, len(median) + 1)
            ax.plot(k, median, **styles[o.name])
            if styles[o.name] is not OTHER:
                colour = styles[o.name]["color"]
                ax.fill_between(k, low, np.nan_to_num(high, nan=1e30), color=colour, alpha=0.1, lw=0)
            seen.append(median)
        log_axis(ax, np.concatenate(seen) if seen else np.ones(1))
        ax.set_title(name)
        ax.set_ylabel(on_problem(outcomes, name)[0].problem.unit)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    finish(figure, axes, "trials", legend_of(dict(styles)))
    return figure, (
        "Best score on the validation part among the first k trials: the default, then random values. Median and "
        "quartiles over 1,000 orders of the trials. An optimizer whose line is flat from the start needs no tuning."
    )


def profiles(outcomes: Sequence[Outcome], styles: Styles, budget: int) -> tuple[Figure, str]:
    """Dolan and Moré's performance profile over all problems."""
    problems, names = problems_of(outcomes), list(styles)
    costs = costs_of(outcomes)
    table = np.array([[costs.get((p, name), np.inf) for name in names] for p in problems])
    factors = np.geomspace(1, 20, 400)
    shares = performance_profile(table, factors)
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    ax = figure.subplots()
    order = sorted(range(len(names)), key=lambda i: styles[names[i]] is not OTHER)
    for i in order:
        ax.step(factors, 100 * shares[i], where="post", **styles[names[i]])
    ax.set(xscale="log", ylim=(-2, 102), ylabel="problems solved, %")
    ax.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    ax.xaxis.set_minor_formatter(NullFormatter())
    finish(figure, [ax], "evaluations, as a multiple of the fewest of any", legend_of(dict(styles)), rows=1)
    unsolved = dict(zip(names, (len(problems) - np.isfinite(table).sum(axis=0)).tolist(), strict=True))
    most = lowest(unsolved, lambda n: f"{len(problems) - n:.0f} of {len(problems)}")
    return figure, (
        "The share of problems that an optimizer solves within a multiple of the evaluations of the fastest optimizer "
        "on each problem. Higher is better, and so is further to the left. Solved means: the validation loss has come "
        "nine tenths of the way from the start to the lowest loss of all. Most problems solved with "
        f"{budget} evaluations: {most}."
    )


def costs_of(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], float]:
    """For each problem and optimizer, the evaluations until the problem is solved."""
    curves = {
        (o.problem.name, o.name): (
            np.median(o.test_runs.used[:, -1].sum(axis=-1), axis=0),
            quartiles(o.test_runs.valid_loss[:, -1])[1],
        )
        for o in outcomes
    }
    starts = {p: loss[0] for (p, _), (_, loss) in curves.items()}
    bests = {p: min(float(loss.min()) for (q, _), (_, loss) in curves.items() if q == p) for p in starts}
    goal = targets(starts, bests)
    return {(p, name): cost_to_reach(used, loss, goal[p]) for (p, name), (used, loss) in curves.items()}


def _grey_first(outcomes: Sequence[Outcome], styles: Styles) -> list[Outcome]:
    return sorted(outcomes, key=lambda o: styles[o.name] is not OTHER)


def _for_log_axis(a: np.ndarray, floor: float) -> np.ndarray:
    """At least `floor`, and NaN where it is infinite."""
    return np.where(np.isfinite(a), np.maximum(a, floor), np.nan)
