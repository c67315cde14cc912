"""`fit`: trains a network, with progress, validation, early stopping, checkpoints, and data larger than memory."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample
from fnnet.train.checkpoint import CheckpointError
from fnnet.train.devices.processes import all_gather, check_same_on_all_processes, raise_together
from fnnet.train.devices.sharding import Rules
from fnnet.train.fit.diagnose import name_bad_number, not_finite_in, warn_of_trouble
from fnnet.train.fit.evaluation import make_row
from fnnet.train.fit.fit_run import FitRun
from fnnet.train.fit.guarded_step import Augment, split_keys
from fnnet.train.fit.identity import run_identity
from fnnet.train.fit.interrupt import interruptible
from fnnet.train.fit.journal import Journal
from fnnet.train.fit.learning_rate import read_learning_rate, with_scale
from fnnet.train.fit.pace import next_steps_per_call, seconds_since, steps_in_call
from fnnet.train.fit.program import Program, make_program
from fnnet.train.fit.results import DivergedError, Evaluation, Fitted
from fnnet.train.fit.saving import checkpoint_due, has_checkpoint, restore_run, save_run
from fnnet.train.fit.settings import Plan, Settings, check_settings, make_plan
from fnnet.train.fit.source import Source, check_stream_is_long_enough, make_source
from fnnet.train.fit.stopping import still_stopped, stop_reason
from fnnet.train.history import append_line, join_chunks, rows_to_columns, write_lines
from fnnet.train.lock import locked
from fnnet.train.progress import progress_bar

RECENT = 10  # with not_finite="skip", fit gives up when no loss of this many calls is finite


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
    """Trains a network: runs `make_step` in a loop, and evaluates, saves and reports on the way.

    On examples in memory it computes the same as `make_run` with the same key, optimizer, steps and batch size.

    Args:
        net: the network.
        loss: `(prediction, target) -> one value per example`.
        optimizer: from `fnnet.optim` or optax, such as `fn.optim.adam(1e-3)`. Or a function that makes one, such as
            `fn.optim.adam`, together with `learning_rate`, which is then shown and recorded.
        train: dict of arrays "x" and "y" with one leading axis, which is put on the device. Or, for data larger than
            memory, an iterable of such dicts, one per batch, such as `fn.data.stream`.
        valid: dict of arrays to evaluate on, or an iterable of batches that ends.
        epochs: passes through the data. Give either this or `steps`.
        steps: batches; each is one update, unless `accumulate` is given.
        batch_size: examples per batch, where train is a dict; 32 by default. Each epoch is a permutation of the
            examples. Those left over at its end, fewer than a batch, are different ones each time.
        learning_rate: a number or a schedule, for an `optimizer` that is a function.
        key: a PRNG key, or its seed, from 0 to 2**32 - 1. The same key gives the same bits.
        initial: (params, state) to start with, such as those of a pretrained network, in the shapes and dtypes that
            init gives; by default they are drawn with the key.

        metrics: functions of the form of a loss, or `fn.metrics.Metric`s, by name.
        penalty: function of the params that is added to the loss.
        class_weights: float[classes], see `fn.losses.class_weighted`; in training only.
        augment: pure function `(key, batch) -> batch`; in training only.
        accumulate: batches per update, see `fn.optim.accumulate`. Batches left over at the end wait in the optimizer's
            state: they are part of the next update if the run is resumed with more steps.
        dtype: to compute in, such as `jnp.bfloat16`; params and optimizer stay in float32, see `fn.cast`.

        eval_every: steps from one evaluation to the next. By default an epoch, or a tenth of the steps where the
            length of an epoch is not known. There is always one at the end.
        eval_batch_size: examples evaluated at once.
        monitor: which number decides which evaluation is the best: "valid_loss", or "valid_" or "train_" and the name
            of a metric. By default "valid_loss", or "train_loss" without `valid`.
        maximize: whether more of it is better. By default True for an accuracy, and False for a loss.
        patience: evaluations without a new best after which training stops; the best params are then returned.
            Without it, training runs to its end and returns the last params; the best are in `best`.
        reduce_on_plateau: `fn.optim.reduce_on_plateau(...)`: scales updates down when valid_loss (train_loss without
            valid) stops falling. It counts evaluations.
        callbacks: functions of an `Evaluation`, called after each evaluation. One that returns True ends the training.

        folder: for checkpoints and history.jsonl, which has one line per evaluation. None: no files. It is on this
            machine's file system, and locked while the run goes on.
        resume: True resumes from the last checkpoint in the folder, and ends with the same bits as a run that was
            never stopped. "auto" does so if there is one. False requires a folder without checkpoints. Whatever changes
            the numbers must be as it was; there may be more steps or epochs.
        checkpoint_every: steps from one checkpoint to the next. By default, saving takes about a hundredth of the
            time. There is always one at the end.
        progress: None: a bar, if stderr is a terminal and rich is installed (`pip install rich`), or in a notebook;
            elsewhere one line per evaluation on stderr. True: a bar in any case. False: nothing. With several
            processes only the first one shows it.

        mesh: devices to train on, with an axis "data" that batches are split over. With several processes
            (`jax.distributed`) all of them call `fit` with the same arguments: with the same dict, or each with its own
            share of the batches.
        rules: how params are split over the mesh, see `shardings`; by default each device has all of them.

        not_finite: "stop" raises DivergedError at the first loss that is not finite, before its update. "skip" leaves
            out updates whose loss or gradient is not finite, and counts them.
        largest_norm: a gradient with a larger Euclidean norm is treated like one that is not finite; positive.
        debug: check the output of every layer at every step, and stop at the first NaN, even if it does not reach the
            loss. This is a few hundred times slower.

    Returns:
        `Fitted(params, state, history, best, stopped, now)`. The history has, by name:

        - "train_loss", "train_accuracy", ...: float[steps], means over the batch of each step, as in `make_run`;
        - "eval_step", "epoch", "seconds", "examples_per_second", "learning_rate", "params_norm", "valid_loss",
          "valid_accuracy", ...: float[evaluations]; with not_finite="skip" also "skipped", the steps left out so far.
          The learning rate is that of the next update; steps left out do not count.

        A line of history.jsonl has the latter, and the means of the "train_" values since the line before. Ctrl-C ends
        the training after the current steps, with a checkpoint if there is a folder; a second one interrupts at once.

    Raises:
        TypeError, ValueError: an argument is not as described.
        DivergedError: a FloatingPointError that names the step and the layer at fault; its `fitted` has what was
            reached.
        CheckpointError: resume is False and the folder has a checkpoint; or resume is True and the folder has none,
            or one that is damaged, of a newer version, or of another network, loss, optimizer, key or data; or another
            run is using the folder.
        OSError: a file cannot be written or read; the last checkpoint stays intact.
        ImportError: `folder` without orbax; or progress=True without rich, outside a notebook.

    Warns:
        TrainingWarning: the loss is the same at the first three evaluations; or the norm of the params has grown a
            thousandfold; or a checkpoint is of another release of JAX, so that its program cannot be compared.

    Example:
        >>> data = fn.data.split(fn.data.two_moons(jax.random.key(0), 300))
        >>> net = fn.serial(fn.dense(16), fn.tanh, fn.dense(2))
        >>> fitted = fn.train.fit(net, fn.losses.softmax_cross_entropy, fn.optim.adam, data.train, valid=data.valid,
        ...                       learning_rate=0.1, epochs=20, batch_size=50,
        ...                       metrics={"accuracy": fn.metrics.accuracy}, progress=False)
        >>> bool(fitted.history["valid_accuracy"][-1] > 0.9)
        True
    """
    # Check what was asked for, before anything is compiled.
    settings = check_settings(
        Settings(
            net=net, loss=loss, optimizer=optimizer, train=train, valid=valid, epochs=epochs, steps=steps,
            batch_size=batch_size, learning_rate=learning_rate, keys=split_keys(key), initial=initial,
            metrics=metrics, penalty=penalty, class_weights=class_weights, augment=augment, accumulate=accumulate,
            dtype=dtype, eval_every=eval_every, eval_batch_size=eval_batch_size, monitor=monitor, maximize=maximize,
            patience=patience, reduce_on_plateau=reduce_on_plateau, callbacks=callbacks, folder=folder, resume=resume,
            checkpoint_every=checkpoint_every, progress=progress, mesh=mesh, rules=rules, not_finite=not_finite,
            largest_norm=largest_norm, debug=debug,
        )
    )  # fmt: skip

    # Where the batches come from. The length of an epoch settles how long to train and how often to evaluate.
    source = make_source(train, batch_size, settings.mesh, debug)
    plan = make_plan(settings, source.steps_per_epoch)
    check_stream_is_long_enough(train, plan.steps)
    if settings.folder is not None and not source.has_position:
        raise ValueError(
            "fit: train's iterator has no get_state and set_state, so a checkpoint could not say where it is in the "
            "data; wanted fn.data.stream or a grain dataset, or no folder="
        )

    # The compiled program, and what must be the same where the run resumes.
    program = make_program(settings, source)
    parts = None if settings.folder is None else program.parts()
    identity = run_identity(settings, plan, source.identity, parts)
    _check_same_on_all_processes(settings, plan, identity)

    with interruptible() as signals, _folder_locked(settings):
        run = _begin_or_resume(settings, plan, source, program, identity)
        _train(run, settings, plan, source, program, identity, signals)
    if run.journal.stopped == "interrupted" and jax.process_index() == 0:
        how = (
            f"fit(..., folder={str(settings.folder)!r}, resume=True) resumes there"
            if settings.folder
            else "nothing was saved"
        )
        print(f"fit: stopped at step {run.step:,} of {plan.steps:,}; {how}", file=sys.stderr)
    return _fitted(run, patience, run.journal.stopped)


def _train(
    run: FitRun,
    settings: Settings,
    plan: Plan,
    source: Source,
    program: Program,
    identity: Mapping[str, Any],
    signals: Sequence[int],
) -> None:
    """Trains until the run's journal says why it stopped. `signals` has one where Ctrl-C was pressed."""
    journal, pace = run.journal, run.pace
    checkpoint_every, patience, debug = settings.checkpoint_every, settings.patience, settings.debug
    batch_examples = jax.tree.leaves(source.shapes)[0].shape[0]
    is_first = jax.process_index() == 0  # of several processes, the one that prints and writes the history
    if not journal.stopped and all_gather([bool(signals)]).any():  # before the first step
        journal.stopped = "interrupted"

    with progress_bar(settings.progress if is_first else False, plan.steps, run.step) as show:
        while run.step < plan.steps and not journal.stopped:
            began = time.perf_counter()

            # Advance: some steps in one call.
            if debug and all_gather([bool(program.find_fault(run.loop, run.step))]).any():
                raise _diverged("debug=True finds numbers that are not finite", run, program, patience)
            n = steps_in_call(
                run.step,
                plan.steps,
                (plan.eval_every, checkpoint_every),
                steps_per_call=pace.steps_per_call,
                capacity=1 if debug else source.capacity,
            )
            run.loop, measured = program.advance(run.loop, n)
            run.step = int(run.loop.now.step)
            journal.chunks.append(measured)
            call_seconds = seconds_since(began)
            journal.seconds += call_seconds
            if bool(run.loop.halted):
                raise _diverged(name_bad_number(measured), run, program, patience)

            # Evaluate when due.
            evaluated, callback_stops = run.step % plan.eval_every == 0 or run.step == plan.steps, False
            if evaluated:
                row = _evaluate(run, settings, plan, source, program)
                with raise_together("fit"):
                    if settings.folder is not None and is_first:
                        append_line(settings.folder / "history.jsonl", row)
                    warn_of_trouble(journal.rows)
                    callback_stops = _call_back(settings.callbacks, run, row)
            pace.unsaved_seconds += seconds_since(began)

            # Decide why to stop. Clocks, callbacks and signals differ between processes, but all must do the same: one
            # that stops, or the slowest, decides for all.
            mine = [callback_stops, bool(signals), call_seconds, pace.unsaved_seconds, pace.saving_seconds]
            callback_stops, interrupted, slowest, unsaved, saving = all_gather(mine).max(axis=0)
            journal.stopped = stop_reason(
                run.step,
                plan.steps,
                evaluated=evaluated,
                since_best=journal.since_best,
                patience=patience,
                callback_stops=bool(callback_stops),
                interrupted=bool(interrupted),
            )

            # Save when due.
            due = checkpoint_due(run.step, checkpoint_every, unsaved_seconds=unsaved, saving_seconds=saving)
            if journal.stopped or due:
                _save(run, settings, source, program, identity)

            # Show how far it is, and set the length of the next call.
            pace.steps_per_call = next_steps_per_call(n, slowest)
            epoch = f"epoch {run.step / source.steps_per_epoch:.1f}" if source.steps_per_epoch else ""
            speed = n * batch_examples / call_seconds
            show(run.step, epoch, _shown_numbers(measured, journal.rows, evaluated, speed), report=evaluated)


