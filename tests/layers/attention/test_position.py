"""Positions beside their equations in NumPy, and counting on from call to call."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, blank, normal, ones, params_for, zeros
from tests.oracle import agrees

KEY = jax.random.key(0)


def waves(time, features, base=10000.0):
    table = np.zeros((time, features))
    for t in range(time):
        for i in range(features):
            angle = t / base ** (2 * (i // 2) / features)
            table[t, i] = np.cos(angle) if i % 2 else np.sin(angle)
    return table


def turn(x, positions, base, interleaved):
    """One pair at a time."""
    batch, time, heads, d = x.shape
    y = np.zeros_like(x)
    for b, t, h, i in np.ndindex(batch, time, heads, d // 2):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + d // 2)
        angle = positions[b, t] / base ** (2 * i / d)
        p, q = x[b, t, h, [first, second]]
        y[b, t, h, first] = p * np.cos(angle) - q * np.sin(angle)
        y[b, t, h, second] = p * np.sin(angle) + q * np.cos(angle)
    return y


def test_learned_position():
    layer, x = fn.learned_position(5), normal(2, 3, 4)
    assert jax.eval_shape(layer.init, KEY, x)[1] == {}
    agrees(layer, lambda params, x: x + params["w"][:3], {"w": normal(5, 4)}, x)


def test_params_of_learned_position():
    layer = fn.learned_position(2000)
    params, _ = layer.init(KEY, jax.ShapeDtypeStruct((1, 1, 3), jnp.float32))
    assert fn.check.describe(params) == "{w: float32[2000,3]}"
    np.testing.assert_allclose(np.std(params["w"]), 0.02, rtol=0.05)
    params, _ = jax.jit(fn.learned_position(2, w_init=fn.initializers.ones).init)(KEY, ones((1, 1, 3)))
    np.testing.assert_array_equal(params["w"], np.ones((2, 3)))


@settings(max_examples=8)
@given(st.integers(0, 2), st.integers(0, 40), st.integers(1, 7), st.sampled_from([1.0, 50.0, 10000.0]))
def test_sinusoidal_position(batch, time, features, base):
    x = normal(batch, time, features)
    table = waves(time, features, base)
    agrees(partial(fn.sinusoidal_position(base=base), {}), lambda x: x + table, x)


@settings(max_examples=8)
@given(
    *(st.integers(0, 2), st.integers(0, 4), st.integers(1, 2), st.sampled_from([2, 4, 6])),
    *(st.sampled_from([1.0, 50.0, 10000.0]), st.booleans(), st.sampled_from(["none", "time", "batch"])),
)
def test_rotary(batch, time, heads, d, base, interleaved, kind):
    x, rng = normal(batch, time, heads, d), np.random.default_rng(0)
    shape = {"none": None, "time": (time,), "batch": (batch, time)}[kind]
    positions = None if shape is None else rng.integers(0, 100, shape)
    wanted = np.broadcast_to(np.arange(time) if positions is None else positions, (batch, time))
    agrees(
        lambda x: fn.rotary(x, positions, base=base, interleaved=interleaved),
        lambda x: turn(x, wanted, base, interleaved),
        x,
    )


def test_products_of_turned_vectors_depend_on_the_distance():
    q, k = (array(normal(1, 1, 1, 8, seed=s), jnp.float32) for s in range(2))

    @jax.jit
    def product(i, j):
        return jnp.sum(fn.rotary(q, i[None]) * fn.rotary(k, j[None]))

    np.testing.assert_allclose(product(3, 1), product(50, 48), rtol=1e-4)
    assert abs(product(3, 1) - product(3, 2)) > 1e-2


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_of_the_output_only(dtype):
    """Position 3,001 is none of bfloat16's numbers."""
    far = array(np.arange(3001, 3003))
    x = ones((1, 2, 1, 4), dtype)
    y = fn.rotary(x, far)
    assert y.dtype == dtype
    wanted = turn(np.ones((1, 2, 1, 4)), np.asarray(far)[None], 10000.0, True)
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, atol=2 * float(jnp.finfo(dtype).eps))
    layer = fn.sinusoidal_position()
    y = jax.jit(partial(layer, {}))(zeros((1, 3003, 4), dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y[0], np.float64), waves(3003, 4), atol=float(jnp.finfo(dtype).eps))
    layer = fn.learned_position(3)
    assert layer({"w": ones((3, 4))}, ones((1, 3, 4), dtype)).dtype == dtype


