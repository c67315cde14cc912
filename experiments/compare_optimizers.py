"""Trains one network with each hand-written optimizer and with its optax twin, and shows how they compare.

Both start from the same weights and see the same batches; all learning rates and seeds of an optimizer are one
compiled program. It prints a table and writes a report with pictures into a new folder under runs/.

With --problems it compares optimizers with one another instead, on a ladder of problems (comparison/protocol.py says
how); with --explain it shows how one of them works.
"""

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
from rich.console import Console

import fnnet as fn
from experiments.command_line import fail, new_folder, parse, progress_on
from experiments.comparison import climb, pictures, report
from experiments.comparison.explain import explain
from experiments.comparison.methods import methods
from experiments.comparison.problems import PROBLEMS
from experiments.comparison.results import Result, row, whole, write_csv, write_json
from experiments.comparison.twin_job import compare, table

COMMAND = "compare_optimizers"
# A minute and a half on two cores; the whole family takes about three times as long.
CLASSIC = (
    "sgd",
    "momentum",
    "nesterov",
    "adagrad",
    "adadelta",
    "rmsprop",
    "rmsprop_centered",
    "rmsprop_momentum",
    "adam",
    "adamw",
    "nadam",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains one network with each hand-written optimizer and with its optax twin, and shows how they compare.

    Both start from the same weights and see the same batches; all learning rates and seeds of an optimizer are one
    compiled program. The exit status is 1 where the params of twins differ by more than --max-ulp.

    With --problems it compares optimizers with one another: one budget, equal trials, tuned and tested on different
    seeds. With --explain it shows how one of them works.
    """

    optimizers: tuple[str, ...] = CLASSIC
    """Which optimizers, by name; "all" for all there are: more than by default, which takes longer."""
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
    """Examples a batch. (With --problems, each has its own.)"""
    max_ulp: float = 0.0
    """The largest difference of twins' params that passes, in units in the last place."""
    out: Path | None = None
    """Folder of the report, new; runs/compare_optimizers-DATE-TIME unless given."""
    problems: tuple[str, ...] = ()
    """Compare optimizers with one another on these problems, "all" for all there are, instead of with their twins:
    --optimizers, --seeds, --out and the options below count, the others do not."""
    budget: int = 1000
    """Evaluations a run: each value, gradient and product with a Hessian or Jacobian counts 1."""
    trials: int = 10
    """Values of the learning rate (or damping, sigma) that are tried: the default, then log-uniform draws."""
    reference: str = "adam"
    """The optimizer that the others' scores are compared with."""
    explain: str | None = None
    """Show this optimizer's equation, the code of its update and its first step in numbers, and do nothing else."""


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


def chosen(config: Config) -> Config:
    """With names in place of "all"; of what is unknown, the first name is said."""
    known = list(methods()) if config.problems else list(fn.optim.TWINS)
    optimizers = tuple(known) if config.optimizers == ("all",) else config.optimizers
    problems = tuple(PROBLEMS) if config.problems == ("all",) else config.problems
    for option, names, wanted in (
        ("optimizers", optimizers, known),
        ("problems", problems, list(PROBLEMS)),
        ("explain", [config.explain] if config.explain is not None else [], list(methods())),
        ("reference", [config.reference] if problems else [], list(methods())),
    ):
        if unknown := [name for name in names if name not in wanted]:
            fail(COMMAND, f"--{option} {unknown[0]} is unknown, wanted some of {', '.join(wanted)}")
    if config.explain is not None and problems:
        fail(COMMAND, "--explain and --problems are two jobs: take one of them")
    return dataclasses.replace(config, optimizers=optimizers, problems=problems)


def check(config: Config) -> None:
    if not config.optimizers or not config.learning_rates:
        fail(COMMAND, "--optimizers and --learning-rates want at least one value each")
    for option in ("seeds", "steps", "batch_size", "budget", "trials"):
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
    for name in config.problems:
        # What was asked for by name must be possible; of "all" the rest is left out.
        impossible = climb.too_large(PROBLEMS[name](), config.optimizers)
        if impossible and len(config.optimizers) < len(methods()):
            fail(COMMAND, next(iter(impossible.values())))


def main() -> None:
    config = chosen(parse(Config, f"python -m experiments.{COMMAND}"))
    check(config)
    console = Console()
    if config.explain is not None:
        explain(console, config.explain, methods()[config.explain])
        return
    device = jax.devices()[0]
    console.print(
        f"fnnet {fn.__version__}, jax {jax.__version__}, on {device.device_kind} ({device.platform})"
    )
    if config.problems:
        run_ladder(console, config)
        return
    data, net = load(config), network(config)
    if config.batch_size > len(data.train["y"]):
        fail(
            COMMAND,
            f"--batch-size {config.batch_size} is more than the {len(data.train['y'])} training examples",
        )

    began = time.perf_counter()
    sizes: dict[str, Any] = {
        name: getattr(config, name) for name in ("learning_rates", "seeds", "steps", "batch_size")
    }
    with progress_on(console) as progress:
        progress.add_task("starting", total=4 * len(config.optimizers))
        results = [compare(name, net, data, progress, **sizes) for name in config.optimizers]

    rows = [row(result) for result in results]
    title = f"{config.model} on {config.data}, {config.seeds} seeds, {config.steps} steps"
    console.print(table(rows, title, config.max_ulp))
    console.print(
        "Rates were chosen on the validation part. Accuracy: median over the seeds (lowest-highest). diff: the "
        "largest difference of a parameter from its twin's over all runs and steps, in units in the last place. "
        "time: of one update, fnnet's over optax's. compile: of that update, fnnet's."
    )
    if any(r.on_edge for r in rows):
        console.print("* the first or the last rate that was tried: a better one may lie beyond.")

    out = folder_of(config)
    write(out, config, results)
    console.print(f"{time.perf_counter() - began:.0f} s; report: {out / 'report.html'}", soft_wrap=True)

    if broken := [r.optimizer for r in rows if not r.ulp <= config.max_ulp]:
        print(
            f"parity broken: {', '.join(broken)} differ by more than {config.max_ulp:g} ulp", file=sys.stderr
        )
        raise SystemExit(1)


def run_ladder(console: Console, config: Config) -> None:
    began = time.perf_counter()
    outcomes = climb.climb(
        *(console, config.problems, config.optimizers),
        budget=config.budget,
        trials=config.trials,
        seeds=config.seeds,
    )
    climb.show(console, outcomes, config.reference, began)
    out = folder_of(config)
    with whole(out) as partial:
        climb.write(partial, settings_of(config), outcomes, console)
    console.print(f"{time.perf_counter() - began:.0f} s; report: {out / 'report.html'}", soft_wrap=True)


def folder_of(config: Config) -> Path:
    return config.out or new_folder(COMMAND)


def settings_of(config: Config) -> dict[str, object]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}


def write(out: Path, config: Config, results: list[Result]) -> None:
    """The folder of the report, whole or not at all."""
    with whole(out) as partial:
        settings = settings_of(config)
        write_json(partial / "results.json", settings, results)
        write_csv(partial / "curves.csv", results)
        drawn = pictures.draw(partial, results)
        report.write(partial / "report.html", settings, results, drawn)


if __name__ == "__main__":
    main()
