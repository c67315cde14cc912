"""A chunk of trials as one compiled program: with `vmap` or `lax.map`, on one device or on those of a mesh."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnnet import check
from fnnet.train.compiler import options
from fnnet.train.run import Run

# The axes of many runs to continue: all is mapped but the step, which they share. See make_run.
RUN_AXES: Any = Run(*cast(Any, (0, 0, 0, 0, None)))


class Summary(NamedTuple):
    """What is kept of the trials' histories: by name, arrays with the trials and the seeds on the first two axes."""

    last: dict[str, Any]  # the last value
    lowest: dict[str, Any]  # the smallest value that is a number
    highest: dict[str, Any]  # the largest
    diverged_at: Any  # int32, as make_run counts it; -1 if all is finite
    history: dict[str, Any]  # all of it, or {}


@jax.tree_util.register_static
@dataclass(frozen=True)
class KeyKinds:
    """For each leaf of a run, the implementation of its PRNG keys, or None if it is a plain array."""

    kinds: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """A program that runs some trials, each with all seeds."""

    mapping: str  # "vmap" or "map"
    traced: Any  # of jax.jit
    arguments: Callable[
        [Any, Any], tuple[Any, ...]
    ]  # (hparams, after), in NumPy -> the executable's arguments
    history: dict[str, Any]  # shapes, [trials, seeds, ...], with padding
    ends: Run  # shapes, likewise: of the runs' ends, with key data for keys, and diverged_at as their history
    keys: KeyKinds  # of the ends

    @cached_property
    def executable(self) -> Any:
        """The compiled program. It is compiled on first use."""
        return self.traced.lower().compile()


class Layout(NamedTuple):
    """How a chunk's trials and seeds are padded and split over the devices of a mesh."""

    trials: int  # with padding
    seeds: np.ndarray  # with padding
    specs: tuple[PartitionSpec, ...] | None  # of seeds, hyperparameters, data and runs; None without a mesh


def trace_program(
    run: Callable[..., Run],
    data: Any,
    seeds: np.ndarray,
    hparams: Mapping[str, np.ndarray],
    after: Any,
    *,
    chunk: int,
    mapping: str,
    mesh: Mesh | None,
    keep_opt_state: bool,
    keys: KeyKinds | None = None,
) -> Program:
    """The program for `chunk` trials, each with all seeds, not yet compiled.

    Args:
        run: `(key, data, hparams) -> Run`; if there is an `after`, it is passed, too.
        data: pytree of arrays.
        seeds: int[seeds].
        hparams: by name, arrays whose first axis is the trials. Their values are not read.
        after: the ends that the trials continue from, with trials and seeds on the first two axes, or None.
        chunk: trials.
        mapping: "vmap" or "map", over the runs.
        mesh: devices over which the runs are split, or None.
        keep_opt_state: whether the optimizer's states are needed to continue the runs.
        keys: `Program.keys` of the program that `after` comes from.
    """

    def train_one(seed: jax.Array, values: Any, data: Any, after: Run | None) -> tuple[Any, Run, KeyKinds]:
        key = jax.random.key(seed)
        resume = {} if after is None or keys is None else {"after": _wrap_keys(after, keys)}
        got = run(key, data, values, **resume)
        if not isinstance(got, Run):
            raise TypeError(f"sweep: run returned {check.describe(got)}, wanted a Run, as of train.make_run")
        got = jax.tree.map(jnp.asarray, got)
        history = {"diverged_at": jnp.int32(-1)} | dict(got.history)
        end = got._replace(history={"diverged_at": history["diverged_at"]})
        end = end if keep_opt_state else end._replace(opt_state=(), history={})
        return history, *_unwrap_keys(end)

    def train_all(seeds: jax.Array, values: Any, data: Any, after: Run | None) -> tuple[Any, Run, KeyKinds]:
        if (
            after is not None
        ):  # all have taken the same number of steps, which must not be mapped: see make_run
            after = after._replace(step=after.step.reshape(-1)[0])
        axes: Any = None if after is None else RUN_AXES
        if mapping == "vmap":
            # Seeds inside: what depends on the seed alone, weights and batches, is computed once for all trials.
            over_seeds = jax.vmap(train_one, (0, None, None, axes))
            return jax.vmap(over_seeds, (None, 0, None, axes))(seeds, values, data, after)
        trials, n = len(jax.tree.leaves(values)[0]), len(seeds)

        def train_number(i: jax.Array) -> tuple[Any, Run, KeyKinds]:
            trial, seed = i // n, i % n
            # The step has no axes.
            end = jax.tree.map(lambda a: a if a.ndim == 0 else a[trial, seed], after)
            return train_one(seeds[seed], jax.tree.map(lambda a: a[trial], values), data, end)

        flat = jax.lax.map(train_number, jnp.arange(trials * n))
        return jax.tree.map(lambda a: a.reshape(trials, n, *a.shape[1:]), flat)

    layout = arrange(chunk, seeds, mesh)
    f: Callable[..., Any] = train_all
    if mesh is not None and layout.specs is not None:
        f = jax.shard_map(
            train_all, mesh=mesh, in_specs=layout.specs, out_specs=layout.specs[3], check_vma=False
        )

    def put(tree: Any, argument: int) -> Any:
        if mesh is None or layout.specs is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(mesh, layout.specs[argument]))

    data_on_device, seeds_on_device = put(data, 2), put(np.asarray(layout.seeds, np.uint32), 0)

    def arguments(values: Any, after: Any) -> tuple[Any, ...]:
        """Pads the chunk with its last trial, and the seeds with the first ones."""
        count = len(jax.tree.leaves(values)[0])
        rows = np.minimum(np.arange(layout.trials), count - 1)
        columns = np.arange(len(layout.seeds)) % len(seeds)
        values = jax.tree.map(lambda a: _canonical(a)[rows], values)
        if after is not None:
            after = put(jax.tree.map(lambda a: a[rows][:, columns], after), 3)
        return seeds_on_device, put(values, 1), data_on_device, after

    traced = jax.jit(f, compiler_options=options()).trace(*arguments(hparams, after))
    return Program(mapping, traced, arguments, *traced.out_info)


