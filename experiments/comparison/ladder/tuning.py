"""How a hyperparameter is chosen and an optimizer is tested: the same number of trials for all, on separate seeds.

Trial 1 is the default. The other values are drawn log-uniformly. Each trial runs with the tuning seeds. The value that
is best on the validation part then runs once with the test seeds and is scored on the test part. All optimizers share
the seeds, and therefore the weights and batches.

Source: Schneider, Balles & Hennig 2019, "DeepOBS", arXiv:1903.05499; Schmidt, Schneider & Hennig 2021, "Descending
through a crowded valley", arXiv:2007.01547.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from experiments.comparison.ladder.budgeted_runs import Curves, make_program
from experiments.comparison.ladder.problems import Problem
from experiments.comparison.ladder.search_spaces import TunableOptimizer

FIRST_TUNING_SEED = 1_000_000  # the first test seed is 0
VALUES_PER_CALL = 5  # values of the hyperparameter that run at once: one program serves for tuning and test


class Outcome(NamedTuple):
    """One optimizer on one problem."""

    problem: Problem
    name: str
    tunable: TunableOptimizer
    values: np.ndarray  # float[trials], of the hyperparameter
    tuning_runs: Curves  # [seeds, trials, points]
    trial_counts: tuple[int, ...]  # numbers of trials after which a value is chosen, up to all of them
    chosen: tuple[int, ...]  # for each of these numbers, the index of the best value on the validation part
    test_runs: Curves  # [seeds, trial_counts, points], with other seeds
    seconds: float  # per run; runs that run together share the time equally
    compile_seconds: float  # or the seconds to read the program from the compilation cache

    @property
    def best(self) -> float:
        """The hyperparameter chosen from all trials."""
        return float(self.values[self.chosen[-1]])

    @property
    def on_edge(self) -> bool:
        """Whether the best value is the lowest or highest that was tried: a better one may lie outside."""
        return len(self.values) > 1 and self.best in (self.values.min(), self.values.max())

    @property
    def scores(self) -> np.ndarray:
        """float[seeds], on the test part at the end of the budget; infinite if the run diverged."""
        return np.where(self.diverged, np.inf, self.test_runs.test_score[:, -1, -1])

    @property
    def diverged(self) -> np.ndarray:
        """bool[seeds], whether the loss of the test run is not finite at the end."""
        return ~np.isfinite(self.test_runs.valid_loss[:, -1, -1] + self.test_runs.train_loss[:, -1, -1])


def draw_values(tunable: TunableOptimizer, trials: int, seed: int = 0) -> np.ndarray:
    """The values to try: the default, then log-uniform draws. More trials add values and change none."""
    if tunable.argument is None:
        return np.array([tunable.default])
    place = np.random.default_rng(seed).uniform(size=trials - 1)
    low, high = np.log([tunable.low, tunable.high])
    return np.append(tunable.default, np.exp(low + (high - low) * place))


def best_trial(curves: Curves, trials: int) -> int:
    """Index of the best among the first `trials`: the lowest median validation score at the end.

    The lower loss decides between equal scores. A trial whose loss is not finite is worst.
    """
    score, loss = (
        np.median(np.nan_to_num(a[:, :trials, -1], nan=np.inf, posinf=np.inf, neginf=np.inf), axis=0)
        for a in (curves.valid_score, curves.valid_loss)
    )
    # A diverged network can still get the right class by chance.
    return int(np.lexsort((loss, np.where(np.isfinite(loss), score, np.inf)))[0])


def trial_counts_of(trials: int) -> tuple[int, ...]:
    """1, 10, 25 and all trials, without those that are more than all."""
    return tuple(sorted({k for k in (1, 10, 25) if k < trials} | {trials}))


def tune_and_test(
    problem: Problem,
    name: str,
    tunable: TunableOptimizer,
    *,
    budget: int,
    trials: int,
    seeds: int,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Outcome:
    """The whole protocol for one optimizer on one problem. `on_stage` is called before each of its three stages."""
    values = draw_values(tunable, trials)
    trial_counts = trial_counts_of(len(values))
    calls = -(-len(values) // VALUES_PER_CALL)
    together = max(-(-len(values) // calls), len(trial_counts))
    test_keys, tuning_keys = (_keys(first, seeds) for first in (0, FIRST_TUNING_SEED))

    on_stage("compiling")
    began = time.perf_counter()
    program = jax.jit(make_program(problem, tunable, budget))
    compiled = program.lower(test_keys, np.zeros(together, np.float32)).compile()
    compile_seconds = time.perf_counter() - began

    def run(keys: jax.Array, values: np.ndarray) -> Curves:
        padded = np.append(values, np.repeat(values[-1:], -len(values) % together))
        parts = [
            jax.tree.map(np.asarray, compiled(keys, part.astype(np.float32)))
            for part in padded.reshape(-1, together)
        ]
        return jax.tree.map(lambda *a: np.concatenate(a, axis=1)[:, : len(values)], *parts)

    on_stage(f"tuning, {len(values) * seeds} runs")
    began = time.perf_counter()
    tuning_runs = run(tuning_keys, values)
    calls = -(-len(values) // together)
    seconds = (time.perf_counter() - began) / (calls * together * seeds)

    on_stage(f"testing, {len(trial_counts) * seeds} runs")
    chosen = tuple(best_trial(tuning_runs, k) for k in trial_counts)
    test_runs = run(test_keys, values[list(chosen)])
    return Outcome(
        *(problem, name, tunable, values, tuning_runs, trial_counts, chosen, test_runs),
        seconds=seconds,
        compile_seconds=compile_seconds,
    )


def _keys(first: int, seeds: int) -> jax.Array:
    return jax.vmap(jax.random.key)(np.arange(first, first + seeds))
