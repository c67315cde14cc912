"""Sweeps learning rate x weight decay x width of an MLP on digits: `python -m experiments.sweep`.

Rates and decays are one program with all seeds; a width changes the program, so each has a sweep of its own. It
prints a table, and writes runs.csv, sweep.json and pictures of all widths together into a new folder under runs/.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

import fnnet as fn
from experiments.command_line import fail, new_folder, parse
from experiments.results_folder import environment
from fnnet.atomic import write_atomically
from fnnet.train.sweep.plots import parallel_coordinates, sensitivity
from fnnet.train.sweep.trials import order_of

COMMAND = "sweep"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sweeps learning rate x weight decay x width of an MLP on digits, with AdamW."""

    widths: tuple[int, ...] = (16, 64, 256)
    """Units of the hidden layer; each width is a sweep of its own."""
    search: Literal["random", "grid"] = "random"
    """Random draws, log-uniform in the ranges below, or a grid of values spread evenly there, by their logarithms."""
    trials: int = 20
    """Pairs of rate and decay for each width; of a grid the next smaller square."""
    learning_rates: tuple[float, float] = (1e-4, 0.3)
    """The least and the largest learning rate."""
    weight_decays: tuple[float, float] = (1e-5, 1.0)
    """The least and the largest weight decay."""
    seeds: int = 3
    """How many seeds; each draws other weights and batches."""
    steps: int = 150
    """Updates of each run; with --halving of its first rung."""
    batch_size: int = 64
    """Examples a batch."""
    halving: int | None = None
    """Successive halving: after each rung one in so many trials goes on, for so many times as many steps."""
    devices: int = 1
    """Devices to spread the runs over."""
    out: Path | None = None
    """Folder of the results, new; runs/sweep-DATE-TIME unless given."""
    resume: Path | None = None
    """Folder of a sweep that was interrupted: give its options again, and it goes on behind its last chunk."""


def check(config: Config) -> None:
    if not config.widths:
        fail(COMMAND, "--widths wants at least one value")
    sizes = [("widths", width) for width in config.widths]
    sizes += [(name, getattr(config, name)) for name in ("trials", "seeds", "steps", "batch_size", "devices")]
    for option, size in sizes:
        if size < 1:
            fail(COMMAND, f"--{option.replace('_', '-')} {size} is too small, wanted at least 1")
    for option in ("learning_rates", "weight_decays"):
        low, high = getattr(config, option)
        if not 0 < low < high < float("inf"):
            fail(
                COMMAND,
                f"--{option.replace('_', '-')} {low} {high}, wanted two positive numbers, the least first",
            )
    if config.halving is not None and not 2 <= config.halving <= config.trials:
        fail(
            COMMAND, f"--halving {config.halving}, wanted 2 at least, and at most the {config.trials} trials"
        )
    if config.devices > jax.device_count():
        fail(COMMAND, f"--devices {config.devices} are more than the {jax.device_count()} there are")
    if config.out is not None and config.resume is not None:
        fail(COMMAND, "--out names a new folder and --resume an old one: take one of them")
    if config.out is not None and config.out.exists():
        fail(COMMAND, f"--out {config.out} exists already, wanted the name of a new folder")
    if config.resume is not None and not config.resume.is_dir():
        fail(COMMAND, f"--resume {config.resume} is no folder, wanted that of a sweep that was interrupted")


def space(config: Config) -> tuple[dict[str, Any], int | None]:
    """The space, and the number of trials where they are drawn."""
    ranges = {"learning_rate": config.learning_rates, "weight_decay": config.weight_decays}
    if config.search == "random":
        return {name: fn.train.log_uniform(*ends) for name, ends in ranges.items()}, config.trials
    side = int(config.trials**0.5)
    return {name: np.geomspace(*ends, side).tolist() for name, ends in ranges.items()}, None


