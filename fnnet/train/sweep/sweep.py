"""A sweep: many training runs, over a grid or a random search of hyperparameters and over seeds."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh

from fnnet import check
from fnnet.train.lock import locked
from fnnet.train.progress import choose_display, progress_bar
from fnnet.train.run import Run
from fnnet.train.sweep import program as sweep_program
from fnnet.train.sweep.folder import (
    describe_plan,
    describe_request,
    read_chunk,
    read_settings,
    write_chunk,
    write_settings,
)
from fnnet.train.sweep.halving import choose_survivors
from fnnet.train.sweep.plan import Plan, choose_mapping, make_plan, resume_plan
from fnnet.train.sweep.program import Program, curve_names, trace_program, zero_output
from fnnet.train.sweep.record import Chunk, Record, make_chunk, stack_runs
from fnnet.train.sweep.results import Sweep
from fnnet.train.sweep.settings import Settings, check_score, resolve_settings
from fnnet.train.sweep.trials import Distribution, Space, make_trials


def sweep(
    run: Callable[..., Run],
    data: Any,
    space: Space,
    *,
    trials: int | None = None,
    seeds: int | Sequence[int] = 1,
    score: str = "valid_loss",
    maximize: bool | None = None,
    halving: int | None = None,
    search_seed: int = 0,
    mapping: Literal["auto", "vmap", "map", "fastest"] = "auto",
    chunk: int | None = None,
    mesh: Mesh | None = None,
    keep: Literal["best", "all"] = "best",
    histories: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Trains with all combinations of hyperparameters and seeds, many runs in each compiled program.

    A trial is one choice of the hyperparameters. A run is a trial with a seed,
    `run(jax.random.key(seed), data, hparams)`. All trials have the same seeds, so they start with the same weights
    and see the same batches.

    Args:
        run: `(key, data, hparams) -> Run`, from `make_run`. With halving it is also called with `after=`.
        data: a dict or a `fn.data.Dataset` of arrays, passed to the runs.
        space: hyperparameters by name: values for a grid; for a random search `uniform`, `log_uniform`, `choice`,
            or values to choose from. Values are numbers, or arrays of one shape.
        trials: None for the grid of all values; a number for as many random draws.
        seeds: a number of seeds, 0, 1, ..., or a list of seeds.
        score: the measure of the history that trials are ranked by: the mean over the seeds of its last value. A
            trial with a seed that diverged comes after all others.
        maximize: whether more is better; by default True for an accuracy and False for a loss.
        halving: eta of successive halving, at least 2. First all trials run. Then the best 1 / eta of them continue for
            eta times as many steps, and so on until one is left: rung r has eta^r times the run's steps, for
            eta^-r of the trials. The best trial is one of those that got furthest.
        search_seed: of the random draws. The first of many trials are those of few.
        mapping: how a program does many runs. "vmap": all at once. "map": one after the other, with `lax.map`.
            "auto": "vmap", except on a CPU for a network with a convolution, whose vmapped kernels become grouped
            convolutions, which are slow there, or with more than 1 MiB of params. "fastest" uses "vmap" for the
            first chunk, "map" for the second, and then the faster of the two: the last bits then depend on
            timing.
        chunk: trials per compiled call. By default as many as fit in the free memory; with a folder, or with
            mapping="fastest", at most an eighth of all.
        mesh: devices over which the runs are split, along all its axes. Each device has all of the data. The
            results are those of one device, up to rounding.
        keep: whether to keep the params and state of the "best" trial, or of "all".
        histories: whether to keep the whole histories. Not with halving, where they differ in length.
        folder: where each chunk is written when it is done. After an interruption, the same call resumes behind the
            last chunk, and its results are the same bit for bit.
        progress: None: a bar in a terminal, if rich is installed (`pip install rich`), or in a notebook; elsewhere one
            line per chunk on stderr. True: a bar in any case. False: nothing.

    Raises:
        TypeError, ValueError: an argument is none of these; a grid has a distribution; the history has no such
            score; the folder holds another sweep, or a damaged chunk, or another call of sweep is using it.
        OSError: a file cannot be written or read.

    Source: Jamieson & Talwalkar 2016, arXiv:1502.07943 (successive halving).

    Example:
        >>> data = fn.data.split(fn.data.two_moons(jax.random.key(0), 200))
        >>> run = fn.train.make_run(fn.dense(2), fn.losses.softmax_cross_entropy, fn.optim.sgd, steps=20, batch_size=20)
        >>> swept = fn.train.sweep(run, data, {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1]}, seeds=2)
        >>> swept.scores.shape, swept.best.hparams
        ((4, 2), {'learning_rate': 0.1})
        >>> swept
        Sweep(
            trials: 4, each with 2 seeds
            hparams: learning_rate
            best: trial 3, learning_rate=0.1
            score: valid_loss ... +- ...
            diverged: 0 of 8 runs
            mapping: vmap, fast for this network on a cpu; 4 trials per call
        )
    """
    # 1. The trials, and the settings checked.
    hparams = make_trials(space, trials, search_seed)
    folder = None if folder is None else check.local_path("sweep", "folder", folder)
    settings = resolve_settings(
        data,
        trials=len(next(iter(hparams.values()))),
        seeds=seeds,
        score=score,
        maximize=maximize,
        halving=halving,
        mapping=mapping,
        chunk=chunk,
        mesh=mesh,
        keep=keep,
        histories=histories,
        folder=folder is not None,
    )
    choose_display(progress)  # raises here, rather than after the first chunk
    alone = nullcontext() if folder is None else locked("sweep", folder, ValueError)
    with alone:
        return _run_trials(run, data, space, hparams, settings, folder, progress)


