"""The plan of a sweep: `vmap` or `map`, and how many trials per compiled call.

On accelerators `vmap` fills the device. On a CPU it saves the overhead of small operations, but it is slow where
kernels become grouped convolutions, or where the weights of all runs together do not fit in the cache. Milliseconds
for 16 runs, Adam, batch 64, as 16 trials of one seed / as 4 trials of 4 seeds, the least of 6 (two busy cores, jax
0.10.1):

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fnnet.train.sweep.program import Program

# With more bytes of params per run than this, "auto" is "map" on a CPU: see the table above.
LARGE = 2**20
# The share of the free memory that a program may take. The estimate leaves out fragmentation and other programs.
SHARE = 0.7

Trace = Callable[..., Program]  # `trace_program` without hparams, after, chunk, mapping and keys


class Plan(NamedTuple):
    """How a sweep runs its trials."""

    mapping: str  # "vmap", "map", or "fastest", which is decided after two chunks
    why: str
    chunk: int  # trials per compiled call
    program: Program  # of the first chunk


def make_plan(
    trace: Trace,
    hparams: Mapping[str, np.ndarray],
    *,
    seeds: int,
    mapping: str,
    chunk: int,
    fit_memory: bool,
    mesh: Mesh | None,
) -> Plan:
    """Chooses the mapping, and the number of trials per compiled call.

    Args:
        trace: `trace_program` with its first three arguments, mesh and keep_opt_state.
        hparams: of all trials.
        seeds: their number.
        mapping: as passed to `sweep`.
        chunk: the most trials per call.
        fit_memory: whether to take fewer trials if so many do not fit in the memory.
        mesh: devices, or None.
    """
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    devices = 1 if mesh is None else mesh.devices.size
    free = SHARE * bytes_free(device, devices if device.platform == "cpu" else 1)
    trials = len(next(iter(hparams.values())))

    def trace_first(mapping: str, chunk: int) -> Program:
        return trace({name: a[:chunk] for name, a in hparams.items()}, None, chunk=chunk, mapping=mapping)

    chosen = "map" if mapping == "map" else "vmap"
    why = "as asked for"
    program = trace_first(chosen, chunk)
    if mapping == "auto":
        slow = why_slow_under_vmap(program, chunk * seeds) if device.platform == "cpu" else ""
        chosen, why = ("map", slow) if slow else ("vmap", f"fast for this network on a {device.platform}")
        program = trace_first(chosen, chunk) if slow else program
    while fit_memory and (needed := bytes_needed(program, devices, free)) > free:
        if chunk > 1:
            chunk = max(min(chunk // 2, int(chunk * free / needed)), 1)
        elif chosen == "vmap" and seeds > 1 and mapping != "vmap":
            mapping, chosen = "auto", "map"
            why = "all seeds of one trial at once would not fit in the memory"
        else:
            break  # there is no smaller program
        program = trace_first(chosen, chunk)
    if mapping == "fastest" and chunk < trials:
        return Plan("fastest", "not measured yet", chunk, program)
    return Plan(chosen, why, chunk, program)


def resume_plan(trace: Trace, hparams: Mapping[str, np.ndarray], found: Mapping[str, Any]) -> Plan:
    """The plan of an earlier call, from the settings in the sweep's folder."""
    chunk, mapping = found["chunk"], found["mapping"]
    values = {name: a[:chunk] for name, a in hparams.items()}
    program = trace(values, None, chunk=chunk, mapping="vmap" if mapping == "fastest" else mapping)
    return Plan(mapping, found["why"], chunk, program)


def choose_mapping(plan: Plan, seconds: Sequence[float]) -> tuple[str, str]:
    """The mapping of the next chunk, and the reason.

    Args:
        plan: of the sweep.
        seconds: that each chunk so far has taken.
    """
    if plan.mapping != "fastest":
        return plan.mapping, plan.why
    if len(seconds) < 2:
        return ("vmap", "map")[len(seconds)], "is timed"
    vmapped, mapped = seconds[:2]
    why = f"a chunk took {vmapped:.3g} s by vmap and {mapped:.3g} s by map"
    return "vmap" if vmapped <= mapped else "map", why


def why_slow_under_vmap(program: Program, runs: int) -> str:
    """Why the runs should go one after the other on a CPU, or ""."""
    if has_convolution(program.traced.jaxpr.jaxpr):
        return "a convolution on a CPU, where vmapped kernels are slow"
    if bytes_of(program.ends.params) > LARGE * runs:
        return "large weights on a CPU, where those of several runs do not fit in the cache"
    return ""


def has_convolution(jaxpr: Any) -> bool:
    """Whether there is a convolution anywhere in a program."""
    inner = (v for eqn in jaxpr.eqns for v in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr))
    return any(eqn.primitive.name == "conv_general_dilated" for eqn in jaxpr.eqns) or any(
        has_convolution(getattr(v, "jaxpr", v)) for v in inner if _is_jaxpr(v)
    )


def bytes_needed(program: Program, devices: int, free: float) -> float:
    """The memory that a program takes on a device beside its arguments."""
    # The size of the output is known without compiling, that of temporary arrays is not.
    output = bytes_of((program.history, program.ends)) / devices
    if output > free:
        return output
    analysis = program.executable.memory_analysis()
    if analysis is None:  # the backend does not report it
        return output
    return max(output, int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes))


def bytes_of(shapes: Any) -> int:
    """The size of arrays of these shapes."""
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(shapes))


def bytes_free(device: jax.Device, sharing: int = 1) -> int:
    """The free memory of a device: its own, or an equal part of the host's for devices that share that."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = 1024 * int(found.group(1)) if found else None
    except OSError:  # not Linux
        free = None
    return (free or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // sharing


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")
