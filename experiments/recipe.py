"""What the training recipes share: the flags, which a resumed run keeps; its folder and files; the summary."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax

import fnnet as fn
from experiments.command_line import devices, fail, failing, new_folder, parse
from experiments.curves import draw_curves
from experiments.results_folder import environment, strict
from fnnet.atomic import write_atomically

T = TypeVar("T")

CONFIG = "config.json"
NOT_KEPT = ("folder", "resume")  # flags that config.json leaves out


def flags(config: type[T], command: str) -> T:
    """The command line, checked. With --resume, flags that are not given are those of the run in --folder."""
    prog = f"python -m experiments.{command}"
    make: Any = config
    given: Any = parse(config, prog)
    if given.resume:
        if given.folder is None:
            fail(
                command, "--resume is without --folder, wanted --folder with the folder of the run to resume"
            )
        before = _before(command, given.folder)["config"]
        try:
            given = parse(config, prog, make(**before, folder=given.folder, resume=True))
        except TypeError:
            fail(
                command, f"--resume: {given.folder / CONFIG} is from another command: it has {sorted(before)}"
            )
    for name in ("epochs", "batch_size"):
        if getattr(given, name) < 1:
            fail(
                command, f"--{name.replace('_', '-')} {getattr(given, name)} is too small, wanted at least 1"
            )
    if not (given.learning_rate > 0 and math.isfinite(given.learning_rate)):
        fail(command, f"--learning-rate {given.learning_rate} is not a positive number")
    if not (given.weight_decay >= 0 and math.isfinite(given.weight_decay)):
        fail(command, f"--weight-decay {given.weight_decay} is negative or not a number")
    return given


def mesh_of(command: str, count: int | None, batch_size: int) -> jax.sharding.Mesh | None:
    """The devices that batches are split over; None if there is only one."""
    found = devices(command, count)
    if batch_size % len(found):
        fail(
            command, f"--batch-size {batch_size} is not a multiple of the {len(found)} devices; see --devices"
        )
    return jax.make_mesh((len(found),), ("data",), devices=found) if len(found) > 1 else None


def steps_of(command: str, config: Any, train: Mapping[str, Any]) -> int:
    """The number of steps of the whole training."""
    n = len(train["y"])
    if config.batch_size > n:
        fail(command, f"--batch-size {config.batch_size} is more than the {n} training examples")
    return int(config.epochs * (n // config.batch_size))


@contextmanager
def running(command: str, config: Any) -> Iterator[Path]:
    """The folder to train in. An error inside ends the program with one line.

    The folder's config.json has the flags, versions, device and git revision. For a resumed run it also has those of
    the earlier starts.
    """
    folder = config.folder or new_folder(command)
    file, before = folder / CONFIG, None
    with failing(command, fn.train.CheckpointError, OSError, ImportError):
        if config.resume:
            before = _before(command, folder)
        elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            fail(
                command,
                f"--folder {folder} exists already: resume the run there with --resume, or name a new folder",
            )
        kept = {name: v for name, v in dataclasses.asdict(config).items() if name not in NOT_KEPT}
        starts = [] if before is None else [*before["earlier"], {**before, "earlier": None}]
        folder.mkdir(parents=True, exist_ok=True)
        _write(file, {"config": kept, **environment(), "earlier": starts})
        try:
            yield folder
        except fn.train.CheckpointError:
            # Training has not begun, so the next --resume must find the flags of the run that is there.
            if before is not None:
                _write(file, before)
            raise
        except fn.train.DivergedError as error:
            print(f"{command}: {error}", file=sys.stderr)
            raise SystemExit(1) from None


def stop_if_interrupted(command: str, fitted: fn.train.Fitted, folder: Path) -> None:
    """Ends the program with status 130 if Ctrl-C ended the training."""
    if fitted.stopped == "interrupted":
        print(f"resume with: python -m experiments.{command} --folder {folder} --resume")
        raise SystemExit(130)


def finish(folder: Path, title: str, fitted: fn.train.Fitted, test: Mapping[str, Any]) -> None:
    """Writes the weights, results.json and the curves, and prints two lines."""
    fn.train.save_safetensors(folder / "params.safetensors", fitted.params)
    if jax.tree.leaves(fitted.state):  # running averages, which the network needs in evaluation
        fn.train.save_safetensors(folder / "state.safetensors", fitted.state)
    history = fitted.history
    accuracy = {"valid": float(history["valid_accuracy"][-1]), "test": float(test["accuracy"])}
    results = {
        "steps": int(fitted.now.step),
        "seconds": float(history["seconds"][-1]),
        **{f"{part}_accuracy": value for part, value in accuracy.items()},
    }
    _write(folder / "results.json", results)
    draw_curves(history, folder / "curves.png", f"{title}: test accuracy {accuracy['test']:.2%}")
    print(
        f"{title}: test accuracy {accuracy['test']:.2%}, validation {accuracy['valid']:.2%}, "
        f"{results['steps']:,} steps in {results['seconds']:.1f} s"
    )
    print(f"results: {folder}")


def _before(command: str, folder: Path) -> dict[str, Any]:
    """The config.json of a folder; ends the program if it cannot be used."""
    file = folder / CONFIG
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        fail(command, f"--resume: there is no {file}; --folder names the folder of an earlier run")
    except (OSError, ValueError) as error:
        fail(command, f"--resume: {file} cannot be read: {error}")
    if not isinstance(found, dict) or not {"config", "earlier"} <= set(found):
        fail(command, f"--resume: {file} is from another program")
    return found


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON atomically: the file is complete or not there."""
    text = json.dumps(strict(dict(content)), indent=2, allow_nan=False) + "\n"
    write_atomically(file, lambda beside: beside.write_text(text))
