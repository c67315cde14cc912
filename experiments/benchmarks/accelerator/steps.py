"""Steps of an MLP, a CNN, a ResNet-18 and an LSTM beside torch.compile on the same card."""

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from experiments.benchmarks import forward_backward, train_step
from experiments.benchmarks.accelerator.measure import Side, rows_of, torch_device
from experiments.benchmarks.accelerator.part import Part, Row, Settings
from experiments.benchmarks.workloads import cnn, lstm, mlp, resnet18


class Case(NamedTuple):
    """A workload, how it is run, and its sizes."""

    title: str
    runner: Any  # train_step or forward_backward
    workload: Any
    tiny: Any  # sizes on a CPU
    half: bool = False  # computed in bfloat16
    seconds: float = 10.0  # to make and compile fnnet's side; torch.compile is given three times as long


CASES = (
    Case(
        *("MLP 784-512-512-10, batch 128, Adam, float32", train_step, mlp),
        tiny=mlp.Sizes(batch=4, features=(6, 5, 3)),
        seconds=3,
    ),
    Case(
        *("LeNet-like CNN, 28x28, batch 128, Adam, float32", train_step, cnn),
        tiny=cnn.Sizes(batch=2, size=8, channels=(3, 4), hidden=5, classes=3),
        seconds=6,
    ),
    Case(
        *("ResNet-18, 224x224, batch 128, Adam, bfloat16", train_step, resnet18),
        tiny=resnet18.Sizes(batch=2, size=32, channels=4, classes=5),
        half=True,
        seconds=15,
    ),
    Case(
        *("LSTM, batch 64, 100 steps, 64 to 128, forward and backward, float32", forward_backward, lstm),
        tiny=lstm.Sizes(batch=2, time=3, features=4, hidden=5),
        seconds=5,
    ),
)


def rows(settings: Settings) -> Iterator[Row]:
    for case in CASES:
        yield from rows_of(case.title, sides_of(case, settings.tiny), settings, same=not case.half)


def sides_of(case: Case, tiny: bool) -> dict[str, Side]:
    """fnnet; PyTorch, compiled and eager; Flax and Equinox, in float32 only. A peer that is missing is left out.

    A tiny run leaves torch.compile out, which takes minutes on a CPU.
    """
    sizes = case.tiny if tiny else case.workload.SIZES
    runner, arguments = case.runner, (case.workload, sizes)
    half: dict[str, Any] = {"dtype": jnp.bfloat16} if case.half else {}
    sides = {"fnnet": Side(partial(runner.fnnet, *arguments, **half), case.seconds)}

    def torch_side(compiled: bool) -> Any:
        import torch

        half = {"dtype": torch.bfloat16} if case.half else {}
        return runner.torch(*arguments, compiled=compiled, device=torch_device(), **half)

    if importlib.util.find_spec("torch"):
        if not tiny:
            sides["torch.compile"] = Side(partial(torch_side, True), 3 * case.seconds)
        sides["torch"] = Side(partial(torch_side, False), 3)
    for peer in ("flax", "equinox"):
        if importlib.util.find_spec(peer) and not case.half:
            sides[peer] = Side(partial(getattr(runner, peer), *arguments), case.seconds)
    return sides


PART = Part(
    title="Steps beside other libraries, one after the other on the same card, all in the same process",
    seconds=120,
    columns={
        "workload": "step",
        "side": "side",
        "ms": "ms",
        "low": "1st quartile",
        "high": "3rd quartile",
        "over_first": "over fnnet",
        "first_run_s": "first run, s",
        "difference": "off by",
    },
    rows=rows,
)