def arrange(chunk: int, seeds: np.ndarray, mesh: Mesh | None) -> Layout:
    """The layout of a chunk. Devices share the trials or the seeds, whichever leaves fewer of them idle."""
    if mesh is None:
        return Layout(chunk, seeds, None)
    names, devices = tuple(mesh.axis_names), mesh.devices.size
    by_trials = round_up(chunk, devices) * len(seeds) <= chunk * round_up(len(seeds), devices)
    split, replicated = PartitionSpec(names), PartitionSpec()
    if by_trials:
        return Layout(round_up(chunk, devices), seeds, (replicated, split, replicated, split))
    padded = seeds[np.arange(round_up(len(seeds), devices)) % len(seeds)]
    return Layout(chunk, padded, (split, replicated, replicated, PartitionSpec(None, names)))


def run_program(
    program: Program,
    hparams: Mapping[str, np.ndarray],
    after: Any,
    *,
    seeds: int,
    times: int,
    histories: bool,
) -> tuple[Summary, Run]:
    """Runs trials for `times` times the run's steps.

    Args:
        program: for this number of trials, or for more.
        hparams: by name, [trials, ...].
        after: the ends that they continue from, as this function returned them, or None.
        seeds: their number.
        times: 1 if after is None.
        histories: whether to keep the whole histories.

    Returns:
        The summary and the ends, in NumPy.
    """
    trials, summary = len(next(iter(hparams.values()))), None
    *arguments, after = program.arguments(hparams, after)
    for _ in range(times):
        history, after, _ = program.executable(*arguments, after)
        more = summarize(to_numpy(history), histories)
        summary = more if summary is None else merge_summaries(summary, more)
    return jax.tree.map(lambda a: a[:trials, :seeds], (summary, to_numpy(after)))


def zero_output(program: Program, trials: int, seeds: int, histories: bool) -> tuple[Summary, Run]:
    """Zeros with the shapes and dtypes of what `run_program` returns. They take no memory."""

    def zeros(a: Any) -> np.ndarray:
        return np.broadcast_to(np.zeros([], a.dtype), (trials, seeds, *a.shape[2:]))

    history, ends = jax.tree.map(zeros, (program.history, program.ends))
    return summarize(history, histories), ends


def curve_names(history: Mapping[str, Any]) -> list[str]:
    """The entries of a history that are curves: one floating-point number at a time."""
    return [name for name, a in history.items() if len(a.shape) < 4 and jnp.issubdtype(a.dtype, jnp.floating)]


def summarize(history: dict[str, np.ndarray], keep_history: bool) -> Summary:
    """The summary of histories with the trials and the seeds on the first two axes."""
    curves = {name: history[name].reshape(*history[name].shape[:2], -1) for name in curve_names(history)}
    return Summary(
        {name: a[..., -1] for name, a in curves.items()},
        {name: np.fmin.reduce(a, axis=-1) for name, a in curves.items()},  # fmin ignores NaN
        {name: np.fmax.reduce(a, axis=-1) for name, a in curves.items()},
        history["diverged_at"],
        history if keep_history else {},
    )


def merge_summaries(before: Summary, more: Summary) -> Summary:
    """The summary of histories and their continuations."""
    return Summary(
        more.last,
        jax.tree.map(np.fmin, before.lowest, more.lowest),
        jax.tree.map(np.fmax, before.highest, more.highest),
        np.where(before.diverged_at >= 0, before.diverged_at, more.diverged_at),
        more.history,
    )


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _unwrap_keys(end: Run) -> tuple[Run, KeyKinds]:
    """The run with key data for its keys, which NumPy cannot hold, and the kinds of the keys."""
    kinds = tuple(jax.random.key_impl(a) if _is_key(a) else None for a in jax.tree.leaves(end))
    return jax.tree.map(lambda a: jax.random.key_data(a) if _is_key(a) else a, end), KeyKinds(kinds)


def _wrap_keys(end: Run, keys: KeyKinds) -> Run:
    """The run with its keys, as before `_unwrap_keys`."""
    leaves, structure = jax.tree.flatten(end)
    wrapped = [
        a if kind is None else jax.random.wrap_key_data(a, impl=kind)
        for a, kind in zip(leaves, keys.kinds, strict=True)
    ]
    return jax.tree.unflatten(structure, wrapped)


def _is_key(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def _canonical(a: Any) -> np.ndarray:
    """The array in the dtype that JAX would give it."""
    return np.asarray(a, jax.dtypes.canonicalize_dtype(np.asarray(a).dtype))
