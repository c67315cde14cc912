"""The affine map beside NumPy, and `flatten`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, ones, params_for, zeros


@partial(jax.jit, static_argnums=0)
def value_and_gradients(layer, params, x, dy):
    y, back = jax.vjp(layer, params, x)
    return y, *back(dy)


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 9),
)
def test_value_and_gradients_by_the_equation(batch, inputs, features, use_bias, seed):
    rng = np.random.default_rng(seed)
    x, w, b = (
        rng.normal(size=(*batch, inputs)),
        rng.normal(size=(inputs, features)),
        rng.normal(size=features),
    )
    dy = rng.normal(size=(*batch, features))
    with jax.enable_x64(True):
        layer = fn.dense(features, use_bias=use_bias)
        params = {"w": w, "b": b} if use_bias else {"w": w}
        got = value_and_gradients(layer, params, x, dy)
    y, dw = np.zeros(dy.shape), np.zeros(w.shape)
    for i in np.ndindex(*batch):
        for o in range(features):
            y[(*i, o)] = x[i] @ w[:, o] + b[o] * use_bias
            dw[:, o] += dy[(*i, o)] * x[i]
    dparams = {"w": dw, "b": dy.reshape(-1, features).sum(0)} if use_bias else {"w": dw}
    wanted = y, dparams, np.einsum("...o,io->...i", dy, w)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), got, wanted)


def test_params():
    layer = fn.dense(np.int64(3), b_init=fn.initializers.ones)
    params, state = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.bfloat16))
    assert fn.check.describe(params) == "{w: bfloat16[2,3], b: bfloat16[3]}"
    assert state == {}
    np.testing.assert_array_equal(params["b"], ones(3, jnp.bfloat16))
    assert list(fn.dense(3, use_bias=False).init(jax.random.key(0), ones((1, 2)))[0]) == ["w"]


def test_the_initial_weights_are_he_normal():
    params, _ = fn.dense(500).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 200), jnp.float32))
    np.testing.assert_allclose(np.std(params["w"]), np.sqrt(2 / 200), rtol=0.02)
    assert not np.any(params["b"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    layer = fn.dense(2, use_bias=False)
    rng = np.random.default_rng(0)
    x, w = (array(rng.normal(size=shape), dtype) for shape in ((3, 300), (300, 2)))
    y = layer({"w": w}, x)
    wanted = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    assert y.dtype == dtype
    assert np.abs(np.asarray(y, np.float64) - wanted).max() <= jnp.finfo(dtype).eps * np.abs(wanted).max()
    assert layer({"w": w.astype(jnp.float32)}, x).dtype == jnp.float32  # JAX's promotion


def test_inputs_of_numpy():
    x = np.random.default_rng(0).normal(size=(3, 2))
    layer = fn.dense(4)
    params, _ = layer.init(jax.random.key(0), x)  # float64 of NumPy is float32 to JAX
    assert params["w"].dtype == params["b"].dtype == jnp.float32
    y = layer(jax.tree.map(np.asarray, params), x)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, layer(params, jnp.asarray(x)))
    without_bias = fn.dense(4, use_bias=False)({"w": np.asarray(params["w"])}, x)
    assert isinstance(without_bias, jax.Array)
    assert without_bias.dtype == jnp.float32


def test_no_inputs_give_the_bias():
    layer = fn.dense(2, w_init=fn.initializers.zeros, b_init=fn.initializers.ones)
    x = zeros((3, 0))
    params, _ = jax.jit(layer.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(layer(params, x), np.ones((3, 2)))


@pytest.mark.parametrize(
    "features, error, message",
    [
        (0, ValueError, "dense: features=0, wanted at least 1"),
        (-3, ValueError, "dense: features=-3"),
        (3.0, TypeError, "dense: features=3.0, wanted a positive int"),
        (True, TypeError, "dense: features=True"),
        ((3,), TypeError, r"dense: features=\(3,\)"),
        (None, TypeError, "dense: features=None"),
    ],
)
def test_wrong_features_raise(features, error, message):
    with pytest.raises(error, match=message):
        fn.dense(features)


def test_wrong_inputs_raise():
    layer = fn.dense(3)
    params = params_for(layer, ones((1, 4)))
    with pytest.raises(
        ValueError,
        match=r"dense: input is float32\[2,5\] and w float32\[4,3\], wanted 4 features; for images",
    ):
        layer(params, ones((2, 5)))
    with pytest.raises(ValueError, match=r"dense: input is float32\[\], wanted \(batch, features\)"):
        layer(params, ones(()))
    with pytest.raises(TypeError, match=r"dense: input is uint8\[2,4\], wanted floating point.*/ 255"):
        layer(params, ones((2, 4), jnp.uint8))
    with pytest.raises(TypeError, match=r"dense: input is \(\(1.0, 1.0\)\), wanted one array"):
        layer(params, [[1.0, 1.0]])
    with pytest.raises(ValueError, match=r"dense: params has \['b', 'w'\], wanted \['w'\]"):
        fn.dense(3, use_bias=False)(params, ones((2, 4)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_flatten(shape):
    x = np.arange(np.prod(shape)).reshape(shape)
    y = fn.flatten(x)
    assert y.shape == (shape[0], np.prod(shape[1:], dtype=int))
    for i in range(shape[0]):
        np.testing.assert_array_equal(y[i], x[i].ravel())


@pytest.mark.parametrize("x", [jnp.float32(1), [[1.0]]])
def test_flatten_without_a_batch_raises(x):
    with pytest.raises(ValueError, match=r"flatten: input is .*, wanted \(batch, \.\.\.\)"):
        fn.flatten(x)
