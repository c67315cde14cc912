"""Trains one network with each hand-written optimizer and with its optax twin, and shows how they compare.

Both start from the same weights and see the same batches; all learning rates and seeds of an optimizer are one
compiled program. It prints a table and writes a report with pictures into a new folder under runs/.
"""

import dataclasses
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import fnnet as fn
from experiments.command_line import fail, parse
from experiments.comparison import pictures, report
from experiments.comparison.results import Result, Row, row, write_csv, write_json
from experiments.comparison.twins import make_twin_run, paths
from experiments.timing import compile_time, interleaved

COMMAND = "compare_optimizers"


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains one network with each hand-written optimizer and with its optax twin, and shows how they compare.

    Both start from the same weights and see the same batches; all learning rates and seeds of an optimizer are one
    compiled program. The exit status is 1 where the params of twins differ by more than --max-ulp.
    """

    optimizers: tuple[str, ...] = tuple(fn.optim.TWINS)
    """Which optimizers, by name."""
    data: Literal["digits", "fashion-mnist", "two-spirals"] = "digits"
    """What is learnt. Only fashion-mnist is not part of a dependency, see fnnet.data.fashion_mnist."""
    model: Literal["mlp", "cnn"] = "mlp"
    """A fully connected network, or a convolutional one (for images)."""
    seeds: int = 5
    """How many seeds; each draws other weights and batches."""
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Which learning rates; the best is chosen on the validation part."""
    steps: int = 500
    """Updates of each run. Evaluations are up to 20, evenly spread: as many as divide it."""
    batch_size: int = 64
    """Examples a batch."""
    max_ulp: float = 0.0
    """The largest difference of twins' params that passes, in units in the last place."""
    out: Path | None = None
    """Folder of the report, new; runs/compare_optimizers-DATE-TIME unless given."""


def load(config: Config) -> fn.data.Dataset:
    if config.data == "digits":
        return fn.data.standardize(fn.data.digits())
    if config.data == "fashion-mnist":
        try:
            return fn.data.standardize(fn.data.fashion_mnist(), axis=(0, 1, 2))
        except OSError as missing:
            fail(COMMAND, str(missing))
    spirals = fn.data.two_spirals(1000, noise=0.1, key=jax.random.key(0))
    return fn.data.standardize(fn.data.split(spirals))


def network(config: Config) -> fn.Layer:
    if config.model == "cnn":
        # No bias in front of batch_norm, which takes it away again: its gradient would be rounding noise.
        return fn.serial(
            *(fn.conv(32, 3, use_bias=False), fn.batch_norm(), fn.relu, fn.max_pool(2)),
            *(fn.conv(64, 3, use_bias=False), fn.batch_norm(), fn.relu, fn.max_pool(2)),
            *(fn.flatten, fn.dense(128), fn.relu, fn.dropout(0.3), fn.dense(10)),
        )
    if config.data == "two-spirals":
        return fn.serial(fn.dense(64), fn.relu, fn.dense(64), fn.relu, fn.dense(2))
    return fn.serial(fn.flatten, fn.dense(64), fn.relu, fn.dense(10))


def check(config: Config) -> None:
    if unknown := [name for name in config.optimizers if name not in fn.optim.TWINS]:
        fail(COMMAND, f"--optimizers {unknown[0]} is unknown, wanted some of {', '.join(fn.optim.TWINS)}")
    if not config.optimizers or not config.learning_rates:
        fail(COMMAND, "--optimizers and --learning-rates want at least one value each")
    for option in ("seeds", "steps", "batch_size"):
        if getattr(config, option) < 1:
            fail(
                COMMAND,
                f"--{option.replace('_', '-')} {getattr(config, option)} is too small, wanted at least 1",
            )
    if bad := [rate for rate in config.learning_rates if not (rate > 0 and math.isfinite(rate))]:
        fail(COMMAND, f"--learning-rates {bad[0]} is not a positive number")
    if config.model == "cnn" and config.data == "two-spirals":
        fail(COMMAND, "--model cnn wants images, and --data two-spirals has points: take --model mlp")
    if config.out is not None and config.out.exists():
        fail(COMMAND, f"--out {config.out} exists already, wanted the name of a new folder")


