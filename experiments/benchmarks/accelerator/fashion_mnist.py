"""Seconds until a small ResNet reaches 90 % and 93 % test accuracy on Fashion-MNIST."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.benchmarks.accelerator.part import LATE, Part, Row, Settings
from experiments.fashion_mnist import network, shift_and_mirror, smoothed_cross_entropy
from fnnet.data.fashion_mnist import DEBIAN

TARGETS = (0.90, 0.93)
BATCH, EPOCHS, RATE, DECAY = 256, 12, 2e-3, 5e-2
PER_EPOCH = 2  # evaluations


def rows(settings: Settings) -> Iterator[Row]:
    data, note = examples(settings)
    if data is None:
        yield from ({"target": target, "note": note} for target in TARGETS)
        return
    sizes: dict[str, Any] = {"batch": 8, "epochs": 1, "model": "mlp"} if settings.tiny else {}
    reached = dict.fromkeys(TARGETS)
    best, at = 0.0, {}
    for at in training(data, settings, **sizes):
        best = max(best, at["accuracy"])
        for target in TARGETS:
            if reached[target] is None and at["accuracy"] >= target:
                reached[target] = at
                yield {"target": target, **at}
        if all(reached.values()):
            return
    for target in TARGETS:
        if reached[target] is None:
            why = "not reached" if settings.left() > 0 else LATE
            ended = f"{why}: {best:.2%} at best after {at['step']} steps and {at['seconds']:.1f} s"
            yield {"target": target, "note": f"{ended}{'; ' + note if note else ''}"}


def examples(settings: Settings) -> tuple[Any, str | None]:
    """Standardized data on the device, and a note; or None, and why. A tiny run has noise instead."""
    if settings.tiny:
        return noise(), "on noise instead of Fashion-MNIST"
    folder = settings.data or DEBIAN
    try:
        data = fn.data.fashion_mnist(folder)
    except FileNotFoundError:
        return None, (
            f"skipped: Fashion-MNIST is not in {folder}. Name a folder with its four IDX files by --data, or install "
            "the Debian package dataset-fashion-mnist"
        )
    return jax.device_put(fn.data.standardize(data, axis=(0, 1, 2, 3))), None


def noise() -> fn.data.Dataset:
    """A few images of noise."""
    rng = np.random.default_rng(0)

    def part(n: int) -> dict[str, np.ndarray]:
        x = rng.normal(size=(n, 28, 28, 1)).astype(np.float32)
        return {"x": x, "y": rng.integers(10, size=n).astype(np.int32)}

    return fn.data.Dataset(part(32), None, part(16))


def training(
    data: fn.data.Dataset,
    settings: Settings,
    *,
    batch: int = BATCH,
    epochs: int = EPOCHS,
    model: str = "resnet",
) -> Iterator[Row]:
    """The test accuracy at each evaluation, and the seconds until then, with compilation and without it."""
    start = time.perf_counter()
    train = jax.tree.map(jnp.asarray, data.train)
    n = len(train["y"])
    every = n // batch // PER_EPOCH
    steps = epochs * PER_EPOCH * every
    rate = fn.optim.warmup_cosine_decay_schedule(0.0, RATE, steps // 5, steps)
    net = fn.cast(network(model))
    optimizer = fn.optim.adamw(rate, weight_decay=DECAY)
    step = fn.train.make_step(net, smoothed_cross_entropy, optimizer)
    key = jax.random.key(0)

    def advance(now: Any, order: jax.Array, train: Any) -> Any:
        """As many steps as the order has batches."""

        def one(now: Any, chosen: jax.Array) -> tuple[Any, None]:
            shifted, dropped = jax.random.split(jax.random.fold_in(key, now.step))
            examples = jax.tree.map(lambda a: a[chosen], train)
            return step(now, shift_and_mirror(shifted, examples), dropped)[0], None

        return jax.lax.scan(one, now, order)[0]

    def accuracy(now: Any, test: Any) -> jax.Array:
        measures = {"accuracy": fn.metrics.accuracy}
        return fn.train.evaluate(net, measures, now.params, now.state, test)["accuracy"]

    x = jax.ShapeDtypeStruct((batch, *train["x"].shape[1:]), jnp.float32)
    now = jax.jit(partial(fn.train.start, net, optimizer, x=x))(key)
    order = jnp.zeros((every, batch), jnp.int32)
    advance_compiled = jax.jit(advance, donate_argnums=0).lower(now, order, train).compile()
    accuracy_compiled = jax.jit(accuracy).lower(now, data.test).compile()
    compiled = time.perf_counter()

    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for chosen in np.split(rng.permutation(n)[: PER_EPOCH * every * batch].astype(np.int32), PER_EPOCH):
            now = advance_compiled(now, jnp.asarray(chosen.reshape(every, batch)), train)
            seen = float(accuracy_compiled(now, data.test))
            yield {
                "accuracy": seen,
                "step": int(now.step),
                "seconds": time.perf_counter() - start,
                "without_compiling": time.perf_counter() - compiled,
            }
            if settings.left() <= 0:
                return


PART = Part(
    title=f"Fashion-MNIST: a ResNet with 2.8 million params, bfloat16, AdamW, batch {BATCH}, augmented pictures",
    seconds=60,
    columns={
        "target": "test accuracy",
        "seconds": "s",
        "without_compiling": "s without compiling",
        "step": "steps",
        "accuracy": "accuracy there",
    },
    rows=rows,
)
