"""The state of a run of `fit`: everything that changes while it trains."""

from dataclasses import dataclass, field

from fnnet.train.fit.guarded_step import LoopState
from fnnet.train.fit.journal import Journal
from fnnet.train.fit.pace import Pace


@dataclass
class FitRun:
    """A run between two calls of the compiled program."""

    loop: LoopState  # on the devices
    journal: Journal  # what has happened so far
    step: int  # steps taken
    pace: Pace = field(default_factory=Pace)  # times that change no result
