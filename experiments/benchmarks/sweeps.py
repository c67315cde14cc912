"""Time of many small training runs, all at once and one by one: `python -m experiments.benchmarks.sweeps`.

The runs are a grid of learning rates and seeds: MLPs 64-32-10 on digits, 5 epochs in batches of 64. fnnet trains them
with one `fn.train.sweep`, PyTorch one by one, on the same examples in an order of its own. `ratio` is PyTorch's time
over that of fnnet's compiled program, the median of all rounds. `fresh` is a sweep in a process that has compiled
nothing yet: tracing, compiling and computing, without the imports. The second table has both by the number of runs.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fnnet as fn
from experiments.benchmarks import side_by_side
from experiments.command_line import check_writable, fail, parse
from experiments.timing import compare, in_turn
from fnnet.train.sweep import program as sweep_program

COMMAND = "experiments.benchmarks.sweeps"
RATIO_BAR = 15.0  # the project wants to be this many times as fast as PyTorch
FRESH_BAR = 1.0  # the project wants at most this many seconds in a fresh process
BATCH = 64
FEATURES, HIDDEN, CLASSES = 64, 32, 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Time of many small training runs: fnnet's all at once beside PyTorch's one by one."""

    runs: int = 64
    """Runs beside PyTorch. A square, for as many learning rates as seeds."""
    counts: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    """Numbers of runs in the second table, all squares; none for no such table."""
    epochs: int = 5
    """Epochs per run, of 16 steps each."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Optimizer of both sides."""
    rounds: int = 5
    """Measured rounds, with each side once per round."""
    torch: bool = True
    """Whether to measure PyTorch too, if it is installed."""
    torch_threads: int = 1
    """Threads of PyTorch. For such a small network, one is faster than two."""
    json: Path | None = None
    """Also write the numbers to this file."""
    fresh: bool = False
    """Only print the seconds of one sweep of --runs. The command starts itself with this flag in a new process."""


