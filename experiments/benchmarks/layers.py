"""Time of layers forward and backward, fnnet's over its peers': `python -m experiments.benchmarks.layers`.

All sides compute the same from the same arrays, in one process, in turn: y, and for a given gradient by y
those by x and by the params. `ratio` is the median of the rounds' ratios, fnnet's time over theirs. `off by`
is the largest difference of y and the gradient by x (and of the norm of that by the params), as a part of the
largest number. `1st run` has seconds: tracing, compiling and one run.
"""

import dataclasses
import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import track

from experiments.benchmarks import side_by_side
from experiments.benchmarks.workloads import gru, lstm, max_pool, resnet_block
from experiments.command_line import fail, parse

COMMAND = "experiments.benchmarks.layers"
WORKLOADS = {"resnet_block": resnet_block, "lstm": lstm, "gru": gru, "max_pool": max_pool}
# The largest ratio that the project allows itself, for two cores.
BARS = {
    "resnet_block": {"torch": 1.1},
    "lstm": {"torch": 1.0, "flax": 0.5},
    "gru": {"torch": 1.0},
    "max_pool": {"torch": 1.0},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time of layers forward and backward on a CPU: fnnet's over its peers'."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    """Which workloads, by name."""
    peers: tuple[str, ...] = side_by_side.PEERS
    """Which libraries beside fnnet; one that is not installed is left out."""
    rounds: int = 30
    """Rounds that are measured, each side once in each, after three that are not."""
    torch_compile: bool = dataclasses.field(default_factory=lambda: shutil.which("c++") is not None)
    """Measure torch.compile, too, which needs a C++ compiler; on where there is one."""
    torch_threads: int | None = None
    """Threads of PyTorch; as many as there are cores unless given."""
    json: Path | None = None
    """File for the numbers, besides the table."""


def main() -> None:
    config = parse(Config, f"python -m {COMMAND}")
    if unknown := [name for name in config.workloads if name not in WORKLOADS]:
        fail(COMMAND, f"--workloads {unknown[0]} is unknown, wanted some of {', '.join(WORKLOADS)}")
    peers, where = side_by_side.setup(COMMAND, config.peers, config.rounds, config.torch_threads)

    console = Console()
    shown, rows = side_by_side.new_table(side_by_side.title(where, config.rounds)), []
    for name in track(config.workloads, "measuring", console=console):
        sides = side_by_side.sides_of(WORKLOADS[name], peers, config.torch_compile)
        for row in side_by_side.measure(name, sides, BARS[name], rounds=config.rounds):
            rows.append(row)
            side_by_side.add_row(shown, row)
    console.print(shown)
    if config.json is not None:
        content = {"rounds": config.rounds, **where, "results": rows}
        config.json.write_text(json.dumps(content, indent=2) + "\n")
    side_by_side.finish(console, rows)


if __name__ == "__main__":
    main()