@contextmanager
def _folder_locked(settings: Settings) -> Iterator[None]:
    """The folder, made and locked, so that no other run writes to it. Of several processes the first one holds it."""
    folder = settings.folder
    if folder is None:
        yield
        return
    with ExitStack() as stack:
        with raise_together("fit", CheckpointError):
            if jax.process_index() == 0:
                stack.enter_context(locked("fit", folder, CheckpointError))
        yield


def _check_same_on_all_processes(settings: Settings, plan: Plan, identity: Mapping[str, Any]) -> None:
    """Raises where several processes were given different settings."""
    check_same_on_all_processes(
        {
            **identity,
            "steps": plan.steps,
            "eval_every": plan.eval_every,
            "eval_batch_size": settings.eval_batch_size,
            "patience": settings.patience,
            "checkpoint_every": settings.checkpoint_every,
            "largest_norm": settings.largest_norm,
        }
        | ({} if callable(settings.learning_rate) else {"learning_rate": settings.learning_rate})
    )


def _begin_or_resume(
    settings: Settings, plan: Plan, source: Source, program: Program, identity: Mapping[str, Any]
) -> FitRun:
    """The run at its first step, or at that of the folder's last checkpoint; the folder is ready to be written to."""
    folder, plateau = settings.folder, settings.reduce_on_plateau
    before = None if plateau is None else plateau.init({})
    resumes = folder is not None and has_checkpoint(folder, settings.resume)
    if resumes:
        run = restore_run(folder, program.shapes, before, identity, source, settings.keeps_best)
    else:
        run = FitRun(program.begin(), Journal(plateau=before), step=0)
    if not still_stopped(
        run.journal.stopped,
        run.step,
        plan.steps,
        since_best=run.journal.since_best,
        patience=settings.patience,
        has_callbacks=bool(settings.callbacks),
    ):
        run.journal.stopped = ""
    with raise_together("fit"):
        if folder is not None and jax.process_index() == 0:
            write_lines(folder / "history.jsonl", run.journal.rows)  # without those after the checkpoint
    if not resumes:
        _save(run, settings, source, program, identity)  # a disk that is full is found now, not after hours
    return run


