"""What the chunks of a sweep have brought so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from fnnet.train.run import Run
from fnnet.train.sweep.halving import rank_by_rung, rank_trials
from fnnet.train.sweep.program import Summary, merge_summaries


class Chunk(NamedTuple):
    """The results of a chunk of trials."""

    summary: Summary
    kept: np.ndarray  # int[kept], the positions in the chunk of the trials whose ends are kept
    ends: Run  # of those trials
    seconds: np.ndarray  # float[], the time it took


@dataclass
class Record:
    """The results of all chunks so far. `add` updates it in place."""

    score: str
    maximize: bool
    trials: int
    summary: Summary | None = None  # of all trials; None before the first chunk
    rungs: np.ndarray = field(init=False)  # int[trials], rungs that each trial took part in
    ends: dict[int, Run] = field(default_factory=dict)  # by trial, those that are kept
    seconds: list[float] = field(default_factory=list)  # of each chunk

    def __post_init__(self) -> None:
        self.rungs = np.zeros(self.trials, int)

    @property
    def scores(self) -> np.ndarray:
        """float[trials, seeds]; NaN where the run diverged."""
        assert self.summary is not None, "no chunk has run"
        return scores_of(self.summary, self.score)

    @property
    def order(self) -> np.ndarray:
        """int[trials], from the best to the worst."""
        return rank_by_rung(self.scores, self.rungs, self.maximize)

    @property
    def best_mean(self) -> float:
        """The mean score of the best trial."""
        return float(self.scores[self.order[0]].mean())

    def start_rung(self, keep_all: bool) -> dict[int, Run]:
        """The ends of the rung before, which the new rung continues. They are then dropped unless all are kept."""
        previous = self.ends
        if not keep_all:
            self.ends = {}
        return previous

    def add(self, chunk: Chunk, trials: np.ndarray, rung: int, keep_all: bool) -> None:
        """Adds a chunk.

        Args:
            chunk: its results.
            trials: int[chunk], its trials.
            rung: of successive halving.
            keep_all: whether to keep the ends of all trials, or only those of the best one.
        """
        self.seconds.append(float(chunk.seconds))
        self.summary = place_summary(self.summary, chunk.summary, trials, self.trials, rung)
        self.rungs[trials] = rung + 1
        new = {int(trials[k]): take_run(chunk.ends, i) for i, k in enumerate(chunk.kept)}
        self.ends = self.ends | new
        if not keep_all:
            best = self.order[0]
            self.ends = {i: end for i, end in self.ends.items() if i == best}


def make_chunk(
    summary: Summary, ends: Run, seconds: float, *, score: str, maximize: bool, keep_all: bool
) -> Chunk:
    """The results of a chunk, with the ends of all its trials, or only of the best one."""
    scores = scores_of(summary, score)
    kept = np.arange(len(scores)) if keep_all else rank_trials(scores, maximize)[:1]
    return Chunk(summary, kept, take_run(ends, kept), np.asarray(seconds))


def scores_of(summary: Summary, score: str) -> np.ndarray:
    """The last value of the measure, float[trials, seeds]; NaN where the run diverged."""
    return np.where(summary.diverged_at >= 0, np.nan, summary.last[score])


def place_summary(whole: Summary | None, new: Summary, trials: np.ndarray, count: int, rung: int) -> Summary:
    """The summary of all trials, with that of some of them put in place.

    Args:
        whole: of all `count` trials, or None before the first chunk. Its arrays are changed in place.
        new: of the trials of a chunk. After rung 0 these continue earlier runs.
        trials: int[chunk].
        count: number of all trials.
        rung: of successive halving.
    """
    if whole is None:
        whole = jax.tree.map(lambda a: np.zeros((count, *a.shape[1:]), a.dtype), new)
    elif rung:
        new = merge_summaries(jax.tree.map(lambda a: a[trials], whole), new)
    for all_trials, some in zip(jax.tree.leaves(whole), jax.tree.leaves(new), strict=True):
        all_trials[trials] = some
    return whole


def take_run(runs: Run, i: Any) -> Run:
    """The run, or the runs, at an index of the first axis."""
    return jax.tree.map(lambda a: a[i], runs)


def stack_runs(runs: Sequence[Run]) -> Run:
    """The runs, stacked on a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
