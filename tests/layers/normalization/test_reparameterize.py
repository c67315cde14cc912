"""Weight and spectral normalization beside NumPy: the norms of columns, and singular values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import array, ones
from tests.oracle import agrees

KEY = jax.random.key(0)
INNER = {
    "dense": (lambda: fn.dense(3), (2, 4)),
    "conv": (lambda: fn.conv(3, (2, 1), padding="VALID"), (2, 2, 1, 4)),
}


def affine(w, b, x):
    """Of both layers above: the window of the convolution is its whole input."""
    y = x.reshape(len(x), -1) @ w.reshape(-1, w.shape[-1]) + b
    return y.reshape(len(x), *(1 for _ in w.shape[2:]), w.shape[-1])


def draw(name, seed=0):
    make, shape = INNER[name]
    rng = np.random.default_rng(seed)
    return make(), rng.normal(size=shape), rng.normal(size=(*shape[1:], 3)), rng.normal(size=3)


def value_and_gradient(f, params, x):
    """F gives y and something; the gradient is that of the sum of y, by the params."""

    def total(params):
        y, also = f(params, x)
        return jnp.sum(y), (y, also)

    (_, y), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return y, gradient


class TestWeightNorm:
    @pytest.mark.parametrize("name", INNER)
    def test_by_the_equation(self, name):
        inner, x, v, b = draw(name)

        def reference(params, x):
            g, v, b = params["g"], params["v"], params["b"]
            w = np.stack([g[o] * v[..., o] / np.sqrt((v[..., o] ** 2).sum()) for o in range(3)], axis=-1)
            return affine(w, b, x)

        params = {"g": np.array([0.5, -2.0, 3.0]), "v": v, "b": b}
        agrees(fn.weight_norm(inner), reference, params, x)

    @pytest.mark.parametrize("name", INNER)
    def test_it_starts_as_the_layer_does(self, name):
        inner, x, _, _ = draw(name)
        layer = fn.weight_norm(inner)

        @jax.jit
        def both(x):
            (params, state), (plain, _) = layer.init(KEY, x), inner.init(KEY, x)
            return params, state, layer(params, x), inner(plain, x)

        params, state, y, wanted = both(x)
        assert (sorted(params), state) == (["b", "g", "v"], {})
        assert params["g"].shape == (3,)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)

    def test_weights_of_zero_stay_and_can_be_learnt(self):
        layer = fn.weight_norm(fn.dense(2, w_init=fn.initializers.zeros))
        x = array([[1.0, -3.0]])
        params, _ = jax.jit(layer.init)(KEY, x)
        y, gradient = value_and_gradient(lambda params, x: (layer(params, x), None), params, x)
        np.testing.assert_array_equal(y[0], np.zeros((1, 2)))
        np.testing.assert_allclose(gradient["g"], np.full(2, -np.sqrt(2)), rtol=1e-6)

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_the_norm_neither_underflows_nor_overflows(self, size):
        layer = fn.weight_norm(fn.dense(1, use_bias=False))
        v = array([[3.0], [4.0]]) * size
        w = jax.jit(layer)({"g": ones(1), "v": v}, array(np.eye(2)))
        np.testing.assert_allclose(w, [[0.6], [0.8]], rtol=1e-6)

    def test_half_precision(self):
        layer = fn.weight_norm(fn.dense(2))
        x = ones((1, 500), jnp.bfloat16)
        params, _ = jax.jit(layer.init)(KEY, x)
        assert fn.check.describe(params) == "{b: bfloat16[2], g: bfloat16[2], v: bfloat16[500,2]}"
        np.testing.assert_allclose(
            params["g"], np.sqrt(2 * np.ones(2)), rtol=0.1
        )  # He's: a variance of 2 / 500
        assert jax.eval_shape(layer, params, x).dtype == jnp.bfloat16

    def test_keys_and_state_reach_the_layer(self):
        inner = fn.Layer(
            lambda key, x: ({"w": jnp.ones((2, 2))}, {"steps": jnp.zeros(())}),
            lambda params, state, x, *, key=None, train=False: (
                x @ params["w"] + jax.random.normal(key) * train,
                {"steps": state["steps"] + train},
            ),
            "noisy",
        )
        for make in (fn.weight_norm, fn.spectral_norm):
            x, layer = ones((1, 2)), make(inner)
            y, after = jax.jit(
                lambda x, layer=layer: layer.apply(*layer.init(KEY, x), x, key=KEY, train=True)
            )(x)
            wanted = (2 if make is fn.weight_norm else 1) + np.asarray(jax.random.normal(KEY))
            np.testing.assert_allclose(y, np.tile(wanted, (1, 2)), rtol=1e-5)
            assert after["steps"] == 1


class TestSpectralNorm:
    @pytest.mark.parametrize("name", INNER)
    @pytest.mark.parametrize("iterations", [1, 3])
    def test_training_is_algorithm_1(self, name, iterations):
        inner, x, w, b = draw(name)
        rng = np.random.default_rng(1)
        u, v = rng.normal(size=3), rng.normal(size=w[..., 0].size)
        state = {
            "u": (u / np.linalg.norm(u)).astype(np.float32),
            "v": (v / np.linalg.norm(v)).astype(np.float32),
        }
        layer = fn.spectral_norm(inner, iterations=iterations)

        def power(matrix, u):
            for _ in range(iterations):
                v = matrix @ u / np.linalg.norm(matrix @ u)
                u = matrix.T @ v / np.linalg.norm(matrix.T @ v)
            return u, v

        u, v = power(w.reshape(-1, 3), state["u"].astype(np.float64))

        def reference(params, x):
            """With u and v of the w that was drawn: no gradient goes through them."""
            sigma = v @ params["w"].reshape(-1, 3) @ u
            return affine(params["w"] / sigma, params["b"], x)

        agrees(lambda params, x: layer.apply(params, state, x, train=True)[0], reference, {"w": w, "b": b}, x)
        _, after = jax.jit(partial(layer.apply, train=True))({"w": w, "b": b}, state, x)
        np.testing.assert_allclose(after["u"], u, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after["v"], v, rtol=1e-4, atol=1e-5)

    def test_evaluation_has_the_vectors_of_the_state(self):
        inner, x, w, b = draw("conv")
        u, v = np.array([0.6, 0.0, 0.8], np.float32), np.full(8, 8**-0.5, np.float32)
        layer = fn.spectral_norm(inner)

        def reference(params, x):
            sigma = v.astype(float) @ params["w"].reshape(-1, 3) @ u.astype(float)
            return affine(params["w"] / sigma, params["b"], x)

        agrees(lambda p, x: layer.apply(p, {"u": u, "v": v}, x)[0], reference, {"w": w, "b": b}, x)

    def test_it_finds_the_largest_singular_value(self):
        layer = fn.spectral_norm(fn.dense(4, use_bias=False))
        params, state = jax.jit(layer.init)(KEY, ones((1, 6)))
        largest = np.linalg.svd(params["w"])[1][0]
        matrix, _ = jax.jit(layer.apply)(params, state, array(np.eye(6)))
        assert 0.98 < largest / (params["w"][0, 0] / matrix[0, 0]) < 1.05  # after init already

        def step(state, _):
            y, state = layer.apply(params, state, jnp.eye(6), train=True)
            return state, y

        state, y = jax.jit(lambda state: jax.lax.scan(step, state, length=100))(state)
        np.testing.assert_allclose(y[-1], params["w"] / largest, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.linalg.svd(y[-1])[1][0], 1, rtol=1e-5)
        assert fn.check.describe(state) == "{u: float32[4], v: float32[6]}"

    def test_weights_of_zero_stay_and_leave_the_vectors(self):
        layer = fn.spectral_norm(fn.dense(2, w_init=fn.initializers.zeros))
        x = ones((1, 3))
        params, state = jax.jit(layer.init)(KEY, x)
        train = partial(layer.apply, train=True)
        (y, after), gradient = value_and_gradient(lambda params, x: train(params, state, x), params, x)
        np.testing.assert_array_equal(y, np.zeros((1, 2)))
        for name in ("u", "v"):
            np.testing.assert_array_equal(after[name], state[name])
            np.testing.assert_allclose(np.linalg.norm(state[name]), 1, rtol=1e-6)
        np.testing.assert_array_equal(gradient["w"], np.ones((3, 2)))

    @pytest.mark.parametrize("x64", [False, True])
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
    def test_the_state_is_a_carry(self, x64, dtype):
        with jax.enable_x64(x64):
            x = np.ones((1, 3), dtype)
            layer = fn.spectral_norm(fn.dense(2))
            params, state = jax.eval_shape(layer.init, KEY, x)
            y, after = jax.eval_shape(partial(layer.apply, train=True), params, state, x)
            assert fn.check.describe(state) == fn.check.describe(after) == "{u: float32[2], v: float32[3]}"
            assert not any(s.weak_type for s in (*state.values(), *after.values()))
            assert y.dtype == jnp.result_type(x)


def with_entries(params, state):
    return fn.Layer(lambda key, x: (params, state), lambda *args, **keywords: None, "odd")


def test_errors():
    x, w = ones((1, 2)), ones((2, 2))
    for make, name in ((fn.weight_norm, "weight_norm"), (fn.spectral_norm, "spectral_norm")):
        for inner, has in ((fn.relu, "no entries"), (fn.serial(fn.dense(2)), r"\['dense_0'\]")):
            wanted = f"{name}: params has {has}, wanted the 'w' of (relu|serial); wrap a layer that has one"
            with pytest.raises(ValueError, match=wanted):
                jax.eval_shape(make(inner).init, KEY, x)
        with pytest.raises(ValueError, match=f"{name}: params has"):  # a layer by the name of w is no w
            jax.eval_shape(make(fn.serial(w=fn.dense(2))).init, KEY, x)
        with pytest.raises(TypeError, match=r"a layer is a fnnet\.Layer"):
            make(3)
        with pytest.raises(TypeError, match=rf"{name}: params is float32\[2,2\], wanted the dict"):
            make(fn.dense(2)).apply(w, {}, x)
        with pytest.raises(ValueError, match="dense: input") as caught:
            layer = make(fn.dense(2))
            jax.eval_shape(layer.apply, *jax.eval_shape(layer.init, KEY, x), ones((1, 3)))
        notes = [note for note in caught.value.__notes__ if note.startswith("in ")]  # JAX adds its own
        assert notes == [f"in {name}['dense'], input float32[1,3]"]
    with pytest.raises(
        ValueError, match=r"weight_norm: params has \['b', 'w'\], wanted \['g', 'v'\] and the wrapped"
    ):
        fn.weight_norm(fn.dense(2))({"w": w, "b": w[0]}, x)
    with pytest.raises(
        ValueError, match=r"weight_norm: params of odd has \['g'\], names that the wrapper uses"
    ):
        jax.eval_shape(fn.weight_norm(with_entries({"w": w, "g": w}, {})).init, KEY, x)
    with pytest.raises(
        ValueError, match=r"spectral_norm: state of odd has \['u', 'v'\], names that the wrapper uses"
    ):
        jax.eval_shape(fn.spectral_norm(with_entries({"w": w}, {"v": w, "u": w})).init, KEY, x)
    with pytest.raises(
        ValueError, match=r"spectral_norm: state has no entries, wanted .*keep the one that apply"
    ):
        fn.spectral_norm(fn.dense(2))({"w": w, "b": w[0]}, x)
    with pytest.raises(ValueError, match="spectral_norm: iterations=0, wanted at least 1"):
        fn.spectral_norm(fn.dense(2), iterations=0)
    with pytest.raises(ValueError, match="spectral_norm: eps=-1"):
        fn.spectral_norm(fn.dense(2), eps=-1)
