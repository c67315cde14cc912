"""What `fit` costs beside the bare compiled loop: `python -m experiments.benchmarks.fit`.

The bare loop is `make_run` under `jit`: the same steps and evaluations as one program, compiled ahead of time, which
nothing interrupts. No time includes compilation: `fit` is timed from its second evaluation to its last, and the bare
loop continues from where `fit` was at that point. All sides run in one process and take turns. `ratio` is fit's time
over the bare loop's, the median of all rounds. `off by` is the largest relative difference of the first losses.

The sides are fit alone; with a progress bar on a (pseudo-)terminal; with a folder, history.jsonl and checkpoints as
often as fit makes them by default; and with a checkpoint in each epoch. By default, checkpoints take a hundredth of the
time in the long run. A short measurement has none or one of them, so that share is counted instead.

The images are noise, as the time does not depend on their content.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fnnet as fn
from experiments.benchmarks import agreement
from experiments.command_line import check_known, check_writable, fail, parse
from experiments.results_folder import environment
from experiments.timing import compare
from fnnet.train.fit.saving import SAVING_SHARE

COMMAND = "experiments.benchmarks.fit"
BAR = 1.03  # the largest ratio that the project accepts
MOST_SAVED = 20  # epochs, where each has a checkpoint
COMPARED = 50  # losses, at most
WARM_UP = 2  # epochs of fit before the clock starts; it compiles in them
ALONE, SHOWN, DEFAULT, EVERY = "alone", "bar", "bar, folder", "each epoch"
SIDES = (ALONE, SHOWN, DEFAULT, EVERY)


class Workload(NamedTuple):
    """A network and the size of its data."""

    net: fn.Layer
    picture: tuple[int, ...]
    train: int  # examples
    valid: int  # examples
    batch_size: int
    epochs: int  # measured, with an evaluation each

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, without the incomplete batch."""
        return self.train // self.batch_size


class Timed(NamedTuple):
    """A run of one side."""

    seconds: float  # of the measured epochs
    losses: np.ndarray  # of their steps
    saves: list[float]  # seconds of each checkpoint among them
    shown: int  # bytes sent to the terminal in the whole run


def workloads() -> dict[str, Workload]:
    mlp = fn.serial(fn.flatten, fn.dense(256), fn.relu, fn.dense(10))
    cnn = fn.serial(
        *(fn.conv(16, 3), fn.relu, fn.max_pool(2), fn.conv(32, 3), fn.relu, fn.max_pool(2)),
        *(fn.flatten, fn.dense(10)),
    )
    tiny = fn.serial(fn.flatten, fn.dense(32), fn.relu, fn.dense(10))
    return {
        "mlp": Workload(mlp, (28, 28, 1), train=50_000, valid=10_000, batch_size=128, epochs=3),
        "cnn": Workload(cnn, (28, 28, 1), train=12_800, valid=2_000, batch_size=128, epochs=2),
        "digits": Workload(tiny, (8, 8, 1), train=1_079, valid=359, batch_size=64, epochs=600),
    }


@dataclasses.dataclass(frozen=True)
class Config:
    """What fit costs beside the bare compiled loop, with a bar, a history, and checkpoints."""

    workloads: tuple[str, ...] = ("mlp", "cnn", "digits")
    """The workloads, by name: an MLP 784-256-10, a CNN with two convolutions, an MLP 64-32-10."""
    sides: tuple[str, ...] = SIDES
    """The runs of fit, by name."""
    rounds: int = 7
    """Measured rounds, with each side once per round; one round before them is not measured."""
    epochs: int | None = None
    """Epochs per measurement; by default one or two seconds' worth."""
    json: Path | None = None
    """Also write the numbers to this file."""


