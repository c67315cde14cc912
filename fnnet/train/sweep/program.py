"""Some trials of a sweep as one compiled program: `vmap` or `lax.map`, on one device or on those of a mesh.

On accelerators `vmap` fills the device. On a CPU it saves the overhead of small operations, and loses where kernels
become grouped convolutions, or where the weights of all runs together leave the cache. Milliseconds of 16 runs, Adam,
batch 64, as 16 trials of one seed / as 4 trials of 4 seeds, least of 6 (two busy cores, jax 0.10.1):

    network, steps                        vmap         map
    MLP 64-32-10, 40                    11 / 14     21 / 26
    MLP 64-128-128-10, 10               28 / 27     28 / 36
    MLP 256-256-256-10, 5               89 / 79     72 / 97
    MLP 512-384-384-10, 4             230 / 209   128 / 164
    MLP 784-512-512-10, 3             267 / 180   126 / 162
    CNN 8x8, 16 and 32 channels, 4    115 / 142     76 / 79
    LSTM 16x16, 32 units, 4             53 / 49     49 / 53
    transformer block 16x32, 4        276 / 124   239 / 147
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnnet import check
from fnnet.train.compiler import options
from fnnet.train.run import Run

# What of the ends of many runs is mapped over: all but the step, which they share.
AXES: Any = Run(*cast(Any, (0, 0, 0, 0, None)))
# Where the params of one run take more bytes than this, "auto" is "map" on a CPU: see the table above.
LARGE = 2**20
# Of the memory that is free a program may take so much: what is measured leaves out fragments, and other programs.
SHARE = 0.7


class Summary(NamedTuple):
    """What is kept of a trial's history, each by name, with the trials and the seeds on the first two axes."""

    last: dict[str, Any]  # the last value
    lowest: dict[str, Any]  # the least that is a number
    highest: dict[str, Any]  # the largest
    diverged_at: Any  # int32, as make_run counts it; -1 where all is finite
    history: dict[str, Any]  # all of it, or {}


@dataclass(frozen=True, eq=False)
class Program:
    """What runs some trials, each with all seeds, at once."""

    traced: Any  # of jax.jit
    # (hparams, after), on the host, as what the executable takes.
    arguments: Callable[[Any, Any], tuple[Any, ...]]
    history: dict[str, Any]  # of shapes, [trials, seeds, ...] with what fills them up
    ends: Run  # of shapes: the runs' ends, of the history the divergence alone, of keys their words
    keys: tuple[Any, ...]  # for each leaf of them the kind of its keys, None for a plain array

    @cached_property
    def executable(self) -> Any:
        """Compiled on first use."""
        return self.traced.lower().compile()


class Plan(NamedTuple):
    """How a sweep is done."""

    mapping: str  # "vmap", "map", or "fastest", which is found out on the way
    why: str
    chunk: int  # trials at once
    program: Program  # of the first chunk


