"""What a run of `fit` has besides the loop's arrays, and what a checkpoint of it holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.layer import Params, State
from fnnet.train import checkpoint
from fnnet.train.devices.processes import all_gather
from fnnet.train.fit.program import Loop
from fnnet.train.fit.source import Source
from fnnet.train.history import for_json, from_json, joined
from fnnet.train.step import TrainState


class Best(NamedTuple):
    """The best evaluation."""

    step: int  # steps taken before it
    value: float  # of what is monitored
    params: Params
    state: State


@dataclass
class Host:
    """What a run has besides the loop's arrays; a checkpoint has it, too."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # one an evaluation
    chunks: list[dict[str, np.ndarray]] = field(
        default_factory=list
    )  # the steps' numbers, some steps in each
    whole: int = 0  # chunks that the last row is of
    best: Best | None = None
    waited: int = 0  # evaluations since the best one
    plateau: Any = None  # state of reduce_on_plateau
    seconds: float = 0.0
    stopped: str = ""

    def since_row(self) -> dict[str, np.ndarray]:
        """The steps' numbers since the last row, which is now."""
        since, self.whole = joined(self.chunks[self.whole :]), len(self.chunks)
        return since


def judge(host: Host, value: float, maximize: bool, at: int, now: TrainState) -> None:
    """Keeps the best evaluation, or counts those since."""
    best = math.nan if host.best is None else host.best.value
    if not math.isnan(value) and (math.isnan(best) or (value > best if maximize else value < best)):
        # A copy, for the next step overwrites the params.
        host.best = Best(at, value, *jax.tree.map(jnp.copy, (now.params, now.state)))
        host.waited = 0
    else:
        host.waited += 1


def has_checkpoint(checkpoints: Path, resume: bool | str) -> bool:
    """Whether there is a checkpoint to go on from; raises where there should be one, or none."""
    found = checkpoint.steps(checkpoints)
    if np.ptp(all_gather([found[-1] if found else -1])):
        raise checkpoint.CheckpointError(
            f"fit: not all processes see the same checkpoints in {checkpoints}: wanted a folder that all of them see"
        )
    if found and resume is False:
        raise checkpoint.CheckpointError(
            f"fit: {checkpoints} has a checkpoint of step {found[-1]}: pass resume=True to go on from it, or another "
            "folder"
        )
    if resume is True and not found:
        raise checkpoint.CheckpointError(f"fit: resume=True, and {checkpoints} has no checkpoint")
    history = checkpoints.parent / "history.jsonl"
    if not found and history.is_file() and history.stat().st_size:
        raise checkpoint.CheckpointError(
            f"fit: {history} has the lines of a run, but {checkpoints} has no checkpoint to go on from: bring it back, "
            "or take another folder"
        )
    return bool(found)


def to_save(loop: Loop, host: Host, settings: dict[str, Any], position: Any) -> tuple[Any, dict[str, Any]]:
    """A checkpoint's arrays, and the rest for JSON."""
    history = joined(host.chunks)
    best = None if host.best is None else {"step": host.best.step, "value": for_json(host.best.value)}
    tree = {
        "loop": loop,
        "best": None if host.best is None else (host.best.params, host.best.state),
        "plateau": host.plateau,
        "history": history,
    }
    about = {
        "settings": settings,
        "position": position,
        "rows": [for_json(row) for row in host.rows],
        "steps": {name: [len(values), str(values.dtype)] for name, values in history.items()},
        "best": best,
        "waited": host.waited,
        "seconds": host.seconds,
        "stopped": host.stopped,
    }
    return tree, about


def go_on(
    checkpoints: Path, like: Loop, host: Host, settings: dict[str, Any], source: Source, keeps_best: bool
) -> Loop:
    """The loop of the last checkpoint; `host` and the position in the data become what they were."""

    def tree(about: Mapping[str, Any]) -> Any:
        if about.get("settings") != settings:
            then = about.get("settings", {})
            differ = [name for name in settings if then.get(name) != settings[name]]
            raise checkpoint.CheckpointError(
                f"fit: {checkpoints} is of another run: "
                + "; ".join(f"{name} was {then.get(name)}, and is {settings[name]}" for name in differ)
            )
        history = {name: np.empty(n, dtype) for name, (n, dtype) in about["steps"].items()}
        best = (like.now.params, like.now.state) if about["best"] is not None else None
        return {"loop": like, "best": best, "plateau": host.plateau, "history": history}

    try:
        restored, about = checkpoint.restore(checkpoints, tree)
    except checkpoint.CheckpointError as error:
        error.add_note(
            f"fit goes on from the last checkpoint: for an earlier one move later ones out of {checkpoints}"
        )
        raise
    host.rows = from_json(about["rows"])
    row_at = host.rows[-1]["step"] if host.rows else 0
    if history := restored["history"]:  # none at step 0
        host.chunks = [{name: values[:row_at] for name, values in history.items()}]
        host.chunks += [{name: values[row_at:] for name, values in history.items()}]
        host.whole = 1
    if about["best"] is not None and keeps_best:
        host.best = Best(about["best"]["step"], from_json(about["best"]["value"]), *restored["best"])
    host.waited, host.seconds, host.stopped = about["waited"], about["seconds"], about["stopped"]
    host.plateau = restored["plateau"]
    source.seek(about["position"])
    return restored["loop"]