def problem(config: Config, runs: int) -> tuple[Callable[..., Any], Any, dict[str, np.ndarray], int]:
    """The arguments of sweep: the run, the data, the learning rates, the number of seeds."""
    data = fn.data.digits()
    net = fn.serial(fn.flatten, fn.dense(HIDDEN), fn.relu, fn.dense(CLASSES))
    steps = config.epochs * (len(data.train["y"]) // BATCH)
    make: Any = {"sgd": fn.optim.sgd, "adam": fn.optim.adam}[config.optimizer]
    run = fn.train.make_run(net, fn.losses.softmax_cross_entropy, make, steps=steps, batch_size=BATCH)
    side = math.isqrt(runs)
    return (
        run,
        fn.data.Dataset(data.train, data.valid),
        {"learning_rate": np.geomspace(1e-3, 1e-1, side)},
        side,
    )


def ours(config: Config, runs: int) -> Callable[[], np.ndarray]:
    """A sweep's compiled program, as a function that returns the validation losses."""
    run, data, rates, seeds = problem(config, runs)
    program = sweep_program.trace_program(
        run, data, np.arange(seeds), rates, None, chunk=seeds, mapping="vmap", mesh=None, keep_opt_state=False
    )

    def once() -> np.ndarray:
        summary, _ = sweep_program.run_program(program, rates, None, seeds=seeds, times=1, histories=False)
        return summary.last["valid_loss"]

    return once


def torch_side(config: Config, runs: int) -> Callable[[], np.ndarray]:
    """The same in PyTorch, one by one."""
    import torch

    torch.set_num_threads(config.torch_threads)
    _, data, rates, seeds = problem(config, runs)
    x, y = (torch.tensor(np.asarray(data.train[k])) for k in "xy")
    valid_x, valid_y = (torch.tensor(np.asarray(data.valid[k])) for k in "xy")
    x, y, valid_x, valid_y = x.reshape(-1, FEATURES), y.long(), valid_x.reshape(-1, FEATURES), valid_y.long()
    loss = torch.nn.CrossEntropyLoss()
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]

    def one(rate: float, seed: int) -> float:
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, CLASSES)
        )
        optimizer = make(net.parameters(), lr=rate)
        for _ in range(config.epochs):
            order = torch.randperm(len(x))
            for batch in order[: len(x) // BATCH * BATCH].split(BATCH):
                optimizer.zero_grad()
                loss(net(x[batch]), y[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            return float(loss(net(valid_x), valid_y))

    def once() -> np.ndarray:
        return np.array([[one(float(r), s) for s in range(seeds)] for r in rates["learning_rate"]])

    return once


def fresh_seconds(config: Config, runs: int) -> float:
    """Seconds of a sweep in a new process, without a compilation cache."""
    options = [
        "--fresh",
        "--runs",
        str(runs),
        "--epochs",
        str(config.epochs),
        "--optimizer",
        config.optimizer,
    ]
    done = subprocess.run(
        [sys.executable, "-m", COMMAND, *options],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the sweep in a new process failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def sweep_once(config: Config) -> float:
    """Seconds of one call of sweep."""
    run, data, rates, seeds = problem(config, config.runs)
    jnp.zeros(1).block_until_ready()  # the device is there
    start = time.perf_counter()
    fn.train.sweep(run, data, rates, seeds=seeds, progress=False)
    return time.perf_counter() - start


def check(config: Config) -> None:
    for name in ("runs", "epochs", "rounds", "torch_threads"):
        if getattr(config, name) < 1:
            fail(
                COMMAND, f"--{name.replace('_', '-')} {getattr(config, name)} is too small, wanted at least 1"
            )
    for option, numbers in (("--runs", (config.runs,)), ("--counts", config.counts)):
        if bad := [n for n in numbers if n < 1 or math.isqrt(n) ** 2 != n]:
            fail(
                COMMAND,
                f"{option} {bad[0]} is not a square, wanted one, such as 64: there are as many learning rates as seeds",
            )


def main() -> None:
    config = parse(Config, f"python -m {COMMAND}")
    check(config)
    if config.fresh:
        print(sweep_once(config))
        return
    check_writable(COMMAND, "json", config.json)
    peers, where = side_by_side.setup(
        COMMAND, ["torch"] if config.torch else [], config.rounds, config.torch_threads
    )
    console = Console()

    sides = {"fnnet": ours(config, config.runs)}
    if peers:
        sides["torch"] = torch_side(config, config.runs)
    losses = {name: float(np.median(side())) for name, side in sides.items()}
    times = in_turn(sides, rounds=config.rounds, warm_up=0)
    fresh = [fresh_seconds(config, config.runs) for _ in range(min(config.rounds, 3))]
    row: dict[str, Any] = {"runs": config.runs, "seconds": {k: float(np.median(t)) for k, t in times.items()}}
    row |= {"median_valid_loss": losses, "fresh": float(np.median(fresh)), "fresh_bar": FRESH_BAR}
    row["fresh_met"] = row["fresh"] <= FRESH_BAR
    if peers:
        ratio = compare(times["torch"], times["fnnet"])
        row |= {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "bar": RATIO_BAR}
        row["met"] = ratio.ratio >= RATIO_BAR

    table = Table(
        title=f"{side_by_side.title(where, config.rounds)}\n{config.runs} runs, {config.optimizer}",
        title_justify="left",
        box=box.SIMPLE,
    )
    for column in ("side", "seconds", "ratio", "quartiles", "bar", "met", "median loss"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for side, seconds in row["seconds"].items():
        compared = ["", "", "", ""]
        if side == "torch":
            compared = [f"{row['ratio']:.1f}", f"{row['low']:.1f}-{row['high']:.1f}", f"{RATIO_BAR:g}"]
            compared.append("yes" if row["met"] else "NO")
        table.add_row(side, f"{seconds:.3f}", *compared, f"{losses[side]:.3f}")
    met = "yes" if row["fresh_met"] else "NO"
    table.add_row("fnnet, fresh", f"{row['fresh']:.2f}", "", "", f"{FRESH_BAR:g} s", met, "")
    console.print(table)

    growth = []
    for runs in track(config.counts, "measuring", console=console, disable=not config.counts):
        seconds = float(np.median(in_turn({"fnnet": ours(config, runs)}, rounds=3, warm_up=0)["fnnet"]))
        growth.append({"runs": runs, "seconds": seconds, "fresh": fresh_seconds(config, runs)})
    if growth:
        table = Table(title="By the number of runs", title_justify="left", box=box.SIMPLE)
        for column in ("runs", "seconds", "ms per run", "fresh"):
            table.add_column(column, justify="right")
        for line in growth:
            each = f"{1e3 * line['seconds'] / line['runs']:.2f}"
            table.add_row(str(line["runs"]), f"{line['seconds']:.3f}", each, f"{line['fresh']:.2f}")
        console.print(table)
    if config.json is not None:
        content = {"rounds": config.rounds, **where, "beside_torch": row, "growth": growth}
        config.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
