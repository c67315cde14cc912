"""A training run driven from outside: progress, validation, early stopping, checkpoints, data larger than memory."""

import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnnet import check
from fnnet.data.dataset import Dataset
from fnnet.data.stream import Stream
from fnnet.layer import Layer, Params, State
from fnnet.losses import class_weighted
from fnnet.metrics import Metric, PerExample
from fnnet.optim.wrappers.accumulate import accumulate as accumulate_gradients
from fnnet.train import checkpoint
from fnnet.train.compiler import options
from fnnet.train.devices.processes import all_gather, check_same_on_all_processes, local_copy, raise_together
from fnnet.train.devices.sharding import Rules, shardings, with_auto_axes
from fnnet.train.fit.diagnose import TrainingWarning, explodes, find_nonfinite, never_moves, not_finite_in
from fnnet.train.fit.evaluation import make_evaluation
from fnnet.train.fit.journal import Best, Host, go_on, has_checkpoint, judge, to_save
from fnnet.train.fit.program import Augment, Keys, Loop, make_guarded, split_keys
from fnnet.train.fit.source import in_memory, streamed
from fnnet.train.history import append_line, columns, joined, more_is_better, write_lines
from fnnet.train.progress import progress_bar
from fnnet.train.step import TrainState, check_metrics, make_step, start
from fnnet.wrappers import cast

CALL_SECONDS = 0.2  # what a call of the compiled program should take: so soon Ctrl-C is heard
CHECKPOINTS = "checkpoints"  # in the folder
RECENT = 10  # calls, at least, whose losses are all not finite where not_finite="skip" gives up
SAVING_SHARE = 0.01  # of the time, for checkpoints, where it is not said how often there is to be one


class Evaluation(NamedTuple):
    """What a callback is given after each evaluation."""

    step: int  # steps taken
    epoch: float  # passes through the data
    row: dict[str, Any]  # the evaluation's line in history.jsonl
    params: Params
    state: State


class Fitted(NamedTuple):
    """What `fit` ends with."""

    params: Params  # with `patience` those of the best evaluation, else the last
    state: State  # the layers' own that belong to them
    history: dict[str, np.ndarray]
    best: Best | None  # None without `valid`
    stopped: str  # "finished", "patience", "callback" or "interrupted"
    now: TrainState  # after the last step, with the optimizer's state


class DivergedError(FloatingPointError):
    """A loss or a gradient that is not finite. `fitted` has what was reached: nothing is lost.

    Its params are those before the bad step; where only a gradient was not finite, of a loss that was, they are bad
    themselves, and `best` and the checkpoints are what to go back to.
    """

    fitted: Fitted


class PlateauState(NamedTuple):
    """What updates are multiplied by; it is set after an evaluation."""

    scale: jax.Array  # float32[]


