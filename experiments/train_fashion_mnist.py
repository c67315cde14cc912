"""Trains a network on Fashion-MNIST, 28 by 28 pixels. `python -m experiments.train_fashion_mnist --model resnet`.

Like train_digits, with what a harder problem needs: augmentation, label smoothing and a choice of three networks. It
runs unchanged on CPU, GPU and TPU. `--half` computes in bfloat16; `--examples 5000` is a quick try. Ctrl-C stops it.
`--folder runs/... --resume` resumes it, with the same flags.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

import fnnet as fn
from experiments import recipe
from experiments.command_line import fail, failing
from experiments.compilation_cache import use_compilation_cache
from experiments.fashion_mnist import network, shift_and_mirror, smoothed_cross_entropy

COMMAND = "train_fashion_mnist"


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on the 50,000 training images of Fashion-MNIST."""

    model: Literal["mlp", "cnn", "resnet"] = "cnn"
    """The network: 0.3, 0.4 or 2.8 million params."""
    epochs: int = 10
    """Passes over the training part."""
    batch_size: int = 128
    """Examples per step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW. It rises during the first tenth of the steps, then falls to 0 along a cosine."""
    weight_decay: float = 5e-2
    """Weight decay of AdamW."""
    augment: bool = False
    """Shift images by up to two pixels and mirror half of them, differently in each epoch; not for the mlp."""
    half: bool = False
    """Compute in bfloat16. Params stay in float32."""
    seed: int = 0
    """Seed of the weights, the order of the examples, augmentation and dropout."""
    examples: int | None = None
    """Train on the first images only; their number."""
    devices: int | None = None
    """Number of devices to split batches over, by default all of them. A CPU is divided into that many."""
    folder: Path | None = None
    """Folder for the results; by default a new one under runs/."""
    resume: bool = False
    """Resume from the last checkpoint in --folder. Flags keep their values, unless given again."""


def main() -> None:
    use_compilation_cache()
    config = recipe.flags(Config, COMMAND)
    if config.examples is not None and config.examples < 1:
        fail(COMMAND, f"--examples {config.examples} is too small, wanted at least 1")
    mesh = recipe.mesh_of(COMMAND, config.devices, config.batch_size)
    with failing(COMMAND, OSError, ValueError):
        data = fn.data.standardize(fn.data.fashion_mnist(), axis=(0, 1, 2, 3))
    data = data._replace(train=jax.tree.map(lambda a: a[: config.examples], data.train))
    net = network(config.model)
    metrics = {"accuracy": fn.metrics.accuracy}
    steps = recipe.steps_of(COMMAND, config, data.train)
    rate = fn.optim.warmup_cosine_decay_schedule(0.0, config.learning_rate, steps // 10, steps)

    with recipe.running(COMMAND, config) as folder:
        fitted = fn.train.fit(
            net,
            smoothed_cross_entropy,
            functools.partial(fn.optim.adamw, weight_decay=config.weight_decay),
            data.train,
            valid=data.valid,
            learning_rate=rate,
            steps=steps,
            batch_size=config.batch_size,
            key=config.seed,
            metrics=metrics,
            augment=shift_and_mirror if config.augment and config.model != "mlp" else None,
            dtype=jnp.bfloat16 if config.half else None,
            folder=folder,
            resume="auto" if config.resume else False,  # it may have been stopped before its first checkpoint
            mesh=mesh,
        )
        recipe.stop_if_interrupted(COMMAND, fitted, folder)
        test = fn.train.evaluate(net, metrics, fitted.params, fitted.state, data.test)
        recipe.finish(folder, f"{config.model} on Fashion-MNIST", fitted, test)


if __name__ == "__main__":
    main()
