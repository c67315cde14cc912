"""The results of a sweep: the best trial, a table, a CSV file."""

import csv
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.train.step import describe_array, describe_fields, describe_tree


class BestTrial(NamedTuple):
    """The best trial of a sweep."""

    trial: int
    hparams: dict[str, Any]
    mean: float  # of its score over the seeds
    std: float  # over the seeds, of the sample (divided by n - 1); NaN for one seed
    params: Any  # of its runs, with the seeds on the first axis of each leaf
    state: Any

    def __repr__(self) -> str:
        return describe_fields(
            "BestTrial",
            trial=str(self.trial),
            hparams=_describe_hparams(self.hparams),
            score=f"{self.mean} +- {self.std} over the seeds",
            params=describe_tree(self.params),
            state=describe_tree(self.state),
        )


class Sweep(NamedTuple):
    """The results of a sweep: NumPy arrays, by trial on the first axis and by seed on the second."""

    hparams: dict[str, np.ndarray]  # by name, [trials, ...]
    seeds: np.ndarray  # int[seeds]
    score: str  # the measure that the trials are ranked by
    maximize: bool
    scores: np.ndarray  # float[trials, seeds], its last value; NaN if the run diverged
    last: dict[str, np.ndarray]  # by measure, float[trials, seeds], at the end
    lowest: dict[str, np.ndarray]  # the lowest of the history
    highest: dict[str, np.ndarray]  # the highest
    diverged_at: np.ndarray  # int[trials, seeds], as in make_run; -1 if all was finite
    rungs: np.ndarray  # int[trials], rungs of successive halving that a trial took part in; 1 without halving
    order: np.ndarray  # int[trials], from the best to the worst
    params: Any  # of the best trial, [seeds, ...], or of all, [trials, seeds, ...]
    state: Any  # of the layers, likewise
    all_params: bool  # whether params and state are of all trials
    history: dict[str, np.ndarray]  # [trials, seeds, ...] if histories=True, else {}
    log_scaled: tuple[str, ...]  # hyperparameters that were drawn log-uniformly
    mapping: str  # "vmap" or "map"
    why: str  # the reason for it
    chunk: int  # trials in one compiled call

    @property
    def best(self) -> BestTrial:
        """The trial with the best mean score. If all diverged, one with the fewest such seeds."""
        i = int(self.order[0])
        params, state = self.params, self.state
        if self.all_params:
            params, state = jax.tree.map(lambda a: a[i], (params, state))
        values = {name: a[i].item() if a.ndim == 1 else a[i] for name, a in self.hparams.items()}
        return BestTrial(i, values, *mean_and_std(self.scores[i]), params, state)

    def __repr__(self) -> str:
        if not isinstance(self.scores, np.ndarray) or not isinstance(self.order, np.ndarray):  # no results
            return describe_fields(
                "Sweep", scores=describe_tree(self.scores), order=describe_tree(self.order)
            )
        trials, seeds = self.scores.shape
        best, diverged = self.best, int((self.diverged_at >= 0).sum())
        return describe_fields(
            "Sweep",
            trials=f"{trials}, each with {seeds} {'seed' if seeds == 1 else 'seeds'}",
            hparams=", ".join(self.hparams),
            best=f"trial {best.trial}, {_describe_hparams(best.hparams)}",
            score=f"{self.score} {best.mean:.4g}" + (f" +- {best.std:.2g}" if seeds > 1 else ""),
            diverged=f"{diverged} of {trials * seeds} runs",
            mapping=f"{self.mapping}, {self.why}; {self.chunk} trials per call",
        )

    def table(self, rows: int | None = 20) -> str:
        """The trials as text, the best first: hyperparameters, the score's mean and standard deviation over the seeds.

        Args:
            rows: the most trials to show; None for all.
        """
        if rows is not None:
            check.is_positive("table", "rows", rows)
        others = sorted(name for name in self.last if name != self.score and not name.startswith("train_"))
        has_rungs, has_diverged = bool(np.ptp(self.rungs)), bool((self.diverged_at >= 0).any())
        head = ["trial", *self.hparams, self.score, "+-", *others]
        lines = [head + ["rungs"] * has_rungs + ["diverged"] * has_diverged]
        for i in self.order[:rows]:
            mean, std = mean_and_std(self.scores[i])
            diverged = int((self.diverged_at[i] >= 0).sum())
            line = [str(i), *(_describe_value(a[i]) for a in self.hparams.values())]
            line += [f"{mean:.4g}", f"{std:.2g}", *(f"{self.last[name][i].mean():.4g}" for name in others)]
            line += [str(self.rungs[i])] * has_rungs
            line += [f"{diverged} of {len(self.seeds)}" if diverged else ""] * has_diverged
            lines.append(line)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        left_out = len(self.order) - (len(lines) - 1)
        return "\n".join(text + ([f"... and {left_out} more"] if left_out else []))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one row for each trial and seed. The file is written completely or not at all."""
        measures = [
            (f"{kind}_{name}", values)
            for kind, by_name in (("last", self.last), ("lowest", self.lowest), ("highest", self.highest))
            for name, values in by_name.items()
        ]

        def row(i: int, j: int) -> list[Any]:
            hparams = [
                a[i].item() if a.ndim == 1 else json.dumps(a[i].tolist()) for a in self.hparams.values()
            ]
            results = [self.scores[i, j], self.diverged_at[i, j], self.rungs[i]]
            return [i, self.seeds[j], *hparams, *results, *(values[i, j] for _, values in measures)]

        def write(beside: Path) -> None:
            with beside.open("w", newline="", encoding="utf-8") as f:
                writer = csv.writer(f)
                head = ["trial", "seed", *self.hparams, "score", "diverged_at", "rungs"]
                writer.writerow(head + [name for name, _ in measures])
                writer.writerows(row(i, j) for i, j in np.ndindex(self.scores.shape))

        write_atomically(check.local_path("to_csv", "path", path), write)


def mean_and_std(scores: np.ndarray) -> tuple[float, float]:
    """The mean over the seeds, and the standard deviation of the sample; NaN for one seed."""
    scores = scores.astype(np.float64)
    return float(scores.mean()), float(scores.std(ddof=1)) if len(scores) > 1 else math.nan


def _describe_value(value: np.ndarray) -> str:
    return f"{value.item():.4g}" if value.ndim == 0 else json.dumps(value.tolist())


def _describe_hparams(hparams: dict[str, Any]) -> str:
    return ", ".join(f"{name}={describe_array(value)}" for name, value in hparams.items())
