"""What the benchmarks of layers and of training share: all sides of a workload in one process, taking turns."""

import importlib.metadata
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.agreement import AGREE, difference, flat
from experiments.command_line import check_known, fail
from experiments.results_folder import environment
from experiments.timing import compare, in_turn

PEERS = ("torch", "flax", "equinox")
COMPILED = "torch.compile"
OURS = "fnnet"
# The share of the cores that other programs may take. PyTorch's threads spin while they wait for each other: with
# other programs on two cores, a step of the MLP took 234 ms with two threads and 7 ms with one.
OTHERS = 0.05

Run = Callable[[], Any]
# By name; each value makes a new function that runs once and waits.
Sides = Mapping[str, Callable[[], Run]]


def setup(
    command: str, peers: Sequence[str], rounds: int, torch_threads: int | None = None
) -> tuple[list[str], dict[str, Any]]:
    """The peers that are installed, and the machine and versions. Ends the program for a bad argument."""
    check_known(command, "peers", peers, PEERS)
    if rounds < 1:
        fail(command, f"--rounds {rounds} is too small, wanted at least 1")
    if torch_threads is not None and torch_threads < 1:
        fail(command, f"--torch-threads {torch_threads} is too small, wanted at least 1")
    if jax.default_backend() != "cpu":
        fail(
            command,
            f"JAX has {jax.default_backend()}, and the peers are measured on a CPU: set JAX_PLATFORMS=cpu",
        )
    here = [peer for peer in peers if importlib.util.find_spec(peer) is not None]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    where = environment() | {"processor": _processor(), "cores": cores}
    where["versions"] |= {peer: importlib.metadata.version(peer) for peer in here}
    where["not_installed"] = [peer for peer in peers if peer not in here]
    if "torch" in here:
        import torch

        torch.set_num_threads(torch_threads or cores)
        where["torch_threads"] = torch.get_num_threads()
    return here, where


def sides_of(runner: Any, workload: Any, peers: Sequence[str], torch_compile: bool) -> Sides:
    """fnnet and the peers, of a workload at its own sizes. `runner`: `train_step` or `forward_backward`."""
    sides: dict[str, Any] = {
        side: partial(getattr(runner, side), workload, workload.SIZES) for side in (OURS, *peers)
    }
    if "torch" in peers and torch_compile:
        sides[COMPILED] = partial(sides["torch"], compiled=True)
    return sides


def measure(
    name: str, sides: Sides, bars: Mapping[str, float], *, rounds: int, steps: int = 1
) -> Iterator[dict[str, Any]]:
    """A row for each side: milliseconds, the ratio of our time to its time, and the bar for that ratio.

    Args:
        name: of the workload.
        sides: by name, ours first.
        bars: the largest ratio that the project accepts, by side.
        rounds: rounds that are measured.
        steps: steps in one run; the time is divided by them.
    """
    runs, first, outcomes = {}, {}, {}
    for side, make in sides.items():
        runs[side], first[side], outcomes[side] = _first_runs(side, make)
    before = _seconds()
    times = in_turn(runs, rounds=rounds)
    wall, busy, own = (b - a for a, b in zip(before, _seconds(), strict=True))
    others = max(0.0, (busy - own) / wall / (os.cpu_count() or 1))
    ours = next(iter(sides))
    for side in sides:
        row: dict[str, Any] = {
            "workload": name,
            "side": side,
            "ms": 1e3 * float(np.median(times[side])) / steps,
            "first_run_s": first[side],
            "others": others,
        }
        if side != ours:
            ratio = compare(times[ours], times[side])
            bar = bars.get(side)
            row |= {
                "ratio": ratio.ratio,
                "low": ratio.low,
                "high": ratio.high,
                "bar": bar,
                "met": None if bar is None else ratio.ratio <= bar,
                "difference": difference(outcomes[ours], outcomes[side]),
            }
        yield row


def _first_runs(side: str, make: Callable[[], Run]) -> tuple[Run, float | None, list[np.ndarray]]:
    """The function, the seconds of its first run with compilation, and the outcomes of three runs."""
    # What JAX loads on first use would be charged to the first side, so its second time counts.
    # PyTorch would remember what it compiled, so its first time counts, and its cache on disk is off.
    for _ in range(1 if side in ("torch", COMPILED) else 2):
        if side == COMPILED:
            import torch

            torch.compiler.reset()
            torch.compiler.config.force_disable_caches = True
            warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")  # it was just asked for
        run = make()
        start = time.perf_counter()
        outcome = run()
        seconds = time.perf_counter() - start
    arrays = flat(outcome)
    for _ in range(2):
        arrays += flat(run())
    return run, None if side == "torch" else seconds, arrays


def new_table(title: str) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("workload", no_wrap=True)
    shown.add_column("side", no_wrap=True)
    for column in ("ms", "ratio", "quartiles", "bar", "met", "off\nby", "1st\nrun"):
        shown.add_column(column, justify="right", no_wrap=True)
    return shown


def add_row(shown: Table, row: Mapping[str, Any]) -> None:
    first_run = "-" if row["first_run_s"] is None else f"{row['first_run_s']:.1f}"
    name = row["workload"] if "ratio" not in row else ""
    compared = ["", "", "", "", ""]
    if "ratio" in row:
        bar = "-" if row["bar"] is None else f"{row['bar']:.2f}"
        met = "-" if row["met"] is None else "yes" if row["met"] else "NO"
        quartiles = f"{row['low']:.2f}-{row['high']:.2f}"
        compared = [f"{row['ratio']:.2f}", quartiles, bar, met, f"{row['difference']:.0e}"]
    shown.add_row(
        name,
        row["side"],
        f"{row['ms']:.1f}" if row["ms"] >= 100 else f"{row['ms']:.2f}",
        *compared,
        first_run,
    )


def title(where: Mapping[str, Any], rounds: int) -> str:
    """The machine and the versions, above a table."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    threads = f", {where['torch_threads']} threads of torch" if "torch_threads" in where else ""
    machine = f"{where['processor']}, {where['cores']} cores{threads}, {rounds} rounds"
    missing = "".join(f"\n{peer}: not installed" for peer in where["not_installed"])
    return f"{machine}\n{versions}{missing}"


def finish(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Warns where other programs were busy. Exit status 1 where two sides computed different things."""
    others = max((row["others"] for row in rows), default=0.0)
    if others > OTHERS:
        console.print(
            f"Other programs took up to {others:.0%} of the cores: measure again on a quiet machine."
        )
    wrong = [row for row in rows if row.get("difference", 0.0) > AGREE]
    for row in wrong:
        share = f"{row['difference']:.1e} of the largest number"
        console.print(f"{row['workload']}: fnnet and {row['side']} differ by {share}")
    if wrong:
        raise SystemExit(1)


def _seconds() -> tuple[float, float, float]:
    """Seconds of the clock, busy seconds of all cores, where the system reports them, and of this process."""
    own = time.process_time()
    try:
        user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    except (OSError, ValueError):
        return time.perf_counter(), own, own
    busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), busy, own


def _processor() -> str:
    """The model of the processor, where the system reports it."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown processor"
