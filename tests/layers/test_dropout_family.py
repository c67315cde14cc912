"""The relatives of dropout: what is drawn, for whom, and what it is scaled by."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import fnnet as fn
from tests.arrays import array, ones, params_for

KEY = jax.random.key(0)
SHAPE = (300, 2, 3, 20)
WHOLE = {fn.spatial_dropout: (1, 2), fn.stochastic_depth: (1, 2, 3)}  # the axes that are dropped as one
NOISY = [fn.gaussian_dropout, fn.gaussian_noise]


@partial(jax.jit, static_argnums=0)
def train(make, strength, x, key):
    return make(strength).apply({}, {}, x, key=key, train=True)[0]


@pytest.mark.parametrize("make", WHOLE)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.75])
def test_what_is_dropped_is_dropped_whole(make, rate):
    axes = WHOLE[make]
    y = np.asarray(train(make, rate, np.ones(SHAPE, np.float32), KEY))
    np.testing.assert_array_equal(y.min(axes), y.max(axes))
    draws = y[:, 0, 0] if axes == (1, 2) else y[:, 0, 0, 0]
    assert scipy.stats.binomtest(int(np.sum(draws == 0)), draws.size, rate).pvalue > 1e-3
    np.testing.assert_allclose(draws[draws != 0], 1 / (1 - rate), rtol=1e-6)


def test_channels_and_examples_are_drawn_independently():
    y = np.asarray(train(fn.spatial_dropout, 0.5, np.ones(SHAPE, np.float32), KEY))[:, 0, 0]
    for neighbours in (y.reshape(-1, 4), y.T.reshape(-1, 4)):
        counts = np.bincount((neighbours > 0) @ [1, 2, 4, 8], minlength=16)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
    depth = np.asarray(train(fn.stochastic_depth, 0.5, np.ones((2000, 1), np.float32), KEY))
    counts = np.bincount((depth.reshape(-1, 4) > 0) @ [1, 2, 4, 8], minlength=16)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("make", WHOLE)
def test_the_gradient_has_the_mask_of_the_forward_pass(make):
    x = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    x[:, 0, :2] = np.inf, np.nan  # what is dropped is gone, were it infinite
    y, dx = jax.jit(
        lambda x: (train(make, 0.5, x, KEY), jax.grad(lambda x: train(make, 0.5, x, KEY).sum())(x))
    )(x)
    mask = np.asarray(train(make, 0.5, np.ones_like(x), KEY))
    assert 0 < np.mean(mask == 0) < 1
    np.testing.assert_array_equal(y, np.where(mask == 0, 0, 2 * x))
    np.testing.assert_array_equal(dx, mask)


def test_stochastic_depth_leaves_the_shortcut():
    net = fn.residual(fn.dense(3), fn.stochastic_depth(0.5))
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    params = params_for(net, x)
    y, branch = jax.jit(lambda p, x: (net.apply(p, {}, x, key=KEY, train=True)[0], net(p, x) - x))(params, x)
    kept = np.any(np.asarray(y) != x, axis=1, keepdims=True)
    assert 5 < kept.sum() < 35
    np.testing.assert_allclose(y, np.where(kept, x + 2 * branch, x), rtol=1e-5, atol=1e-5)


def test_gaussian_dropout_has_the_mean_and_variance_of_dropout():
    y = np.asarray(train(fn.gaussian_dropout, 0.2, np.full(50_000, -3.0, np.float32), KEY)) / -3
    assert scipy.stats.kstest(y, scipy.stats.norm(1, np.sqrt(0.2 / 0.8)).cdf).pvalue > 1e-3


def test_gaussian_noise_is_added():
    x = np.linspace(-1, 1, 50_000, dtype=np.float32)
    noise = np.asarray(train(fn.gaussian_noise, 0.3, x, KEY)) - x
    assert scipy.stats.kstest(noise, scipy.stats.norm(0, 0.3).cdf).pvalue > 1e-3
    assert abs(scipy.stats.pearsonr(noise, x).statistic) < 0.02


@pytest.mark.parametrize("make", NOISY)
def test_noise_of_half_precision_is_rounded_once(make):
    x = np.linspace(0.5, 1, 2000, dtype=np.float32).astype(jnp.bfloat16)
    y = train(make, 0.3, x, KEY)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, train(make, 0.3, x.astype(np.float32), KEY).astype(jnp.bfloat16))


@pytest.mark.parametrize("make", NOISY)
def test_noise_of_strength_zero_is_none(make):
    x = np.linspace(-1, 1, 9, dtype=np.float32)
    np.testing.assert_array_equal(train(make, 0.0, x, KEY), x)
    assert train(make, 0.5, x[:0], KEY).shape == (0,)


@pytest.mark.parametrize("make", [*WHOLE, *NOISY])
def test_evaluation_is_the_identity(make):
    x = np.arange(6.0).reshape(1, 2, 3)
    y, state = make(0.9).apply({}, {}, x, key=KEY)
    np.testing.assert_array_equal(y, x)
    assert y.dtype == jnp.float32
    assert state == {}


@pytest.mark.parametrize("make", [*WHOLE, *NOISY])
def test_the_strength_may_be_a_tracer_or_a_number(make):
    x = np.ones((4, 2, 3), np.float32)

    @jax.jit
    def both(strengths):
        number, _ = make(0.8).apply({}, {}, x, key=KEY, train=True)
        return jax.vmap(partial(train, make), (0, None, None))(strengths, x, KEY), number

    many, number = both(array([0.2, 0.8]))
    assert np.any(many[0] != many[1])
    np.testing.assert_allclose(many[1], number, rtol=1e-5)


class TestDropConnect:
    @pytest.mark.parametrize("rate", [0.0, 0.3])
    def test_entries_of_w_are_dropped(self, rate):
        layer = fn.drop_connect(fn.dense(40), rate)
        rng = np.random.default_rng(0)
        w, b = rng.normal(size=(50, 40)).astype(np.float32), rng.normal(size=40).astype(np.float32)

        @jax.jit
        def run(params):
            def f(params):
                return layer.apply(params, {}, jnp.eye(50), key=KEY, train=True)[0]

            y, back = jax.vjp(f, params)
            return y, back(jnp.ones_like(y))[0]

        y, gradient = run({"w": w, "b": b})
        mask = np.asarray(gradient["w"])
        assert scipy.stats.binomtest(int(np.sum(mask == 0)), mask.size, rate).pvalue > 1e-3
        np.testing.assert_allclose(mask[mask != 0], 1 / (1 - rate), rtol=1e-6)
        np.testing.assert_allclose(y, w * mask + b, rtol=1e-5, atol=1e-6)

    def test_evaluation_is_the_layer(self):
        layer, x = fn.drop_connect(fn.conv(2, 2), 0.9), ones((1, 3, 2))
        params, state = layer.init(KEY, x)
        plain, _ = fn.conv(2, 2).init(KEY, x)
        jax.tree.map(np.testing.assert_array_equal, params, plain)
        np.testing.assert_array_equal(layer(params, x), fn.conv(2, 2)(params, x))
        assert state == {}

    def test_the_layer_draws_by_a_key_of_its_own(self):
        """And it keeps its state."""
        inner = fn.Layer(
            lambda key, x: ({"w": jnp.ones((100,))}, {"steps": jnp.zeros(())}),
            lambda params, state, x, *, key=None, train=False: (
                jnp.stack([params["w"], jax.random.bernoulli(key, 0.5, (100,))]),
                {"steps": state["steps"] + train},
            ),
            "noisy",
        )
        layer = fn.drop_connect(inner, 0.5)
        run = jax.jit(lambda x, key: layer.apply(*layer.init(key, x), x, key=key, train=True))
        (w, drawn), state = run(ones(1), KEY)
        assert state["steps"] == 1
        assert 25 < np.sum((np.asarray(w) > 0) == (np.asarray(drawn) > 0)) < 75

    def test_errors(self):
        x = ones((1, 2))
        layer = fn.drop_connect(fn.dense(2), 0.5)
        params = params_for(layer, x)
        with pytest.raises(
            ValueError, match=r"drop_connect: train=True and no key.*key=jax\.random\.key\(0\)"
        ):
            layer.apply(params, {}, x, train=True)
        with pytest.raises(ValueError, match=r"drop_connect: params has \['b'\], wanted the 'w' of dense"):
            layer({"b": params["b"]}, x)
        with pytest.raises(ValueError, match="drop_connect: params has no entries, wanted the 'w' of tanh"):
            fn.drop_connect(fn.tanh, 0.5).init(KEY, x)
        with pytest.raises(ValueError, match=r"drop_connect: rate=1, wanted in \[0, 1\)"):
            fn.drop_connect(fn.dense(2), 1)
        with pytest.raises(ValueError, match="dense: input") as caught:
            layer(params, ones((1, 3)))
        assert caught.value.__notes__ == ["in drop_connect['dense'], input float32[1,3]"]
        with pytest.raises(TypeError, match="dense: input") as caught:
            layer.init(KEY, ones((1, 3), int))
        assert caught.value.__notes__ == ["in drop_connect['dense'], input int32[1,3]"]


@pytest.mark.parametrize("make", [*WHOLE, *NOISY])
def test_errors(make):
    name = make.__name__
    x = ones((1, 2, 3))
    with pytest.raises(ValueError, match=rf"{name}: train=True and no key.*key=jax\.random\.key\(0\)"):
        make(0.5).apply({}, {}, x, train=True)
    for run in (partial(make(0.5), {}), partial(make(0.5).init, KEY)):
        with pytest.raises(TypeError, match=rf"{name}: input is int32\[1,2,3\], wanted floating point"):
            run(x.astype(np.int32))
    wanted = "at least 0" if make is fn.gaussian_noise else r"in \[0, 1\)"
    for wrong in (-0.1, float("nan")) if make is fn.gaussian_noise else (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"{name}: (rate|stddev)={wrong}, wanted {wanted}"):
            make(wrong)


def test_wrong_layouts_raise():
    with pytest.raises(
        ValueError, match=r"spatial_dropout: input is float32\[2,3\], wanted \(batch, \*space, chann"
    ):
        fn.spatial_dropout(0.5)({}, ones((2, 3)))
    with pytest.raises(ValueError, match=r"stochastic_depth: input is float32\[\], wanted \(batch, \.\.\.\)"):
        fn.stochastic_depth(0.5).init(KEY, ones(()))
