"""The report of the ladder: all optimizers against each other, the races, a table for each problem, then details."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from experiments.comparison import html_page
from experiments.comparison.html_page import Section
from experiments.comparison.ladder.pictures import on_problem, problems_of
from experiments.comparison.ladder.results import Row, best_first
from experiments.comparison.ladder.tuning import Outcome
from experiments.comparison.surface_pictures import Film
from experiments.comparison.wording import count, listed, number
from experiments.plotting import Picture
from experiments.results_folder import environment


class Pictures(NamedTuple):
    """All pictures of the report, by section."""

    overview: Sequence[Picture]
    races: Sequence[Film]
    tuning: Sequence[Picture]
    trajectories: Sequence[Picture]


def page(
    config: Mapping[str, Any], found: Sequence[Row], outcomes: Sequence[Outcome], drawn: Pictures
) -> str:
    """The page as HTML."""
    names = problems_of(outcomes)
    title = f"{count(len({o.name for o in outcomes}), 'optimizer')} on {count(len(names), 'problem')}"
    tables = []
    for name in names:
        problem = on_problem(outcomes, name)[0].problem
        tables += [
            f"<h3>{escape(name)}</h3>\n<p>{escape(problem.title)}. {escape(best_line(found, name))}</p>",
            table(found, name, problem.unit, config),
        ]
    files = (
        "Next to this file: the pictures as PNG and SVG, the races as GIF, all runs in runs.csv and the tables in "
        "results.json."
    )
    sections = [
        Section("All optimizers against each other", [html_page.pictures(drawn.overview)]),
        Section("Races", [html_page.pictures(drawn.races)] if drawn.races else []),
        Section("Results by problem", tables),
        Section("Tuning", [html_page.pictures(drawn.tuning)] if drawn.tuning else []),
        Section("Paths and steps", [html_page.pictures(drawn.trajectories)] if drawn.trajectories else []),
        Section("Settings", [html_page.definitions(config), f'<p class="quiet">{files}</p>']),
    ]
    opening = [f"<p>{escape(summary(config))}</p>", html_page.conditions(environment())]
    return html_page.page(title, opening, [s for s in sections if s.parts])


def summary(config: Mapping[str, Any]) -> str:
    """The protocol in words."""
    return (
        f"Each optimizer has {config['budget']} evaluations per run. A value, a gradient or a product with a vector "
        f"counts as 1. Its hyperparameter is the best of {count(config['trials'], 'trial')} (the default, then "
        f"log-uniform draws) by the median score of {config['seeds']} tuning seeds on the validation part. With this "
        f"value, {count(config['seeds'], 'other seed')} gave the scores on the test part. The tables show their median "
        f"and quartiles, lower is better, and the median difference from {config['reference']} seed by seed with its "
        "95 % bootstrap interval."
    )


def best_line(found: Sequence[Row], problem: str) -> str:
    """Who has the lowest median score, and which optimizers can't be told from it: their quartiles overlap."""
    rows = [r for r in best_first(found, problem) if np.isfinite(r.median)]
    if not rows:
        return "All optimizers diverged."
    best = rows[0]
    tied = [r.optimizer for r in rows[1:] if r.low <= best.high]
    line = f"Lowest median score: {best.optimizer} ({number(best.median)})."
    if not tied:
        return line
    names = listed(tied) if len(tied) <= 5 else f"{len(tied)} other optimizers"
    return f"{line} It is a tie with {names}: the quartiles overlap."


def table(found: Sequence[Row], problem: str, unit: str, config: Mapping[str, Any]) -> str:
    """One row per optimizer, the best first."""
    columns = (
        ("optimizer", ""),
        (f"test {unit}", "median (quartiles)"),
        (f"minus {config['reference']}", "median (95 % interval)"),
        ("diverged", "test runs"),
        ("best value", ""),
        ("hyperparameter", ""),
        ("evaluations", "values, gradients, products"),
        ("time", "ms per run"),
        ("compile time", "s, less if cached"),
    )
    cells = {
        r.optimizer: (
            f"{number(r.median)} <small>({number(r.low)} to {number(r.high)})</small>",
            escape(_difference(r)),
            f'<span class="bad">{r.diverged}</span>' if r.diverged else "0",
            "-" if r.argument is None else f"{r.best:.2g}{'*' if r.on_edge else ''}",
            r.argument or "-",
            ", ".join(map(str, r.evaluations)),
            f"{1000 * r.seconds:.3g}",
            f"{r.compile_seconds:.1f}",
        )
        for r in best_first(found, problem)
    }
    note = ""
    if any(r.on_edge for r in found if r.problem == problem):
        note = '\n<p class="quiet">* The lowest or highest value that was tried: a better one may lie outside.</p>'
    return html_page.table(columns, cells) + note


def _difference(r: Row) -> str:
    if r.difference is None or np.isnan(r.difference.median):
        return "-"
    return f"{number(r.difference.median)} ({number(r.difference.low)} to {number(r.difference.high)})"
