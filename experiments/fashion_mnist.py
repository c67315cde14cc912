"""Networks for Fashion-MNIST, augmentation and label smoothing."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

import fnnet as fn

SMOOTHING = 0.1  # share of the target's probability that is spread over all classes


def network(model: str) -> fn.Layer:
    """An "mlp", a "cnn" or a "resnet", of 0.3, 0.4 and 2.8 million params."""
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
    """Two convolutions and a shortcut, projected where the shape changes (He et al. 2016)."""
    f = fn.serial(
        *(fn.conv(features, 3, strides=strides, use_bias=False), fn.batch_norm(), fn.relu),
        *(fn.conv(features, 3, use_bias=False), fn.batch_norm()),
    )
    if strides == 1:
        return fn.serial(fn.residual(f), fn.relu)
    shortcut = fn.serial(fn.conv(features, 1, strides=strides, use_bias=False), fn.batch_norm())
    return fn.serial(fn.parallel(f, shortcut), fn.relu)


def shift_and_mirror(key: chex.PRNGKey, batch: dict[str, Any]) -> dict[str, Any]:
    """Each image moved by up to two pixels, with black at the edge; half of the images mirrored."""
    n, height, width, _ = batch["x"].shape
    place, mirror = jax.random.split(key)
    corners = jax.random.randint(place, (n, 2), 0, 5)
    mirrored = jax.random.bernoulli(mirror, shape=(n,))
    black = batch["x"].min()  # not 0 in standardized images

    def move(x: jax.Array, corner: jax.Array, mirrored: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((2, 2), (2, 2), (0, 0)), constant_values=black)
        x = jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), (height, width, x.shape[2]))
        return jnp.where(mirrored, x[:, ::-1], x)

    return {**batch, "x": jax.vmap(move)(batch["x"], corners, mirrored)}


def smoothed_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy with label smoothing: 1 - s for the label, s spread over all classes (Szegedy et al. 2016)."""
    target = (1 - SMOOTHING) * jax.nn.one_hot(labels, 10) + SMOOTHING / 10
    return fn.losses.softmax_cross_entropy(logits, target)
