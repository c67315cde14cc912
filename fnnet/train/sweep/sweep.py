"""Many runs: every point of a grid, or of a random search, with every seed, and what came of them."""

import csv
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import jax
import jaxlib
import numpy as np
from jax.sharding import Mesh

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.train.history import more_is_better
from fnnet.train.progress import progress_bar
from fnnet.train.run import Run
from fnnet.train.sweep import folder as sweep_folder
from fnnet.train.sweep import program as sweep_program
from fnnet.train.sweep.program import Plan, Summary
from fnnet.train.sweep.trials import Distribution, Space, choose_survivors, make_trials, rank_trials

MAPPINGS = ("auto", "vmap", "map", "fastest")


class BestTrial(NamedTuple):
    """The best trial of a sweep."""

    trial: int
    hparams: dict[str, Any]
    mean: float  # of its score over the seeds
    std: float  # over the seeds, of the sample (divided by n - 1); NaN for one seed
    params: Any  # of its runs, with the seeds on the first axis of each leaf
    state: Any


class Sweep(NamedTuple):
    """What a sweep has found: arrays of NumPy, by trial, and by seed on the second axis."""

    hparams: dict[str, np.ndarray]  # by name, [trials, ...]
    seeds: np.ndarray  # int[seeds]
    score: str  # which measure the trials are ranked by
    maximize: bool
    scores: np.ndarray  # float[trials, seeds], its last value; NaN where the run diverged
    last: dict[str, np.ndarray]  # by measure, float[trials, seeds], at the end
    lowest: dict[str, np.ndarray]  # the least of the history
    highest: dict[str, np.ndarray]  # the largest
    diverged_at: np.ndarray  # int[trials, seeds], as in make_run; -1 where all was finite
    rungs: np.ndarray  # int[trials], how many rungs of successive halving a trial took part in; 1 without it
    order: np.ndarray  # int[trials], from the best to the worst
    params: Any  # of the best trial, [seeds, ...], or of all, [trials, seeds, ...]
    state: Any  # the layers' own, alike
    all_params: bool  # which of the two it is
    history: dict[str, np.ndarray]  # [trials, seeds, ...] where it was asked for, else {}
    log_scaled: tuple[str, ...]  # hyperparameters that were drawn log-uniformly
    mapping: str  # "vmap" or "map"
    why: str  # the reason for it
    chunk: int  # trials in one compiled call

    @property
    def best(self) -> BestTrial:
        """The trial with the best mean score; of diverged ones, one with the fewest such seeds."""
        i = int(self.order[0])
        of_it = jax.tree.map(lambda a: a[i], (self.params, self.state)) if self.all_params else None
        params, state = of_it or (self.params, self.state)
        values = {name: a[i].item() if a.ndim == 1 else a[i] for name, a in self.hparams.items()}
        return BestTrial(i, values, *_mean_and_std(self.scores[i]), params, state)

    def table(self, rows: int | None = 20) -> str:
        """The trials as text, the best first: hyperparameters, the score's mean and standard deviation over the seeds.

        Args:
            rows: so many trials at most; None for all.
        """
        others = sorted(name for name in self.last if name != self.score and not name.startswith("train_"))
        head = ["trial", *self.hparams, self.score, "+-", *others]
        head += ["rungs"] * bool(np.ptp(self.rungs)) + ["diverged"] * bool((self.diverged_at >= 0).any())
        lines = [head]
        for i in self.order[:rows]:
            mean, std = _mean_and_std(self.scores[i])
            line = [str(i), *(_shown(a[i]) for a in self.hparams.values()), f"{mean:.4g}", f"{std:.2g}"]
            line += [f"{self.last[name][i].mean():.4g}" for name in others]
            bad = int((self.diverged_at[i] >= 0).sum())
            line += [str(self.rungs[i])] * ("rungs" in head)
            line += [f"{bad} of {len(self.seeds)}" if bad else ""] * ("diverged" in head)
            lines.append(line)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        left_out = len(self.order) - (len(lines) - 1)
        return "\n".join(text + ([f"... and {left_out} more"] if left_out else []))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes one row for each trial and seed; the file is there in full or not at all."""
        measures = [("last", self.last), ("lowest", self.lowest), ("highest", self.highest)]
        head = ["trial", "seed", *self.hparams, "score", "diverged_at", "rungs"]
        head += [f"{kind}_{name}" for kind, by_name in measures for name in by_name]

        def write(beside: Path) -> None:
            with beside.open("w", newline="", encoding="utf-8") as f:
                writer = csv.writer(f)
                writer.writerow(head)
                for i, j in np.ndindex(self.scores.shape):
                    values = [
                        a[i].item() if a.ndim == 1 else json.dumps(a[i].tolist())
                        for a in self.hparams.values()
                    ]
                    row = [
                        i,
                        self.seeds[j],
                        *values,
                        self.scores[i, j],
                        self.diverged_at[i, j],
                        self.rungs[i],
                    ]
                    writer.writerow(row + [a[i, j] for _, by_name in measures for a in by_name.values()])

        write_atomically(Path(path), write)


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
    """Runs every trial with every seed: few compiled programs, of many runs each.

    A trial is one choice of the hyperparameters; a run is a trial with a seed,
    `run(jax.random.key(seed), data, hparams)`. All trials have the same seeds: they begin with the same weights and
    see the same batches.

    Args:
        run: `(key, data, hparams) -> Run`, from `make_run`; with halving it is called with `after=` too.
        data: a dict or a `fn.data.Dataset` of arrays, handed to the runs.
        space: hyperparameters by name: values for a grid; for a random search `uniform`, `log_uniform`, `choice`,
            or values to choose from. They are numbers, or arrays of one shape.
        trials: None for the grid of all values; a number for that many random draws.
        seeds: how many, 0, 1, ..., or which.
        score: the measure of the history that trials are ranked by: its last value, of that the mean over the
            seeds. A trial with a seed that diverged comes behind all others.
        maximize: whether more is better; unless given it is for an accuracy, and is not for a loss.
        halving: eta of successive halving, 2 at least. All trials run; then the best 1 / eta of them go on, for eta
            times as many steps as before, and so on: rung r has eta^r times the run's steps, for eta^-r of the
            trials, until one is left. The best trial is one of those that went furthest.
        search_seed: of the random draws. More trials begin with those of fewer.
        mapping: how a program does many runs. "vmap": in one go; "map": one after the other, by `lax.map`.
            "auto": "vmap", but on a CPU "map" for a network with a convolution, as vmapped kernels make grouped
            convolutions, which are slow there, or with more than 1 MiB of params. "fastest" takes "vmap" for the
            first chunk, "map" for the second, and for the rest what was faster: the last bits then depend on the
            clock.
        chunk: trials in one compiled call; unless given, as many as fit the memory that is free; where there is a
            folder, or a mapping to be found, an eighth of all at most.
        mesh: devices to spread the runs over, along all its axes; the data is on each. The results are those of one
            device, to rounding.
        keep: of which trials to keep params and state.
        histories: whether to keep the whole histories; not with halving, where they differ in length.
        folder: where each chunk is written when it is done. The same call, after an interruption, goes on behind
            the last one, and ends with the bits that it would have ended with.
        progress: whether to show a bar; by default where rich is installed and the output is a terminal.

    Raises:
        TypeError, ValueError: an argument is none of these; a grid has a distribution; the history has no such
            score; the folder holds another sweep, or a damaged chunk.

    Source: Jamieson & Talwalkar 2016, arXiv:1502.07943 (successive halving).

    Example:
        >>> data = fn.data.split(fn.data.two_moons(jax.random.key(0), 200))
        >>> run = fn.train.make_run(fn.dense(2), fn.losses.softmax_cross_entropy, fn.optim.sgd, steps=20, batch_size=20)
        >>> swept = fn.train.sweep(run, data, {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1]}, seeds=2)
        >>> swept.scores.shape, swept.best.hparams
        ((4, 2), {'learning_rate': 0.1})
    """
    hparams, numbers = make_trials(space, trials, search_seed), _seeds(seeds)
    n = len(next(iter(hparams.values())))
    maximize = more_is_better(score) if maximize is None else maximize
    if maximize is None:
        raise ValueError(
            f"sweep: score={score!r}, of which it is not known whether more is better; give maximize="
        )
    _check(data, n, mapping, chunk, mesh, halving, keep, histories)
    rungs, eta = (1, 1) if halving is None else (1 + math.floor(math.log(n, halving) + 1e-9), halving)
    form = partial(sweep_program.trace, run, data, numbers, mesh=mesh, goes_on=rungs > 1)
    at_most = min(chunk or (n if folder is None and mapping != "fastest" else -(-n // 8)), n)

    folder = None if folder is None else Path(folder)
    asked, found = {}, None
    if folder is not None:
        asked = {"space": {name: str(given) for name, given in space.items()}, "trials": n}
        asked |= {"hparams": sweep_folder.digest(hparams), "data": sweep_folder.digest(data)}
        asked |= {"seeds": numbers.tolist(), "score": score, "maximize": maximize, "halving": halving}
        asked |= {"keep": keep, "histories": histories, "asked mapping": mapping, "asked chunk": chunk}
        asked |= _where(mesh)
        found = sweep_folder.read_settings(folder, asked)
    if found is None:
        plan = sweep_program.plan(
            form,
            hparams,
            seeds=len(numbers),
            mapping=mapping,
            chunk=at_most,
            fits=chunk is None,
            mesh=mesh,
        )
    else:
        size, how = found["chunk"], found["mapping"]
        values = {name: a[:size] for name, a in hparams.items()}
        program = form(values, None, chunk=size, mapping="vmap" if how == "fastest" else how)
        plan = Plan(how, found["why"], size, program)
    if score not in (known := sweep_program.curves(plan.program.history)):
        raise ValueError(f"sweep: score={score!r}, wanted one of {sorted(known)}")
    if folder is not None:
        decided = {"chunk": plan.chunk, "mapping": plan.mapping, "why": plan.why}
        decided["program"] = sweep_folder.fingerprint(plan.program.traced)
        sweep_folder.settle(folder, found, asked, decided)

    alive, reached, seconds = np.arange(n), np.zeros(n, int), list[float]()
    results = cast(Any, None)  # the Summary of all trials
    ends: dict[int, Run] = {}  # by trial, those that are needed
    work = [max(n // eta**rung, 1) for rung in range(rungs)]
    with progress_bar(progress, sum(work), 0) as show:
        for rung in range(rungs):
            if results is not None:
                alive = alive[choose_survivors(_scores(results, score)[alive], maximize, eta)]
            goes_on, size = rung + 1 < rungs, min(plan.chunk, len(alive))
            before, ends = ends, ends if keep == "all" else {}
            programs = {"map" if plan.mapping == "map" else "vmap": plan.program} if rung == 0 else {}
            for c, begin in enumerate(range(0, len(alive), size)):
                part = alive[begin : begin + size]
                how, why = plan.mapping, plan.why
                if how == "fastest":
                    how, why = (
                        (("vmap", "map")[c], "is timed") if rung == 0 and c < 2 else _faster(*seconds[:2])
                    )
                values = {name: a[part] for name, a in hparams.items()}
                after = _stacked([before[i] for i in part]) if rung else None
                if how not in programs:
                    programs[how] = form(values, after, chunk=size, mapping=how, keys=plan.program.keys)
                choose = partial(_kept, score=score, maximize=maximize, everything=goes_on or keep == "all")
                name = f"rung{rung}-chunk{c:05d}"
                done = None
                if folder is not None:
                    blank = sweep_program.blank(programs[how], len(part), len(numbers), histories)
                    done = sweep_folder.read_chunk(folder, name, choose(*blank, 0.0))
                if done is None:
                    program = programs[how]
                    program.executable  # noqa: B018  compiled before the clock starts
                    start = time.perf_counter()
                    came = sweep_program.call(
                        program, values, after, seeds=len(numbers), times=eta**rung, histories=histories
                    )
                    done = choose(*came, time.perf_counter() - start)
                    if folder is not None:
                        sweep_folder.write_chunk(folder, name, done)

                seconds.append(float(done.seconds))
                results = _placed(results, done.summary, part, n, rung)
                reached[part] = rung + 1
                order = _order(_scores(results, score), reached, maximize)
                new = {
                    int(part[k]): jax.tree.map(lambda a, i=i: a[i], done.ends)
                    for i, k in enumerate(done.kept)
                }
                ends = {
                    i: end for i, end in (ends | new).items() if goes_on or keep == "all" or i == order[0]
                }
                shown = {score: float(_scores(results, score)[order[0]].mean())}
                show(sum(work[:rung]) + begin + len(part), f"{how}: {why}", shown)

    if plan.mapping == "fastest":
        how, why = _faster(*seconds[:2])
    end = _stacked([ends[i] for i in range(n)]) if keep == "all" else ends[order[0]]
    return Sweep(
        hparams=hparams,
        seeds=numbers,
        score=score,
        maximize=maximize,
        scores=_scores(results, score),
        last=results.last,
        lowest=results.lowest,
        highest=results.highest,
        diverged_at=results.diverged_at,
        rungs=reached,
        order=order,
        params=end.params,
        state=end.state,
        all_params=keep == "all",
        history=results.history,
        log_scaled=tuple(
            k for k, d in space.items() if isinstance(d, Distribution) and d.kind == "log_uniform"
        ),
        mapping=how,
        why=why,
        chunk=plan.chunk,
    )


class Done(NamedTuple):
    """A chunk of trials that has run."""

    summary: Summary
    kept: np.ndarray  # int, which of its trials' ends are kept
    ends: Run  # of those
    seconds: np.ndarray  # that it took


def _kept(
    summary: Summary, ends: Run, seconds: float, *, score: str, maximize: bool, everything: bool
) -> Done:
    """The summary of a chunk and the ends of its trials, of the best one alone unless everything is kept."""
    scores = _scores(summary, score)
    kept = np.arange(len(scores)) if everything else rank_trials(scores, maximize)[:1]
    return Done(summary, kept, jax.tree.map(lambda a: a[kept], ends), np.asarray(seconds))


def _scores(results: Summary, score: str) -> np.ndarray:
    return np.where(results.diverged_at >= 0, np.nan, results.last[score])


def _order(scores: np.ndarray, reached: np.ndarray, maximize: bool) -> np.ndarray:
    """From the best to the worst; who has gone on is before who has not."""
    rank = np.empty(len(scores), int)
    rank[rank_trials(scores, maximize)] = np.arange(len(scores))
    return np.lexsort((rank, -reached))


def _placed(results: Summary | None, new: Summary, part: np.ndarray, n: int, rung: int) -> Summary:
    """The results with those of a part of the n trials, which after the first rung go on from what is there."""
    if results is None:
        results = jax.tree.map(lambda a: np.zeros((n, *a.shape[1:]), a.dtype), new)
    elif rung:
        new = sweep_program.merged(jax.tree.map(lambda a: a[part], results), new)

    def place(whole: np.ndarray, a: np.ndarray) -> np.ndarray:
        whole[part] = a
        return whole

    return jax.tree.map(place, results, new)


def _stacked(ends: Sequence[Run]) -> Run:
    return jax.tree.map(lambda *of: np.stack(of), *ends)


def _faster(vmapped: float, mapped: float) -> tuple[str, str]:
    how = "vmap" if vmapped <= mapped else "map"
    return how, f"a chunk took {vmapped:.3g} s by vmap and {mapped:.3g} s by map"


def _mean_and_std(scores: np.ndarray) -> tuple[float, float]:
    scores = scores.astype(np.float64)
    return float(scores.mean()), float(scores.std(ddof=1)) if len(scores) > 1 else math.nan


def _shown(value: np.ndarray) -> str:
    return f"{value.item():.4g}" if value.ndim == 0 else json.dumps(value.tolist())


def _seeds(seeds: int | Sequence[int]) -> np.ndarray:
    if isinstance(seeds, int):
        check.is_positive("sweep", "seeds", seeds)
        return np.arange(seeds)
    numbers = np.asarray(seeds)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not 0 < len(numbers) == len(np.unique(numbers)):
        raise ValueError(f"sweep: seeds={seeds!r}, wanted how many, or a list of different ints")
    if numbers.min() < 0 or numbers.max() >= 2**31:
        raise ValueError(f"sweep: seeds={seeds!r}, wanted ints from 0 to 2**31 - 1")
    return numbers


def _check(
    data: Any, n: int, mapping: str, chunk: Any, mesh: Any, halving: Any, keep: str, histories: bool
) -> None:
    if bad := [leaf for leaf in jax.tree.leaves(data) if not hasattr(leaf, "dtype")]:
        raise TypeError(
            f"sweep: data has {check.describe(bad[0])} in it, wanted a dict or a Dataset of arrays"
        )
    for name, got, wanted in (("mapping", mapping, MAPPINGS), ("keep", keep, ("best", "all"))):
        if got not in wanted:
            raise ValueError(f"sweep: {name}={got!r}, wanted one of {', '.join(wanted)}")
    if chunk is not None:
        check.is_positive("sweep", "chunk", chunk)
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(
            f"sweep: mesh={mesh!r}, wanted a jax.sharding.Mesh, as of jax.make_mesh((8,), ('runs',))"
        )
    if mesh is not None and any(d.process_index != jax.process_index() for d in mesh.devices.flat):
        raise ValueError(
            "sweep: mesh has devices of other processes; sweep a part of the space in each process"
        )
    if halving is not None:
        check.is_positive("sweep", "halving", halving)
        if not 2 <= halving <= n:
            raise ValueError(f"sweep: halving={halving}, wanted 2 at least, and at most the {n} trials")
        if histories:
            raise ValueError(
                "sweep: histories=True with halving: they differ in length; wanted one of the two"
            )


def _where(mesh: Mesh | None) -> dict[str, Any]:
    """What the last bits may depend on beside the sweep itself."""
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    devices = 1 if mesh is None else mesh.devices.size
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    return {"devices": devices, "device": device.device_kind, **versions}
