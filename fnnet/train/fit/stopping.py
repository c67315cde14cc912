"""Why training stops: the end, early stopping by patience, a callback, Ctrl-C."""

import math

REASONS = ("patience", "callback", "finished", "interrupted", "")  # "" while training continues


def stop_reason(
    step: int,
    steps: int,
    *,
    evaluated: bool,
    since_best: int,
    patience: int | None,
    callback_stops: bool,
    interrupted: bool,
) -> str:
    """Why training stops after this step; "" if it continues. The first reason that applies is the one that is given.

    Args:
        step: steps taken.
        steps: steps in all.
        evaluated: whether there was an evaluation after this step.
        since_best: evaluations since the best one.
        patience: evaluations without a new best after which training stops; None: never.
        callback_stops: whether a callback returned True.
        interrupted: whether Ctrl-C was pressed.

    Returns:
        "patience", "callback", "finished", "interrupted" or "".
    """
    if evaluated and patience is not None and since_best >= patience:
        return "patience"
    if callback_stops:
        return "callback"
    if step >= steps:
        return "finished"
    return "interrupted" if interrupted else ""


def still_stopped(
    stopped: str, step: int, steps: int, *, since_best: int, patience: int | None, has_callbacks: bool
) -> bool:
    """Whether a run that is resumed is over already, by the reason for which it stopped, "" for none.

    It continues after an interruption, or where it is now given more steps, more patience, or no callbacks.
    """
    return {
        "": False,
        "interrupted": False,
        "finished": step >= steps,
        "patience": patience is not None and since_best >= patience,
        "callback": has_callbacks,
    }[stopped]


def is_better(value: float, best: float, maximize: bool) -> bool:
    """Whether a value is better than the best one so far; NaN stands for none, and is never better."""
    if math.isnan(value):
        return False
    return math.isnan(best) or (value > best if maximize else value < best)
