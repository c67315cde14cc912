"""Statistics of runs: quartiles, differences with confidence intervals, best of k trials, performance profiles."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """How much higher one side is than the other, compared seed by seed."""

    median: float
    low: float  # end points of the confidence interval of the median
    high: float


def quartiles(a: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first quartile, median, third quartile). Values that are not finite count as infinite.

    A quartile between a finite number and infinity is infinite.
    """
    a = np.sort(np.where(np.isfinite(a), a, np.inf).astype(float), axis=axis)

    def at(share: float) -> np.ndarray:
        # np.percentile gives NaN beside infinity, even where the quartile is one of the numbers.
        place = share * (a.shape[axis] - 1)
        low, high = np.take(a, int(place), axis), np.take(a, int(np.ceil(place)), axis)
        return low if place == int(place) else _between(low, high, place % 1)

    return at(0.25), at(0.5), at(0.75)


def _between(low: np.ndarray, high: np.ndarray, share: float) -> np.ndarray:
    finite = np.isfinite(high)
    return np.where(
        finite, (1 - share) * np.where(finite, low, 0) + share * np.where(finite, high, 0), np.inf
    )


def paired_difference(
    ours: np.ndarray,
    reference: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The median of ours - reference over the seeds, with its bootstrap confidence interval (percentiles; Efron 1979).

    Seeds are drawn with replacement, each with both of its runs, so that what a seed does to both sides cancels. NaN
    if a run of either side diverged. With few seeds, such intervals are somewhat too narrow.
    """
    if not (np.isfinite(ours).all() and np.isfinite(reference).all()):
        return Difference(np.nan, np.nan, np.nan)
    difference = ours.astype(float) - reference.astype(float)
    drawn = np.random.default_rng(seed).integers(len(difference), size=(resamples, len(difference)))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.median(difference[drawn], axis=1), [tail, 100 - tail])
    return Difference(float(np.median(difference)), float(low), float(high))


def best_of_k(
    scores: np.ndarray, orders: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quartiles of the best score after each number of trials, over random orders of the trials.

    Trial 1, the default, always comes first.

    Args:
        scores: float[trials], lower is better.
        orders: number of random orders.
        seed: of the random orders.
    """
    scores = np.where(np.isfinite(scores), scores, np.inf)
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(scores[1:], (orders, 1)), axis=1)
    best = np.minimum.accumulate(np.column_stack([np.full(orders, scores[0]), shuffled]), axis=1)
    return quartiles(best)


def cost_to_reach(used: np.ndarray, scores: np.ndarray, target: float) -> float:
    """The first entry of `used` at which the curve is at or below the target; infinite if it never is."""
    there = np.flatnonzero(np.nan_to_num(scores, nan=np.inf) <= target)
    return float(used[there[0]]) if there.size else np.inf


def targets(starts: Mapping[str, float], bests: Mapping[str, float], left: float = 0.1) -> dict[str, float]:
    """The loss at which each problem counts as solved: best + left (start - best) (Moré & Wild 2009, equation 2.2).

    With left = 0.1, that is nine tenths of the way from the start down to the best loss of all.
    """
    return {name: best + left * (starts[name] - best) for name, best in bests.items()}


def performance_profile(costs: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The share of problems that each method solves within a factor of the fewest evaluations of any method.

        r[p, s] = cost[p, s] / min over s of cost[p, s],   rho_s(tau) = share of p with r[p, s] <= tau

    Args:
        costs: float[problems, methods], infinite if unsolved. A problem that no method solves stays in the total.
        factors: tau, float[n], at least 1.

    Returns:
        rho, float[methods, n].

    Source: Dolan & Moré 2002, "Benchmarking optimization software with performance profiles", arXiv:cs/0102001.
    """
    best = costs.min(axis=1, keepdims=True)
    solved = np.isfinite(costs)
    # A cost of 0 means that the start already counts as solved: a ratio of 1 for all methods that share it.
    ratio = np.where(costs == best, 1.0, costs / np.where((best > 0) & np.isfinite(best), best, 1.0))
    ratio = np.where(solved, ratio, np.inf)
    return np.mean(ratio[:, :, None] <= factors, axis=0)
