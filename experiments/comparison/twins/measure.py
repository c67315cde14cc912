"""Everything that is measured for one optimizer beside its optax twin: training runs, times, paths on the banana."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

import fnnet as fn
from experiments.comparison.twins.results import Result
from experiments.comparison.twins.twin_run import make_twin_run, surface_paths
from experiments.compilation_cache import without_compilation_cache
from experiments.timing import compile_time, in_turn, interleaved


def measure_all(
    names: Sequence[str],
    net: fn.Layer,
    data: fn.data.Dataset,
    progress: Progress,
    *,
    learning_rates: tuple[float, ...],
    seeds: int,
    steps: int,
    batch_size: int,
) -> list[Result]:
    """One result per optimizer, with a progress bar."""
    rates = np.array(sorted(learning_rates), np.float32)
    bar = progress.add_task("starting", total=4 * len(names) + 1)
    results = [
        _measure(name, net, data, progress, rates=rates, seeds=seeds, steps=steps, batch_size=batch_size)
        for name in names
    ]
    progress.update(bar, description="timing one step of each optimizer")
    batch = {k: np.asarray(v[:batch_size]) for k, v in data.train.items()}
    seconds = step_seconds(names, net, batch, float(rates[0]))
    progress.advance(bar)
    return [result._replace(step_seconds=seconds[result.name]) for result in results]


def _measure(
    name: str,
    net: fn.Layer,
    data: fn.data.Dataset,
    progress: Progress,
    *,
    rates: np.ndarray,
    seeds: int,
    steps: int,
    batch_size: int,
) -> Result:
    """One optimizer in four stages, all but the seconds of a step."""
    twin = fn.optim.TWINS[name]
    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    bar = progress.task_ids[0]

    def show(stage: str) -> None:
        progress.update(bar, description=f"{name}: {stage}")

    evaluations = max(n for n in range(1, 21) if steps % n == 0)
    run = make_twin_run(
        net,
        fn.losses.softmax_cross_entropy,
        twin,
        steps=steps,
        batch_size=batch_size,
        eval_every=steps // evaluations,
    )
    show("compiling")
    over_seeds = jax.vmap(run, in_axes=(0, None, None))
    program = jax.jit(jax.vmap(over_seeds, in_axes=(None, None, 0))).lower(keys, data, rates).compile()
    progress.advance(bar)

    show(f"training {2 * len(rates) * seeds} networks")
    trained = jax.tree.map(np.asarray, program(keys, data, rates))
    progress.advance(bar)

    show("timing one update")
    optimizers = [make(learning_rate=float(rates[0])) for make in twin]
    params, _ = jax.jit(net.init)(keys[0], np.asarray(data.train["x"][:1]))
    args = [(params, optimizer.init(params), params) for optimizer in optimizers]
    with without_compilation_cache():
        (ours, ours_seconds), (baseline, baseline_seconds) = (
            compile_time(optimizer.update, *a) for optimizer, a in zip(optimizers, args, strict=True)
        )
    update = interleaved(ours, baseline, args, pairs=200, calls=20)
    progress.advance(bar)

    show("descending the banana function")
    paths = surface_paths(twin, rates, steps=min(steps, 500))
    progress.advance(bar)
    return Result(
        name,
        rates,
        tuple(range(seeds)),
        trained,
        update,
        np.nan,
        ours_seconds,
        baseline_seconds,
        paths,
    )


def step_seconds(
    names: Sequence[str], net: fn.Layer, batch: dict[str, np.ndarray], rate: float
) -> dict[str, float]:
    """Seconds of one training step of one network with each optimizer: gradient and update, in a compiled loop.

    The optimizers take turns, so that a busy machine slows all of them; medians of 11 turns of 20 steps.
    """

    def loop_of(name: str) -> Callable[[], Any]:
        optimizer = fn.optim.TWINS[name].ours(learning_rate=rate)
        step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer)

        @jax.jit
        def loop(state: fn.train.TrainState) -> fn.train.TrainState:
            return jax.lax.fori_loop(0, 20, lambda i, now: step(now, batch, jax.random.key(i))[0], state)

        state = jax.jit(lambda key: fn.train.start(net, optimizer, key, batch["x"]))(jax.random.key(0))
        return lambda: jax.block_until_ready(loop(state))

    turns = in_turn({name: loop_of(name) for name in names}, rounds=11, warm_up=1)
    return {name: float(np.median(seconds)) / 20 for name, seconds in turns.items()}
