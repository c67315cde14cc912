"""Checkpoints of `fit`: when one is due, what it holds, and how a run resumes from it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fnnet.train import checkpoint
from fnnet.train.checkpoint.arrays import DTYPES
from fnnet.train.devices.processes import all_gather
from fnnet.train.fit.fit_run import FitRun
from fnnet.train.fit.identity import check_identity
from fnnet.train.fit.journal import Journal
from fnnet.train.fit.pace import seconds_since
from fnnet.train.fit.results import Best
from fnnet.train.fit.source import Source
from fnnet.train.fit.stopping import REASONS
from fnnet.train.history import for_json, from_json, join_chunks

SAVING_SHARE = 0.01  # of the time, for checkpoints, where it is not said how often to save


def checkpoint_due(
    step: int, checkpoint_every: int | None, *, unsaved_seconds: float, saving_seconds: float
) -> bool:
    """Whether it is time for a checkpoint.

    Args:
        step: steps taken.
        checkpoint_every: steps from one checkpoint to the next; None: as often as saving takes `SAVING_SHARE` of the
            time.
        unsaved_seconds: since the last checkpoint.
        saving_seconds: that the last checkpoint took.
    """
    if checkpoint_every:
        return step % checkpoint_every == 0
    return unsaved_seconds * SAVING_SHARE > saving_seconds


def checkpoints_of(folder: Path) -> Path:
    """Where the checkpoints of a run's folder are."""
    return folder / "checkpoints"


def has_checkpoint(folder: Path, resume: bool | str) -> bool:
    """Whether the folder has a checkpoint to resume from.

    Raises:
        CheckpointError: it has one, and resume is False; it has none, and resume is True or there is a history.
    """
    checkpoints = checkpoints_of(folder)
    found = checkpoint.steps(checkpoints)
    if np.ptp(all_gather([found[-1] if found else -1])):
        raise checkpoint.CheckpointError(
            f"fit: not all processes see the same checkpoints in {checkpoints}: wanted a folder that all of them see"
        )
    if found and resume is False:
        raise checkpoint.CheckpointError(
            f"fit: {checkpoints} has a checkpoint of step {found[-1]}: pass resume=True to resume from it, or another "
            "folder"
        )
    if resume is True and not found:
        raise checkpoint.CheckpointError(f"fit: resume=True, but {checkpoints} has no checkpoint")
    history = folder / "history.jsonl"
    if not found and history.is_file() and history.stat().st_size:
        raise checkpoint.CheckpointError(
            f"fit: {history} has the lines of a run, but {checkpoints} has no checkpoint to resume from: bring it "
            "back, or pass another folder"
        )
    return bool(found)


def save_run(folder: Path, run: FitRun, identity: Mapping[str, Any], source: Source) -> None:
    """Writes a checkpoint of the run as it is now, unless there is one of this step."""
    journal, began = run.journal, time.perf_counter()
    run.pace.unsaved_seconds = 0.0
    if run.step in checkpoint.steps(checkpoints_of(folder)):
        return
    history, best = join_chunks(journal.chunks), journal.best
    arrays = {
        "loop": run.loop,
        "best": None if best is None else (best.params, best.state),
        "plateau": journal.plateau,
        "history": history,
    }
    about = {
        "settings": identity,
        "position": source.position(),
        "rows": [for_json(row) for row in journal.rows],
        "steps": {name: [len(values), str(values.dtype)] for name, values in history.items()},
        "best": None if best is None else {"step": best.step, "value": for_json(best.value)},
        "waited": journal.since_best,
        "seconds": journal.seconds,
        "stopped": journal.stopped,
    }
    checkpoint.save(checkpoints_of(folder), run.step, arrays, about)
    run.pace.saving_seconds = seconds_since(began)


def _check_about(checkpoints: Path, about: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless it has what `save_run` writes."""
    best, position, rows, steps = (about.get(name) for name in ("best", "position", "rows", "steps"))
    number = int | float | None
    if not (
        isinstance(about.get("settings"), dict)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and type(row.get("step")) is int for row in rows)
        and all(isinstance(value, number | list) for row in rows for value in row.values())
        and isinstance(steps, dict)
        and all(isinstance(v, list) and [type(part) for part in v] == [int, str] for v in steps.values())
        and all(n >= 0 and dtype in DTYPES.split() for n, dtype in steps.values())
        and (best is None or (isinstance(best, dict) and type(best.get("step")) is int))
        and (best is None or isinstance(best.get("value"), number))
        and (position is None or (isinstance(position, dict) and type(position.get("passes")) is int))
        and type(about.get("waited")) is int
        and isinstance(about.get("seconds"), int | float)
        and about.get("stopped") in REASONS
    ):
        raise checkpoint.CheckpointError(
            f"fit: the last checkpoint in {checkpoints} is not one of fit, or its about.json is damaged"
        )


def restore_run(
    folder: Path, shapes: Any, plateau: Any, identity: Mapping[str, Any], source: Source, keeps_best: bool
) -> FitRun:
    """The run of the folder's last checkpoint. The source goes to its position in the data.

    Args:
        folder: of the run.
        shapes: of the `LoopState`, with shardings.
        plateau: state of reduce_on_plateau before the first evaluation.
        identity: see `run_identity`.
        source: of the batches.
        keeps_best: whether to restore the best evaluation.

    Raises:
        CheckpointError: it is of another run, or damaged.
    """
    checkpoints = checkpoints_of(folder)

    def shapes_of(about: Mapping[str, Any]) -> Any:
        _check_about(checkpoints, about)
        check_identity(checkpoints, about["settings"], identity)
        history = {name: np.empty(n, dtype) for name, (n, dtype) in about["steps"].items()}
        best = None if about["best"] is None else (shapes.now.params, shapes.now.state)
        return {"loop": shapes, "best": best, "plateau": plateau, "history": history}

    try:
        restored, about = checkpoint.restore(checkpoints, shapes_of)
        journal = Journal(
            rows=from_json(about["rows"]),
            since_best=about["waited"],
            plateau=restored["plateau"],
            seconds=about["seconds"],
            stopped=about["stopped"],
        )
    except checkpoint.CheckpointError as error:
        error.add_note(
            f"fit resumes from the last checkpoint: for an earlier one, move later ones out of {checkpoints}"
        )
        raise
    evaluated = journal.rows[-1]["step"] if journal.rows else 0
    if history := restored["history"]:  # empty at step 0
        journal.chunks = [{name: values[:evaluated] for name, values in history.items()}]
        journal.chunks += [{name: values[evaluated:] for name, values in history.items()}]
        journal.evaluated_chunks = 1
    if about["best"] is not None and keeps_best:
        journal.best = Best(about["best"]["step"], from_json(about["best"]["value"]), *restored["best"])
    source.seek(about["position"])
    loop = restored["loop"]
    return FitRun(loop, journal, step=int(loop.now.step))
