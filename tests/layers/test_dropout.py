"""Dropout: what is kept, what it is scaled by, and whose key it is drawn with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import fnnet as fn
from tests.arrays import array

ONES = np.ones((2000, 50), np.float32)
KEY = jax.random.key(0)


@jax.jit
def train(rate, x, key):
    return fn.dropout(rate).apply({}, {}, x, key=key, train=True)[0]


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_the_share_that_is_dropped(rate):
    y = np.asarray(train(rate, ONES, KEY))
    assert scipy.stats.binomtest(int(np.sum(y == 0)), y.size, rate).pvalue > 1e-3
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_elements_are_drawn_independently():
    kept = np.asarray(train(0.5, ONES, KEY)) > 0
    for neighbours in (kept[:, :4], kept.T[:, :4], kept.reshape(-1, 4)):
        counts = np.bincount(neighbours @ [1, 2, 4, 8], minlength=16)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_what_is_kept_is_scaled(dtype):
    x = array(np.random.default_rng(0).normal(size=ONES.shape), dtype)
    y = train(0.25, x, KEY)
    assert y.dtype == dtype
    kept = np.asarray(train(0.25, ONES, KEY)) != 0  # in any precision the same
    wanted = np.asarray(x, np.float64) * kept / 0.75
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=float(jnp.finfo(dtype).eps))


def test_the_mean_over_keys_is_the_input():
    x = np.array([[1.0, -2.0, 0.5]], np.float32)
    y = np.asarray(jax.vmap(train, (None, None, 0))(0.3, x, jax.random.split(KEY, 20_000)))
    deviation = np.abs(x) * np.sqrt(0.3 / 0.7 / len(y))
    assert np.all(np.abs(y.mean(0) - x) < 4 * deviation)


def test_one_key_one_mask():
    y = np.asarray(train(0.5, ONES, KEY))
    np.testing.assert_array_equal(y, train(0.5, ONES, jax.random.key(0)))
    assert 0.49 < np.mean(y != np.asarray(train(0.5, ONES, jax.random.key(1)))) < 0.51


def test_evaluation_is_the_identity():
    x = array(np.arange(6.0)).reshape(2, 3)
    for key in (None, KEY):
        y, state = fn.dropout(0.9).apply({}, {}, x, key=key)
        np.testing.assert_array_equal(y, x)
        assert state == {}


def test_a_rate_of_zero_keeps_everything():
    x = np.random.default_rng(0).normal(size=ONES.shape).astype(np.float32)
    np.testing.assert_array_equal(train(0.0, x, KEY), x)


def test_the_rate_may_be_a_tracer_or_a_number():
    rates = [0.0, 0.2, 0.8]
    many = jax.vmap(train, (0, None, None))(array(rates), ONES, KEY)
    assert many.dtype == jnp.float32
    for rate, y in zip(rates, many, strict=True):
        number, _ = fn.dropout(rate).apply({}, {}, ONES, key=KEY, train=True)
        np.testing.assert_allclose(y, number, rtol=1e-6)


def test_the_gradient_has_the_mask_of_the_forward_pass():
    x = np.tile(np.array([1.0, np.inf, -2.0, 3.0, np.nan], np.float32), (2000, 10))
    y, back = jax.vjp(lambda x: train(0.5, x, KEY), x)
    mask = np.asarray(train(0.5, ONES, KEY))
    np.testing.assert_array_equal(np.asarray(y) == 0, mask == 0)  # what is dropped is gone, were it infinite
    np.testing.assert_array_equal(back(ONES)[0], mask)


def test_inputs():
    layer = fn.dropout(0.5)
    x = np.random.default_rng(0).normal(size=ONES.shape)  # float64 of NumPy is float32 to JAX
    for keywords in ({"train": True}, {}):
        y, _ = layer.apply({}, {}, x, key=KEY, **keywords)
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y, layer.apply({}, {}, jnp.asarray(x), key=KEY, **keywords)[0])
    assert train(0.5, ONES[:0], KEY).shape == (0, 50)
    assert train(0.5, jnp.float32(1), KEY) in (0, 2)


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 1.5, np.float32(1.5), np.int64(1), float("nan")])
def test_wrong_rates_raise(rate):
    with pytest.raises(ValueError, match=r"dropout: rate=.*, wanted in \[0, 1\)"):
        fn.dropout(rate)


def test_errors():
    with pytest.raises(TypeError, match=r"dropout: rate=True, wanted a number"):
        fn.dropout(True)
    with pytest.raises(ValueError, match=r"dropout: train=True and no key.*key=jax.random.key\(0\)"):
        fn.dropout(0.5).apply({}, {}, ONES, train=True)
    with pytest.raises(TypeError, match=r"dropout: input is int32\[3\], wanted floating point"):
        fn.dropout(0.5)({}, np.ones(3, np.int32))
