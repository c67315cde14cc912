"""Results of the ladder: one row per optimizer and problem, results.json, runs.csv, the tables of the terminal."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from experiments.comparison.ladder.pictures import on_problem, problems_of
from experiments.comparison.ladder.tuning import Outcome
from experiments.comparison.statistics import Difference, paired_difference, quartiles
from experiments.comparison.wording import number


class Row(NamedTuple):
    """An optimizer on a problem, with the hyperparameter chosen from all trials."""

    problem: str
    optimizer: str
    argument: str | None  # the hyperparameter that was searched for
    best: float  # its best value
    on_edge: bool  # whether that is the lowest or highest that was tried
    median: float  # score on the test part over the test seeds; infinite where a run diverged
    low: float  # first quartile
    high: float  # third quartile
    difference: (
        Difference | None
    )  # from the reference, seed by seed; None for the reference, or if it did not run
    diverged: int  # test runs whose loss is not finite at the end
    tuning_diverged: int  # the same for all tuning runs
    evaluations: tuple[int, int, int]  # values, gradients, products; medians
    seconds: float  # per run
    compile_seconds: float
    by_trials: dict[int, float]  # median test score with the value that 1, 10, ... trials would have chosen


def rows(outcomes: Sequence[Outcome], reference: str) -> list[Row]:
    """One row per outcome, problem by problem."""
    references = {o.problem.name: o for o in outcomes if o.name == reference}
    return [_row(o, references.get(o.problem.name)) for o in outcomes]


def _row(o: Outcome, reference: Outcome | None) -> Row:
    low, median, high = quartiles(o.scores)
    difference = None
    if reference is not None and reference.name != o.name:
        difference = paired_difference(o.scores, reference.scores)
    values, gradients, products = (int(n) for n in np.median(o.test_runs.used[:, -1, -1], axis=0))
    by_trials = {
        k: float(quartiles(o.test_runs.test_score[:, i, -1])[1]) for i, k in enumerate(o.trial_counts)
    }
    return Row(
        problem=o.problem.name,
        optimizer=o.name,
        argument=o.tunable.argument,
        best=o.best,
        on_edge=o.on_edge,
        median=float(median),
        low=float(low),
        high=float(high),
        difference=difference,
        diverged=int(o.diverged.sum()),
        tuning_diverged=int(np.sum(~np.isfinite(o.tuning_runs.valid_loss[..., -1]))),
        evaluations=(values, gradients, products),
        seconds=o.seconds,
        compile_seconds=o.compile_seconds,
        by_trials=by_trials,
    )


def best_first(found: Sequence[Row], problem: str) -> list[Row]:
    """The rows of one problem, the lowest median score first."""
    return sorted((r for r in found if r.problem == problem), key=lambda r: r.median)


def as_json(found: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for results.json."""
    return [r._asdict() | {"difference": r.difference._asdict() if r.difference else None} for r in found]


def terminal_tables(found: Sequence[Row], outcomes: Sequence[Outcome], reference: str) -> list[Table]:
    """One table per problem, the best first; at most 80 columns wide."""
    tables = []
    for name in problems_of(outcomes):
        problem = on_problem(outcomes, name)[0].problem
        table = Table(
            title=f"{name}: {problem.title}",
            box=box.SIMPLE,
            padding=0,
            pad_edge=False,
            show_edge=False,
            title_justify="left",
        )
        table.add_column("optimizer", no_wrap=True)
        for column in ("best\nvalue", f"test {problem.unit}\n(quartiles)", f"minus {reference}\n95 %"):
            table.add_column(column, justify="right", no_wrap=True)
        for column in ("diverged", "run\nms", "comp.\ns"):
            table.add_column(column, justify="right", no_wrap=True)
        for r in best_first(found, name):
            table.add_row(
                r.optimizer,
                "-" if r.argument is None else f"{number(r.best)}{'*' if r.on_edge else ''}",
                f"{number(r.median)} ({number(r.low)} {number(r.high)})",
                _interval(r),
                str(r.diverged) if r.diverged else "",
                number(1000 * r.seconds),
                f"{r.compile_seconds:.0f}",
            )
        tables.append(table)
    return tables


def _interval(r: Row) -> str:
    if r.difference is None or np.isnan(r.difference.median):
        return "-"
    return f"({number(r.difference.low)} {number(r.difference.high)})"


def write_csv(file: Path, outcomes: Sequence[Outcome]) -> None:
    """All runs as tidy data: one line for each problem, optimizer, phase, value, seed and recorded point."""
    measures = ("train_loss", "valid_loss", "test_loss", "valid_score", "test_score")
    with file.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(
            ("problem", "optimizer", "phase", "value", "seed", "values", "gradients", "products", *measures)
        )
        for o in outcomes:
            for phase, curves, values in (
                ("tuning", o.tuning_runs, o.values),
                ("test", o.test_runs, o.values[list(o.chosen)]),
            ):
                for seed, trial, point in np.ndindex(curves.valid_loss.shape):
                    at = (seed, trial, point)
                    scores = [f"{getattr(curves, measure)[at]:.6g}" for measure in measures]
                    value = f"{values[trial]:.6g}"
                    writer.writerow((o.problem.name, o.name, phase, value, seed, *curves.used[at], *scores))