def compare(config: Config, name: str, net: fn.Layer, data: fn.data.Dataset, progress: Progress) -> Result:
    """All that is found out about one optimizer, in four stages that the progress bar counts."""
    twin = fn.optim.TWINS[name]
    rates, keys = jnp.array(sorted(config.learning_rates)), jax.vmap(jax.random.key)(jnp.arange(config.seeds))
    bar = progress.task_ids[0]

    def stage(doing: str) -> None:
        progress.update(bar, description=f"{name}: {doing}")

    evaluations = max(n for n in range(1, 21) if config.steps % n == 0)
    run = make_twin_run(
        net,
        fn.losses.softmax_cross_entropy,
        twin,
        steps=config.steps,
        batch_size=config.batch_size,
        eval_every=config.steps // evaluations,
    )
    stage("compiling")
    over_seeds = jax.vmap(run, in_axes=(0, None, None))
    program = jax.jit(jax.vmap(over_seeds, in_axes=(None, None, 0))).lower(keys, data, rates).compile()
    progress.advance(bar)

    stage(f"training {2 * len(rates) * config.seeds} networks")
    trained = jax.tree.map(np.asarray, program(keys, data, rates))
    progress.advance(bar)

    stage("timing one update")
    params, _ = net.init(keys[0], data.train["x"][:1])
    optimizers = [make(learning_rate=float(rates[0])) for make in twin]
    args = [(params, optimizer.init(params), params) for optimizer in optimizers]
    (ours, ours_seconds), (baseline, baseline_seconds) = (
        compile_time(optimizer.update, *a) for optimizer, a in zip(optimizers, args, strict=True)
    )
    update = interleaved(ours, baseline, args, pairs=200, calls=20)
    progress.advance(bar)

    stage("walking the banana function")
    path = paths(twin, rates, steps=min(config.steps, 500))
    progress.advance(bar)
    return Result(
        name,
        np.asarray(rates),
        tuple(range(config.seeds)),
        trained,
        update,
        ours_seconds,
        baseline_seconds,
        path,
    )


def table(rows: list[Row], config: Config) -> Table:
    title = f"{config.model} on {config.data}, {config.seeds} seeds, {config.steps} steps"
    shown = Table(title=title, box=box.SIMPLE, padding=0, pad_edge=False)
    shown.add_column("optimizer", no_wrap=True)
    for column in (
        "best\nrate",
        "test accuracy %\nfnnet",
        "test accuracy %\noptax",
        "diff\nulp",
        "time",
        "compile\ns",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    for r in rows:
        median, low, high = (f"{100 * a:.1f}" for a in r.ours)
        twin_median, twin_low, twin_high = (f"{100 * a:.1f}" for a in r.baseline)
        shown.add_row(
            r.optimizer,
            f"{r.best_rate:.2g}" + ("*" if r.on_edge else ""),
            f"{median} ({low}-{high})",
            f"{twin_median} ({twin_low}-{twin_high})",
            f"{r.ulp:.3g}" + ("" if r.ulp <= config.max_ulp else " !"),
            f"{r.update_ratio:.2f}",
            f"{r.compile_ours:.2f}",
        )
    return shown


def main() -> None:
    config = parse(Config, f"python -m experiments.{COMMAND}")
    check(config)
    console = Console()
    device = jax.devices()[0]
    console.print(
        f"fnnet {fn.__version__}, jax {jax.__version__}, on {device.device_kind} ({device.platform})"
    )
    data, net = load(config), network(config)
    if config.batch_size > len(data.train["y"]):
        fail(
            COMMAND,
            f"--batch-size {config.batch_size} is more than the {len(data.train['y'])} training examples",
        )

    began = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        progress.add_task("starting", total=4 * len(config.optimizers))
        results = [compare(config, name, net, data, progress) for name in config.optimizers]

    rows = [row(result) for result in results]
    console.print(table(rows, config))
    console.print(
        "Rates were chosen on the validation part. Accuracy: median over the seeds (lowest-highest). diff: the "
        "largest difference of a parameter from its twin's over all runs and steps, in units in the last place. "
        "time: of one update, fnnet's over optax's. compile: of that update, fnnet's."
    )
    if any(r.on_edge for r in rows):
        console.print("* the first or the last rate that was tried: a better one may lie beyond.")

    out = config.out or Path("runs") / f"{COMMAND}-{time.strftime('%Y%m%d-%H%M%S')}"
    write(out, config, results)
    console.print(f"{time.perf_counter() - began:.0f} s; report: {out / 'report.html'}", soft_wrap=True)

    if broken := [r.optimizer for r in rows if not r.ulp <= config.max_ulp]:
        print(
            f"parity broken: {', '.join(broken)} differ by more than {config.max_ulp:g} ulp", file=sys.stderr
        )
        raise SystemExit(1)


def write(out: Path, config: Config, results: list[Result]) -> None:
    """The folder of the report, whole or not at all."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        settings = {
            name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()
        }
        write_json(partial / "results.json", settings, results)
        write_csv(partial / "curves.csv", results)
        drawn = pictures.draw(partial, results)
        report.write(partial / "report.html", settings, results, drawn)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    main()
