"""The norms of one example, beside the equations in NumPy."""

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

KEY = jax.random.key(0)


def draw(shape, seed=0):
    rng = np.random.default_rng(seed)
    gamma, beta = rng.normal(size=(2, shape[-1]))
    return {"gamma": gamma, "beta": beta}, rng.normal(size=shape)


@partial(jax.jit, static_argnums=0)
def value_and_gradient(layer, params, x, dy):
    y, back = jax.vjp(partial(layer, params), x)
    return y, *back(dy)


def starting(name, x):
    """What init gives, for an array of NumPy: gamma of ones, beta of zeros."""
    params, state = jax.eval_shape(NORMS[name][0].init, KEY, x)
    assert state == {}
    return {p: np.full(a.shape, float(p == "gamma"), a.dtype) for p, a in params.items()}


def grouped(groups, eps):
    """One example and one group after the other; as many groups as channels is instance normalization."""

    def reference(params, x):
        y = np.zeros_like(x)
        size = x.shape[-1] // groups
        for n in range(len(x)):
            for g in range(groups):
                c = slice(g * size, (g + 1) * size)
                part = x[n, ..., c]
                y[n, ..., c] = (part - part.mean()) / np.sqrt(part.var() + eps)
        return params["gamma"] * y + params["beta"]

    return reference


@pytest.mark.slow
@settings(max_examples=8)
@given(
    st.integers(0, 3),
    st.lists(st.integers(1, 3), max_size=2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1e-5, 0.1]),
)
def test_group_norm_by_the_equation(batch, space, groups, size, eps):
    params, x = draw((batch, *space, groups * size))
    agrees(fn.group_norm(groups, eps=eps), grouped(groups, eps), params, x, tolerance=1e-9)


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 3, 2, 2), (2, 1, 1)])
def test_instance_norm_by_the_equation(shape):
    agrees(fn.instance_norm(eps=1e-3), grouped(shape[-1], 1e-3), *draw(shape))


@pytest.mark.parametrize(
    "shape, eps", [((4, 3), 1e-6), ((2, 3, 5), 0.1), ((3, 1), 0.0), ((0, 3), 0.1), ((4,), 0.1)]
)
def test_rms_norm_by_the_equation(shape, eps):
    params, x = draw(shape)

    def reference(params, x):
        return params["gamma"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)

    agrees(fn.rms_norm(eps=eps), reference, {"gamma": params["gamma"]}, x)


