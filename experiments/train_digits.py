"""Trains a network on handwritten digits: the smallest whole recipe. `python -m experiments.train_digits`.

Data, network, schedule, optimizer, `fit`, and the test at the end, in a few seconds. It writes a folder under runs/:
config.json, history.jsonl, checkpoints, the weights as safetensors, results.json, a picture of the curves. Ctrl-C
stops it, and `--folder runs/... --resume` goes on, with the flags of before.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import fnnet as fn
from experiments import recipe

COMMAND = "train_digits"


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on the 1,797 digits of scikit-learn."""

    model: Literal["mlp", "cnn"] = "mlp"
    """The network: 20 thousand params, or 10 thousand that take longer and do better."""
    epochs: int = 40
    """Passes through the training part, 1,079 digits."""
    batch_size: int = 64
    """Examples a step."""
    learning_rate: float = 0.01
    """Of AdamW at its peak; it rises for a tenth of the steps, and falls to 0 along a cosine."""
    weight_decay: float = 0.01
    """Of AdamW."""
    seed: int = 0
    """Of weights, order and dropout."""
    devices: int | None = None
    """Split batches over so many devices, a CPU cut into as many; by default over all there are."""
    folder: Path | None = None
    """Where results go; a new one under runs/ unless given."""
    resume: bool = False
    """Go on from the last checkpoint in --folder. Flags are as they were, unless given again."""


def network(model: str) -> fn.Layer:
    if model == "mlp":
        return fn.serial(fn.flatten, fn.dense(256), fn.relu, fn.dropout(0.5), fn.dense(10))
    return fn.serial(
        *(fn.conv(16, 3, use_bias=False), fn.batch_norm(), fn.relu),
        *(fn.conv(32, 3, use_bias=False), fn.batch_norm(), fn.relu, fn.max_pool(2)),
        *(fn.flatten, fn.dropout(0.5), fn.dense(10)),
    )


def main() -> None:
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
            resume=config.resume,
            mesh=mesh,
        )
        recipe.stop_if_interrupted(COMMAND, fitted, folder)
        test = fn.train.evaluate(net, metrics, fitted.params, fitted.state, data.test)
        recipe.finish(folder, f"{config.model} on digits", fitted, test)


if __name__ == "__main__":
    main()