@pytest.mark.parametrize("make", [partial(fn.learned_position, 7), fn.sinusoidal_position])
def test_counting_on_from_call_to_call(make):
    layer, x = make(cache=True), normal(2, 7, 5).astype(np.float32)
    params, state = params_for(layer, x[:, :1]), blank(jax.eval_shape(layer.init, KEY, x[:, :1])[1])
    assert fn.check.describe(state) == "{position: int32[]}"
    whole = jax.jit(make())(params, x)

    @jax.jit
    def in_parts(params, state, x):
        first, state = layer.apply(params, state, x[:, :3])

        def step(state, x):
            y, state = layer.apply(params, state, x[:, None])
            return state, y[:, 0]

        state, rest = jax.lax.scan(step, state, x[:, 3:].swapaxes(0, 1))
        return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1), state

    y, after = in_parts(params, state, x)
    np.testing.assert_allclose(y, whole, rtol=1e-6, atol=1e-6)
    assert after["position"] == 7
    # Training starts at 0 and leaves the state.
    trained, same = jax.jit(partial(layer.apply, train=True))(params, after, x)
    np.testing.assert_allclose(trained, whole, rtol=1e-6, atol=1e-6)
    assert same["position"] == 7
    with pytest.raises(ValueError, match=r"position: state has no entries, wanted \['position'\]"):
        layer(params, x)


def test_beyond_the_last_position():
    layer, x = fn.learned_position(3, cache=True), ones((1, 2, 4))
    params, state = params_for(layer, x), blank(jax.eval_shape(layer.init, KEY, x)[1])
    jitted = jax.jit(layer.apply)
    y, state = jitted(params, state, x)
    assert np.isfinite(y).all()
    with pytest.raises(
        ValueError, match="learned_position: 2 time steps at position 2, wanted at most 3 in all"
    ):
        layer.apply(params, state, x)
    assert np.isnan(jitted(params, state, x)[0]).all()
    y, state = jitted(params, state, x[:, :1])
    np.testing.assert_allclose(y[0], 1 + params["w"][2:], rtol=1e-6)
    y, state = jitted(params, state, x[:, :1])
    assert np.isnan(y).all()
    for run in (jitted, layer.init):
        with pytest.raises(ValueError, match=r"learned_position: 4 time steps.* wanted at most 3 in all"):
            run(*((params, state) if run is jitted else (KEY,)), ones((1, 4, 4)))
    with pytest.raises(
        ValueError, match="learned_position: 4 time steps at position 0, wanted at most 3 in all"
    ):
        jax.jit(fn.learned_position(3))(params, ones((1, 4, 4)))


def test_errors():
    x = ones((2, 3, 4))
    with pytest.raises(ValueError, match="learned_position: length=0, wanted at least 1"):
        fn.learned_position(0)
    with pytest.raises(ValueError, match=r"sinusoidal_position: base=0\.5, wanted at least 1"):
        fn.sinusoidal_position(base=0.5)
    for layer in (fn.learned_position(5), fn.sinusoidal_position()):
        params = {"w": np.ones((5, 4))} if layer.name == "learned_position" else {}
        for shape in ((3, 4), (2, 3, 4, 1)):
            for f in (partial(layer, params), partial(layer.init, KEY)):
                with pytest.raises(
                    ValueError, match=r"position: input is .*, wanted \(batch, time, features\)"
                ):
                    f(ones(shape))
    with pytest.raises(
        ValueError, match=r"input is float32\[2,3,3\] and w float32\[5,4\], wanted 4 features"
    ):
        fn.learned_position(5)({"w": ones((5, 4))}, ones((2, 3, 3)))
    turned = ones((2, 3, 1, 4))
    with pytest.raises(ValueError, match=r"rotary: base=0, wanted at least 1"):
        fn.rotary(turned, base=0)
    with pytest.raises(TypeError, match=r"rotary: input is int32\[2,3,1,4\], wanted floating point"):
        fn.rotary(turned.astype(jnp.int32))
    with pytest.raises(
        ValueError, match=r"rotary: input is float32\[2,3,4\], wanted \(batch, time, heads, d\)"
    ):
        fn.rotary(x)
    with pytest.raises(ValueError, match=r"rotary: input is float32\[2,3,1,3\], wanted an even d"):
        fn.rotary(turned[..., :3])
    for shape in ((2,), (3, 3), (2, 3, 1), ()):
        with pytest.raises(ValueError, match=r"rotary: positions are int32\[.*, here \(3,\) or \(2, 3\)"):
            fn.rotary(turned, ones(shape, jnp.int32))
