"""Times of functions, side by side: compiled, warmed up, and interleaved, because a machine's speed drifts."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Compared(NamedTuple):
    """Times of two sides, in seconds. Below a ratio of 1, ours is the faster."""

    ours: float  # median
    baseline: float  # median
    ratio: float  # median of the ratios pair by pair
    low: float  # their first quartile
    high: float  # their third quartile


def compile_time(f: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """f compiled ahead of time for these arguments, and the seconds that took, tracing included.

    It is compiled twice, and the second time counts: what JAX loads on first use would be charged to the first side.
    """
    for _ in range(2):
        start = time.perf_counter()
        fresh = jax.jit(lambda *args: f(*args))  # a new function, which is in no cache
        compiled = fresh.lower(*args).compile()
        seconds = time.perf_counter() - start
    return compiled, seconds


def interleaved(
    ours: Callable[..., Any], baseline: Callable[..., Any], args: Sequence[Any], *, pairs: int, calls: int = 1
) -> Compared:
    """Times of two sides that take turns; their order alternates from pair to pair.

    Args:
        ours: a compiled function of `args[0]`.
        baseline: a compiled function of `args[1]`.
        args: the arguments of the two.
        pairs: measured pairs, after a tenth as many that are not measured.
        calls: calls per measurement, for functions that are too short for the clock.
    """

    def seconds(f: Callable[..., Any], arguments: Any) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            out = f(*arguments)
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / calls

    sides = ((ours, args[0]), (baseline, args[1]))
    measured = []
    for i in range(-max(pairs // 10, 2), pairs):
        order = (0, 1) if i % 2 else (1, 0)
        pair = {side: seconds(*sides[side]) for side in order}
        if i >= 0:
            measured.append((pair[0], pair[1]))
    times = np.array(measured)
    return compare(times[:, 0], times[:, 1])


def in_turn(
    sides: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 3, calls: int = 1
) -> dict[str, np.ndarray]:
    """Seconds per call of every side in every round; the order of the sides rotates.

    Each side is called once untimed when its turn comes, as if it ran in a loop alone: the threads of the side before
    have gone to sleep by then, and its own data is in the cache.

    Args:
        sides: functions without arguments, by name, that wait for what they compute.
        rounds: measured rounds.
        warm_up: rounds before them that are not measured.
        calls: timed calls per turn, for functions that are too short for the clock.
    """
    names = list(sides)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for i in range(-warm_up, rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            run = sides[name]
            run()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            if i >= 0:
                measured[name].append((time.perf_counter() - start) / calls)
    return {name: np.array(seconds) for name, seconds in measured.items()}


def compare(ours: np.ndarray, baseline: np.ndarray) -> Compared:
    """The times of two sides, round by round, in five numbers."""
    low, ratio, high = np.percentile(ours / baseline, [25, 50, 75])
    return Compared(float(np.median(ours)), float(np.median(baseline)), float(ratio), float(low), float(high))
