"""How fast each optimizer gets to a target error: steps, and the seconds that they take."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.comparison.statistics import cost_to_reach
from experiments.comparison.twins.results import Result, best_rate


class TimeToTarget(NamedTuple):
    """One optimizer at its best rate. Infinite where a seed never gets to the target."""

    name: str
    steps: np.ndarray  # float[seeds], steps to the first evaluation at or below the target
    seconds: np.ndarray  # float[seeds], these steps times the seconds of one step

    @property
    def median_steps(self) -> float:
        """Of the seeds; infinite unless most of them get to the target."""
        return _median(self.steps)

    @property
    def median_seconds(self) -> float:
        """Of the seeds; infinite unless most of them get to the target."""
        return _median(self.seconds)


def target_error(results: Sequence[Result]) -> float:
    """The target: twice the lowest final validation error of any optimizer, and at least 1 %.

    Each optimizer is at its best rate; its error is the median of the seeds. The result has two digits and is rounded
    up. Infinite if no run is finite.
    """
    finals = [_median(valid_error(r)[:, -1]) for r in results]
    lowest = max(2 * min(finals), 0.01)
    if not np.isfinite(lowest):
        return np.inf
    unit = 10.0 ** (np.floor(np.log10(lowest)) - 1)
    return float(np.ceil(lowest / unit - 1e-6) * unit)


def times_to_target(results: Sequence[Result], target: float) -> list[TimeToTarget]:
    """All optimizers, the one with the fewest steps first; the final validation error decides between equals."""
    found = []
    for result in results:
        steps_of = result.run.eval_step[best_rate(result), 0].astype(float)
        steps = np.array([cost_to_reach(steps_of, error, target) for error in valid_error(result)])
        final = _median(valid_error(result)[:, -1])
        time = TimeToTarget(result.name, steps, steps * result.step_seconds)
        found.append((time.median_steps, final, time))
    return [time for *_, time in sorted(found, key=lambda entry: entry[:2])]


def valid_error(result: Result) -> np.ndarray:
    """float[seeds, evaluations], the share of validation examples that the network gets wrong, at the best rate.

    Infinite where the run diverged.
    """
    best = best_rate(result)
    error = 1 - result.run.ours["valid_accuracy"][best].astype(float)
    return np.where(np.isfinite(result.run.ours["valid_loss"][best]) & np.isfinite(error), error, np.inf)


def _median(a: np.ndarray) -> float:
    """The upper of the two middle values: between a finite number and infinity there is no middle."""
    return float(np.sort(a)[len(a) // 2])
