"""Everything that is measured for one optimizer beside its optax twin: training runs, times, paths on the banana."""

import time

import jax
import numpy as np
import optax
from rich.progress import Progress

import fnnet as fn
from experiments.comparison.twins.results import Result
from experiments.comparison.twins.twin_run import make_twin_run, surface_paths
from experiments.compilation_cache import without_compilation_cache
from experiments.timing import compile_time, interleaved


def measure(
    name: str,
    net: fn.Layer,
    data: fn.data.Dataset,
    progress: Progress,
    *,
    learning_rates: tuple[float, ...],
    seeds: int,
    steps: int,
    batch_size: int,
) -> Result:
    """One optimizer, in the four stages that the progress bar counts."""
    twin = fn.optim.TWINS[name]
    rates = np.array(sorted(learning_rates), np.float32)
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

    show("timing one update and one step")
    optimizers = [make(learning_rate=float(rates[0])) for make in twin]
    batch = {k: np.asarray(v[:batch_size]) for k, v in data.train.items()}
    state = jax.jit(lambda key: fn.train.start(net, optimizers[0], key, batch["x"]))(keys[0])
    args = [(state.params, optimizer.init(state.params), state.params) for optimizer in optimizers]
    with without_compilation_cache():
        (ours, ours_seconds), (baseline, baseline_seconds) = (
            compile_time(optimizer.update, *a) for optimizer, a in zip(optimizers, args, strict=True)
        )
    update = interleaved(ours, baseline, args, pairs=200, calls=20)
    step = step_seconds(net, optimizers[0], state, batch)
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
        step,
        ours_seconds,
        baseline_seconds,
        paths,
    )


def step_seconds(
    net: fn.Layer,
    optimizer: optax.GradientTransformationExtraArgs,
    state: fn.train.TrainState,
    batch: dict[str, np.ndarray],
) -> float:
    """Seconds of one training step of one network: gradient and update, in a compiled loop of 20 steps.

    The median of 15 measurements, or of as many as fit into two seconds.
    """
    step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer)

    @jax.jit
    def loop(state: fn.train.TrainState) -> fn.train.TrainState:
        return jax.lax.fori_loop(0, 20, lambda i, now: step(now, batch, jax.random.key(i))[0], state)

    jax.block_until_ready(loop(state))
    measured: list[float] = []
    began = time.perf_counter()
    while not measured or (len(measured) < 15 and time.perf_counter() - began < 2):
        start = time.perf_counter()
        jax.block_until_ready(loop(state))
        measured.append((time.perf_counter() - start) / 20)
    return float(np.median(measured))
