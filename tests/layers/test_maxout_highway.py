"""Maxout and the highway layer beside NumPy, unit by unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, ones, params_for
from tests.oracle import agrees

KEY = jax.random.key(0)


@settings(max_examples=8)
@given(
    st.lists(st.integers(0, 3), max_size=2),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 9),
)
def test_maxout_by_the_equation(batch, inputs, features, pieces, use_bias, seed):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(inputs, pieces * features))}
    if use_bias:
        params["b"] = rng.normal(size=pieces * features)

    def reference(params, x):
        maps = []
        for k in range(pieces):
            columns = slice(k * features, (k + 1) * features)
            maps.append(x @ params["w"][:, columns] + (params["b"][columns] if use_bias else 0))
        return np.max(maps, axis=0)

    agrees(
        fn.maxout(features, pieces, use_bias=use_bias), reference, params, rng.normal(size=(*batch, inputs))
    )


def test_maxout_starts_as_a_dense_layer_of_all_its_pieces():
    params, state = fn.maxout(50, 4).init(KEY, jax.ShapeDtypeStruct((1, 200), jnp.float32))
    assert fn.check.describe(params) == "{w: float32[200,200], b: float32[200]}"
    np.testing.assert_allclose(np.std(params["w"]), np.sqrt(2 / 200), rtol=0.02)
    assert not np.any(params["b"])
    assert state == {}
    params, _ = jax.jit(fn.maxout(1, w_init=fn.initializers.ones, b_init=fn.initializers.ones).init)(
        KEY, ones((1, 1))
    )
    assert np.all(params["w"] == 1)
    assert np.all(params["b"] == 1)


def test_equal_pieces_share_the_gradient():
    w = array([[1.0, 1.0, 0.5, 1.0]])
    gradient = jax.grad(lambda w: fn.maxout(1, 4, use_bias=False)({"w": w}, jnp.array([[3.0]])).sum())(w)
    np.testing.assert_allclose(gradient, [[1.0, 1.0, 0.0, 1.0]], rtol=1e-6)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    st.lists(st.integers(0, 3), max_size=2),
    st.integers(1, 4),
    st.sampled_from(["relu", "tanh"]),
    st.integers(0, 9),
)
def test_highway_by_the_equation(batch, features, activation, seed):
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=(features, features)) for name in ("w_h", "w_t")}
    params |= {name: rng.normal(size=features) for name in ("b_h", "b_t")}

    def reference(params, x):
        h = x @ params["w_h"] + params["b_h"]
        h = np.maximum(h, 0) if activation == "relu" else np.tanh(h)
        t = 1 / (1 + np.exp(-x @ params["w_t"] - params["b_t"]))
        return t * h + (1 - t) * x

    layer = fn.highway() if activation == "relu" else fn.highway(jnp.tanh)
    agrees(layer, reference, params, rng.normal(size=(*batch, features)))


def test_highway_starts_nearly_as_the_identity():
    layer = fn.highway(b_init=fn.initializers.ones)
    params, state = layer.init(KEY, jax.ShapeDtypeStruct((1, 100), jnp.bfloat16))
    assert state == {}
    assert all(p.dtype == jnp.bfloat16 for p in params.values())
    np.testing.assert_array_equal(params["b_t"], np.full(100, -2))
    np.testing.assert_array_equal(params["b_h"], np.ones(100))
    for name in ("w_h", "w_t"):
        np.testing.assert_allclose(np.std(params[name].astype(jnp.float32)), np.sqrt(2 / 100), rtol=0.03)
    assert not np.array_equal(params["w_h"], params["w_t"])


@pytest.mark.parametrize("b_t, wanted", [(-200.0, [[1e30, -2.0]]), (200.0, [[3.0, 3.0]])])
def test_a_gate_far_out(b_t, wanted):
    params = {name: np.zeros((2, 2), np.float32) for name in ("w_h", "w_t")}
    params |= {"b_h": np.full(2, 3.0, np.float32), "b_t": np.full(2, b_t, np.float32)}
    run = jax.jit(
        lambda params, x: (fn.highway()(params, x), jax.grad(lambda p: fn.highway()(p, x).sum())(params))
    )
    y, gradient = run(params, np.array([[1e30, -2.0]], np.float32))
    np.testing.assert_array_equal(y, np.array(wanted, np.float32))
    assert all(np.all(np.isfinite(g)) for g in gradient.values())


def test_errors():
    x = ones((1, 2))
    with pytest.raises(ValueError, match="maxout: features=0"):
        fn.maxout(0)
    with pytest.raises(TypeError, match=r"maxout: pieces=2\.0, wanted a positive int"):
        fn.maxout(1, 2.0)
    params = {"w": ones((3, 2)), "b": ones(2)}
    with pytest.raises(
        ValueError,
        match=r"float32\[1,2\] and w float32\[3,2\], wanted 3 features; for images put flatten before it",
    ) as caught:
        fn.maxout(1)(params, x)
    assert caught.value.__notes__ == ["in maxout, input float32[1,2]"]
    with pytest.raises(TypeError, match="wanted floating point") as caught:
        fn.maxout(1).init(KEY, x.astype(np.int32))
    assert caught.value.__notes__ == ["in maxout, input int32[1,2]"]

    params = params_for(fn.highway(), x)
    with pytest.raises(
        ValueError, match=r"highway: params has \['w'\], wanted \['b_h', 'b_t', 'w_h', 'w_t'\]"
    ):
        fn.highway()({"w": x}, x)
    with pytest.raises(
        ValueError, match=r"float32\[1,3\] and w_h float32\[2,2\], wanted 2 features"
    ) as caught:
        fn.highway()(params, ones((1, 3)))
    with pytest.raises(
        ValueError, match=r"highway: input is float32\[\], wanted \(batch, \.\.\., features\)"
    ):
        fn.highway().init(KEY, ones(()))
    with pytest.raises(TypeError, match=r"highway: input is int32\[1,2\], wanted floating point"):
        fn.highway()(params, x.astype(np.int32))
