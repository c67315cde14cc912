"""What must be the same where a run resumes: its data, its key, its program."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from fnnet import check
from fnnet.metrics import PerExample, per_example
from fnnet.train.checkpoint import CheckpointError
from fnnet.train.fingerprint import digest, fingerprint
from fnnet.train.fit.diagnose import TrainingWarning
from fnnet.train.fit.guarded_step import LoopState
from fnnet.train.fit.settings import Plan, Settings
from fnnet.train.step import Batch

# The parts of the program, as a message names them.
PARTS = {
    "network": "the network (or dtype)",
    "loss": "the loss (or class_weights)",
    "penalty": "penalty",
    "metrics": "metrics",
    "augment": "augment",
    "reduce_on_plateau": "reduce_on_plateau",
    "optimizer": "the optimizer (or learning_rate)",
}


def run_identity(
    settings: Settings, plan: Plan, data: Mapping[str, Any], program: Mapping[str, str] | None
) -> dict[str, Any]:
    """What must be the same where a run resumes, for JSON.

    Args:
        settings: of the run.
        plan: of the run.
        data: what its source says of it.
        program: see `program_parts`; None where nothing is saved, and so nothing has to be compared.
    """
    identity = dict(data) | {
        "key": np.asarray(jax.random.key_data(settings.keys.init)).tolist(),
        "accumulate": int(settings.accumulate),
        "not_finite": settings.not_finite,
        "largest_norm": None if settings.largest_norm is None else float(settings.largest_norm),
        "measures": [
            "loss",
            *settings.metrics,
            *(["penalty"] if settings.penalty else []),
            *(["gradient_norm"] if settings.measures_gradient_norm else []),
        ],
        "monitor": [plan.monitor, plan.maximize] if settings.keeps_best else None,
    }
    if program is None:
        return identity
    parts = {"train": settings.train, "valid": settings.valid}
    in_memory = {
        name: digest(dict(part)) if isinstance(part, Mapping) else None for name, part in parts.items()
    }
    return identity | in_memory | {"program": dict(program)}


def program_parts(
    settings: Settings, loss: PerExample, step: Any, loop: LoopState, batch: Batch
) -> dict[str, str]:
    """Digests of what is computed at each step, and the releases of which they are.

    They are traced for one batch without a mesh, so a run may resume on other devices.

    Args:
        settings: of the run.
        loss: with class weights.
        step: from `make_step`, with `skip_if`, under `jax.jit`.
        loop: shapes of the state.
        batch: shapes of a batch, before `augment`.
    """
    now, batch = jax.tree.map(_anywhere, (loop.now, dict(batch)))
    keys, plateau = settings.keys, settings.reduce_on_plateau
    traced = {"batch": check.describe(batch), "params": check.describe(now.params)}

    def trace(name: str, f: Any, *args: Any) -> Any:
        jaxpr, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
        traced[name] = fingerprint(jaxpr)
        return shapes

    if settings.augment is not None:
        batch = trace("augment", settings.augment, keys.augment, batch)

    def forward(params: Any, state: Any, x: Any, key: Any) -> Any:
        return settings.net.apply(params, state, x, key=key, train=True)

    prediction, _ = trace("network", forward, now.params, now.state, batch["x"], keys.step)
    trace("loss", lambda p, y: per_example("loss", loss, p, y), prediction, batch["y"])
    if settings.penalty is not None:
        trace("penalty", settings.penalty, now.params)
    if metrics := settings.metrics.values():
        trace(
            "metrics",
            lambda p, y: [m.result(m.update(m.init(), p, y)) for m in metrics],
            prediction,
            batch["y"],
        )
    if plateau is not None:
        trace(
            "reduce_on_plateau",
            lambda state, value: plateau.update({}, state, value=value),
            plateau.init({}),
            np.float32(0),
        )
    # The whole step. Its last condition is the optimizer's update.
    whole = step.trace(now, batch, keys.step).jaxpr
    update = [eqn for eqn in whole.eqns if eqn.primitive.name == "cond"][-1]
    return traced | {
        "optimizer": "".join(fingerprint(branch) for branch in update.params["branches"]),
        "step": fingerprint(whole),
        **_releases(),
    }


def check_identity(checkpoints: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a checkpoint is of another run, and names what differs.

    Warns:
        TrainingWarning: the program could not be compared, because it was written by another release of JAX.
    """
    differ = []
    for name, wanted in now.items():
        if name not in saved or name == "program" or saved[name] == wanted:
            continue
        has_numbers = name in ("train", "valid")
        differ.append(
            f"{name} has other numbers" if has_numbers else f"{name} was {saved[name]}, and is {wanted}"
        )
    program, releases = now["program"], _releases()
    other: Any = saved.get("program")
    comparable = isinstance(other, dict) and all(other.get(name) == was for name, was in releases.items())
    if comparable:
        differ += _differing_parts(
            program, other, given=saved.get("accumulate") == now["accumulate"], alone=not differ
        )
    if differ:
        raise CheckpointError(
            f"fit: {checkpoints} is of another run: {'; '.join(differ)}. Pass what it was started with, or start "
            "another run in another folder, with initial= from this one if you like"
        )
    if not comparable:
        was = {name: other.get(name) for name in releases} if isinstance(other, dict) else "an older fnnet"
        warnings.warn(
            f"fit: the checkpoint in {checkpoints} is of {was}, and this is {releases}, which may write the same "
            "function in other operations: whether network, loss and optimizer are the same could not be compared",
            TrainingWarning,
            stacklevel=2,
        )


def _differing_parts(
    now: Mapping[str, str], saved: Mapping[str, str], *, given: bool, alone: bool
) -> list[str]:
    """What differs between two programs: the causes, and not what follows from them.

    Args:
        now: see `program_parts`.
        saved: the same of a checkpoint.
        given: whether the optimizer is in the form in which it was given, not accumulating otherwise.
        alone: whether nothing else is known to differ.
    """
    if now == saved:
        return []
    if now["batch"] != saved.get("batch"):  # all else would differ as well
        return ["a batch has another shape"] if alone else []
    names = ["network"] if now["params"] != saved.get("params") else list(PARTS)
    changed = [name for name in names if now.get(name) != saved.get(name)]
    if "optimizer" in changed and (not given or "reduce_on_plateau" in changed):
        changed.remove("optimizer")
    if not changed and alone:
        return ["the gradient is another one"]
    return [f"{PARTS[name]} is another one" for name in changed]


def _releases() -> dict[str, str]:
    """The releases that decide of which operations a program consists."""
    import fnnet

    return {"fnnet": fnnet.__version__, "jax": jax.__version__, "optax": optax.__version__}


def _anywhere(a: Any) -> jax.ShapeDtypeStruct:
    """The shape without its devices."""
    return jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=getattr(a, "weak_type", False))
