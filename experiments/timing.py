"""Time of two functions, side by side: compiled, warmed up, interleaved, because a machine's speed drifts."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Compared(NamedTuple):
    """Times of two sides, in seconds; a ratio below 1 says that ours is the faster."""

    ours: float  # median
    baseline: float  # median
    ratio: float  # median of the ratios pair by pair
    low: float  # their first quartile
    high: float  # their third quartile


def compile_time(f: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """f compiled ahead of time for these arguments, and the seconds that took, tracing included.

    It is compiled twice, and the second time counts: the first one pays for what JAX loads on first use, which would
    be put down to the side that comes first.
    """
    for _ in range(2):
        start = time.perf_counter()
        fresh = jax.jit(lambda *args: f(*args))  # a function that no cache knows
        compiled = fresh.lower(*args).compile()
        seconds = time.perf_counter() - start
    return compiled, seconds


def interleaved(
    ours: Callable[..., Any], baseline: Callable[..., Any], args: Sequence[Any], *, pairs: int, calls: int = 1
) -> Compared:
    """Both sides in turn, the order of a pair alternating.

    Args:
        ours: a compiled function of `args[0]`.
        baseline: a compiled function of `args[1]`.
        args: the arguments of the two.
        pairs: pairs that are measured, after a tenth as many that are not.
        calls: calls a measurement, for what is too short for the clock.
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
    low, ratio, high = np.percentile(times[:, 0] / times[:, 1], [25, 50, 75])
    ours_median, baseline_median = np.median(times, axis=0).tolist()
    return Compared(ours_median, baseline_median, float(ratio), float(low), float(high))
