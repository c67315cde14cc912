"""Trains a network on handwritten digits: the smallest whole recipe. `python -m experiments.train_digits`.

Data, network, schedule, optimizer, `fit`, and the test at the end. It writes a folder under runs/: history.jsonl, a
picture of the curves, the params as safetensors, and checkpoints, from which `--resume` goes on.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import fnnet as fn
from experiments.command_line import devices, fail, folder_for, parse
from experiments.curves import draw_curves

COMMAND = "train_digits"


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on the 1,797 digits of scikit-learn."""

    model: Literal["mlp", "cnn"] = "mlp"
    """The network."""
    epochs: int = 60
    """Passes through the training part, 1,079 digits."""
    batch_size: int = 64
    """Examples a step."""
    learning_rate: float = 5e-3
    """Of AdamW at its peak; it rises for a tenth of the steps, and falls to 0 along a cosine."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    seed: int = 0
    """Of weights, order and dropout."""
    devices: int | None = None
    """Split batches over so many devices, a CPU cut into as many; by default over all there are."""
    folder: Path | None = None
    """Where results go; a new one under runs/ unless given."""
    resume: bool = False
    """Go on from the last checkpoint in --folder."""


def network(model: str) -> fn.Layer:
    if model == "mlp":
        return fn.serial(fn.flatten, fn.dense(128), fn.relu, fn.dropout(0.2), fn.dense(10))
    return fn.serial(
        *(fn.conv(16, 3), fn.batch_norm(), fn.relu),
        *(fn.conv(32, 3), fn.batch_norm(), fn.relu, fn.max_pool(2)),
        *(fn.flatten, fn.dropout(0.2), fn.dense(10)),
    )


def main() -> None:
    config = parse(Config, f"python -m experiments.{COMMAND}")
    mesh = devices(COMMAND, config.devices, config.batch_size)
    folder = folder_for(COMMAND, config.folder, config.resume)

    data = fn.data.standardize(fn.data.digits(seed=0))
    net = network(config.model)
    steps = config.epochs * (len(data.train["y"]) // config.batch_size)
    if steps < 1:
        fail(COMMAND, f"--epochs {config.epochs} and --batch-size {config.batch_size} make no step")
    rate = fn.optim.warmup_cosine_decay_schedule(0.0, config.learning_rate, max(steps // 10, 1), steps)
    metrics = {"accuracy": fn.metrics.accuracy}

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
    test = fn.train.evaluate(net, metrics, fitted.params, fitted.state, data.test)
    fn.train.save_safetensors(folder / "params.safetensors", fitted.params)
    draw_curves(fitted.history, folder / "curves.png", f"{config.model} on digits")

    history = fitted.history
    print(
        f"{config.model} on digits, {int(fitted.now.step)} steps, {fitted.stopped}, {history['seconds'][-1]:.1f} s"
    )
    print(
        f"validation accuracy {history['valid_accuracy'][-1]:.1%}, test accuracy {float(test['accuracy']):.1%}"
    )
    print(f"results: {folder}")
    if fitted.stopped == "interrupted":
        print(
            f"go on: python -m experiments.{COMMAND} --folder {folder} --resume, and the other flags as before"
        )


if __name__ == "__main__":
    main()
