"""Throughput against devices, batch size and runs at once: `python -m experiments.scaling`.

It prints three tables, and draws each as a line beside the ideal, in which doubling the number on the axis doubles the
examples per second:

- devices: one batch, split over 1, 2, 4, ... devices by `fit(..., mesh=...)`. The losses must agree whatever the number
  of devices; otherwise the exit status is 1.
- batch size: on one device, with `fit`.
- runs at once: several networks, each with its own key, with `jit(vmap(make_run(...)))` on one device.

The images are noise, as the time does not depend on their content. A CPU is divided into eight devices, which share its
cores. There the first table shows that many devices compute the same as one, and says nothing about speed.
"""

import csv
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import jax
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Console
from rich.table import Table

import fnnet as fn
from experiments.benchmarks.agreement import difference
from experiments.command_line import devices, fail, failing, new_folder, parse, progress_on
from experiments.compilation_cache import use_compilation_cache
from experiments.fashion_mnist import network
from experiments.plotting import BLUE, GREY, STYLE, WIDTH
from experiments.results_folder import complete_folder, environment

COMMAND = "scaling"
SPEEDS = 4  # timed stretches of a run, after the one in which it compiles
AGREE = 1e-4  # a larger difference of losses, as a share of the largest, is more than rounding
WHAT = {"devices": "devices", "batch_size": "batch size, examples", "runs": "runs at once"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Throughput of training against the number of devices, the batch size and the number of runs at once."""

    model: Literal["mlp", "cnn", "resnet"] = "mlp"
    """The network, as in train_fashion_mnist."""
    devices: int | None = None
    """The largest number of devices, by default all. A CPU is divided into that many, by default 8."""
    batch_size: int = 256
    """Examples per step, over all devices together, in the first table."""
    batch_sizes: tuple[int, ...] = (16, 64, 256, 1024)
    """Examples per step, on one device, in the second table."""
    runs: tuple[int, ...] = (1, 2, 4, 8)
    """Runs at once, on one device, in the third table."""
    runs_batch_size: int = 32
    """Examples per step of each of these runs."""
    steps: int = 10
    """Steps in each of the four timed stretches, whose median is reported."""
    seed: int = 0
    """Seed of the weights, the images and their order."""
    out: Path | None = None
    """New folder for the results; by default runs/scaling-DATE-TIME."""


def check(config: Config) -> None:
    for option in ("batch_size", "runs_batch_size", "steps", "batch_sizes", "runs"):
        for value in np.atleast_1d(getattr(config, option)):
            if value < 1:
                fail(COMMAND, f"--{option.replace('_', '-')} {value} is too small, wanted at least 1")
    if config.out is not None and config.out.exists():
        fail(COMMAND, f"--out {config.out} exists already, wanted the name of a new folder")


def examples(n: int, seed: int) -> dict[str, jax.Array]:
    """Noise as images. A linear network gives the labels, so that the loss can fall."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 28, 28, 1)).astype(np.float32)
    y = np.argmax(x.reshape(n, -1) @ draw.normal(size=(784, 10)), axis=1).astype(np.int32)
    return {"x": jax.numpy.asarray(x), "y": jax.numpy.asarray(y)}


def by_fit(config: Config, batch_size: int, split_over: list[jax.Device]) -> tuple[float, np.ndarray]:
    """Examples per second, and the loss of each step."""
    mesh = jax.make_mesh((len(split_over),), ("data",), devices=split_over) if len(split_over) > 1 else None
    fitted = fn.train.fit(
        network(config.model),
        fn.losses.softmax_cross_entropy,
        fn.optim.sgd(
            0.01
        ),  # adam's first update is the gradient's sign, so the rounding of a 0 would be a whole step
        examples(2 * batch_size, config.seed),
        steps=(1 + SPEEDS) * config.steps,
        eval_every=config.steps,
        batch_size=batch_size,
        key=config.seed,
        progress=False,
        mesh=mesh,
    )
    return float(np.median(fitted.history["examples_per_second"][1:])), fitted.history["train_loss"]


def by_vmap(config: Config, runs: int) -> float:
    """Examples per second of all runs together."""
    run = fn.train.make_run(
        network(config.model),
        fn.losses.softmax_cross_entropy,
        fn.optim.sgd,
        steps=config.steps,
        batch_size=config.runs_batch_size,
    )
    keys = jax.random.split(jax.random.key(config.seed), runs)
    data = {"train": examples(2 * config.runs_batch_size, config.seed)}
    arguments = keys, data, {"learning_rate": 0.01}
    compiled = jax.jit(jax.vmap(run, in_axes=(0, None, None))).lower(*arguments).compile()
    seconds = []
    for _ in range(1 + SPEEDS):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - began)
    return runs * config.steps * config.runs_batch_size / float(np.median(seconds[1:]))


