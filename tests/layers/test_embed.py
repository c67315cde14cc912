"""Embedding, and the table that is tied to the output, beside products of one-hot vectors with the table."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, ones, params_for, zeros
from tests.oracle import agrees

KEY = jax.random.key(0)
INTEGERS = [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.int32, jnp.uint32]


def table(vocabulary, features, seed=0):
    return np.random.default_rng(seed).normal(size=(vocabulary, features)).astype(np.float32)


@settings(max_examples=8)
@given(st.lists(st.integers(0, 3), max_size=3), st.integers(1, 6), st.integers(1, 3), st.integers(0, 9))
def test_value_and_gradient_are_those_of_one_hot_vectors(shape, vocabulary, features, seed):
    rng = np.random.default_rng(seed)
    w, x = table(vocabulary, features, seed), rng.integers(0, vocabulary, shape)
    dy = rng.normal(size=(*shape, features)).astype(np.float32)
    one_hot = np.eye(vocabulary, dtype=np.float32)[x]
    layer = fn.embed(vocabulary, features)

    @jax.jit
    def value_and_gradient(w, x, dy):
        y, back = jax.vjp(lambda w: layer({"w": w}, x), w)
        return y, *back(dy)

    y, dw = value_and_gradient(w, x, dy)
    np.testing.assert_array_equal(y, one_hot @ w)
    wanted = one_hot.reshape(-1, vocabulary).T @ dy.reshape(-1, features)
    np.testing.assert_allclose(dw, wanted, rtol=1e-5, atol=1e-6)


def test_indices_that_repeat_add_up():
    grad = jax.grad(lambda w: fn.embed(3, 1)({"w": w}, jnp.array([2, 0, 2, 2])).sum())(zeros((3, 1)))
    np.testing.assert_array_equal(grad, [[1], [0], [3]])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("vocabulary", [100, 1000])
def test_every_integer_dtype(dtype, vocabulary):
    """A vocabulary may be larger than the largest number of the dtype."""
    layer, w = fn.embed(vocabulary, 2), table(vocabulary, 2)
    indices = np.array([0, 99, 5])
    for x in (jnp.asarray(indices.astype(dtype)), indices.astype(dtype)):
        for f in (layer, jax.jit(layer)):
            np.testing.assert_array_equal(f({"w": w}, x), w[indices])


@pytest.mark.parametrize(
    "indices, dtype",
    [
        ([1, 3], jnp.int32),
        ([-1, 2], jnp.int32),
        ([-1, 2], jnp.int8),
        ([255, 0], jnp.uint8),
        ([2**31, 1], jnp.uint32),
        ([2**32 - 1, 1], jnp.uint32),
    ],
)
def test_indices_out_of_range(indices, dtype):
    layer, w = fn.embed(3, 2), table(3, 2)
    out = np.array([not 0 <= i < 3 for i in indices])
    for x in (np.array(indices, dtype), jnp.asarray(np.array(indices, dtype))):
        with pytest.raises(
            ValueError, match=f"embed: indices from {min(indices)} to {max(indices)}, wanted 0 to 2"
        ):
            layer({"w": w}, x)
        y = jax.jit(layer)({"w": w}, x)
        np.testing.assert_array_equal(np.isnan(y), np.stack([out, out], axis=1))
        np.testing.assert_array_equal(y[~out], w[np.array(indices)[~out]])


def test_indices_that_are_closed_over():
    """Constants of a jitted function, checked before it runs."""
    layer, w = fn.embed(3, 2), table(3, 2)
    for good, bad in ((jnp.array([2, 0]), jnp.array([0, 3])), (np.array([2, 0]), np.array([0, 3]))):
        np.testing.assert_array_equal(jax.jit(lambda w, x=good: layer({"w": w}, x))(w), w[[2, 0]])
        with pytest.raises(ValueError, match="embed: indices from 0 to 3"):
            jax.jit(lambda w, x=bad: layer({"w": w}, x))(w)
    _, y = jax.lax.scan(lambda carry, _: (carry, layer({"w": w}, jnp.array([1]))), 0, length=2)
    np.testing.assert_array_equal(y, [w[[1]], w[[1]]])


def test_vmap():
    layer, w, x = fn.embed(3, 2), table(3, 2), array([[0, 1], [2, 2]])
    many = np.stack([w, 2 * w])
    np.testing.assert_array_equal(jax.vmap(partial(layer, {"w": w}))(x), w[x])
    np.testing.assert_array_equal(jax.vmap(lambda w: layer({"w": w}, x))(many), many[:, x])


@pytest.mark.usefixtures("float64")
def test_double_precision():
    layer = fn.embed(3, 2)
    assert jax.eval_shape(layer.init, KEY, zeros(1, int))[0]["w"].dtype == jnp.float64
    params = {"w": table(3, 2).astype(np.float64)}
    x = array([2, -(2**40), 2**32], jnp.int64)
    np.testing.assert_array_equal(np.isnan(jax.jit(layer)(params, x)[:, 0]), [False, True, True])


def test_params():
    layer = fn.embed(np.int64(2000), 3)
    params, state = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((1,), jnp.uint8))
    assert fn.check.describe(params) == "{w: float32[2000,3]}"
    assert state == {}
    assert abs(np.mean(params["w"])) < 4 / np.sqrt(6000)
    np.testing.assert_allclose(np.std(params["w"]), 1, rtol=0.05)
    filled, _ = jax.jit(fn.embed(2, 3, w_init=fn.initializers.ones).init)(jax.random.key(0), zeros(1, int))
    np.testing.assert_array_equal(filled["w"], np.ones((2, 3)))
    half = {"w": ones((2, 3), jnp.bfloat16)}
    assert fn.embed(2, 3)(half, array([1])).dtype == jnp.bfloat16


def test_errors():
    layer = fn.embed(3, 2)
    params = {"w": ones((3, 2))}
    for wrong in (ones(2), jnp.array([True]), [0, 1], 1):
        with pytest.raises(TypeError, match=r"embed: input is .*, wanted integer indices"):
            layer(params, wrong)
    with pytest.raises(TypeError, match=r"embed: input is float32\[2\]"):
        layer.init(jax.random.key(0), ones(2))
    with pytest.raises(ValueError, match="embed: vocabulary=0"):
        fn.embed(0, 2)
    with pytest.raises(TypeError, match=r"embed: features=2\.0"):
        fn.embed(3, 2.0)
    with pytest.raises(ValueError, match=r"embed: params has no entries, wanted \['w'\]"):
        layer({}, array([1]))


def test_the_gradient_of_indices_out_of_range_stays_out_of_the_table():
    layer, w = fn.embed(3, 2), table(3, 2)
    x = array([-1, 0, 3, 2**31 - 1])
    gradient = jax.jit(jax.grad(lambda w, x: jnp.nansum(layer({"w": w}, x))))(w, x)
    np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [0, 0]])


class TestTied:
    @pytest.mark.parametrize("shape", [(2, 3), (4,), (0, 2)])
    def test_by_the_equation(self, shape):
        rng = np.random.default_rng(0)
        params = {
            "embed": {"w": rng.normal(size=(5, 3))},
            "body": {"w": rng.normal(size=(3, 3)), "b": rng.normal(size=3)},
        }

        def reference(params, x):
            one_hot, w = np.eye(5)[x], params["embed"]["w"]
            return (one_hot @ w @ params["body"]["w"] + params["body"]["b"]) @ w.T

        agrees(fn.tied_embed(5, 3, fn.dense(3)), reference, params, rng.integers(0, 5, shape))

    @pytest.mark.slow
    def test_params_state_and_keys(self):
        net = fn.tied_embed(2000, 8, fn.serial(fn.batch_norm(), fn.dropout(0.5)))
        params, state = jax.jit(lambda key: net.init(key, jax.ShapeDtypeStruct((4, 6), jnp.uint8)))(KEY)
        assert fn.check.describe(state) == "{body: {batch_norm_0: {mean: float32[8], var: float32[8]}}}"
        np.testing.assert_allclose(np.std(params["embed"]["w"]), 0.02, rtol=0.05)
        x = array(np.arange(24)).reshape(4, 6)
        y, after = jax.jit(partial(net.apply, train=True))(params, state, x, key=KEY)
        assert y.shape == (4, 6, 2000)
        assert np.any(after["body"]["batch_norm_0"]["mean"] != 0)
        alone, _ = jax.jit(fn.tied_embed(4, 2, fn.relu, w_init=fn.initializers.ones).init)(KEY, x)
        assert jax.tree.map(jnp.shape, alone) == {"embed": {"w": (4, 2)}}
        pooled = fn.tied_embed(4, 2, lambda x: x.mean(1))
        assert pooled(alone, x % 4).shape == (4, 4)

    def test_indices_out_of_range(self):
        net, params = fn.tied_embed(3, 2, fn.tanh), {"embed": {"w": table(3, 2)}}
        x = array([[0, 3]])
        with pytest.raises(ValueError, match="embed: indices from 0 to 3") as caught:
            net(params, x)
        assert caught.value.__notes__ == ["in tied_embed['embed'], input int32[1,2]"]
        y = jax.jit(net)(params, x)
        np.testing.assert_array_equal(np.isnan(y), [[[False] * 3, [True] * 3]])

    def test_errors(self):
        x = zeros((1, 2), int)
        wanted = r"tied_embed: body gives float32\[1,2,4\], wanted 3 features on the last axis"
        with pytest.raises(ValueError, match=wanted) as caught:
            fn.tied_embed(5, 3, fn.dense(4)).init(KEY, x)
        assert caught.value.__notes__ == ["in tied_embed['body'], input float32[1,2,3]"]
        params = params_for(fn.tied_embed(5, 3, fn.dense(3)), x)
        with pytest.raises(ValueError, match=wanted):
            fn.tied_embed(5, 3, lambda x: jnp.ones((1, 2, 4)))({"embed": params["embed"]}, x)
        with pytest.raises(
            ValueError, match=r"tied_embed: params has \['body'\], wanted \['body', 'embed'\]"
        ):
            fn.tied_embed(5, 3, fn.dense(3))({"body": params["body"]}, x)
        with pytest.raises(ValueError, match="dense: params has no entries") as caught:
            fn.tied_embed(5, 3, fn.dense(3))({"embed": params["embed"]}, x)
        assert caught.value.__notes__ == ["in tied_embed['body'], input float32[1,2,3]"]
        with pytest.raises(TypeError, match="wanted integer indices"):
            fn.tied_embed(5, 3, fn.relu).init(KEY, ones(2))
        with pytest.raises(ValueError, match="embed: features=0"):
            fn.tied_embed(5, 0, fn.relu)