def measure(name: str, work: Workload, sides: tuple[str, ...], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for the bare loop, and one for each side of fit."""
    draw = np.random.default_rng(0)

    def part(n: int) -> dict[str, np.ndarray]:
        x = draw.normal(size=(n, *work.picture)).astype(np.float32)
        return {"x": x, "y": draw.integers(0, 10, n).astype(np.int32)}

    data = jax.device_put({"train": part(work.train), "valid": part(work.valid)})
    runs = {"bare loop": bare_loop(work, data)}
    for side in sides:
        epochs = min(work.epochs, MOST_SAVED) if side == EVERY else work.epochs
        runs[side] = fit_as(side, work._replace(epochs=epochs), data)
    order, timed = list(runs), {side: list[Timed]() for side in runs}
    for i in range(-1, rounds):
        for side in order[i % len(order) :] + order[: i % len(order)]:
            once = runs[side]()
            if i >= 0:
                timed[side].append(once)

    base = np.array([run.seconds / len(run.losses) for run in timed["bare loop"]])
    for side, found in timed.items():
        seconds = np.array([run.seconds for run in found])
        saves = np.array([sum(run.saves) for run in found])
        if side == DEFAULT:
            seconds = (seconds - saves) * (1 + SAVING_SHARE)
        seconds /= len(found[0].losses)
        row: dict[str, Any] = {
            "workload": name,
            "side": side,
            "steps": len(found[0].losses),
            "us_a_step": 1e6 * float(np.median(seconds)),
        }
        if side != "bare loop":
            ratio = compare(seconds, base)
            row |= {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}
            row |= {"bar": BAR, "met": ratio.ratio <= BAR} if side == DEFAULT else {"bar": None, "met": None}
            every = [save for run in found for save in run.saves]
            row["ms_a_save"] = 1e3 * float(np.median(every)) if every else None
            row["shown_bytes"] = found[-1].shown
            # Rounding errors grow from step to step, so only the first losses are compared.
            ours, theirs = (timed[s][-1].losses[:COMPARED] for s in (side, "bare loop"))
            row["difference"] = agreement.difference([ours], [theirs])
        yield row


def bare_loop(work: Workload, data: Any) -> Callable[[], Timed]:
    """The measured steps as one program."""

    def run_of(epochs: int) -> Callable[..., fn.train.Run]:
        return fn.train.make_run(
            work.net,
            fn.losses.softmax_cross_entropy,
            functools.partial(fn.optim.adam, lambda step: 1e-3),
            steps=epochs * work.steps_per_epoch,
            batch_size=work.batch_size,
            metrics={"accuracy": fn.metrics.accuracy},
            eval_every=work.steps_per_epoch,
        )

    key = jax.random.key(0)
    before = jax.jit(run_of(WARM_UP))(key, data, {})
    compiled = jax.jit(run_of(work.epochs)).lower(key, data, {}, before).compile()

    def run() -> Timed:
        began = time.perf_counter()
        history = jax.block_until_ready(compiled(key, data, {}, before)).history
        return Timed(time.perf_counter() - began, np.asarray(history["train_loss"]), [], 0)

    return run


def fit_as(side: str, work: Workload, data: Any) -> Callable[[], Timed]:
    """The same steps in fit, after those of the warm-up."""

    def run() -> Timed:
        evaluated: list[float] = []  # when

        def learning_rate(step: Any) -> float:
            # fit asks for the rate after each evaluation, for its row. The optimizer asks when it is traced.
            if not isinstance(step, jax.core.Tracer):
                evaluated.append(time.perf_counter())
            return 1e-3

        with tempfile.TemporaryDirectory() as parent, terminal() as shown, stopwatch() as saves:
            fitted = fn.train.fit(
                work.net,
                fn.losses.softmax_cross_entropy,
                fn.optim.adam,
                data["train"],
                valid=data["valid"],
                learning_rate=learning_rate,
                epochs=WARM_UP + work.epochs,
                batch_size=work.batch_size,
                metrics={"accuracy": fn.metrics.accuracy},
                progress=side != ALONE,
                folder=Path(parent, "run") if side in (DEFAULT, EVERY) else None,
                checkpoint_every=work.steps_per_epoch if side == EVERY else None,
            )
        first, last = evaluated[WARM_UP - 1], evaluated[-1]
        inside = [end - begin for begin, end in saves if first <= begin <= last]
        losses = fitted.history["train_loss"][WARM_UP * work.steps_per_epoch :]
        return Timed(last - first, losses, inside, shown())

    return run


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[], int]]:
    """Makes stderr a terminal with 80 columns. Yields a function that returns the number of bytes sent to it."""
    ours, theirs = os.openpty()
    count = 0

    def read() -> None:
        nonlocal count
        with contextlib.suppress(OSError):  # at the end
            while got := os.read(ours, 65536):
                count += len(got)

    reader = threading.Thread(target=read)
    reader.start()
    before = {name: os.environ.get(name) for name in ("TERM", "COLUMNS")}
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "80"}
    try:
        with os.fdopen(theirs, "w") as file, contextlib.redirect_stderr(file):
            yield lambda: count
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        reader.join()
        os.close(ours)


@contextlib.contextmanager
def stopwatch() -> Iterator[list[tuple[float, float]]]:
    """Yields a list to which each checkpoint adds when it began and ended."""
    save, times = fn.train.checkpoint.save, []

    def timed(*args: Any, **options: Any) -> Path:
        began = time.perf_counter()
        path = save(*args, **options)
        times.append((began, time.perf_counter()))
        return path

    fn.train.checkpoint.save = timed
    try:
        yield times
    finally:
        fn.train.checkpoint.save = save


def table_of(rows: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("workload", no_wrap=True)
    table.add_column("fit", no_wrap=True)
    for column in ("us a\nstep", "ratio", "quartiles", "bar", "met", "ms a\nsave", "off\nby"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        took = f"{row['us_a_step']:,.1f}"
        if "ratio" not in row:
            table.add_row(row["workload"], row["side"], took)
            continue
        table.add_row(
            *("", row["side"], took, _short(row["ratio"]), f"{_short(row['low'])}-{_short(row['high'])}"),
            *(("", "") if row["bar"] is None else (f"{row['bar']:.2f}", "yes" if row["met"] else "NO")),
            "" if row["ms_a_save"] is None else f"{row['ms_a_save']:.0f}",
            f"{row['difference']:.0e}",
        )
    return table


def _short(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.0f}"


def main() -> None:
    config = parse(Config, f"python -m {COMMAND}")
    known = workloads()
    for option, names, wanted in (
        ("workloads", config.workloads, list(known)),
        ("sides", config.sides, list(SIDES)),
    ):
        check_known(COMMAND, option, names, wanted)
    for option, value in (("--rounds", config.rounds), ("--epochs", config.epochs)):
        if value is not None and value < 1:
            fail(COMMAND, f"{option} {value} is too small, wanted at least 1")
    check_writable(COMMAND, "json", config.json)
    where = environment()

    console, rows = Console(), list[dict[str, Any]]()
    for name in track(config.workloads, "measuring", console=console):
        work = known[name]._replace(epochs=config.epochs or known[name].epochs)
        rows += measure(name, work, config.sides, config.rounds)
    if rows:
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        console.print(table_of(rows, f"{where['device']}, {config.rounds} rounds\n{versions}"))
    if config.json is not None:
        content = {"rounds": config.rounds, **where, "results": rows}
        config.json.write_text(json.dumps(content, indent=2) + "\n")
    if wrong := [row for row in rows if not row.get("difference", 0.0) <= agreement.AGREE]:
        for row in wrong:
            print(
                f"{row['workload']}, {row['side']}: the losses differ by {row['difference']:.1e}",
                file=sys.stderr,
            )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
