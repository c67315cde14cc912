"""Means over a part, against NumPy, whatever the number of examples at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests import arrays

N = 7
MEASURES = {"loss": fn.losses.mean_squared_error, "absolute": fn.losses.mean_absolute_error}
IDENTITY = fn.as_layer(fn.identity)
close = np.testing.assert_allclose


def regression() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"x": draw.normal(size=(N, 3)), "y": draw.normal(size=(N, 2))}


def of(measure: Any, batch_size: int = 3, net: fn.Layer = IDENTITY) -> Any:
    """The mean of one measure over 7 examples with x = y = 0 .. 6."""
    part = {"x": np.arange(N), "y": np.arange(N)}
    got = jax.jit(lambda: fn.train.evaluate(net, {"it": measure}, {}, {}, part, batch_size))()
    return np.asarray(got["it"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch_size", [1, 3, 4, 6, 7, 8, 1000])
def test_means_over_the_part(batch_size: int) -> None:
    part, net = regression(), fn.dense(2)
    params = {"w": arrays.normal(3, 2, dtype=np.float64), "b": np.zeros(2)}
    error = part["x"] @ params["w"] - part["y"]
    got = jax.jit(lambda: fn.train.evaluate(net, MEASURES, params, {}, part, batch_size))()
    assert got.keys() == MEASURES.keys()
    close(got["loss"], np.mean(error**2), rtol=1e-12)
    close(got["absolute"], np.mean(np.abs(error)), rtol=1e-12)


@pytest.mark.parametrize("batch_size, at_once", [(1, 1), (3, 3), (7, 7), (20, 7)])
def test_batches_of_one_size_no_more_than_batch_size(batch_size: int, at_once: int) -> None:
    seen = set()

    def watch(x: jax.Array) -> jax.Array:
        seen.add(x.shape[0])
        return x

    of(lambda p, t: p, batch_size, fn.as_layer(watch))
    assert seen == {at_once}


@pytest.mark.usefixtures("float64")
def test_running_averages_are_used_and_nothing_is_dropped() -> None:
    part, net = regression(), fn.serial(fn.batch_norm(eps=0.0), fn.dropout(0.5), lambda x: x[:, :2])
    params = {"batch_norm_0": {"gamma": np.ones(3), "beta": np.zeros(3)}}
    mean, var = np.array([1.0, 2.0, 3.0]), np.array([4.0, 9.0, 16.0])
    state = {"batch_norm_0": {"mean": mean, "var": var}}
    got = jax.jit(lambda: fn.train.evaluate(net, MEASURES, params, state, part, 3))()
    wanted = ((part["x"] - mean) / np.sqrt(var))[:, :2] - part["y"]
    close(got["loss"], np.mean(wanted**2), rtol=1e-12)


def test_metrics_of_any_dtype() -> None:
    assert of(lambda p, t: p > 3) == np.float32(3 / 7)
    assert of(lambda p, t: p.astype(jnp.int8) * 20) == 60
    assert of(lambda p, t: jnp.full(p.shape, 60000.0, jnp.float16)) == 60000
    for dtype in (bool, jnp.int8, jnp.int32, jnp.float16, jnp.bfloat16):
        assert of(lambda p, t, dtype=dtype: p.astype(dtype)).dtype == jnp.float32


def test_nan_in_one_example_is_not_lost() -> None:
    for batch_size in (2, 3, 10):
        assert np.isnan(of(lambda p, t: jnp.where(p == 5, jnp.nan, 0.0), batch_size))


def test_tokens_and_several_inputs() -> None:
    tokens = fn.embed(5, 2)
    params = {"w": arrays.normal(5, 2)}

    def apply(
        params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, Any]]:
        return tokens(params, x["tokens"]).sum(axis=(1, 2)) * x["scale"], {}

    net = fn.Layer(lambda key, x: (params, {}), apply, "both")
    index, scale = np.arange(4 * 3).reshape(4, 3) % 5, np.array([1.0, 2.0, 3.0, 4.0])
    part = {"x": {"tokens": index, "scale": scale}, "y": (np.zeros(4), np.ones(4))}
    measures = {"both": lambda p, t: p + t[0] + t[1]}
    got = jax.jit(lambda: fn.train.evaluate(net, measures, params, {}, part, 3)["both"])()
    close(got, np.mean(params["w"][index].sum(axis=(1, 2)) * scale + 1), rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_jit_and_vmap_over_params() -> None:
    part, net = regression(), fn.dense(2)
    params = {"w": arrays.normal(3, 3, 2, dtype=np.float64), "b": np.zeros((3, 2))}

    def loss(params: Any) -> jax.Array:
        return fn.train.evaluate(net, MEASURES, params, {}, part, 3)["loss"]

    error = np.einsum("ni,kio->kno", part["x"], params["w"]) - part["y"]
    close(jax.jit(jax.vmap(loss))(params), np.mean(error**2, axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize(
    "batch_size, error, message",
    [
        (0, ValueError, "evaluate: batch_size=0, wanted at least 1"),
        (-2, ValueError, "evaluate: batch_size=-2, wanted at least 1"),
        (2.0, TypeError, "evaluate: batch_size=2.0, wanted a positive int"),
    ],
)
def test_a_wrong_batch_size(batch_size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        of(lambda p, t: p, batch_size)


@pytest.mark.parametrize(
    "part, message",
    [
        ({"x": np.ones((4, 3))}, "evaluate: part is .*, wanted a dict with x and y"),
        ({"x": np.ones((4, 3)), "y": np.ones((3, 2))}, "wanted arrays with one leading axis"),
        ({"x": np.ones((0, 3)), "y": np.ones((0, 2))}, "of one size that is not 0"),
    ],
)
def test_a_wrong_part(part: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fn.train.evaluate(fn.dense(2), MEASURES, {}, {}, part)


@pytest.mark.parametrize("batch_size", [7, 3])
def test_one_value_per_example(batch_size: int) -> None:
    with pytest.raises(ValueError, match=r"it is float32\[\], wanted one value for each of the"):
        of(lambda p, t: jnp.mean(p), batch_size)
