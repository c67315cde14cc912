"""Pools beside the matrix that does the same, built with loops from the equation: y = S x, so dx = S^T dy."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, ones, zeros

POOLS = {"max_pool": fn.max_pool, "avg_pool": fn.avg_pool}

# name: (shape of x, window, keywords)
CASES = {
    "1 axis": ((2, 6, 2), 2, {}),
    "1 axis, a rest that is not seen": ((2, 8, 1), 3, {}),
    "1 axis, windows overlap": ((2, 7, 2), 3, {"strides": 1}),
    "1 axis, strides beyond the window": ((1, 9, 2), 2, {"strides": 4, "padding": "SAME"}),
    "2 axes, SAME": ((2, 5, 4, 2), (2, 3), {"padding": "SAME"}),
    "2 axes, SAME, overlap": ((1, 5, 6, 1), 3, {"padding": "SAME", "strides": (2, 1)}),
    "2 axes, lopsided padding": ((1, 4, 5, 2), 3, {"padding": ((2, 0), (1, 2)), "strides": 2}),
    "2 axes of size 1": ((2, 1, 1, 3), 1, {}),
    "3 axes": ((1, 4, 3, 4, 2), (2, 1, 2), {}),
    "3 axes, SAME": ((1, 3, 3, 2, 1), 2, {"padding": "SAME", "strides": (1, 2, 2)}),
}


def per_axis(value, axes):
    return (value,) * axes if isinstance(value, int) else tuple(value)


def matrices(kind, x, window, *, strides=None, padding="VALID"):
    """S for each example and channel (batch, channels, outputs, inputs), and the shape of y."""
    space = x.shape[1:-1]
    window = per_axis(window, len(space))
    strides = window if strides is None else per_axis(strides, len(space))
    if padding == "VALID":
        padding = [(0, 0)] * len(space)
    if padding == "SAME":
        totals = [
            max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(space, window, strides, strict=True)
        ]
        padding = [(total // 2, total - total // 2) for total in totals]
    after = [
        (n + sum(pad) - k) // s + 1 for n, k, s, pad in zip(space, window, strides, padding, strict=True)
    ]
    matrix = np.zeros((x.shape[0], x.shape[-1], *after, *space))
    for i in np.ndindex(*after):
        corner = [a * s - low for a, s, (low, _) in zip(i, strides, padding, strict=True)]
        at = [tuple(np.add(corner, k)) for k in np.ndindex(*window)]
        at = [a for a in at if all(0 <= b < n for b, n in zip(a, space, strict=True))]
        for e, c in itertools.product(range(x.shape[0]), range(x.shape[-1])):
            if kind == "avg_pool":
                for a in at:
                    matrix[(e, c, *i, *a)] = 1 / len(at)
            else:
                matrix[(e, c, *i, *max(at, key=lambda a: x[(e, *a, c)]))] = (
                    1  # of equal ones, max takes the first
                )
    return matrix.reshape(x.shape[0], x.shape[-1], np.prod(after), -1), (x.shape[0], *after, x.shape[-1])


def times(matrix, x, shape):
    """S x for each example and channel."""
    y = np.einsum("bcoi,bic->boc", matrix, x.reshape(x.shape[0], -1, x.shape[-1]))
    return y.reshape(shape)


@partial(jax.jit, static_argnums=0)
def derivatives(layer, x, dx, dy):
    """y, dy back to x, dx forward to y, and the Hessian of sum(y^3) times dx."""

    def pool(x):
        return layer({}, x)

    y, back = jax.vjp(pool, x)
    product = jax.jvp(jax.grad(lambda x: jnp.sum(pool(x) ** 3)), (x,), (dx,))[1]
    return y, back(dy)[0], jax.jvp(pool, (x,), (dx,))[1], product


def check_by_loops(kind, shape, window, keywords, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, -5, shape).astype(np.float64)  # many ties, and below the zeros of any padding
    dx = rng.normal(size=shape)
    matrix, y_shape = matrices(kind, x, window, **keywords)
    back = matrix.swapaxes(-1, -2)
    dy = rng.normal(size=y_shape)
    y, forward = times(matrix, x, y_shape), times(matrix, dx, y_shape)
    wanted = y, times(back, dy, shape), forward, times(back, 6 * y * forward, shape)
    with jax.enable_x64(True):
        got = derivatives(POOLS[kind](window, **keywords), x, dx, dy)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", POOLS)
def test_value_and_derivatives_are_those_of_the_loops(kind, case):
    check_by_loops(kind, *CASES[case])


@settings(max_examples=8)
@given(st.sampled_from([*POOLS]), st.integers(1, 4), st.integers(1, 5), st.data())
def test_any_arguments_give_what_the_loops_give(kind, window, strides, data):
    pads = data.draw(st.tuples(*[st.integers(0, window - 1)] * 2))
    short = max(window - sum(pads), 1)
    shape = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(short, short + 6)),
        data.draw(st.integers(1, 2)),
    )
    padding = data.draw(st.sampled_from(["SAME", (pads,)]))
    check_by_loops(
        kind, shape, window, {"strides": strides, "padding": padding}, data.draw(st.integers(0, 9))
    )


def test_the_whole_gradient_of_a_window_goes_to_the_first_of_the_largest():
    x = array([2.0, 2.0, 1.0, 3.0, 0.0, 0.0]).reshape(1, 6, 1)
    grad = jax.grad(lambda x: jnp.sum(fn.max_pool(2)({}, x) * jnp.array([5.0, 6.0, 7.0]).reshape(1, 3, 1)))(x)
    np.testing.assert_array_equal(grad.ravel(), [5, 0, 0, 6, 7, 0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_padding_never_wins(dtype):
    x = array([-5.0, -7.0, -jnp.inf], dtype).reshape(1, 3, 1)
    y = fn.max_pool(2, strides=1, padding=((1, 1),))({}, x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.ravel().astype(jnp.float32), [-5, -5, -7, -jnp.inf])
    mean = fn.avg_pool(2, strides=1, padding=((1, 1),))({}, x[:, :2])
    assert mean.dtype == dtype
    np.testing.assert_array_equal(mean.ravel().astype(jnp.float32), [-5, -6, -7])


@pytest.mark.parametrize("pool", POOLS.values())
def test_nan_is_passed_on(pool):
    x = array([1.0, jnp.nan, 2.0, 3.0, jnp.nan, 0.0, jnp.nan, jnp.nan]).reshape(1, 8, 1)
    np.testing.assert_array_equal(np.isnan(pool(2)({}, x)).ravel(), [True, False, True, True])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_mean_of_a_large_window_in_half_precision(dtype):
    """Summed in half precision it is infinite, or rounded away: 256 + 1 = 256 in bfloat16."""
    x = array(np.full((1, 32, 32, 1), 3072.0, dtype))
    pool = fn.avg_pool(32)
    y, back = jax.vjp(lambda x: pool({}, x), x)
    assert y.dtype == dtype
    assert y.item() == 3072.0
    np.testing.assert_array_equal(back(np.ones_like(y))[0], np.full_like(x, 1 / 1024))


@pytest.mark.parametrize("pool", POOLS.values())
def test_inputs(pool):
    x = np.random.default_rng(0).normal(size=(2, 6, 3))
    y = pool(2)({}, x)  # float64 of NumPy is float32 to JAX
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, pool(2)({}, jnp.asarray(x)))
    for window in (np.int64(2), [2], (np.int32(2),)):
        np.testing.assert_array_equal(pool(window, strides=window, padding=[[0, 0]])({}, x), y)
    assert pool(2)({}, x[:0]).shape == (0, 3, 3)
    with pytest.raises(TypeError, match=r"_pool: input is int32\[1,4,1\], wanted floating point"):
        pool(2)({}, ones((1, 4, 1), jnp.int32))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6))
def test_sizes(space, window, strides):
    x = jax.ShapeDtypeStruct((2, space, 1), jnp.float32)

    def size(**keywords):
        sizes = {jax.eval_shape(pool(window, **keywords), {}, x).shape[1] for pool in POOLS.values()}
        assert len(sizes) == 1
        return sizes.pop()

    assert size(strides=strides, padding="SAME") == -(-space // strides)
    if space >= window:
        assert size() == space // window
        assert size(strides=strides) == (space - window) // strides + 1
    else:
        with pytest.raises(ValueError, match=r"max_pool: input is float32\[2,.*window reaches over"):
            size()


@pytest.mark.parametrize(
    "window, keywords, error, message",
    [
        (0, {}, ValueError, "_pool: window=0, wanted at least 1"),
        (2.0, {}, TypeError, "_pool: window=2.0, wanted a positive int"),
        ((2, True), {}, TypeError, "_pool: window=True"),
        (2, {"strides": 0}, ValueError, "_pool: strides=0"),
        (2, {"strides": (1, -1)}, ValueError, "_pool: strides=-1"),
        (2, {"padding": "valid"}, ValueError, "_pool: padding='valid', wanted 'SAME', 'VALID' or"),
        (2, {"padding": 1}, ValueError, "_pool: padding=1, wanted"),
        (2, {"padding": ((-1, 0),)}, ValueError, r"_pool: padding=\(\(-1, 0\),\), wanted"),
    ],
)
@pytest.mark.parametrize("pool", POOLS.values())
def test_wrong_arguments_raise_when_the_layer_is_made(pool, window, keywords, error, message):
    with pytest.raises(error, match=message):
        pool(window, **keywords)


@pytest.mark.parametrize(
    "shape, window, keywords, message",
    [
        ((4, 2), 2, {}, r"_pool: input is float32\[4,2\], wanted \(batch, 1 to 3 spatial axes, channels\)"),
        ((1, 4, 4, 2), (2,), {}, r"_pool: window=\(2,\) and 2 spatial axes"),
        ((1, 4, 2), 2, {"strides": (1, 1)}, r"_pool: strides=\(1, 1\) and 1 spatial axes"),
        ((1, 4, 4, 2), 2, {"padding": ((1, 1),)}, r"_pool: padding=\(\(1, 1\),\) and 2 spatial axes"),
        ((1, 4, 2), 2, {"padding": ((2, 0),)}, "_pool: padding .* wanted padding smaller than the window"),
    ],
)
@pytest.mark.parametrize("pool", POOLS.values())
def test_wrong_inputs_raise(pool, shape, window, keywords, message):
    with pytest.raises(ValueError, match=message):
        pool(window, **keywords)({}, zeros(shape))
