"""Time of layers, forward and backward, beside PyTorch, Flax and Equinox: `python -m experiments.benchmarks.layers`.

All sides compute the same thing from the same arrays: y, and for a given gradient by y the gradients by x and by the
params. They run in one process and take turns. `ratio` is fnnet's time over theirs, the median of all rounds. `off by`
is the largest difference of y, of the gradient by x and of the norm of the gradient by the params, as a share of the
largest number. `1st run` is in seconds: tracing, compiling and one run.
"""

import dataclasses
import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import track

from experiments.benchmarks import forward_backward, side_by_side
from experiments.benchmarks.workloads import gru, lstm, max_pool, resnet_block
from experiments.command_line import check_known, check_writable, parse

COMMAND = "experiments.benchmarks.layers"
WORKLOADS = {"resnet_block": resnet_block, "lstm": lstm, "gru": gru, "max_pool": max_pool}
# The largest ratios that the project accepts on two cores.
BARS = {
    "resnet_block": {"torch": 1.1},
    "lstm": {"torch": 1.0, "flax": 0.5},
    "gru": {"torch": 1.0},
    "max_pool": {"torch": 1.0},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Time of layers, forward and backward, on a CPU: fnnet beside PyTorch, Flax and Equinox."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    """The workloads, by name."""
    peers: tuple[str, ...] = side_by_side.PEERS
    """The libraries beside fnnet. One that is not installed is left out."""
    rounds: int = 30
    """Measured rounds, with each side once per round; three rounds before them are not measured."""
    torch_compile: bool = dataclasses.field(default_factory=lambda: shutil.which("c++") is not None)
    """Measure torch.compile, too. It needs a C++ compiler; the default is on where there is one."""
    torch_threads: int | None = None
    """Threads of PyTorch; by default one per core."""
    json: Path | None = None
    """Also write the numbers to this file."""


def main() -> None:
    config = parse(Config, f"python -m {COMMAND}")
    check_known(COMMAND, "workloads", config.workloads, WORKLOADS)
    check_writable(COMMAND, "json", config.json)
    peers, where = side_by_side.setup(COMMAND, config.peers, config.rounds, config.torch_threads)

    console = Console()
    shown, rows = side_by_side.new_table(side_by_side.title(where, config.rounds)), []
    for name in track(config.workloads, "measuring", console=console):
        sides = side_by_side.sides_of(forward_backward, WORKLOADS[name], peers, config.torch_compile)
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
