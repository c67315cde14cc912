"""Successive halving: the ranking of trials, and which of them survive a rung.

Source: Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization",
arXiv:1502.07943.
"""

import math

import numpy as np


def count_rungs(trials: int, eta: int | None) -> int:
    """The number of rungs, until 1 / eta of the trials per rung leaves one; 1 without halving."""
    return 1 if eta is None else 1 + math.floor(math.log(trials, eta) + 1e-9)


def count_survivors(trials: int, eta: int, rung: int) -> int:
    """The number of trials in a rung: 1 / eta^rung of all, at least one."""
    return max(trials // eta**rung, 1)


def choose_survivors(scores: np.ndarray, maximize: bool, eta: int) -> np.ndarray:
    """The trials that continue after a rung: the best 1 / eta of them, at least one.

    Args:
        scores: float[trials, seeds].
        maximize: whether more is better.
        eta: of successive halving.

    Returns:
        int[survivors], ascending.
    """
    return np.sort(rank_trials(scores, maximize)[: max(len(scores) // eta, 1)])


def rank_trials(scores: np.ndarray, maximize: bool) -> np.ndarray:
    """The trials from the best to the worst, by the mean over their seeds. Those that diverged are last.

    Args:
        scores: float[trials, seeds].
        maximize: whether more is better.

    Returns:
        int[trials]. Equal trials keep their order. Among trials with seeds that diverged, those with fewer such seeds
        come first.
    """
    diverged = ~np.isfinite(scores)
    mean = np.where(diverged.any(axis=1), 0.0, np.where(diverged, 0, scores).mean(axis=1, dtype=np.float64))
    return np.lexsort((-mean if maximize else mean, diverged.sum(axis=1)))


def rank_by_rung(scores: np.ndarray, rungs: np.ndarray, maximize: bool) -> np.ndarray:
    """The trials from the best to the worst; those that took part in more rungs come before the others."""
    rank = np.empty(len(scores), int)
    rank[rank_trials(scores, maximize)] = np.arange(len(scores))
    return np.lexsort((rank, -rungs))
