"""GPT-2 124M in bfloat16: tokens per second and MFU, with XLA's attention and with cuDNN's, beside torch.compile."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import train_step
from experiments.benchmarks.accelerator.machine import peak_flops
from experiments.benchmarks.accelerator.measure import out_of_memory, release_memory, torch_device
from experiments.benchmarks.accelerator.part import Part, Row, Settings, out_of_time, reason
from experiments.benchmarks.workloads import gpt2

TINY = gpt2.Sizes(batch=2, tokens=16, vocabulary=64, layers=2, width=32, heads=4)
STEPS, WARM_UP = 15, 3
# PyTorch comes first: it gives its memory back, and JAX keeps what it once had.
SIDES = {
    "torch.compile": 60.0,  # seconds to compile on a GPU, approximately
    "fnnet, cuDNN's attention, causal": 30.0,
    "fnnet, XLA's attention": 30.0,
    "fnnet, cuDNN's attention, mask": 30.0,
}
ATTENTION: dict[str, gpt2.Attention] = {
    "fnnet, cuDNN's attention, causal": "cudnn causal",
    "fnnet, XLA's attention": "block",
    "fnnet, cuDNN's attention, mask": "cudnn",
}
# Without a fused kernel, backprop keeps the attention weights of all pairs of tokens: 58 GB for a batch of 64.
HALF_BATCH = ("fnnet, XLA's attention",)


def rows(settings: Settings) -> Iterator[Row]:
    sizes = TINY if settings.tiny else gpt2.SIZES
    peak = peak_flops(jax.devices()[0].device_kind)
    for side, seconds in SIDES.items():
        row: Row = {"side": side}
        if note := out_of_time(settings, seconds):
            row["note"] = note
        elif why := missing(side, settings.tiny):
            row["note"] = f"skipped: {why}"
        else:
            try:
                first = sizes._replace(batch=sizes.batch // 2) if side in HALF_BATCH else sizes
                row |= measured(partial(step_of, side), first, settings, peak)
            except Exception as error:
                row["note"] = reason(error)
        release_memory()
        yield row


def missing(side: str, tiny: bool) -> str | None:
    """Why a side cannot run here, or None."""
    if side == "torch.compile" and tiny:
        return "torch.compile takes minutes on a CPU"
    if side == "torch.compile" and not importlib.util.find_spec("torch"):
        return "PyTorch is not installed"
    if "cuDNN" in side and jax.default_backend() != "gpu":
        return f"cuDNN needs a GPU, and JAX has {jax.default_backend()}"
    return None


def step_of(side: str, sizes: gpt2.Sizes) -> Callable[[], Any]:
    """A function that takes one step and waits."""
    if side == "torch.compile":
        import torch

        return train_step.torch(gpt2, sizes, compiled=True, device=torch_device(), dtype=torch.bfloat16)
    return train_step.fnnet(gpt2, sizes._replace(attention=ATTENTION[side]), dtype=jnp.bfloat16)


def measured(
    make: Callable[[gpt2.Sizes], Any], sizes: gpt2.Sizes, settings: Settings, peak: float | None
) -> Row:
    """Milliseconds per step, tokens per second and MFU, at the largest batch that fits."""
    batch, run, first_run = at_largest_batch(make, sizes)
    times = []
    for i in range(-WARM_UP, STEPS):
        start = time.perf_counter()
        loss = run()
        if i >= 0:
            times.append(time.perf_counter() - start)
        if settings.left() <= 0 and times:
            break
    low, median, high = (float(q) for q in np.percentile(times, [25, 50, 75]))
    speed = batch * sizes.tokens / median
    return {
        "batch": batch,
        "ms": 1e3 * median,
        "low": 1e3 * low,
        "high": 1e3 * high,
        "tokens_per_second": speed,
        "mfu": mfu(speed, flops_per_token(sizes), peak),
        "first_run_s": first_run,
        "loss": float(loss),
    }


def at_largest_batch(
    make: Callable[[gpt2.Sizes], Callable[[], Any]], sizes: gpt2.Sizes
) -> tuple[int, Callable[[], Any], float]:
    """The batch, halved until it fits into memory; its step; and the seconds of its first run."""
    batch = sizes.batch
    while True:
        start = time.perf_counter()
        try:
            run = make(sizes._replace(batch=batch))
            run()
        except Exception as error:
            if batch == 1 or not out_of_memory(error):
                raise
        else:
            return batch, run, time.perf_counter() - start
        release_memory()
        batch //= 2


def flops_per_token(sizes: gpt2.Sizes) -> float:
    """FLOPs of a token, forward and backward: 6 N + 12 L H Q T.

    N is the number of params without those of the positions, L of blocks, H of heads, Q of features of a head, and T
    of tokens. Source: Chowdhery et al. 2022, arXiv:2204.02311 (PaLM), appendix B, as in nanoGPT's estimate_mfu.
    """
    params, positions = gpt2.params_of(sizes)
    return 6.0 * (params - positions) + 12.0 * sizes.layers * sizes.width * sizes.tokens


def mfu(tokens_per_second: float, flops: float, peak: float | None) -> float | None:
    """Model FLOPs utilization: the share of the card's peak that the model's own FLOPs take; None without a peak."""
    return None if peak is None else tokens_per_second * flops / peak


PART = Part(
    title=(
        f"GPT-2 124M, bfloat16, AdamW, {gpt2.SIZES.tokens:,} tokens per sequence; MFU by 6 N + 12 L H Q T of the card's"
        " dense bfloat16 peak, empty where that is not known"
    ),
    seconds=155,
    columns={
        "side": "side",
        "batch": "batch",
        "ms": "ms",
        "low": "1st quartile",
        "high": "3rd quartile",
        "tokens_per_second": "tokens per second",
        "mfu": "MFU",
        "first_run_s": "first run, s",
        "loss": "loss",
    },
    rows=rows,
)