def _run_trials(
    run: Callable[..., Run],
    data: Any,
    space: Space,
    hparams: dict[str, np.ndarray],
    settings: Settings,
    folder: Path | None,
    progress: bool | None,
) -> Sweep:
    """Runs all trials of a sweep, but for those that its folder has."""
    # 2. The plan, vmap or map and how many trials per call: a new one, or that of the sweep in the folder.
    mesh, score = settings.mesh, settings.score
    trace = partial(trace_program, run, data, settings.seeds, mesh=mesh, keep_opt_state=settings.rungs > 1)
    request = {} if folder is None else describe_request(space, hparams, data, settings)
    found = None if folder is None else read_settings(folder, request)
    if found is not None:
        plan = resume_plan(trace, hparams, found)
    else:
        plan = make_plan(
            trace,
            hparams,
            seeds=len(settings.seeds),
            mapping=settings.mapping,
            chunk=settings.largest_chunk,
            fit_memory=settings.chunk is None,
            mesh=mesh,
        )
    check_score(score, curve_names(plan.program.history))
    if folder is not None:
        write_settings(folder, found, request, describe_plan(plan))

    # 3. The rungs of successive halving, or one rung of all trials: each in chunks, from the folder or run.
    record = Record(score, settings.maximize, settings.trials)
    alive = np.arange(settings.trials)
    with progress_bar(progress, sum(settings.work), 0, unit="trial") as show:
        for rung in range(settings.rungs):
            if rung:
                alive = alive[choose_survivors(record.scores[alive], settings.maximize, settings.eta)]
            previous = record.start_rung(settings.keep == "all")
            programs = {plan.program.mapping: plan.program} if rung == 0 else {}
            size = min(plan.chunk, len(alive))
            for number, begin in enumerate(range(0, len(alive), size)):
                part = alive[begin : begin + size]
                values = {name: a[part] for name, a in hparams.items()}
                after = stack_runs([previous[i] for i in part]) if rung else None
                how, why = choose_mapping(plan, record.seconds)
                if how not in programs:
                    programs[how] = trace(values, after, chunk=size, mapping=how, keys=plan.program.keys)
                name = f"rung{rung}-chunk{number:05d}"
                done = read_or_run(programs[how], values, after, settings, rung, folder, name)
                record.add(done, part, rung, settings.keeps_all(rung))
                show(
                    sum(settings.work[:rung]) + begin + len(part), f"{how}: {why}", {score: record.best_mean}
                )

    # 4. The results.
    log_scaled = [k for k, d in space.items() if isinstance(d, Distribution) and d.kind == "log_uniform"]
    return make_result(hparams, settings, plan, record, log_scaled)


def read_or_run(
    program: Program,
    hparams: dict[str, np.ndarray],
    after: Run | None,
    settings: Settings,
    rung: int,
    folder: Path | None,
    name: str,
) -> Chunk:
    """The results of a chunk: read from the folder if it has finished before, else run and written there.

    Args:
        program: for these trials.
        hparams: of these trials.
        after: the runs that they continue, or None.
        settings: of the sweep.
        rung: of successive halving.
        folder: of the sweep, or None.
        name: of the chunk in the folder.
    """
    choose_ends = partial(
        make_chunk, score=settings.score, maximize=settings.maximize, keep_all=settings.keeps_all(rung)
    )
    seeds, histories = len(settings.seeds), settings.histories
    if folder is not None:
        trials = len(next(iter(hparams.values())))
        like = choose_ends(*zero_output(program, trials, seeds, histories), 0.0)
        if (done := read_chunk(folder, name, like)) is not None:
            return done
    program.executable  # noqa: B018  compiled before the clock starts
    start = time.perf_counter()
    summary, ends = sweep_program.run_program(
        program, hparams, after, seeds=seeds, times=settings.eta**rung, histories=histories
    )
    done = choose_ends(summary, ends, time.perf_counter() - start)
    if folder is not None:
        write_chunk(folder, name, done)
    return done


def make_result(
    hparams: dict[str, np.ndarray], settings: Settings, plan: Plan, record: Record, log_scaled: Sequence[str]
) -> Sweep:
    """The result of a sweep whose chunks have all been recorded."""
    summary, order = record.summary, record.order
    assert summary is not None, "no chunk has run"
    keeps_all = settings.keep == "all"
    ends = (
        stack_runs([record.ends[i] for i in range(settings.trials)]) if keeps_all else record.ends[order[0]]
    )
    mapping, why = choose_mapping(plan, record.seconds)
    return Sweep(
        hparams=hparams,
        seeds=settings.seeds,
        score=settings.score,
        maximize=settings.maximize,
        scores=record.scores,
        last=summary.last,
        lowest=summary.lowest,
        highest=summary.highest,
        diverged_at=summary.diverged_at,
        rungs=record.rungs,
        order=order,
        params=ends.params,
        state=ends.state,
        all_params=keeps_all,
        history=summary.history,
        log_scaled=tuple(log_scaled),
        mapping=mapping,
        why=why,
        chunk=plan.chunk,
    )
