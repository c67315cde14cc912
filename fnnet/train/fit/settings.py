"""The settings of `fit`: checked, and with the defaults filled in, before anything is compiled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fnnet import check
from fnnet.data.dataset import Dataset
from fnnet.layer import Layer, Params, State
from fnnet.metrics import PerExample
from fnnet.train.arguments import check_loss, check_metrics, check_network
from fnnet.train.batches import check_names
from fnnet.train.devices.sharding import Rules, with_auto_axes
from fnnet.train.fit.guarded_step import Augment, Keys
from fnnet.train.history import more_is_better
from fnnet.train.progress import choose_display
from fnnet.wrappers import cast


@dataclass(frozen=True)
class Settings:
    """What `fit` was asked for, in the order of its arguments."""

    net: Layer
    loss: PerExample
    optimizer: Any
    train: Any
    valid: Any
    epochs: int | None
    steps: int | None
    batch_size: int | None
    learning_rate: Any
    keys: Keys
    initial: tuple[Params, State] | None
    metrics: Any  # a dict of Metrics, once checked
    penalty: Callable[[Params], jax.Array] | None
    class_weights: Any
    augment: Augment | None
    accumulate: int
    dtype: Any
    eval_every: int | None
    eval_batch_size: int
    monitor: str | None
    maximize: bool | None
    patience: int | None
    reduce_on_plateau: optax.GradientTransformation | None
    callbacks: Sequence[Callable[[Any], Any]]
    folder: Any  # a Path or None, once checked
    resume: bool | str
    checkpoint_every: int | None
    progress: bool | None
    mesh: Mesh | None
    rules: Rules
    not_finite: str
    largest_norm: float | None
    debug: bool

    @property
    def skips_bad_steps(self) -> bool:
        """Whether training continues after a step whose loss or gradient is not finite."""
        return self.not_finite == "skip"

    @property
    def measures_gradient_norm(self) -> bool:
        """Whether each step reports the norm of its gradient."""
        return self.skips_bad_steps or self.largest_norm is not None

    @property
    def keeps_best(self) -> bool:
        """Whether the state of the best evaluation is kept."""
        return self.valid is not None or self.patience is not None


@dataclass(frozen=True)
class Plan:
    """How long to train, how often to evaluate, and what decides which evaluation is the best."""

    steps: int  # in all
    eval_every: int  # steps
    monitor: str
    maximize: bool


def check_settings(asked: Settings) -> Settings:
    """The settings in the form in which the rest of `fit` uses them, or an error that says what is wrong."""
    _check_numbers(asked)
    _check_flags(asked)
    _check_not_traced(asked)
    check_network("fit", asked.net)
    check_loss("fit", asked.loss)
    for name, part in (("train", asked.train), ("valid", asked.valid)):
        if isinstance(part, Dataset):
            raise TypeError(f"fit: {name} is a Dataset, wanted one part of it: pass data.{name}")
        if part is not None and (hasattr(part, "shape") or _is_pair(part)):
            check_names(f"fit: {name}", part)
    for name, wanted in (("penalty", "params -> scalar"), ("augment", "(key, batch) -> batch")):
        if (f := getattr(asked, name)) is not None and not callable(f):
            raise TypeError(f"fit: {name}={f!r}, wanted a function {wanted}")
    if not isinstance(asked.callbacks, Sequence) or not all(map(callable, asked.callbacks)):
        raise TypeError(f"fit: callbacks={asked.callbacks!r}, wanted a list of functions of an Evaluation")
    if hasattr(asked.valid, "__next__"):
        raise ValueError(
            "fit: valid has no batches left after one evaluation, since it is an iterator; wanted an iterable that "
            "starts again each time, such as a list or fn.data.stream(..., shuffle=False, epochs=1)"
        )
    choose_display(asked.progress)  # raises here, rather than after the first checkpoint
    mesh = None if asked.mesh is None else with_auto_axes(asked.mesh)
    _check_mesh(mesh, asked.rules)
    return replace(
        asked,
        net=asked.net if asked.dtype is None else cast(asked.net, asked.dtype),
        metrics=check_metrics("fit", asked.metrics),
        folder=None if asked.folder is None else check.local_path("fit", "folder", asked.folder),
        mesh=mesh,
    )


def make_plan(settings: Settings, steps_per_epoch: int | None) -> Plan:
    """The plan, where the length of an epoch is known or None."""
    steps, eval_every = resolve_length(steps_per_epoch, settings.epochs, settings.steps, settings.eval_every)
    if steps < settings.accumulate:
        raise ValueError(
            f"fit: accumulate={settings.accumulate} and {steps} steps in all, wanted at least as many steps: there "
            "would be no update"
        )
    monitor, maximize = resolve_monitor(
        settings.monitor, settings.maximize, list(settings.metrics), has_valid=settings.valid is not None
    )
    return Plan(steps, eval_every, monitor, maximize)


def resolve_length(
    steps_per_epoch: int | None, epochs: int | None, steps: int | None, eval_every: int | None
) -> tuple[int, int]:
    """Steps in all, and from one evaluation to the next: an epoch by default, or a tenth of the steps."""
    if steps is None:
        if steps_per_epoch is None or epochs is None:
            raise ValueError(
                "fit: epochs=, but the iterable does not say how long an epoch is (batches_per_epoch); pass steps="
            )
        steps = epochs * steps_per_epoch
    return int(steps), int(eval_every or steps_per_epoch or max(1, steps // 10))


def resolve_monitor(
    monitor: str | None, maximize: bool | None, metrics: Sequence[str], *, has_valid: bool
) -> tuple[str, bool]:
    """What decides which evaluation is the best, and whether more of it is better."""
    parts = ["train", "valid"] if has_valid else ["train"]
    known = [f"{part}_{name}" for part in parts for name in ("loss", *metrics)]
    monitor = monitor or f"{parts[-1]}_loss"
    check.one_of("fit", "monitor", monitor, known)
    maximize = more_is_better(monitor) if maximize is None else maximize
    if maximize is None:
        raise ValueError(
            f"fit: monitor={monitor!r}, whose name does not say whether more is better: pass maximize=True or "
            "maximize=False"
        )
    return monitor, maximize


def _check_numbers(asked: Settings) -> None:
    if (asked.epochs is None) == (asked.steps is None):
        raise ValueError(f"fit: epochs={asked.epochs}, steps={asked.steps}, wanted one of the two")
    for name in ("epochs", "steps", "batch_size", "eval_every", "patience", "checkpoint_every"):
        if getattr(asked, name) is not None:
            check.is_positive("fit", name, getattr(asked, name))
    check.is_positive("fit", "eval_batch_size", asked.eval_batch_size)
    check.is_positive("fit", "accumulate", asked.accumulate)
    if asked.largest_norm is not None:
        check.number("fit", "largest_norm", asked.largest_norm, "(0, inf]")
    if asked.learning_rate is not None and not callable(asked.learning_rate):
        check.number("fit", "learning_rate", asked.learning_rate)
    if asked.dtype is not None and jnp.dtype(asked.dtype) == jnp.float16:
        raise ValueError(
            "fit: dtype=float16 needs loss scaling, which fit does not have; wanted jnp.bfloat16"
        )


def _check_flags(asked: Settings) -> None:
    check.flag("fit", "debug", asked.debug)
    for name in ("progress", "maximize"):
        if getattr(asked, name) is not None:
            check.flag("fit", name, getattr(asked, name))
    check.one_of("fit", "not_finite", asked.not_finite, ("stop", "skip"))
    if isinstance(asked.resume, str):
        check.one_of("fit", "resume", asked.resume, (True, False, "auto"))
    elif not isinstance(asked.resume, bool):
        raise TypeError(f"fit: resume={asked.resume!r}, wanted True, False or 'auto'")
    if asked.folder is None and (asked.resume or asked.checkpoint_every):
        raise ValueError("fit: resume and checkpoint_every need a folder; pass folder=")


def _is_pair(part: Any) -> bool:
    """Whether x and y were given as (x, y), rather than a list of batches."""
    return isinstance(part, list | tuple) and len(part) == 2 and all(hasattr(a, "shape") for a in part)


def _check_not_traced(asked: Settings) -> None:
    train: Any = asked.train if isinstance(asked.train, Mapping) else None
    given = asked.keys, train, asked.initial, asked.learning_rate
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(
            "fit: it was called inside jit, vmap or grad, but it runs compiled programs itself; wanted make_run, "
            "which is a pure function"
        )


def _check_mesh(mesh: Mesh | None, rules: Rules) -> None:
    if mesh is None and rules:
        raise ValueError("fit: rules say how params are split over a mesh; pass mesh= as well")
    if mesh is not None and "data" not in mesh.shape:
        raise ValueError(
            f'fit: the mesh is {dict(mesh.shape)}, wanted an axis "data", which batches are split over; name it in '
            "jax.make_mesh"
        )
    here = set() if mesh is None else {device.process_index for device in mesh.devices.flat}
    if jax.process_count() > 1 and (missing := set(range(jax.process_count())) - here):
        raise ValueError(
            f"fit: there are {jax.process_count()} processes, and the mesh has no device of process {min(missing)}; "
            'wanted one over the devices of all: jax.make_mesh((jax.device_count(),), ("data",))'
        )
