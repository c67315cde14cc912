"""Whether two sides of a benchmark computed the same thing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.forward_backward import Pass

# Two sides that compute the same thing differ by less than this share of their largest number.
AGREE = 1e-3


def flat(outcome: Any) -> list[np.ndarray]:
    """What is compared: a loss; or y, the gradient by x, and the norm of the gradient by the params."""
    if not isinstance(outcome, Pass):
        return [np.array(outcome)]
    squares = sum(float(np.sum(np.square(np.asarray(slope), dtype=np.float64))) for slope in outcome.slopes)
    return [np.array(outcome.y), np.array(outcome.slope_x), np.sqrt(squares)]


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference of two arrays, as a share of the largest number in the second."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            raise ValueError(
                f"the outcomes of two sides have the shapes {a.shape} and {b.shape}, wanted equal shapes"
            )
        scale = float(np.max(np.abs(b), initial=np.finfo(np.float32).tiny))
        worst = max(worst, float(np.max(np.abs(a - b), initial=0.0)) / scale)  # max loses NaN ...
        worst = (
            worst if np.isfinite(a).all() and np.isfinite(b).all() else np.inf
        )  # ... which counts as infinite
    return worst
