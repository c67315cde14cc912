"""Trains a network on handwritten digits: the smallest complete recipe. `python -m experiments.train_digits`.

Data, network, schedule, optimizer, `fit`, and the test at the end, in a few seconds. It writes a folder under runs/
with config.json, history.jsonl, checkpoints, the weights as safetensors, results.json and a plot of the curves.
Ctrl-C stops it. `--folder runs/... --resume` resumes it, with the same flags.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import fnnet as fn
from experiments import recipe
from experiments.compilation_cache import use_compilation_cache

COMMAND = "train_digits"


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on the 1,797 digits of scikit-learn."""

    model: Literal["mlp", "cnn"] = "mlp"
    """The network. The mlp has 20 thousand params. The cnn has 10 thousand, is slower and more accurate."""
    epochs: int = 40
    """Passes over the training part, which has 1,079 digits."""
    batch_size: int = 64
    """Examples per step."""
    learning_rate: float = 0.01
    """Peak learning rate of AdamW. It rises during the first tenth of the steps, then falls to 0 along a cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    seed: int = 0
    """Seed of the weights, the order of the examples, and dropout."""
    devices: int | None = None
    """Number of devices to split batches over, by default all of them. A CPU is divided into that many."""
    folder: Path | None = None
    """Folder for the results; by default a new one under runs/."""
    resume: bool = False
    """Resume from the last checkpoint in --folder. Flags keep their values, unless given again."""


def network(model: str) -> fn.Layer:
    if model == "mlp":
        return fn.serial(fn.flatten, fn.dense(256), fn.relu, fn.dropout(0.5), fn.dense(10))
    return fn.serial(
        *(fn.conv(16, 3, use_bias=False), fn.batch_norm(), fn.relu),
        *(fn.conv(32, 3, use_bias=False), fn.batch_norm(), fn.relu, fn.max_pool(2)),
        *(fn.flatten, fn.dropout(0.5), fn.dense(10)),
    )


def main() -> None:
    use_compilation_cache()
    config = recipe.flags(Config, COMMAND)
    mesh = recipe.mesh_of(COMMAND, config.devices, config.batch_size)
    data = fn.data.standardize(fn.data.digits(), axis=(0, 1, 2, 3))
    net = network(config.model)
    metrics = {"accuracy": fn.metrics.accuracy}
    steps = recipe.steps_of(COMMAND, config, data.train)
    rate = fn.optim.warmup_cosine_decay_schedule(0.0, config.learning_rate, steps // 10, steps)

    with recipe.running(COMMAND, config) as folder:
        fitted = fn.train.fit(
            net,
            fn.losses.softmax_cross_entropy,
            functools.partial(fn.optim.adamw, weight_decay=config.weight_decay),
            data.train,
            valid=data.valid,
            learning_rate=rate,
            steps=steps,
            batch_size=config.batch_size,
            key=config.seed,
            metrics=metrics,
            folder=folder,
            resume="auto" if config.resume else False,  # it may have been stopped before its first checkpoint
            mesh=mesh,
        )
        recipe.stop_if_interrupted(COMMAND, fitted, folder)
        test = fn.train.evaluate(net, metrics, fitted.params, fitted.state, data.test)
        recipe.finish(folder, f"{config.model} on digits", fitted, test)


if __name__ == "__main__":
    main()
