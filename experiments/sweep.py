"""Sweeps learning rate x weight decay x width of an MLP on digits: `python -m experiments.sweep`.

All learning rates, weight decays and seeds run in one program. A width changes the program, so there is one sweep per
width. The command prints a table, and writes runs.csv, sweep.json and plots of all widths together to a new folder
under runs/.
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
from experiments.command_line import fail, failing, new_folder, parse
from experiments.compilation_cache import use_compilation_cache
from experiments.results_folder import environment
from fnnet.atomic import write_atomically
from fnnet.train.sweep.halving import rank_trials
from fnnet.train.sweep.plots import parallel_coordinates, sensitivity

COMMAND = "sweep"
CONFIG = "config.json"  # written first: a folder without it is not that of a sweep


@dataclasses.dataclass(frozen=True)
class Config:
    """Sweeps learning rate x weight decay x width of an MLP on digits, with AdamW."""

    widths: tuple[int, ...] = (16, 64, 256)
    """Units of the hidden layer, with one sweep per width."""
    search: Literal["random", "grid"] = "random"
    """Random draws from the ranges below, or a grid over them; both on a log scale."""
    trials: int = 20
    """Pairs of learning rate and weight decay per width; for a grid, rounded down to a square."""
    learning_rates: tuple[float, float] = (1e-4, 0.3)
    """The smallest and the largest learning rate."""
    weight_decays: tuple[float, float] = (1e-5, 1.0)
    """The smallest and the largest weight decay."""
    seeds: int = 3
    """Number of seeds, each with its own weights and batches."""
    steps: int = 150
    """Steps of each run; with --halving, those of the first rung."""
    batch_size: int = 64
    """Examples per batch."""
    halving: int | None = None
    """Successive halving with this factor f: after each rung, one trial in f continues, for f times as many steps."""
    devices: int = 1
    """Number of devices to distribute the runs over."""
    out: Path | None = None
    """New folder for the results; by default runs/sweep-DATE-TIME."""
    resume: Path | None = None
    """Folder of an interrupted sweep, which resumes after its last chunk. Give the same options again."""


def check(config: Config) -> None:
    if not config.widths:
        fail(COMMAND, "--widths is empty, wanted at least one value")
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
                f"--{option.replace('_', '-')} {low} {high}, wanted two positive numbers, the smaller first",
            )
    if config.halving is not None and not 2 <= config.halving <= config.trials:
        fail(
            COMMAND, f"--halving {config.halving}, wanted at least 2, and at most the {config.trials} trials"
        )
    if config.devices > jax.device_count():
        fail(COMMAND, f"--devices {config.devices} are more than the {jax.device_count()} that JAX sees")
    if config.out is not None and config.resume is not None:
        fail(
            COMMAND,
            "got --out and --resume, wanted one of them: --out names a new folder, --resume an old one",
        )
    if config.out is not None and config.out.exists():
        fail(COMMAND, f"--out {config.out} exists already, wanted the name of a new folder")
    if config.resume is not None and not config.resume.is_dir():
        fail(COMMAND, f"--resume {config.resume} is not a folder, wanted the folder of an interrupted sweep")
    if config.resume is not None and not (config.resume / CONFIG).is_file():
        fail(COMMAND, f"--resume {config.resume} has no {CONFIG}, wanted the folder of an interrupted sweep")


def settings_of(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config) | {"out": str(config.out), "resume": str(config.resume)}


def space(config: Config) -> tuple[dict[str, Any], int | None]:
    """The search space, and the number of trials if they are drawn."""
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
    """The sweeps of all widths as one, with the width as a hyperparameter."""

    def rows(parts: list[Any]) -> Any:
        return jax.tree.map(lambda *of: np.concatenate(of), *parts)

    hparams = rows([s.hparams for s in swept])
    of_trial = np.repeat(widths, [len(s.order) for s in swept])
    scores, rungs = rows([s.scores for s in swept]), rows([s.rungs for s in swept])
    rank = np.empty(len(scores), int)
    rank[rank_trials(scores, swept[0].maximize)] = np.arange(len(scores))
    return swept[0]._replace(
        hparams=hparams | {"width": of_trial},
        scores=scores,
        last=rows([s.last for s in swept]),
        lowest=rows([s.lowest for s in swept]),
        highest=rows([s.highest for s in swept]),
        diverged_at=rows([s.diverged_at for s in swept]),
        rungs=rungs,
        order=np.lexsort((rank, -rungs)),
        params=None,  # they differ in shape
        state=None,
    )


def write(out: Path, config: Config, swept: fn.train.Sweep, seconds: float) -> None:
    """Writes the results. sweep.json comes last, so that the others are there when it is."""
    swept.to_csv(out / "runs.csv")
    parallel_coordinates(swept, out / "parallel_coordinates.png")
    sensitivity(swept, out / "sensitivity.png")
    best = swept.best
    content = {
        "config": settings_of(config),
        "environment": environment(),
        "best": {"trial": best.trial, "hparams": best.hparams, "mean": best.mean, "std": best.std},
        "mapping": f"{swept.mapping}: {swept.why}",
        "seconds": seconds,
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(out / "sweep.json", lambda beside: beside.write_text(text))


def main() -> None:
    use_compilation_cache()
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

    if config.resume is None:
        with failing(COMMAND, OSError):
            out.mkdir(parents=True)
            text = json.dumps(settings_of(config), indent=2) + "\n"
            write_atomically(out / CONFIG, lambda beside: beside.write_text(text))
    began, swept = time.perf_counter(), []
    for width in config.widths:
        try:
            swept.append(sweep_width(config, width, data, out))
        except KeyboardInterrupt:
            print(f"interrupted; resume with --resume {out} and the same options", file=sys.stderr)
            raise SystemExit(130) from None
        except ValueError as error:  # the folder is damaged, or from another sweep
            fail(COMMAND, str(error))
        console.print(f"width {width}: {swept[-1].mapping}, {swept[-1].why}")
    together = joined(config.widths, swept)
    print(together.table(10))
    write(out, config, together, time.perf_counter() - began)
    console.print(f"{time.perf_counter() - began:.0f} s; table and plots: {out}", soft_wrap=True)


if __name__ == "__main__":
    main()
