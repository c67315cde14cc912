"""Time of a training step beside PyTorch, Flax and Equinox: `python -m experiments.benchmarks.training`.

All sides train the same network from the same weights on the same batch, in one process, and take turns. `ratio` is
fnnet's time over theirs, the median of all rounds. `off by` is the largest relative difference of their first three
losses. `1st run` is in seconds: tracing, compiling and one step.
`cnn_in_scan` is fnnet alone: twenty steps inside a `lax.scan`, compared with the same steps outside; times per step.
A second table has the seconds to compile the GPT's step by depth, with its blocks in `fn.repeat` and in `fn.serial`.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.benchmarks import side_by_side, train_step
from experiments.benchmarks.workloads import cnn, gpt, mlp
from experiments.command_line import check_known, check_writable, fail, parse
from experiments.timing import compile_time

COMMAND = "experiments.benchmarks.training"
WORKLOADS = {"mlp": mlp, "cnn": cnn, "gpt": gpt}
SCAN = "cnn_in_scan"  # fnnet alone: steps inside a scan beside steps outside
SCAN_STEPS = 20
NAMES = ("mlp", "cnn", SCAN, "gpt")
# The largest ratios that the project accepts on two cores.
BARS = {
    "mlp": {"torch": 0.95},
    "cnn": {"torch": 1.0, "flax": 0.5},
    SCAN: {"outside": 1.1},
    "gpt": {"torch": 1.0, "flax": 0.6},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time of a training step on a CPU beside PyTorch, Flax and Equinox, and the time to compile one, by depth."""

    workloads: tuple[str, ...] = NAMES
    """The workloads, by name."""
    peers: tuple[str, ...] = side_by_side.PEERS
    """The libraries beside fnnet. One that is not installed is left out."""
    rounds: int = 30
    """Measured rounds, with each side once per round; three rounds before them are not measured."""
    torch_compile: bool = dataclasses.field(default_factory=lambda: shutil.which("c++") is not None)
    """Measure torch.compile, too. It needs a C++ compiler; the default is on where there is one."""
    torch_threads: int | None = None
    """Threads of PyTorch; by default one per core."""
    depths: tuple[int, ...] = (2, 12, 48)
    """Numbers of blocks, in fn.repeat, at which the GPT's compile time is measured; none for no such table."""
    serial_depths: tuple[int, ...] = (2, 12)
    """The same in fn.serial, where more blocks take minutes."""
    json: Path | None = None
    """Also write the numbers to this file."""


def compile_rows(
    depths: Sequence[int], serial_depths: Sequence[int], sizes: gpt.Sizes = gpt.SIZES
) -> list[dict[str, Any]]:
    """Seconds to lower and compile the GPT's step, by form and depth."""
    forms = [("repeat", n) for n in depths] + [("serial", n) for n in serial_depths]
    rows: list[dict[str, Any]] = []
    for form, depth in track(forms, "compiling", disable=not forms):
        step, args = gpt.step_to_compile(sizes._replace(layers=depth), repeated=form == "repeat")
        _, seconds = compile_time(step, *args)
        shallow = next((row["seconds"] for row in rows if row["blocks_in"] == form), seconds)
        rows.append({"blocks_in": form, "depth": depth, "seconds": seconds, "ratio": seconds / shallow})
    return rows


def main() -> None:
    config = parse(Config, f"python -m {COMMAND}")
    check_known(COMMAND, "workloads", config.workloads, NAMES)
    check_writable(COMMAND, "json", config.json)
    for option, depths in (("--depths", config.depths), ("--serial-depths", config.serial_depths)):
        if few := [depth for depth in depths if depth < 1]:
            fail(COMMAND, f"{option} {few[0]} is too small, wanted at least 1")
    peers, where = side_by_side.setup(COMMAND, config.peers, config.rounds, config.torch_threads)

    console = Console()
    shown, rows = side_by_side.new_table(side_by_side.title(where, config.rounds)), []
    for name in track(config.workloads, "measuring", console=console):
        if name == SCAN:
            steps = SCAN_STEPS
            sides: side_by_side.Sides = {
                "inside": partial(train_step.fnnet_inside_scan, cnn, cnn.SIZES, steps),
                "outside": partial(train_step.fnnet_outside_scan, cnn, cnn.SIZES, steps),
            }
        else:
            steps = 1
            sides = side_by_side.sides_of(train_step, WORKLOADS[name], peers, config.torch_compile)
        for row in side_by_side.measure(name, sides, BARS[name], rounds=config.rounds, steps=steps):
            rows.append(row)
            side_by_side.add_row(shown, row)
    if rows:
        console.print(shown)
    compiled = compile_rows(config.depths, config.serial_depths)
    if compiled:
        table = Table(
            title="Compile time of the GPT's step", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0)
        )
        table.add_column("blocks in")
        for column in ("depth", "seconds", "over the first"):
            table.add_column(column, justify="right")
        for row in compiled:
            table.add_row(
                f"fn.{row['blocks_in']}", str(row["depth"]), f"{row['seconds']:.2f}", f"{row['ratio']:.2f}"
            )
        console.print(table)
    if config.json is not None:
        content = {"rounds": config.rounds, **where, "results": rows, "compile": compiled}
        config.json.write_text(json.dumps(content, indent=2) + "\n")
    side_by_side.finish(console, rows)


if __name__ == "__main__":
    main()
