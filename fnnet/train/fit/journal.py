"""The journal of a run: what has happened so far, besides the arrays on the devices. A checkpoint has it, too."""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.train.fit.results import Best
from fnnet.train.fit.stopping import is_better
from fnnet.train.history import join_chunks
from fnnet.train.step import TrainState


@dataclass
class Journal:
    """What has happened in a run."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # one per evaluation
    chunks: list[dict[str, np.ndarray]] = field(
        default_factory=list
    )  # numbers of the steps, one dict per call
    evaluated_chunks: int = 0  # how many of the chunks came before the last row
    best: Best | None = None
    since_best: int = 0  # evaluations
    plateau: Any = None  # state of reduce_on_plateau
    seconds: float = 0.0  # of steps and evaluations
    stopped: str = ""  # why, see `stop_reason`; "" while it continues

    def take_since_row(self) -> dict[str, np.ndarray]:
        """The numbers of the steps since the last row. The next row starts after them."""
        since, self.evaluated_chunks = join_chunks(self.chunks[self.evaluated_chunks :]), len(self.chunks)
        return since

    def record_best(self, value: float, maximize: bool, step: int, now: TrainState) -> None:
        """Keeps the state if its evaluation is the best one, else counts the evaluation."""
        if is_better(value, math.nan if self.best is None else self.best.value, maximize):
            # A copy, since the next step overwrites the params.
            self.best = Best(step, value, *jax.tree.map(jnp.copy, (now.params, now.state)))
            self.since_best = 0
        else:
            self.since_best += 1