def _evaluate(
    run: FitRun, settings: Settings, plan: Plan, source: Source, program: Program
) -> dict[str, Any]:
    """Evaluates the params. The journal gets the row, the best evaluation, and the state of reduce_on_plateau."""
    journal = run.journal
    before = journal.rows[-1] if journal.rows else {"step": 0, "seconds": 0.0}
    measured = journal.take_since_row()
    losses = measured["loss"]
    if not np.isfinite(losses).any():  # where each step is evaluated, a single bad one is not enough
        recent = join_chunks(journal.chunks[-max(losses.size, RECENT) :])["loss"]
        if not np.isfinite(recent).any():
            raise _diverged(
                f"none of the last {recent.size} losses is finite", run, program, settings.patience
            )

    began = time.perf_counter()
    scores = program.evaluate(run.loop.now.params, run.loop.now.state)
    if not math.isfinite(scores["params_norm"]):
        what = f"the norm of the params is {scores['params_norm']}"
        raise _diverged(what, run, program, settings.patience, left_out=False)
    journal.seconds += seconds_since(began)

    examples = (run.step - before["step"]) * jax.tree.leaves(source.shapes)[0].shape[0]
    row = make_row(
        step=run.step,
        steps_per_epoch=source.steps_per_epoch,
        seconds=journal.seconds,
        examples_per_second=examples / max(journal.seconds - before["seconds"], 1e-9),
        learning_rate=read_learning_rate(
            run.loop.now.opt_state,
            settings.learning_rate,
            (run.step - int(run.loop.skipped)) // settings.accumulate,  # the optimizer's own count
            settings.reduce_on_plateau is not None,
        ),
        measured=measured,
        scores=scores,
        skipped=int(run.loop.skipped) if settings.skips_bad_steps else None,
    )
    journal.rows.append(row)
    if settings.keeps_best:
        journal.record_best(row.get(plan.monitor, math.nan), plan.maximize, run.step, run.loop.now)
    if settings.reduce_on_plateau is not None:
        watched = np.float32(row.get("train_loss" if settings.valid is None else "valid_loss", math.nan))
        _, journal.plateau = settings.reduce_on_plateau.update({}, journal.plateau, value=watched)
        run.loop = run.loop._replace(now=with_scale(run.loop.now, journal.plateau.scale))
    return row


