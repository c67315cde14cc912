"""A few layers, forward and backward, beside the same layer in float64 on the CPU."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

import fnnet as fn
from experiments.benchmarks.accelerator.part import Part, Row, Settings, out_of_time, reason


class Kind(NamedTuple):
    """How numbers are computed, and the largest error that is accepted."""

    dtype: Any
    precision: str | None  # of products of float32; None is JAX's default, which is TF32 on recent GPUs
    bound: float


KINDS = {
    "float32": Kind(np.float32, "highest", 1e-4),
    "default": Kind(np.float32, None, 2e-2),
    "bfloat16": Kind(ml_dtypes.bfloat16, None, 1e-1),
}
IMAGE, SEQUENCE = (8, 16, 16, 32), (8, 24, 64)
LAYERS: dict[str, tuple[fn.Layer, tuple[int, ...]]] = {
    "dense": (fn.dense(96), (32, 64)),
    "conv": (fn.conv(48, 3), IMAGE),
    "conv, strides 2": (fn.conv(48, 3, strides=2), IMAGE),
    "max_pool": (fn.max_pool(2), IMAGE),
    "batch_norm": (fn.batch_norm(), IMAGE),
    "layer_norm": (fn.layer_norm(), SEQUENCE),
    "lstm": (fn.lstm(64), SEQUENCE),
    "gru": (fn.gru(64), SEQUENCE),
    "multi_head_attention": (fn.multi_head_attention(4, causal=True), SEQUENCE),
    "transformer block": (fn.transformer_decoder_block(4, cross=False), SEQUENCE),
}
TINY = ("dense", "layer_norm")  # those of a tiny run


def rows(settings: Settings) -> Iterator[Row]:
    for name in TINY if settings.tiny else LAYERS:
        if note := out_of_time(settings, 5):
            yield {"layer": name, "note": note}
            continue
        try:
            errors = errors_of(*LAYERS[name])
        except Exception as error:
            yield {"layer": name, "note": reason(error)}
            continue
        yield {"layer": name, **errors, "ok": all(errors[kind] <= KINDS[kind].bound for kind in KINDS)}


def errors_of(layer: fn.Layer, shape: tuple[int, ...]) -> dict[str, float]:
    """The largest error of each kind: of y, and of the gradients by x and the params."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        example = jax.ShapeDtypeStruct(shape, np.float64)
        params, state = jax.device_get(jax.jit(lambda key: layer.init(key, example))(jax.random.key(0)))
        shapes = jax.eval_shape(partial(layer.apply, train=True), params, state, example)[0]
        exact = jax.jit(partial(outcome, layer))
    x, c = rng.normal(size=shape), rng.normal(size=shapes.shape)
    found = {}
    for name, kind in KINDS.items():
        given = cast((params, x, c), kind.dtype)  # both sides start from the same rounded numbers
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            wanted = jax.device_get(exact(state, *cast(given, np.float64)))
        with jax.default_matmul_precision(kind.precision):
            got = jax.device_get(jax.jit(partial(outcome, layer))(cast(state, np.float32), *given))
        found[name] = largest_error(got, wanted)
    return found


def outcome(layer: fn.Layer, state: Any, params: Any, x: Any, c: Any) -> Any:
    """y, and the gradients by params and x of the sum of y c."""

    def forward(params: Any, x: Any) -> Any:
        return layer.apply(params, state, x, train=True)[0]

    y, backward = jax.vjp(forward, params, x)
    return y, backward(c.astype(y.dtype))


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda a: np.asarray(a).astype(dtype), tree)


def largest_error(got: Any, wanted: Any) -> float:
    """The largest error, as a share of the largest number of its array."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        error = np.max(np.abs(np.asarray(a, np.float64) - b), initial=0.0)
        worst = max(worst, float(error / max(np.max(np.abs(b), initial=0.0), 1e-30)))
        worst = worst if np.isfinite(error) else np.inf
    return worst


PART = Part(
    title="Layers beside float64 on the CPU: largest error of output and gradients, as a share of the largest number",
    seconds=45,
    columns={
        "layer": "layer",
        "float32": "float32, precision highest",
        "default": "float32, JAX's default",
        "bfloat16": "bfloat16",
        "ok": f"within {', '.join(f'{kind.bound:g}' for kind in KINDS.values())}",
    },
    rows=rows,
)
