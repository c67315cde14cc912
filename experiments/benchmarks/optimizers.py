"""Time of one update, beside optax: `python -m experiments.benchmarks.optimizers`.

Both sides update the same MLP by the same gradients. They are compiled separately, run in one process and take turns.
The time is that of a training step's part: `update`, then `optax.apply_updates`. The project accepts a median ratio of
at most 1.02, and a state no larger than optax's.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fnnet as fn
from experiments.command_line import check_known, check_writable, fail, parse
from experiments.results_folder import environment
from experiments.timing import compile_time, interleaved

COMMAND = "experiments.benchmarks.optimizers"


@dataclasses.dataclass(frozen=True)
class Config:
    """Time of one update of an MLP 784-n-n-10, and the size of the state: fnnet beside optax."""

    optimizers: tuple[str, ...] = tuple(fn.optim.TWINS)
    """The optimizers, by name."""
    parameters: int = 1_000_000
    """Approximate number of parameters, which sets n. With 100 million, adam takes over 2 GB for both sides."""
    pairs: int = 200
    """Pairs of measurements, of ten updates each; of one update from ten million parameters on."""
    json: Path | None = None
    """Also write the numbers to this file."""


def main() -> None:
    config = parse(Config, f"python -m {COMMAND}")
    check_known(COMMAND, "optimizers", config.optimizers, fn.optim.TWINS)
    check_writable(COMMAND, "json", config.json)
    if config.pairs < 1:
        fail(COMMAND, f"--pairs {config.pairs} is too small, wanted at least 1")
    if config.parameters < 10_000:
        fail(COMMAND, f"--parameters {config.parameters} is too small, wanted at least 10000")

    # n^2 + (784 + 10) n parameters, and the biases.
    width = int((397**2 + config.parameters) ** 0.5 - 397)
    net = fn.serial(fn.dense(width), fn.relu, fn.dense(width), fn.relu, fn.dense(10))
    params, _ = net.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 784), jnp.float32))
    x, y = (
        jax.random.normal(jax.random.key(1), (128, 784)),
        jax.random.randint(jax.random.key(2), (128,), 0, 10),
    )
    grads = jax.jit(jax.grad(lambda p: fn.losses.softmax_cross_entropy(net(p, x), y).mean()))(params)

    console = Console()
    where = environment()
    count = sum(p.size for p in jax.tree.leaves(params))
    title = f"{count:,} parameters on {where['device']}, jax {jax.__version__}, optax {optax.__version__}"
    shown = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown.add_column("optimizer", no_wrap=True)
    for column in (
        "fnnet\nus",
        "optax\nus",
        "ratio\nmedian",
        "ratio\nquartiles",
        "fnnet\ncompile s",
        "optax\ncompile s",
        "state\nratio",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    rows = []
    for name in track(config.optimizers, "measuring", console=console):
        programs, seconds, arguments = [], [], []
        for make in fn.optim.TWINS[name]:
            optimizer = make(learning_rate=1e-3)

            def step(grads: Any, state: Any, params: Any, optimizer: Any = optimizer) -> Any:
                updates, state = optimizer.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            args = (grads, optimizer.init(params), params)
            program, compiling = compile_time(step, *args)
            programs.append(program)
            seconds.append(compiling)
            arguments.append(args)
        calls = 10 if count < 10_000_000 else 1
        times = interleaved(programs[0], programs[1], arguments, pairs=config.pairs, calls=calls)
        sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(state)) for _, state, _ in arguments]
        rows.append(
            {
                "optimizer": name,
                **times._asdict(),
                "compile_ours": seconds[0],
                "compile_baseline": seconds[1],
                "state_bytes_ours": sizes[0],
                "state_bytes_baseline": sizes[1],
            }
        )
        shown.add_row(
            name,
            f"{1e6 * times.ours:.0f}",
            f"{1e6 * times.baseline:.0f}",
            f"{times.ratio:.3f}",
            f"{times.low:.3f} - {times.high:.3f}",
            *(f"{s:.2f}" for s in seconds),
            f"{sizes[0] / sizes[1]:.3f}" if sizes[1] else "-",
        )
    console.print(shown)
    if config.json is not None:
        config.json.write_text(json.dumps({"parameters": count, **where, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
