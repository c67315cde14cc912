"""Radial basis functions beside NumPy, centre by centre."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import ones
from tests.oracle import agrees

KEY = jax.random.key(0)


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(st.integers(0, 3), max_size=2), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9))
def test_by_the_equation(batch, inputs, centres, seed):
    rng = np.random.default_rng(seed)
    params = {"c": rng.normal(size=(centres, inputs)), "beta": rng.normal(size=centres) ** 2}

    def reference(params, x):
        y = np.zeros((*x.shape[:-1], centres))
        for j in range(centres):
            y[..., j] = np.exp(-params["beta"][j] * ((x - params["c"][j]) ** 2).sum(-1))
        return y

    agrees(fn.radial_basis(centres), reference, params, rng.normal(size=(*batch, inputs)))


@partial(jax.jit, static_argnums=0)
def value_and_gradients(dtype, params, x):
    def f(params, x):
        y = fn.radial_basis(2)(params, x)
        return jnp.sum(y.astype(jnp.float32)), y

    gradients, y = jax.grad(f, (0, 1), has_aux=True)(
        jax.tree.map(lambda p: p.astype(dtype), params), x.astype(dtype)
    )
    return y, gradients


def test_at_a_centre():
    params = {
        "c": np.array([[1.0, 2.0], [1.0, 3.0]], np.float32),
        "beta": np.array([5.0, np.log(2)], np.float32),
    }
    y, (dparams, dx) = value_and_gradients(jnp.float32, params, np.array([[1.0, 2.0]], np.float32))
    np.testing.assert_allclose(y, [[1.0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(dx, [[0.0, np.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(dparams["beta"], [0.0, -0.5], rtol=1e-6)
    np.testing.assert_allclose(dparams["c"], [[0.0, 0.0], [0.0, -np.log(2)]], rtol=1e-6)


def test_near_distances_far_from_the_origin_do_not_cancel():
    params = {"c": np.array([[1000.0, 0.0], [1001.0, 0.0]], np.float32), "beta": np.ones(2, np.float32)}
    y, _ = value_and_gradients(jnp.float32, params, np.array([[1000.25, 0.5]], np.float32))
    np.testing.assert_allclose(y, np.exp([[-0.0625 - 0.25, -0.5625 - 0.25]]), rtol=1e-6)


@pytest.mark.parametrize("far", [1e4, 1e19, 3e38])
def test_the_gradient_is_finite_far_from_all_centres(far):
    params = {"c": np.array([[0.0, 0.0], [0.0, 1.0]], np.float32), "beta": np.array([1.0, 0.0], np.float32)}
    y, gradients = value_and_gradients(jnp.float32, params, np.array([[far, 0.0]], np.float32))
    np.testing.assert_array_equal(y, [[0.0, 1.0]])
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_single(dtype):
    rng = np.random.default_rng(0)
    params = {"c": rng.normal(0, 100, (2, 300)), "beta": np.array([1e-7, 2e-7])}
    params, x = jax.tree.map(lambda a: a.astype(dtype), (params, rng.normal(0, 100, (4, 300))))
    y, gradients = value_and_gradients(jnp.dtype(dtype), params, x)  # float16 overflows at 65,504
    params, x = jax.tree.map(lambda a: a.astype(np.float64), (params, x))
    square = ((x[:, None] - params["c"]) ** 2).sum(-1)
    assert {leaf.dtype for leaf in jax.tree.leaves((y, gradients))} == {jnp.dtype(dtype)}
    np.testing.assert_allclose(
        np.asarray(y, float), np.exp(-params["beta"] * square), rtol=jnp.finfo(dtype).eps
    )


def test_params():
    layer = fn.radial_basis(2000)
    params, state = layer.init(KEY, jax.ShapeDtypeStruct((1, 5), jnp.float32))
    assert fn.check.describe(params) == "{c: float32[2000,5], beta: float32[2000]}"
    assert state == {}
    np.testing.assert_allclose(np.std(params["c"]), 1, rtol=0.03)
    np.testing.assert_allclose(params["beta"], np.full(2000, 0.1), rtol=1e-6)
    layer = fn.radial_basis(2, beta=3, c_init=fn.initializers.ones)
    params, _ = layer.init(KEY, jax.ShapeDtypeStruct((1, 5), jnp.bfloat16))
    assert fn.check.describe(params) == "{c: bfloat16[2,5], beta: bfloat16[2]}"
    np.testing.assert_array_equal(params["c"], np.ones((2, 5)))
    np.testing.assert_array_equal(params["beta"], [3, 3])


def test_errors():
    params = {"c": ones((2, 3)), "beta": ones(2)}
    with pytest.raises(
        ValueError, match=r"radial_basis: input is float32\[1,2\] and c float32\[2,3\], wanted 3 feat"
    ):
        fn.radial_basis(2)(params, ones((1, 2)))
    with pytest.raises(
        ValueError, match=r"radial_basis: input is float32\[\], wanted \(batch, \.\.\., features\)"
    ):
        fn.radial_basis(2).init(KEY, ones(()))
    with pytest.raises(TypeError, match=r"radial_basis: input is int32\[3\], wanted floating point"):
        fn.radial_basis(2)(params, ones(3, int))
    with pytest.raises(ValueError, match=r"radial_basis: params has \['c'\], wanted \['beta', 'c'\]"):
        fn.radial_basis(2)({"c": params["c"]}, ones((1, 3)))
    with pytest.raises(ValueError, match="radial_basis: centres=0, wanted at least 1"):
        fn.radial_basis(0)