def plan(
    form: Callable[..., Program],
    hparams: dict[str, np.ndarray],
    *,
    seeds: int,
    mapping: str,
    chunk: int,
    fits: bool,
    mesh: Mesh | None,
) -> Plan:
    """Which mapping, and how many trials at once.

    Args:
        form: `trace`, given all but hparams, after, chunk and mapping.
        hparams: of all trials.
        seeds: how many.
        mapping: as `sweep` was asked for.
        chunk: trials at once, at most.
        fits: whether to take fewer where so many would not fit the memory.
        mesh: devices, or None.
    """
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    devices = 1 if mesh is None else mesh.devices.size
    free = SHARE * bytes_free(device, devices if device.platform == "cpu" else 1)
    trials = len(next(iter(hparams.values())))

    def made(how: str, chunk: int) -> Program:
        return form({name: a[:chunk] for name, a in hparams.items()}, None, chunk=chunk, mapping=how)

    def needs(program: Program) -> float:
        # What comes out is known without compiling; what is needed on the way is not.
        out = bytes_of((program.history, program.ends)) / devices
        return out if out > free else max(out, bytes_needed(program.executable))

    how = "map" if mapping == "map" else "vmap"
    why = "as asked for"
    program = made(how, chunk)
    if mapping == "auto":
        slow = _slow_under_vmap(program, chunk * seeds) if device.platform == "cpu" else ""
        how, why = ("map", slow) if slow else ("vmap", f"fast for this network on a {device.platform}")
        program = made(how, chunk) if slow else program
    while fits and (needed := needs(program)) > free:
        if chunk > 1:
            chunk = max(min(chunk // 2, int(chunk * free / needed)), 1)
        elif how == "vmap" and seeds > 1 and mapping != "vmap":
            mapping, how, why = "auto", "map", "all seeds of one trial at once would not fit the memory"
        else:
            break  # there is no smaller program
        program = made(how, chunk)
    if mapping == "fastest" and chunk < trials:
        return Plan("fastest", "not measured yet", chunk, program)
    return Plan(how, why, chunk, program)


def trace(
    run: Callable[..., Run],
    data: Any,
    seeds: np.ndarray,
    hparams: dict[str, np.ndarray],
    after: Any,
    *,
    chunk: int,
    mapping: str,
    mesh: Mesh | None,
    goes_on: bool,
    keys: tuple[Any, ...] = (),
) -> Program:
    """The program for `chunk` trials, each with all seeds, not yet compiled.

    Args:
        run: `(key, data, hparams) -> Run`; called with `after=` too where there is one.
        data: pytree of arrays.
        seeds: int[seeds].
        hparams: by name, arrays whose first axis is that of the trials; their values are not read.
        after: the ends that the trials go on from, trials and seeds on the first two axes, or None.
        chunk: trials.
        mapping: over the runs.
        mesh: devices to spread them over, or None.
        goes_on: whether the optimizer's states are needed afterwards.
        keys: `Program.keys` of the program that `after` comes from.
    """
    kinds: tuple[Any, ...] = ()

    def one(seed: jax.Array, values: Any, data: Any, after: Run | None) -> tuple[Any, Run]:
        nonlocal kinds
        key = jax.random.key(seed)
        before = {} if after is None else {"after": _wrapped(after, keys)}
        got = run(key, data, values, **before)
        if not isinstance(got, Run):
            raise TypeError(f"sweep: run returned {check.describe(got)}, wanted a Run, as of train.make_run")
        got = jax.tree.map(jnp.asarray, got)
        history = {"diverged_at": jnp.int32(-1)} | dict(got.history)
        end = got._replace(history={"diverged_at": history["diverged_at"]})
        end = end if goes_on else end._replace(opt_state=(), history={})
        kinds = tuple(jax.random.key_impl(a) if _is_key(a) else None for a in jax.tree.leaves(end))
        return history, jax.tree.map(lambda a: jax.random.key_data(a) if _is_key(a) else a, end)

    def all_of(seeds: jax.Array, values: Any, data: Any, after: Run | None) -> tuple[Any, Run]:
        if after is not None:  # all have taken the same steps, and it must not be mapped: see make_run
            after = after._replace(step=after.step.reshape(-1)[0])
        mapped: Any = None if after is None else AXES
        if mapping == "vmap":
            # Seeds inside: what depends on the seed alone, weights and batches, is computed once for all trials.
            over_seeds = jax.vmap(one, (0, None, None, mapped))
            return jax.vmap(over_seeds, (None, 0, None, mapped))(seeds, values, data, after)
        trials, n = len(jax.tree.leaves(values)[0]), len(seeds)

        def flat_one(i: jax.Array) -> tuple[Any, Run]:
            trial, seed = i // n, i % n
            here = None
            if after is not None:
                here = jax.tree.map(
                    lambda a: a if a.ndim == 0 else a[trial, seed], after
                )  # the step has no axes
            return one(seeds[seed], jax.tree.map(lambda a: a[trial], values), data, here)

        flat = jax.lax.map(flat_one, jnp.arange(trials * n))
        return jax.tree.map(lambda a: a.reshape(trials, n, *a.shape[1:]), flat)

    if mesh is None:
        f, places, padded, filled = all_of, None, seeds, chunk
    else:
        names, devices = tuple(mesh.axis_names), mesh.devices.size
        # Devices share the trials, or the seeds, whichever leaves fewer of them idle.
        by_trials = round_up(chunk, devices) * len(seeds) <= chunk * round_up(len(seeds), devices)
        filled = round_up(chunk, devices) if by_trials else chunk
        split, whole = PartitionSpec(names), PartitionSpec()
        both = split if by_trials else PartitionSpec(None, names)
        places = (whole if by_trials else split, split if by_trials else whole, whole, both)
        f = jax.shard_map(all_of, mesh=mesh, in_specs=places, out_specs=both, check_vma=False)
        padded = seeds if by_trials else seeds[np.arange(round_up(len(seeds), devices)) % len(seeds)]

    def put(tree: Any, place: int) -> Any:
        if mesh is None or places is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(mesh, places[place]))

    given_data, given_seeds = put(data, 2), put(np.asarray(padded, np.uint32), 0)

    def arguments(values: Any, after: Any) -> tuple[Any, ...]:
        """With the last trial, and the first seeds, again, to fill up the chunk and the devices."""
        count = len(jax.tree.leaves(values)[0])
        rows = np.minimum(np.arange(filled), count - 1)
        columns = np.arange(len(padded)) % len(seeds)
        values = jax.tree.map(lambda a: _canonical(a)[rows], values)
        if after is not None:
            after = put(jax.tree.map(lambda a: a[rows][:, columns], after), 3)
        return given_seeds, put(values, 1), given_data, after

    traced = jax.jit(f, compiler_options=options()).trace(*arguments(hparams, after))
    history, ends = traced.out_info
    return Program(traced, arguments, history, ends, kinds)


def curves(history: dict[str, Any]) -> list[str]:
    """Which parts of a history are one floating-point number at a time."""
    return [name for name, a in history.items() if len(a.shape) < 4 and jnp.issubdtype(a.dtype, jnp.floating)]


def summarize(history: dict[str, np.ndarray], whole: bool) -> Summary:
    """Of histories with the trials and the seeds on the first two axes."""
    of = {name: history[name].reshape(*history[name].shape[:2], -1) for name in curves(history)}
    return Summary(
        {name: a[..., -1] for name, a in of.items()},
        {name: np.fmin.reduce(a, axis=-1) for name, a in of.items()},  # passes over NaN
        {name: np.fmax.reduce(a, axis=-1) for name, a in of.items()},
        history["diverged_at"],
        history if whole else {},
    )


def has_convolution(jaxpr: Any) -> bool:
    """Whether a program convolves, anywhere in it."""
    inner = (v for eqn in jaxpr.eqns for v in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr))
    return any(eqn.primitive.name == "conv_general_dilated" for eqn in jaxpr.eqns) or any(
        has_convolution(getattr(v, "jaxpr", v)) for v in inner if _is_jaxpr(v)
    )


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _slow_under_vmap(program: Program, runs: int) -> str:
    """Why the runs should go one after the other on a CPU, or nothing."""
    if has_convolution(program.traced.jaxpr.jaxpr):
        return "a convolution on a CPU, where vmapped kernels are slow"
    if bytes_of(program.ends.params) > LARGE * runs:
        return "large weights on a CPU, whose cache those of several runs would leave"
    return ""


