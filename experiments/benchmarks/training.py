"""Time of a training step, fnnet's over its peers': `python -m experiments.benchmarks.training`.

All sides train the same network from the same weights on the same batch, in one process, in turn. `ratio` is
the median of the rounds' ratios, fnnet's time over theirs. `off by` is the largest relative difference of
their first three losses. `1st run` has seconds: tracing, compiling and one step.
`cnn_in_scan` is fnnet alone: twenty steps inside a `lax.scan` over the same outside, times for one step.
A second table has the seconds to compile the GPT's step by depth, its blocks in `fn.repeat` and `fn.serial`.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.benchmarks import side_by_side
from experiments.benchmarks.workloads import cnn, gpt, mlp
from experiments.command_line import fail, parse
from experiments.timing import compile_time

COMMAND = "experiments.benchmarks.training"
WORKLOADS = {"mlp": mlp, "cnn": cnn, "gpt": gpt}
SCAN = "cnn_in_scan"  # fnnet alone: a step inside a scan over one outside
NAMES = ("mlp", "cnn", SCAN, "gpt")
# The largest ratio that the project allows itself, for two cores.
BARS = {
    "mlp": {"torch": 0.95},
    "cnn": {"torch": 1.0, "flax": 0.5},
    SCAN: {"outside": 1.1},
    "gpt": {"torch": 1.0, "flax": 0.6},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time of a training step on a CPU: fnnet's over its peers'; and the time to compile it, by depth."""

    workloads: tuple[str, ...] = NAMES
    """Which workloads, by name."""
    peers: tuple[str, ...] = side_by_side.PEERS
    """Which libraries beside fnnet; one that is not installed is left out."""
    rounds: int = 30
    """Rounds that are measured, each side once in each, after three that are not."""
    torch_compile: bool = dataclasses.field(default_factory=lambda: shutil.which("c++") is not None)
    """Measure torch.compile, too, which needs a C++ compiler; on where there is one."""
    torch_threads: int | None = None
    """Threads of PyTorch; as many as there are cores unless given."""
    depths: tuple[int, ...] = (2, 12, 48)
    """Blocks of the GPT whose compile time is taken, in fn.repeat; empty for no such table."""
    serial_depths: tuple[int, ...] = (2, 12)
    """The same in fn.serial, where more of them take minutes."""
    json: Path | None = None
    """File for the numbers, besides the tables."""


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
    if unknown := [name for name in config.workloads if name not in NAMES]:
        fail(COMMAND, f"--workloads {unknown[0]} is unknown, wanted some of {', '.join(NAMES)}")
    for option, depths in (("--depths", config.depths), ("--serial-depths", config.serial_depths)):
        if few := [depth for depth in depths if depth < 1]:
            fail(COMMAND, f"{option} {few[0]} is too small, wanted at least 1")
    peers, where = side_by_side.setup(COMMAND, config.peers, config.rounds, config.torch_threads)

    console = Console()
    shown, rows = side_by_side.new_table(side_by_side.title(where, config.rounds)), []
    for name in track(config.workloads, "measuring", console=console):
        if name == SCAN:
            sides: side_by_side.Sides = {"inside": cnn.fnnet_inside_scan, "outside": cnn.fnnet_outside_scan}
            steps = cnn.SIZES.batches
        else:
            sides, steps = side_by_side.sides_of(WORKLOADS[name], peers, config.torch_compile), 1
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