def _call_back(callbacks: Sequence[Callable[[Evaluation], Any]], run: FitRun, row: dict[str, Any]) -> bool:
    """Whether one of the callbacks returns True; all are called."""
    stops = False
    for callback in callbacks:
        # A copy, since the next step overwrites the params.
        params, state = jax.tree.map(jnp.copy, (run.loop.now.params, run.loop.now.state))
        if callback(Evaluation(run.step, row["epoch"], row, params, state)) is True:
            stops = True
    return stops


def _save(
    run: FitRun, settings: Settings, source: Source, program: Program, identity: Mapping[str, Any]
) -> None:
    """Writes a checkpoint where there is a folder, unless the params are not finite."""
    if settings.folder is None:
        run.pace.unsaved_seconds = 0.0
        return
    if bad := not_finite_in(run.loop.now.params):
        raise _diverged(f"the params {', '.join(bad[:3])} are not finite", run, program, settings.patience)
    save_run(settings.folder, run, identity, source)


def _shown_numbers(
    measured: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, Any]], evaluated: bool, speed: float
) -> dict[str, float]:
    """The numbers beside the progress bar: the loss of the last step, or its mean over those since the last evaluation
    where there is one now; the last evaluation's loss and metrics, and the learning rate.
    """
    row = rows[-1] if rows else {}
    mean_loss = row.get("train_loss") if evaluated else None
    shown = {"loss": float(measured["loss"][-1]) if mean_loss is None else mean_loss}
    part = "valid_" if "valid_loss" in row else "train_"
    scores = [name for name, value in row.items() if name.startswith(part) and isinstance(value, float)]
    scores.sort(key=lambda name: name != "valid_loss")  # the loss first
    shown |= {name: row[name] for name in scores if name != "train_loss"}
    if "learning_rate" in row:
        shown["learning_rate"] = row["learning_rate"]
    return shown | {"examples/s": speed}


def _fitted(run: FitRun, patience: int | None, stopped: str) -> Fitted:
    """The result of a run that stopped, or diverged."""
    journal = run.journal
    returned = run.loop.now if patience is None or journal.best is None else journal.best
    steps = {f"train_{name}": values for name, values in join_chunks(journal.chunks).items()}
    return Fitted(
        returned.params,
        returned.state,
        rows_to_columns(journal.rows) | steps,
        journal.best,
        stopped,
        run.loop.now,
    )


def _diverged(
    what: str, run: FitRun, program: Program, patience: int | None, left_out: bool = True
) -> DivergedError:
    """The error for a run that diverged: what is wrong, where it comes from, and what may help."""
    where = program.find_fault(run.loop, run.step)
    if not_finite_in(run.loop.now.params):
        why = (
            "The update before it caused this: its gradient was not finite, or it overflowed in the optimizer"
        )
    elif left_out:
        why = "That update was left out"
    else:
        why = "The params are finite, but too large"
    error = DivergedError(
        f"fit: at step {run.step} {what}{': ' + where if where else ''}. {why}. A lower learning rate, "
        'fn.optim.clip_by_global_norm or not_finite="skip" may help'
    )
    error.fitted = _fitted(run, patience, "diverged")
    return error
