"""Trains one network with each hand-written optimizer and with its optax twin, and shows how they compare.

Both start from the same weights and see the same batches. All learning rates and seeds of an optimizer are one
compiled program. The command prints a table and writes a report with pictures into a new folder under runs/.

With --problems, it compares optimizers with one another instead, on a ladder of problems (comparison/ladder/tuning.py
says how). With --explain, it shows how one of them works.
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
from experiments.command_line import check_known, fail, failing, new_folder, parse, progress_on
from experiments.comparison.explain import explain
from experiments.comparison.ladder import run as ladder
from experiments.comparison.ladder.problems import PROBLEMS
from experiments.comparison.ladder.search_spaces import tunable_optimizers
from experiments.comparison.twins import report
from experiments.comparison.twins.measure import measure_all
from experiments.comparison.twins.results import is_equal, row, terminal_table
from experiments.compilation_cache import use_compilation_cache
from experiments.results_folder import complete_folder

COMMAND = "compare_optimizers"
# These take a minute and a half on two cores. All optimizers take about three times as long.
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

    Both start from the same weights and see the same batches. All learning rates and seeds of an optimizer are one
    compiled program. The exit status is 1 if the params of twins differ by more than --max-ulp.

    With --problems, it compares optimizers with one another: the same budget and the same number of trials for each,
    tuned and tested on different seeds. With --explain, it shows how one of them works.
    """

    optimizers: tuple[str, ...] = CLASSIC
    """Names of the optimizers, or "all". The default is a selection; all of them take longer."""
    data: Literal["digits", "fashion-mnist", "two-spirals"] = "digits"
    """The data set. Only fashion-mnist needs files, see fnnet.data.fashion_mnist."""
    model: Literal["mlp", "cnn"] = "mlp"
    """A fully connected network, or a convolutional one (for images)."""
    seeds: int = 5
    """Number of seeds. Each has its own weights and batches."""
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """The learning rates to try. The best one is chosen on the validation part."""
    steps: int = 500
    """Updates per run. There are up to 20 evaluations, evenly spaced: the largest number that divides the steps."""
    batch_size: int = 64
    """Examples per batch. (With --problems, each problem has its own.)"""
    max_ulp: float = 0.0
    """The largest difference between twins' params that passes, in units in the last place."""
    out: Path | None = None
    """Folder of the report. It must not exist. The default is runs/compare_optimizers-DATE-TIME."""
    problems: tuple[str, ...] = ()
    """Compare optimizers with one another on these problems, or on "all", instead of with their twins. Only
    --optimizers, --seeds, --out and the options below apply."""
    budget: int = 1000
    """Evaluations per run. Each value, gradient and product with a Hessian or Jacobian counts as 1."""
    trials: int = 10
    """Values of the learning rate (or damping, or sigma) to try: the default, then log-uniform draws."""
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


def with_names(config: Config) -> Config:
    """The config with all names in place of "all". The first unknown name ends the program."""
    known = list(tunable_optimizers()) if config.problems else list(fn.optim.TWINS)
    optimizers = tuple(known) if config.optimizers == ("all",) else config.optimizers
    problems = tuple(PROBLEMS) if config.problems == ("all",) else config.problems
    everything = list(tunable_optimizers())
    for option, names, allowed in (
        ("optimizers", optimizers, known),
        ("problems", problems, list(PROBLEMS)),
        ("explain", [config.explain] if config.explain is not None else [], everything),
        ("reference", [config.reference] if problems else [], everything),
    ):
        check_known(COMMAND, option, names, allowed)
    if config.explain is not None and problems:
        fail(COMMAND, "--explain and --problems can't be used together, wanted only one of them")
    return dataclasses.replace(config, optimizers=optimizers, problems=problems)


