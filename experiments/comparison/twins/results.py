"""Results of an optimizer beside its optax twin: the row of the table, results.json, curves.csv, the terminal."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from experiments.comparison.twins.twin_run import SurfacePaths, TwinRun
from experiments.timing import Compared


class Result(NamedTuple):
    """One optimizer and its twin."""

    name: str
    rates: np.ndarray  # learning rates, ascending
    seeds: tuple[int, ...]
    run: TwinRun  # NumPy arrays [rates, seeds, steps or evaluations]
    update: Compared  # seconds of one update, ours beside optax
    step_seconds: float  # of one training step of one network with our optimizer
    compile_ours: float  # seconds to compile one update
    compile_baseline: float  # the same for optax
    paths: SurfacePaths


class Row(NamedTuple):
    """One row of the table."""

    optimizer: str
    best_rate: float  # highest median accuracy on the validation part at the end; the lower loss decides between equals
    on_edge: bool  # the best rate is the lowest or highest that was tried, so a better one may lie outside
    ours: tuple[float, float, float]  # test accuracy at that rate: median, lowest and highest of the seeds
    baseline: tuple[float, float, float]  # the same for optax
    ulp: float  # largest difference of a parameter at any rate, seed and step, in units in the last place
    update_ratio: float  # time of one update, ours divided by optax's
    compile_ours: float  # seconds
    compile_baseline: float  # seconds


def best_rate(result: Result) -> int:
    """Index of the learning rate that is best on the validation part."""
    accuracy = np.median(result.run.ours["valid_accuracy"][..., -1], axis=1)
    loss = np.median(result.run.ours["valid_loss"][..., -1], axis=1)
    return int(np.lexsort((np.nan_to_num(loss, nan=np.inf), -accuracy))[0])


def row(result: Result) -> Row:
    """The row of one optimizer."""
    best = best_rate(result)

    def spread(side: dict[str, Any]) -> tuple[float, float, float]:
        accuracy = side["test_accuracy"][best, :, -1]
        return float(np.median(accuracy)), float(accuracy.min()), float(accuracy.max())

    return Row(
        optimizer=result.name,
        best_rate=float(result.rates[best]),
        on_edge=len(result.rates) > 1 and best in (0, len(result.rates) - 1),
        ours=spread(result.run.ours),
        baseline=spread(result.run.baseline),
        ulp=float(np.max(result.run.ulp)),  # NaN if one side is NaN anywhere and the other is not
        update_ratio=result.update.ratio,
        compile_ours=result.compile_ours,
        compile_baseline=result.compile_baseline,
    )


def is_equal(row: Row, max_ulp: float) -> bool:
    """Whether no parameter differs from its twin's by more than `max_ulp`. NaN on one side only is a difference."""
    return row.ulp <= max_ulp


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The table for results.json, with the times in full."""
    return [
        row(result)._asdict()
        | {"update": result.update._asdict(), "step_seconds": result.step_seconds, "seeds": result.seeds}
        for result in results
    ]


def write_csv(file: Path, results: Sequence[Result]) -> None:
    """The curves as tidy data: one line for each optimizer, implementation, rate, seed and evaluation."""
    measures = ("valid_loss", "valid_accuracy", "test_loss", "test_accuracy")
    with file.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("optimizer", "implementation", "learning_rate", "seed", "step", *measures, "ulp"))
        for result in results:
            for implementation, side in (("fnnet", result.run.ours), ("optax", result.run.baseline)):
                for i, rate in enumerate(result.rates):
                    for j, seed in enumerate(result.seeds):
                        for k, step in enumerate(result.run.eval_step[i, j]):
                            values = [f"{side[measure][i, j, k]:.6g}" for measure in measures]
                            ulp = f"{result.run.ulp[i, j, step - 1]:.6g}"
                            writer.writerow(
                                (result.name, implementation, f"{rate:.6g}", seed, step, *values, ulp)
                            )


def terminal_table(rows: Sequence[Row], title: str, max_ulp: float) -> Table:
    """One row per optimizer, at most 80 columns wide."""
    table = Table(title=title, box=box.SIMPLE, padding=0, pad_edge=False)
    table.add_column("optimizer", no_wrap=True)
    for column in (
        "best\nrate",
        "test accuracy %\nfnnet",
        "test accuracy %\noptax",
        "diff\nulp",
        "time\nratio",
        "compile\ns",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for r in rows:
        median, low, high = (f"{100 * a:.1f}" for a in r.ours)
        twin_median, twin_low, twin_high = (f"{100 * a:.1f}" for a in r.baseline)
        table.add_row(
            r.optimizer,
            f"{r.best_rate:.2g}" + ("*" if r.on_edge else ""),
            f"{median} ({low}-{high})",
            f"{twin_median} ({twin_low}-{twin_high})",
            f"{r.ulp:.3g}" + ("" if is_equal(r, max_ulp) else " !"),
            f"{r.update_ratio:.2f}",
            f"{r.compile_ours:.2f}",
        )
    return table
