"""How many steps one call of the compiled program takes."""

import time
from dataclasses import dataclass

CALL_SECONDS = 0.2  # what a call should take: Ctrl-C and the progress bar wait for its end
FASTER = 8  # the most that a call may be longer than the one before it


@dataclass
class Pace:
    """The measured times that decide the length of a call and when a checkpoint is due. They change no result."""

    steps_per_call: int = 1
    saving_seconds: float = 1.0  # what the last checkpoint took
    unsaved_seconds: float = 0.0  # since then


def seconds_since(began: float) -> float:
    """The seconds since then by `time.perf_counter`; a nanosecond at least, should the clock stand still or go back."""
    return max(time.perf_counter() - began, 1e-9)


def steps_in_call(
    step: int, steps: int, every: tuple[int | None, ...], *, steps_per_call: int, capacity: int
) -> int:
    """How many steps to take in the next call: it ends where an evaluation or a checkpoint is due.

    Args:
        step: steps taken.
        steps: steps in all.
        every: steps from one evaluation to the next, and from one checkpoint to the next; None: not by steps.
        steps_per_call: the pace.
        capacity: the most steps that the program takes in one call.
    """
    stops = [steps, *(step + n - step % n for n in every if n)]
    return min(min(stops) - step, capacity, steps_per_call)


def next_steps_per_call(taken: int, seconds: float) -> int:
    """The pace after a call that took some steps in some seconds."""
    return max(1, min(FASTER * taken, int(CALL_SECONDS * taken / seconds)))
