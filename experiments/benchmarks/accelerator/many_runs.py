"""Many small training runs in one `vmap`, beside one of them alone."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import fnnet as fn
from experiments.benchmarks.accelerator.part import Part, Row, Settings
from experiments.timing import in_turn

BATCH, HIDDEN, EPOCHS = 64, 32, 5


def rows(settings: Settings) -> Iterator[Row]:
    count, epochs, rounds = (8, 1, 2) if settings.tiny else (1024, EPOCHS, 10)
    data, source = examples()
    run = fn.train.make_run(
        fn.serial(fn.flatten, fn.dense(HIDDEN), fn.relu, fn.dense(10)),
        fn.losses.softmax_cross_entropy,
        fn.optim.adam,
        steps=epochs * (len(data["train"]["y"]) // BATCH),
        batch_size=BATCH,
        metrics={"accuracy": fn.metrics.accuracy},
    )
    data, key = jax.device_put(data), jax.random.key(0)
    rates = {"learning_rate": np.geomspace(1e-4, 1e-1, count).astype(np.float32)}
    sides: dict[int, tuple[Any, Any]] = {
        1: (run, {"learning_rate": np.float32(1e-2)}),
        count: (jax.vmap(run, in_axes=(None, None, 0)), rates),
    }
    compiled, seconds = {}, {}
    for runs, (f, hparams) in sides.items():
        start = time.perf_counter()
        compiled[runs] = jax.jit(f).lower(key, data, hparams).compile()
        seconds[runs] = time.perf_counter() - start
    calls = {
        str(runs): lambda runs=runs, hparams=hparams: jax.block_until_ready(
            compiled[runs](key, data, hparams)
        )
        for runs, (_, hparams) in sides.items()
    }
    times = in_turn(calls, rounds=rounds, warm_up=1)
    one = float(np.median(times["1"]))
    for runs, (_, hparams) in sides.items():
        low, median, high = (float(q) for q in np.percentile(times[str(runs)], [25, 50, 75]))
        accuracy = compiled[runs](key, data, hparams).history["valid_accuracy"]
        yield {
            "runs": runs,
            "data": source,
            "ms": 1e3 * median,
            "low": 1e3 * low,
            "high": 1e3 * high,
            "ms_per_run": 1e3 * median / runs,
            "over_one": median / one,
            "compile_s": seconds[runs],
            "best_accuracy": float(np.max(np.asarray(accuracy))),
        }


def examples() -> tuple[dict[str, Any], str]:
    """Training and validation parts, and where they are from: scikit-learn's digits, or drawn where it is missing."""
    try:
        data = fn.data.digits()
    except ImportError:
        return drawn(), "drawn: ten Gaussian classes in 64 dimensions"
    return {"train": data.train, "valid": data.valid}, "digits"


def drawn() -> dict[str, Any]:
    """As many examples as the digits have, of ten classes that overlap a little."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 64))

    def part(n: int) -> dict[str, np.ndarray]:
        y = rng.integers(10, size=n).astype(np.int32)
        x = centres[y] + 1.5 * rng.normal(size=(n, 64))
        return {"x": x.astype(np.float32).reshape(n, 8, 8, 1), "y": y}

    return {"train": part(1079), "valid": part(359)}


PART = Part(
    title=f"Many runs in one vmap, each with its rate: MLP 64-{HIDDEN}-10, Adam, {EPOCHS} epochs, batch {BATCH}",
    seconds=40,
    columns={
        "runs": "runs",
        "data": "data",
        "ms": "ms",
        "low": "1st quartile",
        "high": "3rd quartile",
        "ms_per_run": "ms per run",
        "over_one": "time over that of one run",
        "compile_s": "compile, s",
        "best_accuracy": "best accuracy",
    },
    rows=rows,
)
