"""A picture of a training run: loss and accuracy by epoch."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np


def draw_curves(history: Mapping[str, np.ndarray], file: Path, title: str) -> None:
    """Loss and accuracy in training, as means of the steps between evaluations, and in validation."""
    steps = history["eval_step"]
    between = [slice(a, b) for a, b in zip([0, *steps[:-1]], steps, strict=True)]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, name, label in zip(axes, ("loss", "accuracy"), ("loss (nats)", "accuracy (%)"), strict=True):
        scale = 100 if name == "accuracy" else 1
        train = [scale * np.nanmean(history[f"train_{name}"][part]) for part in between]
        ax.plot(history["epoch"], train, label="training", marker="." if len(steps) < 30 else "")
        ax.plot(
            history["epoch"],
            scale * history[f"valid_{name}"],
            label="validation",
            marker="." if len(steps) < 30 else "",
        )
        ax.set(xlabel="epoch", ylabel=label)
        ax.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(file, dpi=130)
    plt.close(figure)