def sweep_width(config: Config, width: int, data: fn.data.Dataset, folder: Path) -> fn.train.Sweep:
    net = fn.serial(fn.flatten, fn.dense(width), fn.relu, fn.dense(10))
    run = fn.train.make_run(
        net,
        fn.losses.softmax_cross_entropy,
        fn.optim.adamw,
        steps=config.steps,
        batch_size=config.batch_size,
        metrics={"accuracy": fn.metrics.accuracy},
    )
    mesh = jax.make_mesh((config.devices,), ("runs",)) if config.devices > 1 else None
    values, trials = space(config)
    return fn.train.sweep(
        *(run, data, values),
        trials=trials,
        seeds=config.seeds,
        halving=config.halving,
        mesh=mesh,
        folder=folder / f"width-{width}",
    )


def joined(widths: tuple[int, ...], swept: list[fn.train.Sweep]) -> fn.train.Sweep:
    """The sweeps of all widths as one, with the width among the hyperparameters."""

    def rows(parts: list[Any]) -> Any:
        return jax.tree.map(lambda *of: np.concatenate(of), *parts)

    hparams = rows([s.hparams for s in swept])
    of_trial = np.repeat(widths, [len(s.order) for s in swept])
    scores, rungs = rows([s.scores for s in swept]), rows([s.rungs for s in swept])
    rank = np.empty(len(scores), int)
    rank[order_of(scores, swept[0].maximize)] = np.arange(len(scores))
    return swept[0]._replace(
        hparams=hparams | {"width": of_trial},
        scores=scores,
        last=rows([s.last for s in swept]),
        lowest=rows([s.lowest for s in swept]),
        highest=rows([s.highest for s in swept]),
        diverged_at=rows([s.diverged_at for s in swept]),
        rungs=rungs,
        order=np.lexsort((rank, -rungs)),
        params=None,  # each width has others
        state=None,
    )


def write(out: Path, config: Config, swept: fn.train.Sweep, seconds: float) -> None:
    """The results; sweep.json last, when the others are there."""
    swept.to_csv(out / "runs.csv")
    parallel_coordinates(swept, out / "parallel_coordinates.png")
    sensitivity(swept, out / "sensitivity.png")
    best = swept.best
    content = {
        "config": dataclasses.asdict(config) | {"out": str(out), "resume": str(config.resume)},
        "environment": environment(),
        "best": {"trial": best.trial, "hparams": best.hparams, "mean": best.mean, "std": best.std},
        "mapping": f"{swept.mapping}: {swept.why}",
        "seconds": seconds,
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(out / "sweep.json", lambda beside: beside.write_text(text))


def main() -> None:
    config = parse(Config, f"python -m experiments.{COMMAND}")
    check(config)
    console = Console()
    data = fn.data.standardize(fn.data.digits())
    if config.batch_size > len(data.train["y"]):
        fail(
            COMMAND,
            f"--batch-size {config.batch_size} is more than the {len(data.train['y'])} training examples",
        )
    out = config.resume or config.out or new_folder(COMMAND)
    device = jax.devices()[0]
    console.print(
        f"fnnet {fn.__version__}, jax {jax.__version__}, on {device.device_kind} ({device.platform})"
    )

    began, swept = time.perf_counter(), []
    for width in config.widths:
        try:
            swept.append(sweep_width(config, width, data, out))
        except KeyboardInterrupt:
            print(f"interrupted; --resume {out}, with the same options, goes on", file=sys.stderr)
            raise SystemExit(130) from None
        except ValueError as error:  # the folder is that of another sweep, or damaged
            fail(COMMAND, str(error))
        console.print(f"width {width}: {swept[-1].mapping}, {swept[-1].why}")
    together = joined(config.widths, swept)
    print(together.table(10))
    write(out, config, together, time.perf_counter() - began)
    console.print(f"{time.perf_counter() - began:.0f} s; table, pictures: {out}", soft_wrap=True)


if __name__ == "__main__":
    main()
