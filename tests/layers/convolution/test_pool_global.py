"""Global and adaptive pools beside loops over their windows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, ones
from tests.oracle import agrees

ADAPTIVE = {"avg": (fn.adaptive_avg_pool, np.mean), "max": (fn.adaptive_max_pool, np.max)}
GLOBAL = {"avg": (fn.global_avg_pool, np.mean), "max": (fn.global_max_pool, np.max)}


def loops(x, size, reduce):
    y = np.zeros((len(x), *size, x.shape[-1]))
    for i in np.ndindex(*size):
        window = tuple(
            slice(int(np.floor(a * n / m)), int(np.ceil((a + 1) * n / m)))
            for a, n, m in zip(i, x.shape[1:-1], size, strict=True)
        )
        y[(slice(None), *i)] = reduce(x[(slice(None), *window)], axis=tuple(range(1, x.ndim - 1)))
    return y


@pytest.mark.parametrize("kind", ADAPTIVE)
@pytest.mark.parametrize("shape, size", [((2, 5, 4, 2), (3, 2)), ((2, 1, 4, 3, 1), (2, 1, 4))])
def test_adaptive_pools_are_those_of_the_loops(kind, shape, size):
    pool, reduce = ADAPTIVE[kind]
    x = np.random.default_rng(0).normal(size=shape)
    agrees(lambda x: pool(size)({}, x), partial(loops, size=size, reduce=reduce), x)


@pytest.mark.slow
@settings(max_examples=8)
@given(st.sampled_from([*ADAPTIVE]), st.integers(1, 7), st.integers(1, 5))
def test_any_size_gives_what_the_loops_give(kind, n, size):
    pool, reduce = ADAPTIVE[kind]
    x = np.random.default_rng(0).normal(size=(1, n, 2))
    agrees(lambda x: pool(size)({}, x), partial(loops, size=(size,), reduce=reduce), x)


@pytest.mark.parametrize("kind", GLOBAL)
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 1, 1), (1, 2, 2, 3, 2, 1)])
def test_global_pools_reduce_all_spatial_axes(kind, shape):
    pool, reduce = GLOBAL[kind]
    x = np.random.default_rng(0).normal(size=shape)
    agrees(pool, partial(reduce, axis=tuple(range(1, len(shape) - 1))), x)


@pytest.mark.parametrize("pool", [fn.global_max_pool, fn.adaptive_max_pool(1)])
def test_the_whole_gradient_goes_to_the_first_of_the_largest(pool):
    x = array([[1.0, 2.0, 0.0], [2.0, 2.0, 1.0]])[None, ..., None]
    grad = jax.grad(lambda x: jnp.sum(fn.as_layer(pool)({}, x)))(x)
    np.testing.assert_array_equal(grad[0, ..., 0], [[0, 1, 0], [0, 0, 0]])


def test_overlapping_windows_each_send_their_gradient():
    x = array([1.0, 3.0, 2.0]).reshape(1, 3, 1)
    weights = array([5.0, 7.0]).reshape(1, 2, 1)
    grad = jax.grad(lambda x: jnp.sum(fn.adaptive_max_pool(2)({}, x) * weights))(x)
    np.testing.assert_array_equal(grad.ravel(), [0, 12, 0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_mean_of_large_numbers_does_not_overflow(dtype):
    large = 0.75 * float(jnp.finfo(dtype).max)
    x = array(np.full((1, 33, 33, 1), large, dtype))
    for pool in (fn.global_avg_pool, fn.adaptive_avg_pool(2), fn.avg_pool(33)):
        y = jax.jit(fn.as_layer(pool))({}, x)
        assert y.dtype == dtype
        np.testing.assert_allclose(
            y.astype(jnp.float32), array(np.full(y.shape, x[0, 0, 0, 0], jnp.float32)), 1e-6
        )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_mean_in_half_precision_is_rounded_once(dtype):
    """Summed in half precision, 2,000 ones are 256 in bfloat16; a mean axis by axis is rounded twice."""
    x = array(np.random.default_rng(0).normal(1, 1, size=(1, 39, 52, 3)), dtype)
    exact = np.asarray(x, np.float64)
    wanted = array(loops(exact, (2, 3), np.mean), dtype)
    np.testing.assert_array_equal(jax.jit(fn.adaptive_avg_pool((2, 3)))({}, x), wanted)
    np.testing.assert_array_equal(jax.jit(fn.global_avg_pool)(x), array(exact.mean(axis=(1, 2)), dtype))


@pytest.mark.parametrize(
    "pool", [fn.global_avg_pool, fn.global_max_pool, fn.adaptive_avg_pool(2), fn.adaptive_max_pool(2)]
)
def test_inputs(pool):
    pool = fn.as_layer(pool)
    x = np.random.default_rng(0).normal(size=(2, 4, 3))
    y = pool({}, x)  # float64 of NumPy is float32 to JAX
    assert y.dtype == jnp.float32
    assert pool({}, x[:0]).shape == (0, *y.shape[1:])
    x[0, 1, 2] = np.nan
    seen = np.isnan(pool({}, x)).reshape(2, -1, 3)
    assert seen[0, 0, 2]
    assert seen.sum() == 1
    with pytest.raises(TypeError, match=r"_pool: input is int32\[1,4,1\], wanted floating point"):
        pool({}, ones((1, 4, 1), jnp.int32))
    with pytest.raises(ValueError, match=r"_pool: input is float32\[4,1\], wanted \(batch, "):
        pool({}, ones((4, 1)))
    with pytest.raises(ValueError, match=r"_pool: input is float32\[2,0,1\], wanted at least one element"):
        pool({}, ones((2, 0, 1)))


@pytest.mark.parametrize("pool", [fn.max_pool, fn.avg_pool])
def test_a_window_over_an_empty_axis_raises(pool):
    with pytest.raises(ValueError, match=r"_pool: input is float32\[2,0,1\], wanted at least one element"):
        pool(3, padding=((2, 2),))({}, ones((2, 0, 1)))


@pytest.mark.parametrize("pool", [fn.adaptive_avg_pool, fn.adaptive_max_pool])
def test_wrong_sizes_raise(pool):
    with pytest.raises(ValueError, match="_pool: size=0, wanted at least 1"):
        pool(0)
    with pytest.raises(TypeError, match=r"_pool: size=2.0, wanted a positive int"):
        pool((2, 2.0))
    with pytest.raises(ValueError, match=r"_pool: size=\(2, 2\) and 1 spatial axes"):
        pool((2, 2))({}, ones((1, 4, 1)))