def fit(
    net: Layer,
    loss: PerExample,
    optimizer: optax.GradientTransformation | Callable[..., optax.GradientTransformation],
    train: Any,
    *,
    valid: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: Any = None,
    key: chex.PRNGKey | int = 0,
    initial: tuple[Params, State] | None = None,
    metrics: Mapping[str, PerExample | Metric] | None = None,
    penalty: Callable[[Params], jax.Array] | None = None,
    class_weights: Any = None,
    augment: Augment | None = None,
    accumulate: int = 1,
    dtype: Any = None,
    eval_every: int | None = None,
    eval_batch_size: int = 1000,
    monitor: str | None = None,
    maximize: bool | None = None,
    patience: int | None = None,
    reduce_on_plateau: optax.GradientTransformation | None = None,
    callbacks: Sequence[Callable[[Evaluation], Any]] = (),
    folder: str | os.PathLike[str] | None = None,
    resume: bool | str = False,
    checkpoint_every: int | None = None,
    progress: bool | None = None,
    mesh: Mesh | None = None,
    rules: Rules = (),
    not_finite: str = "stop",
    largest_norm: float | None = None,
    debug: bool = False,
) -> Fitted:
    """Trains a network: `make_step` in a loop, with what a person wants around it.

    On examples in memory, with the same key, optimizer, steps and batch size, it computes what `make_run` does.

    Args:
        net: the network.
        loss: `(prediction, target) -> one value an example`.
        optimizer: from `fnnet.optim` or optax, such as `fn.optim.adam(1e-3)`; or what makes one of a learning rate,
            such as `fn.optim.adam`, with `learning_rate`, which is then shown and recorded.
        train: dict of arrays "x" and "y" with one leading axis, which go to the device; or an iterable of such dicts,
            one a batch, for data larger than memory, such as `fn.data.stream`.
        valid: dict of arrays to evaluate on, or an iterable of batches that ends.
        epochs: passes through the data. Either this or `steps`.
        steps: batches, which are updates unless `accumulate` is given.
        batch_size: examples a batch, 32 by default, where train is a dict. Each epoch is a permutation; what is left
            over at its end, less than a batch, is other examples each time.
        learning_rate: for the maker of an optimizer: a number or a schedule.
        key: a PRNG key, or the seed of one. The same key, the same bits.
        initial: (params, state) to begin with, such as a pretrained network's; drawn from the key unless given.

        metrics: functions of the form of a loss, or `fn.metrics.Metric`s, by name.
        penalty: function of the params that is added to the loss.
        class_weights: float[classes], see `fn.losses.class_weighted`; in training only.
        augment: pure function `(key, batch) -> batch`, in training only.
        accumulate: batches an update, see `fn.optim.accumulate`.
        dtype: to compute in, such as `jnp.bfloat16`; params and optimizer stay in float32, see `fn.cast`.

        eval_every: steps from one evaluation to the next; an epoch by default, or a tenth of the steps where the length
            of an epoch is not known. There is one at the end in any case.
        eval_batch_size: examples evaluated at once.
        monitor: what decides which evaluation is the best: "valid_loss", or "valid_" or "train_" and the name of a
            metric. "valid_loss" by default, "train_loss" without `valid`.
        maximize: whether more of it is better; unless given it is for an accuracy, and is not for a loss.
        patience: evaluations without a new best after which training stops; the best params are then returned. Without
            it, training goes to its end and returns the last; the best are in `best`.
        reduce_on_plateau: `fn.optim.reduce_on_plateau(...)`: the updates' scale falls where valid_loss (train_loss
            without valid) does not; its counts are of evaluations.
        callbacks: functions of a `Evaluation`, called after each evaluation. One that returns True ends the training.

        folder: for history.jsonl, a line an evaluation, and for the folder checkpoints. None: no files.
        resume: True goes on from the folder's last checkpoint, and ends with the bits of a run that was never stopped;
            "auto" does where there is one. False wants a folder without.
        checkpoint_every: steps from one checkpoint to the next; by default as many as it takes to spend a hundredth of
            the time on it. There is one at the end.
        progress: whether to show a bar; None: where rich is installed and stderr is a terminal.

        mesh: devices to train on, with an axis "data" that batches are split over. With several processes
            (`jax.distributed`), all call `fit` alike, with the same dict, or each with its own share of the batches.
        rules: how params are split over the mesh, see `shardings`; by default each device has all of them.

        not_finite: "stop" raises DivergedError at the first loss that is not finite, before its update; "skip" leaves
            out updates whose loss or gradient is not, and counts them.
        largest_norm: a gradient with a larger Euclidean norm counts as one that is not finite.
        debug: look at each layer's output in each step, and stop at the first NaN, whether or not it reaches the loss.
            Some hundred times slower.

    Returns:
        `Fitted(params, state, history, best, stopped, now)`. The history has, by name:

        - "train_loss", "train_accuracy", ...: float[steps], means over the batch of each step, as in `make_run`;
        - "eval_step", "epoch", "seconds", "examples_per_second", "learning_rate", "params_norm", "valid_loss",
          "valid_accuracy", ...: float[evaluations]; "skipped", steps left out so far, with not_finite="skip".

        A line of history.jsonl has these, and the means of the "train_" since the last line. Ctrl-C ends the training
        after the present steps, with a checkpoint where there is a folder; a second one interrupts at once.

    Raises:
        TypeError, ValueError: an argument is not as described.
        DivergedError: a FloatingPointError with the step and the layer at fault, and, as `fitted`, what was reached.
        CheckpointError: resume is False and the folder has a checkpoint, or True and it has none, or one that is
            damaged, newer, or of another network, optimizer, key or data.
        OSError: a file cannot be written or read; the last checkpoint stays intact.
        ImportError: `folder` without orbax, or progress=True without rich.

    Warns:
        TrainingWarning: the loss is the same at the first three evaluations; the params' norm has grown a thousandfold.

    Example:
        >>> data = fn.data.split(fn.data.two_moons(jax.random.key(0), 300))
        >>> net = fn.serial(fn.dense(16), fn.tanh, fn.dense(2))
        >>> fitted = fn.train.fit(net, fn.losses.softmax_cross_entropy, fn.optim.adam, data.train, valid=data.valid,
        ...                       learning_rate=0.1, epochs=20, batch_size=50,
        ...                       metrics={"accuracy": fn.metrics.accuracy})
        >>> bool(fitted.history["valid_accuracy"][-1] > 0.9)
        True
    """
    _check_arguments(
        epochs,
        steps,
        batch_size,
        eval_every,
        eval_batch_size,
        accumulate,
        patience,
        checkpoint_every,
        not_finite,
        largest_norm,
        resume,
        folder,
        dtype,
    )
    metrics = check_metrics(metrics)
    net = net if dtype is None else cast(net, dtype)
    key = jax.random.key(int(key)) if isinstance(key, Integral) else key
    keys = jax.jit(split_keys, compiler_options=options())(key)
    given = keys, train if isinstance(train, Mapping) else None, initial, learning_rate
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(
            "fit: it was called inside jit, vmap or grad, and drives compiled programs from outside; wanted make_run"
        )
    for name, part in (("train", train), ("valid", valid)):
        if isinstance(part, Dataset):
            raise TypeError(f"fit: {name} is a Dataset, wanted one part of it: pass data.{name}")
    if hasattr(valid, "__next__"):
        raise ValueError(
            "fit: valid has no batches left after one evaluation, since it is an iterator; wanted what begins anew "
            "at each, such as a list or fn.data.stream(..., shuffle=False, epochs=1)"
        )
    mesh = None if mesh is None else with_auto_axes(mesh)
    _check_mesh(mesh, rules)
    if isinstance(train, Mapping):
        source = in_memory(train, batch_size or 32, mesh)
    elif debug:
        raise ValueError(
            "fit: debug=True looks at a batch before its step, wanted train in memory, a dict of x and y"
        )
    elif batch_size is None:
        source = streamed(train, mesh)
    else:
        raise ValueError(
            "fit: batch_size is for train in memory; the batches of an iterable have their own size"
        )
    total, eval_every = _length(source.steps_per_epoch, epochs, steps, eval_every)
    if (
        isinstance(train, Stream)
        and train.order.shuffle
        and total > (train.epochs or math.inf) * (train.batches_per_epoch)
    ):
        raise ValueError(
            f"fit: train is a shuffled stream of epochs={train.epochs}, {train.batches_per_epoch} batches each, and "
            f"{total} are wanted: it would begin anew in the same order; make it with epochs=None"
        )
    monitor, maximize = _monitored(monitor, maximize, valid, metrics)

    # The step, and the state that it begins with.
    change = _optimizer(optimizer, learning_rate)
    if accumulate > 1:
        change = accumulate_gradients(change, accumulate)
    if reduce_on_plateau is not None:
        change = optax.chain(change, _scaled())
    skip = not_finite == "skip"

    def is_bad(seen: dict[str, jax.Array]) -> jax.Array:
        bad = ~jnp.isfinite(sum(seen[name] for name in ("loss", "penalty", "gradient_norm") if name in seen))
        return bad if largest_norm is None else bad | (seen["gradient_norm"] > largest_norm)

    train_loss = loss if class_weights is None else class_weighted(loss, class_weights)
    with_norm = skip or largest_norm is not None
    step = make_step(
        net, train_loss, change, metrics=metrics, penalty=penalty, gradient_norm=with_norm, skip_if=is_bad
    )
    shapes = source.shapes if augment is None else jax.eval_shape(augment, keys.augment, source.shapes)

    def begin(keys: Keys, order: jax.Array, initial: Any) -> Loop:
        if initial is None:
            now = start(net, change, keys.init, shapes["x"])
        else:
            params, state = initial
            now = TrainState(params, state, change.init(params), jnp.zeros([], jnp.int32))
        return Loop(now, order, skipped=jnp.zeros([], jnp.int32), halted=jnp.zeros([], bool))

    inputs = keys, source.order, initial
    like = jax.eval_shape(begin, *inputs)
    lies = None
    if mesh is not None:
        everywhere = NamedSharding(mesh, PartitionSpec())
        lies = jax.tree.map(lambda _: everywhere, like)._replace(now=shardings(like.now, mesh, rules))
        like = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), like, lies)
        if initial is not None:  # from wherever it lies
            inputs = keys, source.order, jax.device_put(tuple(initial), (lies.now.params, lies.now.state))
    advance = source.compile(make_guarded(step, is_bad, skip, augment), lies)
    evaluated = make_evaluation(net, {"loss": loss, **metrics}, valid, eval_batch_size, mesh)

    # What was done before.
    host = Host(plateau=None if reduce_on_plateau is None else reduce_on_plateau.init({}))
    keeps_best = valid is not None or patience is not None
    settings = source.identity | {
        "key": np.asarray(jax.random.key_data(keys.init)).tolist(),
        "accumulate": int(accumulate),
        "not_finite": not_finite,
        "measures": [
            "loss",
            *metrics,
            *(["penalty"] if penalty else []),
            *(["gradient_norm"] if with_norm else []),
        ],
        "monitor": [monitor, maximize] if keeps_best else None,
    }
    check_same_on_all_processes(
        settings
        | {"steps": total, "eval_every": eval_every, "eval_batch_size": eval_batch_size}
        | {"patience": patience, "checkpoint_every": checkpoint_every, "largest_norm": largest_norm}
        | ({} if callable(learning_rate) else {"learning_rate": learning_rate})
    )
    folder = None if folder is None else Path(folder).expanduser()
    if folder is not None and not source.has_position:
        raise ValueError(
            "fit: train's iterator has no get_state and set_state, so that a checkpoint could not say where it stands: "
            "take fn.data.stream or a grain dataset, or leave out folder="
        )
    goes_on = folder is not None and has_checkpoint(folder / CHECKPOINTS, resume)
    if folder is not None and goes_on:
        loop = go_on(folder / CHECKPOINTS, like, host, settings, source, keeps_best)
    else:
        loop = jax.jit(begin, out_shardings=lies, compiler_options=options())(*inputs)
    at = int(loop.now.step)
    if (
        host.stopped == "interrupted"
        or (host.stopped == "finished" and at < total)
        or (host.stopped == "patience" and (patience is None or host.waited < patience))
        or (host.stopped == "callback" and not callbacks)
    ):
        host.stopped = ""
    row_at, row_seconds = (host.rows[-1]["step"], host.rows[-1]["seconds"]) if host.rows else (0, 0.0)
    examples_a_step = jax.tree.leaves(source.shapes)[0].shape[0]
    first = jax.process_index() == 0
    saving, unsaved = 1.0, 0.0  # seconds that the last checkpoint took, and since then

    def fitted() -> Fitted:
        kept = loop.now if patience is None or host.best is None else host.best
        steps = {f"train_{name}": values for name, values in joined(host.chunks).items()}
        return Fitted(
            kept.params,
            kept.state,
            columns(host.rows) | steps,
            host.best,
            host.stopped or "finished",
            loop.now,
        )

    def at_fault() -> str:
        """Where the next step goes wrong; "" where it does not, or where its batch is not at hand."""
        batch = source.batch_at(keys, at)
        if batch is None:
            return ""
        batch = jax.tree.map(jnp.asarray, dict(batch))
        if augment is not None:
            batch = augment(jax.random.fold_in(keys.augment, at), batch)
        params, state = local_copy((loop.now.params, loop.now.state), mesh)
        return find_nonfinite(net, train_loss, params, state, batch, jax.random.fold_in(keys.step, at))

    def diverged(what: str) -> DivergedError:
        where = at_fault()
        left_out = (
            "That update was left out"
            if not not_finite_in(loop.now.params)
            else "The update before it did that: its gradient was not finite, or overflowed in the optimizer"
        )
        error = DivergedError(
            f"fit: at step {at} {what}{': ' + where if where else ''}. {left_out}. A lower learning rate, "
            'fn.optim.clip_by_global_norm or not_finite="skip" may help'
        )
        error.fitted = fitted()
        return error

    def evaluate_now() -> dict[str, float]:
        nonlocal loop
        since = host.since_row()
        finite = {name: values[np.isfinite(values)] for name, values in since.items()}
        if not finite["loss"].size:  # where evaluations are a step apart, a single one must not be all
            recent = joined(host.chunks[-max(since["loss"].size, RECENT) :])["loss"]
            if not np.isfinite(recent).any():
                raise diverged(f"none of the last {recent.size} losses is finite")
        began = time.perf_counter()
        scores = evaluated(loop.now.params, loop.now.state)
        if not math.isfinite(scores["params_norm"]):
            raise diverged(f"the norm of the params is {scores['params_norm']}")
        host.seconds += time.perf_counter() - began
        row = {
            "step": at,
            "epoch": at / source.steps_per_epoch if source.steps_per_epoch else math.nan,
            "seconds": host.seconds,
            "examples_per_second": (at - row_at) * examples_a_step / max(host.seconds - row_seconds, 1e-9),
            "learning_rate": _rate(loop.now.opt_state, learning_rate, at // accumulate, reduce_on_plateau),
            **{
                f"train_{name}": float(np.mean(v))
                for name, v in finite.items()
                if v.size and since[name].ndim == 1
            },
            **scores,
            **({"skipped": int(loop.skipped)} if skip else {}),
        }
        row = {name: value for name, value in row.items() if value is not None}
        host.rows.append(row)
        if keeps_best:
            judge(host, row.get(monitor, math.nan), maximize, at, loop.now)
        if reduce_on_plateau is not None:
            watched = np.float32(row.get("train_loss" if valid is None else "valid_loss", math.nan))
            _, host.plateau = reduce_on_plateau.update({}, host.plateau, value=watched)
            loop = loop._replace(now=_with_scale(loop.now, host.plateau.scale))
        return row

    def save() -> None:
        nonlocal saving, unsaved
        began, unsaved = time.perf_counter(), 0.0
        if folder is None or at in checkpoint.steps(folder / CHECKPOINTS):
            return
        if bad := not_finite_in(loop.now.params):
            raise diverged(f"the params {', '.join(bad[:3])} are not finite")
        checkpoint.save(folder / CHECKPOINTS, at, *to_save(loop, host, settings, source.position()))
        saving = time.perf_counter() - began

    with raise_together("fit"):
        if folder is not None and first:
            _make(folder)
            write_lines(folder / "history.jsonl", host.rows)  # what came after the checkpoint comes again
    if not goes_on:
        save()  # a folder that cannot be written to is found out now, not after hours

    calls = 1  # steps in a call
    with _interruptible() as interrupted, progress_bar(progress if first else False, total, at) as show:
        while at < total and not host.stopped:
            began = time.perf_counter()
            if debug and all_gather([bool(at_fault())]).any():
                raise diverged("debug=True finds numbers that are not finite")
            stops = [total, *(at + every - at % every for every in (eval_every, checkpoint_every) if every)]
            n = min(min(stops) - at, source.capacity, 1 if debug else calls)
            loop, seen = advance(loop, keys, n)
            host.chunks.append(seen)
            at = int(loop.now.step)
            took = time.perf_counter() - began
            host.seconds += took
            if bool(loop.halted):
                raise diverged(_what_is_bad(seen))

            if at % eval_every == 0 or at == total:
                row = evaluate_now()
                row_at, row_seconds = at, host.seconds
                with raise_together("fit"):
                    if folder is not None and first:
                        append_line(folder / "history.jsonl", row)
                    _warn(host.rows)
                    for callback in callbacks:
                        # A copy, for the next step overwrites the params.
                        params, state = jax.tree.map(jnp.copy, (loop.now.params, loop.now.state))
                        if callback(Evaluation(at, row["epoch"], row, params, state)) is True:
                            host.stopped = "callback"
                if patience is not None and host.waited >= patience:
                    host.stopped = "patience"
            unsaved += time.perf_counter() - began
            # Clocks, callbacks and signals are a process's own, and all must do the same: what any of them says.
            told = [host.stopped == "callback", bool(interrupted), took, unsaved, saving]
            calls_back, interrupts, slowest, since_saved, longest = all_gather(told).max(axis=0)
            if calls_back:
                host.stopped = "callback"
            if at == total:
                host.stopped = host.stopped or "finished"
            if interrupts:
                host.stopped = host.stopped or "interrupted"
            calls = max(1, min(8 * n, int(CALL_SECONDS * n / slowest)))
            due = at % checkpoint_every == 0 if checkpoint_every else since_saved * SAVING_SHARE > longest
            if due or host.stopped:
                save()
            show(
                at, *_shown(at, source.steps_per_epoch, host.rows, seen, monitor, n * examples_a_step / took)
            )
    if host.stopped == "interrupted" and first:
        how = (
            f"fit(..., folder={str(folder)!r}, resume=True) goes on there" if folder else "nothing was saved"
        )
        print(f"fit: stopped at step {at:,} of {total:,}; {how}", file=sys.stderr)
    return fitted()


def _check_arguments(
    epochs: Any,
    steps: Any,
    batch_size: Any,
    eval_every: Any,
    eval_batch_size: Any,
    accumulate: Any,
    patience: Any,
    checkpoint_every: Any,
    not_finite: Any,
    largest_norm: Any,
    resume: Any,
    folder: Any,
    dtype: Any,
) -> None:
    if (epochs is None) == (steps is None):
        raise ValueError(f"fit: epochs={epochs}, steps={steps}, wanted one of the two")
    for name, value in (
        ("epochs", epochs),
        ("steps", steps),
        ("batch_size", batch_size),
        ("eval_every", eval_every),
        ("patience", patience),
        ("checkpoint_every", checkpoint_every),
    ):
        if value is not None:
            check.is_positive("fit", name, value)
    check.is_positive("fit", "eval_batch_size", eval_batch_size)
    check.is_positive("fit", "accumulate", accumulate)
    if largest_norm is not None and not largest_norm > 0:
        raise ValueError(f"fit: largest_norm={largest_norm}, wanted more than 0")
    if not_finite not in ("stop", "skip"):
        raise ValueError(f'fit: not_finite={not_finite!r}, wanted "stop" or "skip"')
    if resume not in (True, False, "auto"):
        raise ValueError(f'fit: resume={resume!r}, wanted True, False or "auto"')
    if folder is None and (resume or checkpoint_every):
        raise ValueError("fit: resume and checkpoint_every want a folder; pass folder=")
    if dtype is not None and jnp.dtype(dtype) == jnp.float16:
        raise ValueError("fit: dtype=float16 wants a scaled loss, which fit has not; take jnp.bfloat16")


def _length(
    steps_per_epoch: int | None, epochs: int | None, steps: int | None, eval_every: int | None
) -> tuple[int, int]:
    """Steps in all, and from one evaluation to the next."""
    if steps is None:
        if steps_per_epoch is None or epochs is None:
            raise ValueError(
                "fit: epochs: the iterable does not say how long one is (batches_per_epoch); pass steps="
            )
        steps = epochs * steps_per_epoch
    return int(steps), int(eval_every or steps_per_epoch or max(1, steps // 10))


def _monitored(
    monitor: str | None, maximize: bool | None, valid: Any, metrics: Mapping[str, Metric]
) -> tuple[str, bool]:
    """What decides which evaluation is the best, and whether more of it is better."""
    parts = ["train"] if valid is None else ["train", "valid"]
    known = [f"{part}_{name}" for part in parts for name in ("loss", *metrics)]
    monitor = monitor or f"{parts[-1]}_loss"
    if monitor not in known:
        raise ValueError(f"fit: monitor={monitor!r}, wanted one of {', '.join(known)}")
    maximize = more_is_better(monitor) if maximize is None else maximize
    if maximize is None:
        raise ValueError(f"fit: monitor={monitor!r}: pass maximize=True or maximize=False, too")
    return monitor, bool(maximize)


def _optimizer(optimizer: Any, learning_rate: Any) -> optax.GradientTransformation:
    """The optimizer, made with the learning rate where it is a maker of one."""
    if isinstance(optimizer, optax.GradientTransformation):
        if learning_rate is not None:
            raise TypeError(
                "fit: learning_rate is for a maker of an optimizer, such as fn.optim.adam; fn.optim.adam(1e-3) has "
                "its own"
            )
        return optimizer
    if not callable(optimizer):
        raise TypeError(f"fit: optimizer={optimizer!r}, wanted fn.optim.adam(1e-3), say")
    if learning_rate is None:
        raise TypeError(f"fit: {optimizer!r} makes an optimizer and is none: pass learning_rate=, too")
    return optimizer(learning_rate=learning_rate)


def _scaled() -> optax.GradientTransformation:
    """Updates times a number that is set from outside."""

    def init(params: optax.Params) -> PlateauState:
        return PlateauState(jnp.ones([]))

    def update(updates: Any, state: PlateauState, params: Any = None) -> tuple[Any, PlateauState]:
        return jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def _with_scale(now: TrainState, scale: Any) -> TrainState:
    """The state with that number set. It stays on the devices where it was."""
    inner, scaled = now.opt_state
    return now._replace(opt_state=(inner, PlateauState(scaled.scale * 0 + np.float32(scale))))


def _rate(opt_state: Any, learning_rate: Any, updates: int, plateau: Any) -> float | None:
    """The learning rate of the next update, where it is known: given, or in `optax.inject_hyperparams`' state."""
    scale = 1.0 if plateau is None else float(opt_state[1].scale)
    if learning_rate is not None:
        return scale * float(learning_rate(updates) if callable(learning_rate) else learning_rate)
    found = [value for _, value in optax.tree.get_all_with_path(opt_state, "learning_rate")]
    found = [
        value for value in found if getattr(value, "shape", None) == ()
    ]  # a schedule's state has its name, too
    return scale * float(found[0]) if found else None


def _what_is_bad(seen: Mapping[str, np.ndarray]) -> str:
    """Of the last step's numbers the one for which it was left out."""
    last = {name: float(seen[name][-1]) for name in ("loss", "penalty", "gradient_norm") if name in seen}
    for name, value in last.items():
        if not math.isfinite(value):
            return f"the {name.replace('_', ' ')} is {value}"
    return f"the gradient norm is {last['gradient_norm']:.3g}, more than largest_norm"


def _warn(rows: Sequence[Mapping[str, float]]) -> None:
    if never_moves(rows):
        warnings.warn(
            f"fit: the loss has not moved in {len(rows)} evaluations: the learning rate may be far too small, units "
            "dead, or the params frozen",
            TrainingWarning,
            stacklevel=3,
        )
    norms = [row["params_norm"] for row in rows]
    if explodes(norms):
        warnings.warn(
            f"fit: the norm of the params has grown to {norms[-1]:.3g} by step {rows[-1]['step']}, a thousand times "
            f"its least: the learning rate may be too large",
            TrainingWarning,
            stacklevel=3,
        )


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C puts something into, for a stop between two steps; the second time it interrupts."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals go to the main thread alone
        return

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _check_mesh(mesh: Mesh | None, rules: Rules) -> None:
    if mesh is None and rules:
        raise ValueError("fit: rules say how params are split over a mesh; pass mesh=, too")
    if mesh is not None and "data" not in mesh.shape:
        raise ValueError(
            f'fit: the mesh is {dict(mesh.shape)}, wanted an axis "data", which batches are split over; name it so in '
            "jax.make_mesh"
        )
    here = set() if mesh is None else {device.process_index for device in mesh.devices.flat}
    if jax.process_count() > 1 and (missing := set(range(jax.process_count())) - here):
        raise ValueError(
            f"fit: there are {jax.process_count()} processes, and the mesh has no device of process {min(missing)}; "
            'wanted one over the devices of all: jax.make_mesh((jax.device_count(),), ("data",))'
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"fit: cannot make the folder {folder}: {error.strerror}") from error


def _shown(
    at: int,
    steps_per_epoch: int | None,
    rows: Sequence[Mapping[str, float]],
    seen: Mapping[str, np.ndarray],
    monitor: str,
    examples_per_second: float,
) -> tuple[str, dict[str, float]]:
    """What the progress bar says."""
    numbers = {"loss": float(seen["loss"][-1])}
    if rows:
        numbers |= {name: rows[-1][name] for name in (monitor, "learning_rate") if name in rows[-1]}
    title = f"epoch {at / steps_per_epoch:.1f}" if steps_per_epoch else "step"
    return title, numbers | {"examples/s": examples_per_second}
