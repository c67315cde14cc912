"""Resizing beside loops from its equations, and `np.pad`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, ones, zeros
from tests.oracle import agrees


def per_axis(value, axes):
    return (value,) * axes if isinstance(value, int) else tuple(value)


def upsample_loops(x, factor, method):
    for axis, f in enumerate(per_axis(factor, x.ndim - 2), start=1):
        n = x.shape[axis]
        rows = np.moveaxis(x, axis, 0)
        out = []
        for i in range(n * f):
            if method == "nearest":
                out.append(rows[i // f])
                continue
            at = (i + 0.5) / f - 0.5
            j = int(np.floor(at))
            low, high = (min(max(a, 0), n - 1) for a in (j, j + 1))
            out.append((1 - (at - j)) * rows[low] + (at - j) * rows[high])
        x = np.moveaxis(np.stack(out), 0, axis)
    return x


@pytest.mark.parametrize("method", ["nearest", "linear"])
@pytest.mark.parametrize(
    "shape, factor", [((2, 3, 4, 2), 2), ((2, 3, 2, 2, 1), (1, 3, 2)), ((1, 1, 2), 4), ((1, 5, 1), (3,))]
)
def test_upsample_is_that_of_the_loops(shape, factor, method):
    x = np.random.default_rng(0).normal(size=shape)
    layer = fn.upsample(factor, method=method)
    agrees(lambda x: layer({}, x), partial(upsample_loops, factor=factor, method=method), x)


def test_linear_meets_only_what_it_sees():
    x = array([1.0, 2.0, jnp.inf, 3.0]).reshape(1, 4, 1)
    y = fn.upsample(3, method="linear")({}, x).ravel()
    np.testing.assert_array_equal(np.isinf(y), np.isin(np.arange(12), range(5, 10)))
    assert not np.isnan(y).any()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_linear_in_half_precision_is_rounded_once(dtype):
    x = array(np.random.default_rng(0).normal(size=(1, 4, 5, 2)), dtype)
    wanted = array(upsample_loops(np.asarray(x, np.float64), 4, "linear"), dtype)
    y = jax.jit(fn.upsample(4, method="linear"))({}, x)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        y.astype(jnp.float32), wanted.astype(jnp.float32), rtol=float(jnp.finfo(dtype).eps)
    )
    largest = array(np.full((1, 2, 1), jnp.finfo(dtype).max, dtype))
    assert np.isfinite(fn.upsample(3, method="linear")({}, largest)).all()


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize(
    "shape, widths", [((2, 4, 3, 2), ((3, 0), (1, 2))), ((1, 3, 2), 2), ((1, 2, 3, 2, 1), ((0, 0),) * 3)]
)
def test_pad_is_that_of_numpy(mode, shape, widths):
    pairs = [(widths, widths)] if isinstance(widths, int) else widths
    value = {"constant_values": -1.5} if mode == "constant" else {}
    layer = fn.pad(widths, mode=mode, value=-1.5)
    agrees(
        lambda x: layer({}, x),
        lambda x: np.pad(x, [(0, 0), *pairs, (0, 0)], mode, **value),
        np.random.default_rng(0).normal(size=shape),
    )


def test_the_value_of_a_pad_may_be_a_tracer():
    x = ones((1, 2, 1), jnp.bfloat16)

    @jax.jit
    @jax.value_and_grad
    def total(value):
        y = fn.pad(((1, 2),), value=value)({}, x)
        assert y.dtype == x.dtype
        return jnp.sum(y.astype(jnp.float32))

    assert total(2.0) == (8.0, 3.0)


def space_to_depth_loops(x, block):
    after = [n // b for n, b in zip(x.shape[1:-1], block, strict=True)]
    channels = x.shape[-1]
    y = np.zeros((len(x), *after, np.prod(block) * channels))
    for i in np.ndindex(*after):
        for number, k in enumerate(np.ndindex(*block)):
            at = tuple(a * b + c for a, b, c in zip(i, block, k, strict=True))
            y[(slice(None), *i, slice(number * channels, (number + 1) * channels))] = x[(slice(None), *at)]
    return y


@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=3), st.integers(1, 2))
def test_space_to_depth_is_that_of_the_loops_and_depth_to_space_its_inverse(axes, channels):
    after, block = zip(*axes, strict=True)
    x = np.random.default_rng(0).normal(size=(2, *np.multiply(after, block), channels))

    def both(x):
        y = fn.space_to_depth(block)({}, x)
        return y, fn.depth_to_space(block)({}, y)

    agrees(both, lambda x: (space_to_depth_loops(x, block), x), x)


def test_one_block_for_all_axes():
    x = array(np.arange(32.0)).reshape(1, 4, 4, 2)
    y = fn.space_to_depth(2)({}, x)
    np.testing.assert_array_equal(y, space_to_depth_loops(np.asarray(x), (2, 2)))
    np.testing.assert_array_equal(fn.depth_to_space(2)({}, y), x)


LAYERS = {
    "upsample": fn.upsample(2, method="linear"),
    "pad": fn.pad(1, mode="reflect"),
    "space_to_depth": fn.space_to_depth(2),
    "depth_to_space": fn.depth_to_space(2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_inputs(name):
    layer = LAYERS[name]
    x = np.random.default_rng(0).normal(size=(2, 4, 6))
    y = layer({}, x)  # float64 of NumPy is float32 to JAX
    assert y.dtype == jnp.float32
    assert layer({}, x[:0]).shape == (0, *y.shape[1:])
    with pytest.raises(TypeError, match=rf"{name}: input is int32\[1,4,2\], wanted floating point"):
        layer({}, ones((1, 4, 2), jnp.int32))
    with pytest.raises(ValueError, match=rf"{name}: input is float32\[4,2\], wanted \(batch, 1 to 3"):
        layer.init(jax.random.key(0), ones((4, 2)))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: fn.upsample(0), ValueError, "upsample: factor=0, wanted at least 1"),
        (lambda: fn.upsample(1.5), TypeError, "upsample: factor=1.5, wanted a positive int"),
        (
            lambda: fn.upsample(2, method="cubic"),
            ValueError,
            "upsample: method='cubic', wanted one of 'near",
        ),
        (
            lambda: fn.pad(1, mode="wrap"),
            ValueError,
            "pad: mode='wrap', wanted one of 'constant', 'reflect', 'edge'",
        ),
        (lambda: fn.pad(-1), ValueError, "pad: widths=-1, wanted an int or"),
        (lambda: fn.pad(True), ValueError, "pad: widths=True, wanted"),
        (lambda: fn.pad((1, 2)), ValueError, r"pad: widths=\(1, 2\), wanted"),
        (lambda: fn.pad(((1, 2, 3),)), ValueError, "pad: widths=.*wanted"),
        (lambda: fn.pad(((1.0, 2),)), ValueError, "pad: widths=.*wanted"),
        (lambda: fn.space_to_depth(0), ValueError, "space_to_depth: block=0"),
        (lambda: fn.depth_to_space(0), ValueError, "depth_to_space: block=0"),
    ],
)
def test_wrong_arguments_raise_when_the_layer_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (fn.upsample((2, 2)), (1, 4, 2), r"upsample: factor=\(2, 2\) and 1 spatial axes"),
        (fn.pad(((1, 1),)), (1, 4, 4, 2), r"pad: widths=\(\(1, 1\),\) and 2 spatial axes"),
        (fn.pad(4, mode="reflect"), (1, 4, 2), "pad: input is .*wanted at most size - 1 elements"),
        (fn.pad(1, mode="reflect"), (1, 0, 2), "pad: input is .*wanted at most size - 1 elements"),
        (fn.pad(1, mode="edge"), (1, 0, 2), "pad: input is .*wanted no empty axis"),
        (
            fn.space_to_depth(2),
            (1, 5, 2),
            r"space_to_depth: input is .*wanted spatial axes that block \(2,\)",
        ),
        (fn.depth_to_space((2, 3)), (1, 2, 2, 4), r"depth_to_space: .*channels that the 6 elements of block"),
    ],
)
def test_wrong_inputs_raise(layer, shape, message):
    for attempt in (partial(layer.init, jax.random.key(0)), partial(layer, {})):
        with pytest.raises(ValueError, match=message):
            attempt(zeros(shape))