@settings(max_examples=8)
@given(
    st.lists(st.integers(0, 2), max_size=2),
    st.integers(1, 6),
    st.integers(1, 7),
    st.sampled_from([(2.0, 1e-4, 0.75), (1.0, 0.5, 0.5), (0.1, 1.0, 0.0)]),
)
def test_local_response_norm_by_the_equation(batch, channels, size, constants):
    k, alpha, beta = constants
    _, x = draw((*batch, channels))

    def reference(x):
        y = np.zeros_like(x)
        for c in range(channels):
            window = [j for j in range(c - size // 2, c + (size - 1) // 2 + 1) if 0 <= j < channels]
            y[..., c] = x[..., c] / (k + alpha * (x[..., window] ** 2).sum(-1)) ** beta
        return y

    agrees(partial(fn.local_response_norm(size, k=k, alpha=alpha, beta=beta), {}), reference, x)


NORMS = {
    "rms_norm": (fn.rms_norm(), (3, 500), (1,)),
    "group_norm": (fn.group_norm(2), (3, 50, 4), None),
    "instance_norm": (fn.instance_norm(), (3, 200, 2), (1,)),
}


def standard(name, x):
    """In float64, with gamma 1 and beta 0."""
    _, _, axes = NORMS[name]
    x = np.asarray(x, np.float64)
    if name == "group_norm":
        parts = x.reshape(3, 50, 2, 2)
        y = (parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(parts.var((1, 3), keepdims=True) + 1e-5)
        return y.reshape(x.shape)
    if name == "rms_norm":
        return x / np.sqrt((x**2).mean(axes, keepdims=True) + 1e-6)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("loc, scale", [(1e4, 1), (0, 1e30), (3e37, 1e37), (0, 1e-3)])
def test_large_and_small_numbers(name, loc, scale):
    """A large mean leaves the rest accurate, and no square overflows."""
    layer, shape, _ = NORMS[name]
    x = np.random.default_rng(0).normal(loc, scale, shape).astype(np.float32)
    y, dx = value_and_gradient(
        layer, starting(name, x), x, np.cos(np.arange(x.size, dtype=np.float32)).reshape(shape)
    )
    np.testing.assert_allclose(y, standard(name, x), rtol=1e-5, atol=3e-6)
    assert np.all(np.isfinite(dx))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_has_statistics_in_single(name, dtype):
    layer, shape, _ = NORMS[name]
    x = np.random.default_rng(0).normal(100, 10, shape).astype(dtype)
    params = starting(name, x)
    y, wanted = jax.jit(layer)(params, x), standard(name, x)
    assert params["gamma"].dtype == y.dtype == dtype
    assert np.abs(np.asarray(y, np.float64) - wanted).max() <= jnp.finfo(dtype).eps * np.abs(wanted).max()
    masters = jax.tree.map(lambda p: p.astype(np.float32), params)
    assert jax.eval_shape(layer, masters, x).dtype == dtype


@pytest.mark.parametrize("make", [partial(fn.group_norm, 2), fn.instance_norm])
def test_equal_elements_are_mapped_to_beta(make):
    layer = make()
    x = np.full((2, 3, 4), 1e6 + 0.3, np.float32)
    x[1] = -0.1
    params = {"gamma": np.ones(4, np.float32), "beta": np.arange(4, dtype=np.float32)}
    np.testing.assert_array_equal(jax.jit(layer)(params, x), np.tile(np.arange(4), (2, 3, 1)))


def test_the_constants_may_be_tracers():
    x = array([[1.0, 2.0, -3.0]])

    def run(c):
        lrn = fn.local_response_norm(3, k=c, alpha=c, beta=c)({}, x)
        return lrn, fn.rms_norm(eps=c)({"gamma": jnp.ones(3)}, x)

    lrn, rms = jax.jit(jax.vmap(run))(array([0.5, 1.0]))
    sums = np.array([[5.0, 14.0, 13.0]])
    for c, *got in zip([0.5, 1.0], lrn, rms, strict=True):
        wanted = x / (c + c * sums) ** c, x / np.sqrt(14 / 3 + c)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), tuple(got), wanted)


def test_inputs_of_numpy():
    x = np.random.default_rng(0).normal(size=(2, 3, 4))  # float64 of NumPy is float32 to JAX
    for layer in (fn.rms_norm(), fn.group_norm(np.int64(2)), fn.instance_norm(), fn.local_response_norm()):
        params, _ = layer.init(KEY, x)
        assert all(p.dtype == jnp.float32 for p in params.values())
        y = jax.eval_shape(lambda params, layer=layer: layer(params, x), params)
        assert (y.shape, y.dtype) == (x.shape, jnp.float32)


def test_errors():
    x = ones((2, 3, 4))
    with pytest.raises(
        ValueError, match=r"rms_norm: input is float32\[2,3\] and gamma float32\[4\], wanted 4"
    ):
        fn.rms_norm()({"gamma": ones(4)}, ones((2, 3)))
    with pytest.raises(ValueError, match="rms_norm: eps=-1, wanted at least 0"):
        fn.rms_norm(eps=-1)
    for layer in (fn.group_norm(3), fn.group_norm(5)):
        with pytest.raises(
            ValueError, match=r"group_norm: input is float32\[2,3,4\], wanted channels that \d gr"
        ):
            layer.init(KEY, x)
    with pytest.raises(
        ValueError, match=r"group_norm: input is float32\[4\], wanted \(batch, \.\.\., channels\)"
    ):
        fn.group_norm(2).init(KEY, x[0, 0])
    with pytest.raises(ValueError, match="group_norm: eps=-1"):
        fn.group_norm(2, eps=-1)
    with pytest.raises(TypeError, match=r"group_norm: groups=2\.0, wanted a positive int"):
        fn.group_norm(2.0)
    with pytest.raises(
        ValueError, match=r"instance_norm: input is float32\[3,4\], wanted \(batch, \*space, cha"
    ):
        fn.instance_norm().init(KEY, x[0])
    with pytest.raises(ValueError, match="instance_norm: eps=-1"):
        fn.instance_norm(eps=-1)
    with pytest.raises(ValueError, match=r"local_response_norm: input is float32\[\], wanted"):
        fn.local_response_norm()({}, ones(()))
    with pytest.raises(ValueError, match="local_response_norm: size=0, wanted at least 1"):
        fn.local_response_norm(0)
    for name in ("k", "alpha", "beta"):
        with pytest.raises(ValueError, match=f"local_response_norm: {name}=-1, wanted at least 0"):
            fn.local_response_norm(**{name: -1})
