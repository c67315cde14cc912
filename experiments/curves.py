"""A plot of a training run: loss and error by epoch, readable on a phone too."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.plotting import BLUE, ORANGE, STYLE, WIDTH, log_axis


def draw_curves(history: Mapping[str, np.ndarray], file: Path, title: str) -> None:
    """Loss and error in validation, and in training, where each point is the mean of the steps since the last one."""
    steps, epochs = history["eval_step"], history["epoch"]
    between = [slice(a, b) for a, b in zip([0, *steps[:-1]], steps, strict=True)]
    dot = "." if len(steps) < 30 else ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        loss, error = figure.subplots(2, 1, sharex=True)
        for ax, name, shown, label in (
            (loss, "loss", lambda a: a, "loss, nats"),
            (error, "accuracy", lambda a: 100 * (1 - a), "error, %"),
        ):
            train = np.array([shown(np.nanmean(history[f"train_{name}"][part])) for part in between])
            valid = shown(history[f"valid_{name}"])
            ax.plot(epochs, train, color=ORANGE, marker=dot, label="training")
            ax.plot(epochs, valid, color=BLUE, marker=dot, label="validation")
            both = np.concatenate([train, valid])
            log_axis(ax, both)
            ax.set_ylabel(label)
        error.set_xlabel("epoch")
        error.xaxis.set_major_locator(MaxNLocator(6, integer=epochs[-1] > 3))
        loss.set_title(title)
        loss.legend(loc="upper right")
        FigureCanvasAgg(figure).print_png(file)
