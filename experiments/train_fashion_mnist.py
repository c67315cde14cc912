"""Trains a network on Fashion-MNIST, 28 by 28 pixels. `python -m experiments.train_fashion_mnist --model resnet`.

As train_digits, with what a harder problem wants: pictures shifted and mirrored, label smoothing, three networks. It
runs unchanged on CPU, GPU and TPU; `--half` computes in bfloat16, `--examples 5000` makes a quick try. Ctrl-C stops
it, and `--folder runs/... --resume` goes on, with the flags of before.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

import fnnet as fn
from experiments import recipe
from experiments.command_line import fail, failing

COMMAND = "train_fashion_mnist"
SMOOTHING = 0.1  # share of the target's probability that is spread over all classes


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on the 50,000 training pictures of Fashion-MNIST."""

    model: Literal["mlp", "cnn", "resnet"] = "cnn"
    """The network: 0.3, 0.4 and 2.8 million params."""
    epochs: int = 10
    """Passes through the training part."""
    batch_size: int = 128
    """Examples a step."""
    learning_rate: float = 2e-3
    """Of AdamW at its peak; it rises for a tenth of the steps, and falls to 0 along a cosine."""
    weight_decay: float = 5e-2
    """Of AdamW."""
    augment: bool = False
    """Shift pictures by up to two pixels and mirror half of them, anew in each epoch; not for the mlp."""
    half: bool = False
    """Compute in bfloat16; params stay in float32."""
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    examples: int | None = None
    """Train on the first so many pictures only."""
    devices: int | None = None
    """Split batches over so many devices, a CPU cut into as many; by default over all there are."""
    folder: Path | None = None
    """Where results go; a new one under runs/ unless given."""
    resume: bool = False
    """Go on from the last checkpoint in --folder. Flags are as they were, unless given again."""


def network(model: str) -> fn.Layer:
    if model == "mlp":
        return fn.serial(
            *(fn.flatten, fn.dense(256), fn.relu, fn.dropout(0.2)),
            *(fn.dense(256), fn.relu, fn.dropout(0.2), fn.dense(10)),
        )
    if model == "cnn":
        return fn.serial(
            *(fn.conv(32, 3), fn.batch_norm(), fn.relu, fn.max_pool(2)),
            *(fn.conv(64, 3), fn.batch_norm(), fn.relu, fn.max_pool(2)),
            *(fn.flatten, fn.dense(128), fn.relu, fn.dropout(0.4), fn.dense(10)),
        )
    return fn.serial(
        *(fn.conv(64, 3, use_bias=False), fn.batch_norm(), fn.relu),
        *(block(64), block(128, 2), block(128), block(256, 2), block(256)),
        *(fn.global_avg_pool, fn.dropout(0.2), fn.dense(10)),
    )


def block(features: int, strides: int = 1) -> fn.Layer:
    """Two convolutions and a shortcut (He et al. 2016), projected where the shape changes."""
    f = fn.serial(
        *(fn.conv(features, 3, strides=strides, use_bias=False), fn.batch_norm(), fn.relu),
        *(fn.conv(features, 3, use_bias=False), fn.batch_norm()),
    )
    if strides == 1:
        return fn.serial(fn.residual(f), fn.relu)
    shortcut = fn.serial(fn.conv(features, 1, strides=strides, use_bias=False), fn.batch_norm())
    return fn.serial(fn.parallel(f, shortcut), fn.relu)


def shift_and_mirror(key: chex.PRNGKey, batch: dict[str, Any]) -> dict[str, Any]:
    """Each picture moved by up to two pixels, with what comes in black, and mirrored or not."""
    n, height, width, _ = batch["x"].shape
    place, mirror = jax.random.split(key)
    corners = jax.random.randint(place, (n, 2), 0, 5)
    mirrored = jax.random.bernoulli(mirror, shape=(n,))
    black = batch["x"].min()  # standardized, black is no 0

    def move(x: jax.Array, corner: jax.Array, mirrored: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((2, 2), (2, 2), (0, 0)), constant_values=black)
        x = jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), (height, width, x.shape[2]))
        return jnp.where(mirrored, x[:, ::-1], x)

    return {**batch, "x": jax.vmap(move)(batch["x"], corners, mirrored)}


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy against (1 - s) of the label and s of all classes alike (Szegedy et al. 2016)."""
    target = (1 - SMOOTHING) * jax.nn.one_hot(labels, 10) + SMOOTHING / 10
    return fn.losses.softmax_cross_entropy(logits, target)


def main() -> None:
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
            resume=config.resume,
            mesh=mesh,
        )
        recipe.stop_if_interrupted(COMMAND, fitted, folder)
        test = fn.train.evaluate(net, metrics, fitted.params, fitted.state, data.test)
        recipe.finish(folder, f"{config.model} on Fashion-MNIST", fitted, test)


if __name__ == "__main__":
    main()
