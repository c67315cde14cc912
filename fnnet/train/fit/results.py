"""What `fit` returns, raises, and gives to callbacks."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fnnet.layer import Params, State
from fnnet.train.progress import format_number
from fnnet.train.step import TrainState


class Best(NamedTuple):
    """The best evaluation. It prints as one line, without the params' numbers."""

    step: int  # steps taken before it
    value: float  # of the monitored loss or metric
    params: Params
    state: State

    def __repr__(self) -> str:
        return f"Best(step={self.step}, value={self.value:.6g}, {_count(self.params)})"


class Evaluation(NamedTuple):
    """What a callback is given after each evaluation."""

    step: int  # steps taken
    epoch: float  # passes through the data
    row: dict[str, Any]  # the evaluation's line in history.jsonl
    params: Params
    state: State

    def __repr__(self) -> str:
        return f"Evaluation(step={self.step}, epoch={self.epoch:.6g}, {_numbers(self.row)}, {_count(self.params)})"


class Fitted(NamedTuple):
    """What `fit` returns. It prints as a few lines, without the params' numbers."""

    params: Params  # with `patience` those of the best evaluation, else the last
    state: State  # the layers' own that belong to them
    history: dict[str, np.ndarray]
    best: Best | None  # None without `valid`
    stopped: str  # "finished", "patience", "callback", "interrupted"; of a DivergedError's result "diverged"
    now: TrainState  # after the last step, with the optimizer's state

    def __repr__(self) -> str:
        lines = [f"Fitted({_count(self.params)}, stopped={self.stopped!r}"]
        if isinstance(self.best, Best):
            lines.append(f"best: step {self.best.step}, value {self.best.value:.6g}")
        steps = {name for name in self.history if name.startswith("train_")}
        last = {name: values[-1] for name, values in self.history.items() if len(values)}
        evaluated = {
            name: value
            for name, value in last.items()
            if name not in (*steps, "eval_step") and np.ndim(value) == 0
        }
        if evaluated:
            lines.append(f"last evaluation, step {last['eval_step']}: {_numbers(evaluated)}")
        lengths = [f"{name}[{len(values)}]" for name, values in self.history.items()]
        lines.append(f"history: {', '.join(lengths)}")
        return "\n  ".join(lines) + ")"


class DivergedError(FloatingPointError):
    """A loss or a gradient is not finite. `fitted` has what was reached: nothing is lost.

    Its params are those before the bad step. Where the loss was finite and only its gradient was not, the params are
    bad themselves: go back to `best` or to a checkpoint.
    """

    fitted: Fitted


def _count(params: Any) -> str:
    """How many numbers there are: "4,810 params"."""
    return f"{sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(params)):,} params"


def _numbers(values: Mapping[str, Any]) -> str:
    """The scalars of a row as text."""
    shown = {name: value for name, value in values.items() if isinstance(value, int | float | np.number)}
    return ", ".join(f"{name} {format_number(value)}" for name, value in shown.items() if name != "step")