def check(config: Config) -> None:
    if not config.optimizers or not config.learning_rates:
        fail(COMMAND, "--optimizers and --learning-rates: got no value, wanted at least one for each")
    for option in ("seeds", "steps", "batch_size", "budget", "trials"):
        if getattr(config, option) < 1:
            fail(
                COMMAND,
                f"--{option.replace('_', '-')} {getattr(config, option)} is too small, wanted at least 1",
            )
    if bad := [rate for rate in config.learning_rates if not (rate > 0 and math.isfinite(rate))]:
        fail(COMMAND, f"--learning-rates {bad[0]} is not a positive number")
    if config.model == "cnn" and config.data == "two-spirals":
        fail(COMMAND, "--model cnn wants images, but --data two-spirals has points: use --model mlp")
    if config.out is not None and config.out.exists():
        fail(COMMAND, f"--out {config.out} already exists, wanted the name of a new folder")
    for name in config.problems:
        # An optimizer asked for by name must fit the problem. With "all", those that do not fit are left out.
        impossible = ladder.too_large(PROBLEMS[name](), config.optimizers)
        if impossible and len(config.optimizers) < len(tunable_optimizers()):
            fail(COMMAND, next(iter(impossible.values())))


def main() -> None:
    config = with_names(parse(Config, f"python -m experiments.{COMMAND}"))
    check(config)
    use_compilation_cache()
    console = Console()
    if config.explain is not None:
        explain(console, config.explain, tunable_optimizers()[config.explain])
        return
    device = jax.devices()[0]
    console.print(
        f"fnnet {fn.__version__}, jax {jax.__version__}, on {device.device_kind} ({device.platform})"
    )
    if config.problems:
        compare_on_problems(console, config)
    else:
        compare_with_twins(console, config)


def compare_with_twins(console: Console, config: Config) -> None:
    data, net = load(config), network(config)
    if config.batch_size > len(data.train["y"]):
        fail(
            COMMAND,
            f"--batch-size {config.batch_size} is too large, wanted at most the {len(data.train['y'])} training "
            "examples",
        )
    began = time.perf_counter()
    sizes: dict[str, Any] = {
        name: getattr(config, name) for name in ("learning_rates", "seeds", "steps", "batch_size")
    }
    out = config.out or new_folder(COMMAND)
    # The folder comes before the work, which could not be kept without it.
    with failing(COMMAND, OSError), complete_folder(out) as partial:
        with progress_on(console) as progress:
            results = measure_all(config.optimizers, net, data, progress, **sizes)
        report.write(partial, settings_of(config), results)

    rows = [row(result) for result in results]
    title = f"{config.model} on {config.data}, {config.seeds} seeds, {config.steps} steps"
    console.print(terminal_table(rows, title, config.max_ulp))
    console.print(
        "The best rate is chosen on the validation part. Accuracy: median of the seeds (lowest-highest). diff: the "
        "largest difference between a parameter and its twin's over all runs and steps, in units in the last place. "
        "time: of one update, fnnet's divided by optax's. compile: seconds to compile fnnet's update."
    )
    if any(r.on_edge for r in rows):
        console.print("* The lowest or highest rate that was tried: a better one may lie outside.")

    print_end(console, out, began)

    if broken := [r.optimizer for r in rows if not is_equal(r, config.max_ulp)]:
        print(
            f"parity is broken: {', '.join(broken)} differ by more than {config.max_ulp:g} ulp",
            file=sys.stderr,
        )
        raise SystemExit(1)


def compare_on_problems(console: Console, config: Config) -> None:
    began = time.perf_counter()
    out = config.out or new_folder(COMMAND)
    with failing(COMMAND, OSError), complete_folder(out) as partial:
        outcomes = ladder.run(
            *(console, config.problems, config.optimizers),
            budget=config.budget,
            trials=config.trials,
            seeds=config.seeds,
        )
        ladder.show(console, outcomes, config.reference)
        console.print(f"{time.perf_counter() - began:.0f} s so far, now drawing the pictures")
        ladder.write(partial, settings_of(config), outcomes, console)
    print_end(console, out, began)


def print_end(console: Console, out: Path, began: float) -> None:
    console.print(f"{time.perf_counter() - began:.0f} s; report: {out / 'report.html'}", soft_wrap=True)


def settings_of(config: Config) -> dict[str, object]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()}


if __name__ == "__main__":
    main()