def call(
    program: Program, hparams: Any, after: Any, *, seeds: int, times: int, histories: bool
) -> tuple[Summary, Run]:
    """Summary and ends, on the host, of trials that run `times` times the run's steps.

    Args:
        program: for so many trials, or for more.
        hparams: by name, [trials, ...].
        after: the ends that they go on from, as they were returned, or None.
        seeds: how many.
        times: 1 where after is None.
        histories: whether to keep them.
    """
    trials, summary = len(next(iter(hparams.values()))), None
    *arguments, after = program.arguments(hparams, after)
    for _ in range(times):
        history, after = program.executable(*arguments, after)
        more = summarize(to_host(history), histories)
        summary = more if summary is None else merged(summary, more)
    return jax.tree.map(lambda a: a[:trials, :seeds], (summary, to_host(after)))


def blank(program: Program, trials: int, seeds: int, histories: bool) -> tuple[Summary, Run]:
    """What `call` returns, in shapes and dtypes; all is 0, and takes no memory."""

    def zeros(a: Any) -> np.ndarray:
        return np.broadcast_to(np.zeros([], a.dtype), (trials, seeds, *a.shape[2:]))

    history, ends = jax.tree.map(zeros, (program.history, program.ends))
    return summarize(history, histories), ends


def merged(before: Summary, more: Summary) -> Summary:
    """Of histories and their continuations."""
    return Summary(
        more.last,
        jax.tree.map(np.fmin, before.lowest, more.lowest),
        jax.tree.map(np.fmax, before.highest, more.highest),
        np.where(before.diverged_at >= 0, before.diverged_at, more.diverged_at),
        more.history,
    )


def bytes_needed(compiled: Any) -> int:
    """What the executable takes of a device's memory beside its arguments, 0 where the backend does not tell."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)


def bytes_of(shapes: Any) -> int:
    """The size of arrays of these shapes."""
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(shapes))


def bytes_free(device: jax.Device, sharing: int = 1) -> int:
    """Memory of a device that is free: its own, or an equal part of the host's for those that share that."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = 1024 * int(found.group(1)) if found else None
    except OSError:  # no Linux
        free = None
    return (free or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // sharing


def to_host(tree: Any) -> Any:
    """Arrays of NumPy."""
    return jax.tree.map(np.asarray, tree)


def _wrapped(tree: Any, keys: tuple[Any, ...]) -> Any:
    """The keys, of which there are the words, as keys again."""
    leaves, structure = jax.tree.flatten(tree)
    whole = [
        a if kind is None else jax.random.wrap_key_data(a, impl=kind)
        for a, kind in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, whole)


def _is_key(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def _canonical(a: Any) -> np.ndarray:
    """In the dtype that JAX would give it."""
    return np.asarray(a, jax.dtypes.canonicalize_dtype(np.asarray(a).dtype))
