"""Every optimizer that has a twin in optax: how far apart the params are after a few steps."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import ml_dtypes
import numpy as np
import optax

import fnnet as fn
from experiments.benchmarks.accelerator.part import Part, Row, Settings, out_of_time, reason

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
STEPS = 10
RATE = 1e-2
TINY = ("sgd", "adam")  # those of a tiny run
BATCH = 8  # optimizers that are compiled at once


def rows(settings: Settings) -> Iterator[Row]:
    params, grads = problem()
    names = list(TINY if settings.tiny else fn.optim.TWINS)
    for first in range(0, len(names), BATCH):
        batch = names[first : first + BATCH]
        if note := out_of_time(settings, 10):
            yield from ({"optimizer": name, "note": note} for name in batch)
            continue
        lowered = [
            jax.jit(steps_of(make)).lower(params, grads) for name in batch for make in fn.optim.TWINS[name]
        ]
        with ThreadPoolExecutor(8) as pool:
            programs = list(pool.map(lambda program: program.compile(), lowered))
        for i, name in enumerate(batch):
            try:
                ours, theirs = (
                    jax.device_get(program(params, grads)) for program in programs[2 * i : 2 * i + 2]
                )
            except Exception as error:
                yield {"optimizer": name, "note": reason(error)}
                continue
            yield {"optimizer": name} | {dtype: ulps(ours[dtype], theirs[dtype]) for dtype in DTYPES}


def problem() -> tuple[Any, Any]:
    """Params, and their gradients at each step, by dtype. The matrix is large enough for adafactor to factor it."""
    rng = np.random.default_rng(0)
    shapes = {"w": (160, 136), "b": (136,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    grads = {name: rng.normal(size=(STEPS, *shape)) for name, shape in shapes.items()}

    def by_dtype(tree: dict[str, np.ndarray]) -> Any:
        return {dtype: {name: a.astype(kind) for name, a in tree.items()} for dtype, kind in DTYPES.items()}

    return by_dtype(params), by_dtype(grads)


def steps_of(make: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """The params after all steps, by dtype."""

    def run(params: Any, grads: Any) -> Any:
        optimizer = make(learning_rate=RATE)

        def step(carry: Any, grad: Any) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimizer.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), grads)[0][0]

    return lambda params, grads: {dtype: run(params[dtype], grads[dtype]) for dtype in params}


def ulps(ours: Any, theirs: Any) -> float:
    """The largest distance of two numbers, in units in the last place; infinite where only one of them is NaN."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        places = [_place(np.asarray(x)) for x in (a, b)]
        nan = [np.isnan(np.asarray(x, np.float64)) for x in (a, b)]
        distance = np.where(nan[0] & nan[1], 0.0, np.abs(places[0] - places[1]).astype(np.float64))
        worst = max(worst, float(np.max(np.where(nan[0] ^ nan[1], np.inf, distance), initial=0.0)))
    return worst


def _place(a: np.ndarray) -> np.ndarray:
    """The place of each number among all numbers of its dtype; neighbours are 1 apart, and -0 is at 0."""
    bits = np.int16 if a.dtype.itemsize == 2 else np.int32
    i = a.view(bits).astype(np.int64)
    return np.where(i < 0, np.iinfo(bits).min - i, i)


PART = Part(
    title=f"Optimizers beside optax: largest difference of a parameter after {STEPS} steps, in units in the last place",
    seconds=55,
    columns={"optimizer": "optimizer", **{dtype: dtype for dtype in DTYPES}},
    rows=rows,
)
