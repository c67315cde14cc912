"""Additive and multiplicative attention beside their equations, one query at a time, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, normal, ones, params_for
from tests.oracle import agrees

KEY = jax.random.key(0)


def align(score, x, memory, mask):
    """The context and the weights of each query."""
    weights = np.zeros((*x.shape[:2], memory.shape[1]))
    for b, t in np.ndindex(*x.shape[:2]):
        seen = [s for s in range(memory.shape[1]) if mask is None or mask[b, s]]
        if seen:
            e = np.exp([score(x[b, t], memory[b, s]) for s in seen])
            weights[b, t, seen] = e / e.sum()
    return weights @ memory, weights


SCORES = {
    "additive": lambda p, q, m: p["v"] @ np.tanh(p["w_q"].T @ q + p["w_k"].T @ m),
    "general": lambda p, q, m: q @ p["w"] @ m,
    "dot": lambda p, q, m: q @ m,
}
LAYERS = {
    "additive": lambda: fn.additive_attention(3),
    "general": lambda: fn.multiplicative_attention(),
    "dot": lambda: fn.multiplicative_attention(score="dot"),
}


@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=4)
@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(0, 9))
def test_context_and_weights(kind, batch, time, source, masked, seed):
    """Rows of the mask may be all False."""
    x, memory = normal(batch, time, 4, seed=seed), normal(batch, source, 4 if kind == "dot" else 5, seed=seed)
    mask = {"mask": normal(batch, source, seed=seed) > 0} if masked else {}
    layer = LAYERS[kind]()
    params = params_for(layer, {"x": x, "memory": memory}, np.float64)

    def f(params, x, memory):
        y = layer(params, {"x": x, "memory": memory, **mask})
        assert set(y) == {"x", "memory", "weights", *mask}
        return y["x"], y["weights"]

    def reference(params, x, memory):
        return align(lambda q, m: SCORES[kind](params, q, m), x, memory, mask.get("mask"))

    agrees(f, reference, params, x, memory)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_array_attends_to_itself(kind):
    layer, x = LAYERS[kind](), normal(2, 3, 4).astype(np.float32)
    params = params_for(layer, x)
    y = jax.jit(layer)(params, x)
    wanted, _ = align(lambda q, m: SCORES[kind](params, q, m), x, x, None)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_where_all_is_masked_no_derivative_is_nan(kind):
    layer = LAYERS[kind]()
    x = {"x": normal(2, 1, 4).astype(np.float32), "memory": normal(2, 3, 4).astype(np.float32)}
    params = params_for(layer, x)
    mask = np.array([[True, True, False], [False] * 3])

    @jax.jit
    def derivatives(x):
        def f(x):
            return layer(params, {**x, "mask": mask})["x"]

        def squares(x):
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(lambda x: f(x).sum())(x)))

        return f(x), jax.jacrev(f)(x), jax.grad(squares)(x)

    y, first, second = derivatives(x)
    assert not y[1].any()
    assert y[0].any()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((first, second)))


def test_one_query_at_a_time():
    """As in the cell of a decoder."""
    layer, memory, queries = fn.additive_attention(3), normal(2, 5, 4), normal(2, 6, 3)
    memory, queries = memory.astype(np.float32), queries.astype(np.float32)
    params = params_for(layer, {"x": queries, "memory": memory})

    @jax.jit
    def decode(params, queries, memory):
        def step(carry, query):
            return carry, layer(params, {"x": query[:, None], "memory": memory})["x"][:, 0]

        return jax.lax.scan(step, 0, queries.swapaxes(0, 1))[1].swapaxes(0, 1)

    whole = jax.jit(layer)(params, {"x": queries, "memory": memory})["x"]
    np.testing.assert_allclose(decode(params, queries, memory), whole, rtol=1e-5, atol=1e-6)


def test_products_beyond_the_largest_float16():
    x = array([[[300.0, 0.0]]], jnp.float16)
    memory = array([[[300.0, 0.0], [0.0, 1.0]]], jnp.float16)
    y = jax.jit(fn.multiplicative_attention(score="dot"))({}, {"x": x, "memory": memory})
    assert y["x"].dtype == y["weights"].dtype == jnp.float16
    np.testing.assert_array_equal(y["weights"], [[[1.0, 0.0]]])
    np.testing.assert_array_equal(y["x"], [[[300.0, 0.0]]])


def test_params():
    x = {
        "x": jax.ShapeDtypeStruct((2, 3, 30), jnp.float32),
        "memory": jax.ShapeDtypeStruct((2, 5, 40), jnp.float32),
    }
    params, _ = jax.jit(lambda key: fn.additive_attention(20).init(key, x))(KEY)
    assert jax.tree.map(jnp.shape, params) == {"w_q": (30, 20), "w_k": (40, 20), "v": (20,)}
    fans = {"w_q": 50, "w_k": 60, "v": 21}
    for name, w in params.items():
        bound = np.sqrt(6 / fans[name])
        assert 0.8 * bound < np.abs(w).max() <= bound
    layer = fn.multiplicative_attention(w_init=fn.initializers.ones)
    params, _ = jax.jit(lambda key: layer.init(key, x))(KEY)
    np.testing.assert_array_equal(params["w"], np.ones((30, 40)))


def test_errors():
    x, memory = ones((2, 3, 4)), ones((2, 5, 6))
    with pytest.raises(ValueError, match="additive_attention: features=0"):
        fn.additive_attention(0)
    with pytest.raises(ValueError, match="attention: score='concat', wanted one of 'general', 'dot'"):
        fn.multiplicative_attention(score="concat")
    dot = fn.multiplicative_attention(score="dot")
    for f in (lambda x: dot({}, x), lambda x: dot.init(KEY, x)):
        with pytest.raises(
            ValueError, match=r"x is float32\[2,3,4\] and memory float32\[2,5,6\], wanted as many"
        ):
            f({"x": x, "memory": memory})
    for layer in (fn.additive_attention(2), fn.multiplicative_attention()):
        params = params_for(layer, {"x": x, "memory": memory})
        with pytest.raises(ValueError, match=r"_attention: x is float32\[2,3,6\] and w.*, wanted 4 features"):
            layer(params, memory[:, :3])
        with pytest.raises(
            ValueError, match=r"_attention: memory is float32\[2,3,4\] and w.*, wanted 6 features"
        ):
            layer(params, x)
        with pytest.raises(ValueError, match=r"_attention: x is .* and memory .*, wanted one batch"):
            layer(params, {"x": x[:1], "memory": memory})
        with pytest.raises(TypeError, match=r"_attention: mask is float32\[2,5\], wanted bool"):
            layer(params, {"x": x, "memory": memory, "mask": ones((2, 5))})
        for shape in ((2, 3), (2, 1, 5), (5,)):
            with pytest.raises(ValueError, match=r"_attention: mask is bool.*, wanted .*, here \(2, 5\)"):
                layer(params, {"x": x, "memory": memory, "mask": ones(shape, bool)})
        with pytest.raises(ValueError, match=r"_attention: input has \['keys', 'x'\], wanted 'x' and"):
            layer(params, {"x": x, "keys": memory})