def rows_of(
    config: Config, found: list[jax.Device], counts: list[int], console: Console
) -> list[dict[str, Any]]:
    """A row per measurement. `off_by`: how much the losses differ from those on one device."""
    rows: list[dict[str, Any]] = []
    with progress_on(console) as progress:
        task = progress.add_task("", total=len(counts) + len(config.batch_sizes) + len(config.runs))

        def add(what: str, value: int, speed: float, **more: Any) -> None:
            first = next((row for row in rows if row["what"] == what), None)
            ideal = speed if first is None else first["examples_per_second"] * value / first["value"]
            rows.append(
                {
                    "what": what,
                    "value": value,
                    "examples_per_second": speed,
                    "share_of_ideal": speed / ideal,
                    **more,
                }
            )
            progress.update(task, advance=1, description=what)

        alone = np.zeros(0)
        for count in counts:
            speed, losses = by_fit(config, config.batch_size, found[:count])
            alone = losses if count == 1 else alone
            add("devices", count, speed, off_by=difference([losses], [alone]))
        for size in sorted(config.batch_sizes):
            add("batch_size", size, by_fit(config, size, found[:1])[0])
        for runs in sorted(config.runs):
            add("runs", runs, by_vmap(config, runs))
    return rows


def table_of(rows: list[dict[str, Any]], what: str) -> Table:
    table = Table(WHAT[what], "examples/s", "of ideal", *(["off by"] if what == "devices" else []))
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        if row["what"] == what:
            off = [f"{row['off_by']:.0e}"] if what == "devices" else []
            table.add_row(
                f"{row['value']:,}",
                f"{row['examples_per_second']:,.0f}",
                f"{row['share_of_ideal']:.0%}",
                *off,
            )
    return table


def draw(file: Path, rows: list[dict[str, Any]], title: str, note: str) -> None:
    """Three panels, one below the other."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 8), layout="constrained")
        for ax, what in zip(figure.subplots(3, 1), WHAT, strict=True):
            mine = [row for row in rows if row["what"] == what]
            value = np.array([row["value"] for row in mine])
            speed = np.array([row["examples_per_second"] for row in mine])
            ax.set(xscale="log", yscale="log", xlabel=WHAT[what], ylabel="examples per second")
            if not mine:
                continue
            ax.plot(value, speed[0] * value / value[0], "--", color=GREY, label="ideal: proportional")
            ax.plot(value, speed, "o-", color=BLUE, label="measured")
            ax.set_xticks(value, [f"{v:,}" for v in value])
            ax.minorticks_off()
            low, high = speed.min() / 2, max(speed.max(), speed[0] * value[-1] / value[0]) * 2
            ticks = [d * 10.0**e for e in range(12) for d in ((1, 2, 5) if high < 200 * low else (1,))]
            ax.set_yticks([t for t in ticks if low <= t <= high])
            ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
            ax.set_ylim(low, high)
            if what == "devices" and note:
                ax.set_title(note)
            ax.legend()
        figure.suptitle(title, x=0.02, ha="left", fontsize=10)
        FigureCanvasAgg(figure).print_png(file)


def main() -> None:
    use_compilation_cache()
    config = parse(Config, f"python -m experiments.{COMMAND}")
    check(config)
    found = devices(COMMAND, config.devices, of_a_cpu=8)
    counts = [2**i for i in range(len(found).bit_length())]
    if config.batch_size % counts[-1]:
        fail(COMMAND, f"--batch-size {config.batch_size} is not a multiple of {counts[-1]} devices")
    console, where = Console(), environment()
    title = f"{config.model}, 28x28 images, {where['device']}"
    console.print(f"{title}, {len(found)} devices, jax {where['versions']['jax']}")

    out = config.out or new_folder(COMMAND)
    # The folder comes before the work, which could not be kept without it.
    with failing(COMMAND, OSError), complete_folder(out) as folder:
        rows = rows_of(config, found, counts, console)
        for what in WHAT:
            if any(row["what"] == what for row in rows):
                console.print(table_of(rows, what))
        note = ""
        if found[0].platform == "cpu" and len(found) > 1:
            note = "the devices share one CPU: this shows correctness, not speed"
            console.print(f"{note}; only the last column of the first table counts.")

        settings = {
            name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(config).items()
        }
        content = {"config": settings, **where, "results": rows}
        (folder / "scaling.json").write_text(json.dumps(content, indent=2) + "\n")
        with (folder / "scaling.csv").open("w", newline="") as f:
            writer = csv.DictWriter(f, ["what", "value", "examples_per_second", "share_of_ideal", "off_by"])
            writer.writeheader()
            writer.writerows(rows)
        draw(folder / "scaling.png", rows, title, note)
    console.print(f"results: {out}", soft_wrap=True)

    if wrong := [row for row in rows if not row.get("off_by", 0.0) <= AGREE]:
        fewest = wrong[0]
        console.print(
            f"on {fewest['value']} devices the losses differ from those on one device by {fewest['off_by']:.1e}"
        )
        raise SystemExit(1)


if __name__ == "__main__":
    main()
