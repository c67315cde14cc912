"""Times of a workload in several libraries on one accelerator. A library that fails does not stop the others."""

import gc
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks.accelerator.part import Row, Settings, out_of_time, reason
from experiments.benchmarks.agreement import difference, flat
from experiments.timing import in_turn

MOST_ROUNDS, LEAST_ROUNDS = 50, 3


class Side(NamedTuple):
    """One library's side of a workload."""

    make: Callable[[], Callable[[], Any]]  # makes a function that computes once and waits
    seconds: float  # to make and compile it on a GPU, approximately


def prepare(make: Callable[[], Callable[[], Any]]) -> tuple[Callable[[], Any], float, list[np.ndarray]]:
    """The function, the seconds until its first outcome, and what it computed first."""
    start = time.perf_counter()
    run = make()
    outcome = run()
    seconds = time.perf_counter() - start
    return run, seconds, [on_host(a) for a in flat(on_cpu(outcome))]


def rows_of(name: str, sides: Mapping[str, Side], settings: Settings, *, same: bool = True) -> list[Row]:
    """A row for each side, with the median and quartiles in milliseconds; or a note why there are none.

    Args:
        name: of the workload.
        sides: by name. They take turns; the others are compared with the first.
        settings: of the part. A side that would not be ready in time is skipped.
        same: whether all sides start from the same weights, so that their outcomes can be compared.
    """
    rows: dict[str, Row] = {}
    runs, outcomes = {}, {}
    for side, (make, seconds) in sides.items():
        row: Row = {"workload": name, "side": side}
        rows[side] = row
        if note := out_of_time(settings, seconds):
            row["note"] = note
            continue
        try:
            runs[side], row["first_run_s"], outcomes[side] = prepare(make)
        except Exception as error:
            row["note"] = reason(error)
    if runs:
        for side, times in in_turn(runs, rounds=rounds_for(runs, settings), warm_up=2).items():
            low, median, high = (1e3 * float(q) for q in np.percentile(times, [25, 50, 75]))
            rows[side] |= {"ms": median, "low": low, "high": high, "rounds": len(times)}
    first = next(iter(sides))
    if first in outcomes:
        for side in outcomes:
            rows[side]["over_first"] = rows[side]["ms"] / rows[first]["ms"]
            if same and side != first:
                rows[side]["difference"] = difference(outcomes[side], outcomes[first])
    runs.clear()
    release_memory()
    return list(rows.values())


def rounds_for(runs: Mapping[str, Callable[[], Any]], settings: Settings) -> int:
    """As many rounds as fit into a fifth of the remaining time; each round runs every side twice."""
    start = time.perf_counter()
    for run in runs.values():
        run()
    round_seconds = 2 * (time.perf_counter() - start)
    if settings.tiny:
        return LEAST_ROUNDS
    return int(np.clip(settings.left() / 5 / round_seconds, LEAST_ROUNDS, MOST_ROUNDS))


def release_memory() -> None:
    """Frees what is no longer used; PyTorch gives its part back to the card, JAX keeps its own for later."""
    gc.collect()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()


def on_cpu(outcome: Any) -> Any:
    """The outcome, with PyTorch's tensors on the CPU in float32."""
    return jax.tree.map(lambda a: a.float().cpu() if hasattr(a, "cpu") else a, outcome)


def on_host(a: np.ndarray) -> np.ndarray:
    return np.asarray(a, np.float32)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX or PyTorch says that the card's memory is full."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def torch_device() -> str:
    """PyTorch's device, with its fast modes on; raises ImportError where PyTorch is missing."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, which is JAX's default on a GPU
    torch.backends.cudnn.benchmark = True
    return "cuda"
