"""Normalization beside the equations in NumPy, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

import fnnet as fn
from tests import arrays
from tests.arrays import array, ones

close = partial(arrays.close, rtol=1e-10, atol=1e-10)


def draw(shape, seed=0):
    rng = np.random.default_rng(seed)
    params = {"gamma": rng.normal(size=shape[-1]), "beta": rng.normal(size=shape[-1])}
    return params, rng.normal(size=shape), rng


def normalize(params, x, mu, var, eps):
    return params["gamma"] * (x - mu) / np.sqrt(var + eps) + params["beta"]


@partial(jax.jit, static_argnums=0, static_argnames="train")
def run(layer, params, state, x, train):
    return layer.apply(params, state, x, train=train)


class TestBatchNorm:
    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("shape", [(7, 3), (4, 5, 3), (2, 3, 4, 2), (2, 1)])
    def test_steps_by_the_equations(self, shape):
        momentum, eps = 0.8, 1e-3
        layer = fn.batch_norm(momentum=momentum, eps=eps)
        params, _, rng = draw(shape)
        _, state = layer.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float64))
        mean, var = np.zeros(shape[-1]), np.ones(shape[-1])
        m = np.prod(shape[:-1])
        for step in range(4):
            x = rng.normal(step, 1 + step, size=shape)
            y, state = run(layer, params, state, x, train=True)
            flat = x.reshape(-1, shape[-1])
            close(y, normalize(params, x, flat.mean(0), flat.var(0), eps))
            mean = momentum * mean + (1 - momentum) * flat.mean(0)
            var = momentum * var + (1 - momentum) * flat.var(0) * m / (m - 1)
            assert state["mean"].dtype == state["var"].dtype == jnp.float32
            np.testing.assert_allclose(state["mean"], mean, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(state["var"], var, rtol=1e-6)
        y, after = run(layer, params, state, x, train=False)
        close(y, normalize(params, x, *(np.asarray(state[s], np.float64) for s in ("mean", "var")), eps))
        close(after, state)

    def test_it_standardizes_as_scikit_learn_does(self):
        x = np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32)
        layer = fn.batch_norm(eps=0)
        y, _ = run(layer, *layer.init(jax.random.key(0), x), x, train=True)
        np.testing.assert_allclose(y, StandardScaler().fit_transform(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.usefixtures("float64")
    def test_gradients_go_through_the_statistics(self):
        params, x, rng = draw((6, 3))
        dy = rng.normal(size=x.shape)
        layer = fn.batch_norm()
        _, state = layer.init(jax.random.key(0), x)

        def loss(params, x):
            return jnp.sum(run(layer, params, state, x, train=True)[0] * dy)

        got = jax.grad(loss, (0, 1))(params, x)
        # Ioffe & Szegedy 2015, section 3
        m, gamma = len(x), params["gamma"]
        mu, var = x.mean(0), x.var(0) + 1e-5
        dhat = dy * gamma
        dvar = (dhat * (x - mu)).sum(0) * -0.5 * var**-1.5
        dmu = -dhat.sum(0) / np.sqrt(var) + dvar * -2 * (x - mu).sum(0) / m
        dx = dhat / np.sqrt(var) + dvar * 2 * (x - mu) / m + dmu / m
        dparams = {"gamma": (dy * (x - mu) / np.sqrt(var)).sum(0), "beta": dy.sum(0)}
        close(got, (dparams, dx))

    def test_the_state_has_a_gradient(self):
        """A run's hyperparameters reach the validation loss through the running averages too."""
        layer = fn.batch_norm(momentum=0.75)
        x = array([[1.0], [3.0]])
        params, state = layer.init(jax.random.key(0), x)

        def of(average):
            return jax.grad(lambda x: layer.apply(params, state, x, train=True)[1][average].sum())(x)

        np.testing.assert_allclose(of("mean"), 0.25 * np.array([[1 / 2], [1 / 2]]), rtol=1e-6)
        np.testing.assert_allclose(of("var"), 0.25 * np.array([[-2.0], [2.0]]), rtol=1e-6)

    @pytest.mark.usefixtures("float64")
    def test_batches_along_a_mapped_axis_are_one_batch(self):
        params, x, rng = draw((6, 5, 3))
        x, dy = x + 1e3 * np.arange(6)[:, None, None], rng.normal(size=x.shape)
        one, many = fn.batch_norm(), fn.batch_norm(axis_name="devices")
        _, state = one.init(jax.random.key(0), x)

        def whole(params, x):
            y, after = one.apply(params, state, x, train=True)
            return jnp.sum(y * dy), (y, after)

        def parts(params, x):
            x, by = x.reshape(3, 2, 5, 3), partial(many.apply, train=True)
            y, after = jax.vmap(by, in_axes=(None, None, 0), axis_name="devices")(params, state, x)
            return jnp.sum(y.reshape(dy.shape) * dy), (y.reshape(dy.shape), after)

        wanted, got = (jax.jit(jax.grad(f, (0, 1), has_aux=True))(params, x) for f in (whole, parts))
        (gradients, (y, after)), (wanted, (wanted_y, wanted_after)) = got, wanted
        np.testing.assert_allclose(y, wanted_y, rtol=1e-9, atol=1e-9)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-9), gradients, wanted)
        for name in ("mean", "var"):  # the same on each device
            np.testing.assert_allclose(after[name], np.tile(wanted_after[name], (3, 1)), rtol=1e-6)

    def test_evaluation_needs_no_mapped_axis(self):
        layer = fn.batch_norm(axis_name="devices")
        x = array([[1.0], [3.0]])
        params, state = layer.init(jax.random.key(0), x)
        y, _ = layer.apply(params, state, x)
        np.testing.assert_allclose(y, x, rtol=1e-4)

    @pytest.mark.parametrize("examples", [16, 40_000])
    def test_large_means_leave_the_rest_accurate(self, examples):
        x = np.random.default_rng(0).normal(1e4, 1, (examples, 2)).astype(np.float32)
        layer = fn.batch_norm()
        y, state = run(layer, *layer.init(jax.random.key(0), x), x, train=True)
        x = x.astype(np.float64)
        np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-5, atol=2e-6)
        np.testing.assert_allclose(state["mean"], 0.1 * x.mean(0), rtol=1e-6)
        np.testing.assert_allclose(state["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-6)

    @pytest.mark.parametrize("value", [0.1, -1e4 / 3, 1e6 + 0.3])
    def test_equal_examples_are_mapped_to_beta(self, value):
        layer = fn.batch_norm()
        x = array(np.full((7, 3, 2), value))
        params, state = layer.init(jax.random.key(0), x)
        y, state = run(layer, params | {"beta": array([5.0, -5.0])}, state, x, train=True)
        np.testing.assert_array_equal(y, np.tile([5.0, -5.0], (7, 3, 1)))
        np.testing.assert_allclose(state["var"], 0.9, rtol=1e-6)

    def test_one_example(self):
        layer = fn.batch_norm(momentum=0.5)
        x = array([[2.0, -4.0]])
        y, state = layer.apply(*layer.init(jax.random.key(0), x), x, train=True)
        np.testing.assert_array_equal(y, np.zeros((1, 2)))
        np.testing.assert_array_equal(state["mean"], [1.0, -2.0])
        np.testing.assert_array_equal(state["var"], [0.5, 0.5])

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision_has_statistics_in_single(self, dtype):
        x = array(np.random.default_rng(0).normal(100, 1, (2000, 2)), dtype)
        layer = fn.batch_norm(momentum=0)
        params, state = layer.init(jax.random.key(0), x)
        y, state = run(layer, params, state, x, train=True)
        x = np.asarray(x, np.float64)
        assert params["gamma"].dtype == y.dtype == dtype
        assert state["mean"].dtype == state["var"].dtype == jnp.float32
        np.testing.assert_allclose(state["mean"], x.mean(0), rtol=1e-6)
        np.testing.assert_allclose(state["var"], x.var(0, ddof=1), rtol=1e-5)
        wanted = (x - x.mean(0)) / x.std(0)
        assert np.abs(np.asarray(y, np.float64) - wanted).max() <= jnp.finfo(dtype).eps * np.abs(wanted).max()

    @pytest.mark.parametrize("x64", [False, True])
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
    def test_the_state_is_a_carry(self, x64, dtype):
        with jax.enable_x64(x64):
            x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(dtype)
            layer = fn.batch_norm(momentum=np.float64(0.9))
            params, state = layer.init(jax.random.key(0), x[0])

            def step(state, x):
                y, state = layer.apply(params, state, x, train=True)
                return state, y

            after, y = jax.jit(partial(jax.lax.scan, step))(state, x)
            assert (
                fn.check.describe(after) == fn.check.describe(state) == "{mean: float32[3], var: float32[3]}"
            )
            assert not any(s.weak_type for s in after.values())
            assert y.dtype == jnp.result_type(x)

    def test_the_momentum_may_be_a_tracer(self):
        x = array([[1.0], [3.0]])

        def mean(momentum):
            layer = fn.batch_norm(momentum=momentum)
            return layer.apply(*layer.init(jax.random.key(0), x), x, train=True)[1]["mean"]

        got = jax.jit(jax.vmap(mean))(array([0.0, 0.5, 0.9]))
        np.testing.assert_allclose(got, [[2.0], [1.0], [0.2]], rtol=1e-6)

    def test_errors(self):
        x = ones((4, 3))
        layer = fn.batch_norm()
        params, state = layer.init(jax.random.key(0), x)
        with pytest.raises(
            ValueError, match=r"batch_norm: state has no entries, wanted .*keep the one that apply"
        ):
            layer(params, x)
        with pytest.raises(
            ValueError, match=r"batch_norm: input is float32\[0,3\], wanted at least one example"
        ):
            layer.apply(params, state, x[:0], train=True)
        assert layer.apply(params, state, x[:0])[0].shape == (0, 3)
        with pytest.raises(ValueError, match=r"batch_norm: input is float32\[4,2\] and gamma float32\[3\]"):
            layer.apply(params, state, x[:, :2])
        with pytest.raises(TypeError, match=r"batch_norm: input is int32\[4,3\], wanted floating point"):
            layer.init(jax.random.key(0), x.astype(jnp.int32))
        for wrong in (1, -0.1, np.float32(1.5), float("nan")):
            with pytest.raises(ValueError, match=r"batch_norm: momentum=.*, wanted in \[0, 1\)"):
                fn.batch_norm(momentum=wrong)
        with pytest.raises(ValueError, match="batch_norm: eps=-1, wanted at least 0"):
            fn.batch_norm(eps=-1)


class TestLayerNorm:
    @settings(max_examples=6)
    @given(
        st.lists(st.integers(0, 4), max_size=2),
        st.integers(1, 6),
        st.sampled_from([1e-5, 0.1]),
        st.integers(0, 9),
    )
    def test_value_and_gradients_by_the_equation(self, batch, features, eps, seed):
        params, x, rng = draw((*batch, features), seed)
        dy = rng.normal(size=x.shape)
        with jax.enable_x64(True):
            layer = fn.layer_norm(eps=eps)

            @jax.jit
            def value_and_gradients(params, x, dy):
                y, back = jax.vjp(layer, params, x)
                return y, *back(dy)

            got = value_and_gradients(params, x, dy)
        mu, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        hat = (x - mu) / np.sqrt(var + eps)
        dhat = dy * params["gamma"]
        dx = dhat - dhat.mean(-1, keepdims=True) - hat * (dhat * hat).mean(-1, keepdims=True)
        axes = tuple(range(len(batch)))
        dparams = {"gamma": (dy * hat).sum(axes), "beta": dy.sum(axes)}
        wanted = normalize(params, x, mu, var, eps), dparams, dx / np.sqrt(var + eps)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8), got, wanted)

    @pytest.mark.parametrize("features", [1, 3, 100])
    def test_equal_features_are_mapped_to_beta(self, features):
        layer = fn.layer_norm()
        values = np.array([0.0, 0.1, -1e4 / 3, 1e6 + 0.3], np.float32)
        x = np.tile(values[:, None], (1, features))
        params, _ = layer.init(jax.random.key(0), x)
        beta = np.arange(features, dtype=np.float32) + 0.5
        y, back = jax.vjp(lambda x: jax.jit(layer)(params | {"beta": beta}, x), x)
        np.testing.assert_array_equal(y, np.tile(beta, (4, 1)))
        assert np.all(np.isfinite(back(y)[0]))

    def test_large_means_leave_the_rest_accurate(self):
        x = np.random.default_rng(0).normal(1e4, 1, (3, 500)).astype(np.float32)
        layer = fn.layer_norm()
        params, _ = layer.init(jax.random.key(0), x)
        y, x = layer(params, x), x.astype(np.float64)
        wanted = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=2e-6)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision_has_statistics_in_single(self, dtype):
        x = array(np.random.default_rng(0).normal(100, 1, (2, 1000)), dtype)
        layer = fn.layer_norm()
        params, _ = layer.init(jax.random.key(0), x)
        y, x = layer(params, x), np.asarray(x, np.float64)
        assert params["beta"].dtype == y.dtype == dtype
        wanted = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        assert np.abs(np.asarray(y, np.float64) - wanted).max() <= jnp.finfo(dtype).eps * np.abs(wanted).max()
        masters = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        assert layer(masters, array(x, dtype)).dtype == dtype

    def test_errors(self):
        layer = fn.layer_norm()
        params, _ = layer.init(jax.random.key(0), ones((1, 3)))
        with pytest.raises(
            ValueError, match=r"layer_norm: input is float32\[4,2\] and gamma float32\[3\], wanted 3"
        ):
            layer(params, ones((4, 2)))
        with pytest.raises(
            ValueError, match=r"layer_norm: input is float32\[\], wanted \(batch, \.\.\., features\)"
        ):
            layer(params, ones(()))
        with pytest.raises(TypeError, match=r"layer_norm: input is int32\[1,3\], wanted floating point"):
            layer(params, ones((1, 3), jnp.int32))
        with pytest.raises(ValueError, match="layer_norm: eps=-1, wanted at least 0"):
            fn.layer_norm(eps=-1)


@pytest.mark.parametrize("make", [fn.batch_norm, fn.layer_norm])
def test_inputs_of_numpy(make):
    x = np.random.default_rng(0).normal(size=(4, 3))  # float64 of NumPy is float32 to JAX
    layer = make()
    params, state = layer.init(jax.random.key(0), x)
    assert params["gamma"].dtype == params["beta"].dtype == jnp.float32
    for train in (False, True):
        y, _ = layer.apply(jax.tree.map(np.asarray, params), jax.tree.map(np.asarray, state), x, train=train)
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y, layer.apply(params, state, jnp.asarray(x), train=train)[0])
