"""Attention beside its equation, query by query, in NumPy; decoding beside one causal pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, blank, normal, ones, params_for
from tests.oracle import agrees

KEY = jax.random.key(0)


def attend(q, k, v, mask=None, causal=False, scale=None):
    """softmax(scale q k^T) v for one query of one head after the other."""
    batch, time, heads, d = q.shape
    source, kv_heads = k.shape[1:3]
    scale = d**-0.5 if scale is None else scale
    mask = np.ones((batch, heads, time, source), bool) if mask is None else mask
    mask = np.broadcast_to(mask[:, None, None] if mask.ndim == 2 else mask, (batch, heads, time, source))
    y = np.zeros((batch, time, heads, v.shape[-1]))
    for b, t, h in np.ndindex(batch, time, heads):
        group = h * kv_heads // heads
        seen = [j for j in range(source) if mask[b, h, t, j] and (not causal or j <= t + source - time)]
        if seen:
            score = np.array([scale * np.dot(q[b, t, h], k[b, j, group]) for j in seen])
            weight = np.exp(score - score.max())
            y[b, t, h] = weight / weight.sum() @ v[b, seen, group]
    return y


@settings(max_examples=12)
@given(
    *(
        st.integers(0, 2),
        st.integers(1, 4),
        st.integers(1, 4),
        st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    ),
    *(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["none", "padding", "whole", "heads"])),
    *(st.booleans(), st.sampled_from([None, 0.7]), st.integers(0, 9)),
)
def test_dot_product_attention(batch, time, source, heads, d, e, kind, causal, scale, seed):
    """Rows of the mask may be all False."""
    q, k = normal(batch, time, heads[0], d, seed=seed), normal(batch, source, heads[1], d, seed=seed + 10)
    shapes = {
        "padding": (batch, source),
        "whole": (batch, heads[0], time, source),
        "heads": (1, heads[0], 1, source),
    }
    mask = normal(*shapes[kind], seed=seed) > 0 if kind in shapes else None
    agrees(
        partial(fn.dot_product_attention, mask=mask, causal=causal, scale=scale),
        partial(attend, mask=mask, causal=causal, scale=scale),
        *(q, k, normal(batch, source, heads[1], e, seed=seed + 20)),
    )


def test_a_query_that_may_attend_nowhere():
    """0, and so are its derivatives, the second, too: nothing is NaN."""
    q, k, v = (array(normal(1, 2, 1, 3, seed=s), jnp.float32) for s in range(3))
    mask = np.array([[[[True, True], [False, False]]]])

    @jax.jit
    def derivatives(*args):
        def f(*args):
            return fn.dot_product_attention(*args, mask=mask)

        def squares(*args):
            return sum(jnp.sum(g**2) for g in jax.grad(lambda *args: f(*args).sum(), (0, 1, 2))(*args))

        return f(*args), jax.jacrev(f, (0, 1, 2))(*args), jax.grad(squares, (0, 1, 2))(*args)

    y, first, second = derivatives(q, k, v)
    assert not y[0, 1].any()
    assert not any(g[0, 1].any() for g in first)
    assert y[0, 0].any()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((first, second)))


def test_sources_that_are_not_there():
    q, k, v = normal(2, 3, 2, 4), np.zeros((2, 0, 2, 4)), np.zeros((2, 0, 2, 5))
    np.testing.assert_array_equal(fn.dot_product_attention(q, k, v), np.zeros((2, 3, 2, 5)))
    assert fn.dot_product_attention(k, q, q).shape == (2, 0, 2, 4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """Products beyond the largest float16, 65,504, and sums of thousands of terms; rounded once or twice."""
    q, k, v = (array(normal(1, 4, 2, 4, seed=s), dtype) for s in range(3))
    large = jax.jit(fn.dot_product_attention)(300 * q, 300 * k, v)
    assert large.dtype == dtype
    q, k, v, large = (np.asarray(a, np.float64) for a in (q, k, v, large))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(large, attend(300 * q, 300 * k, v), rtol=4 * eps, atol=4 * eps)
    many = fn.dot_product_attention(*(ones((1, n, 1, 1), dtype) for n in (1, 5000, 5000)))
    np.testing.assert_allclose(np.asarray(many, np.float64).ravel(), [1.0], rtol=eps)


def test_large_values_in_single_precision():
    q = np.array([[[[1e19]], [[-1e19]]]], np.float32)
    y = fn.dot_product_attention(q, q, np.array([[[[1.0]], [[2.0]]]], np.float32))
    np.testing.assert_array_equal(np.ravel(y), [1, 2])


def test_scale_may_be_mapped_over():
    q, k, v = (normal(1, 2, 1, 3, seed=s).astype(np.float32) for s in range(3))
    scales = np.array([0.5, 2.0], np.float32)
    mapped = jax.jit(jax.vmap(lambda scale: fn.dot_product_attention(q, k, v, scale=scale)))(scales)
    for y, scale in zip(mapped, scales, strict=True):
        np.testing.assert_allclose(y, attend(q, k, v, scale=scale), rtol=1e-5, atol=1e-6)


def test_cudnn_is_called_with_what_it_wants(monkeypatch):
    """There is no GPU here: the call is answered by the same function's plain form."""
    plain, called = jax.nn.dot_product_attention, []

    def answer(*args, implementation, **kwargs):
        called.append(implementation)
        return plain(*args, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    q, k, v = (normal(2, n, h, 4).astype(np.float32) for n, h in ((3, 4), (5, 2), (5, 2)))
    for causal, mask in [(False, None), (True, np.array([[True] * 5, [False] * 5]))]:
        f = partial(fn.dot_product_attention, mask=mask, causal=causal, scale=0.3)
        ours, theirs = (jax.jit(partial(f, implementation=i))(q, k, v) for i in ("xla", "cudnn"))
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)
    assert called == ["cudnn"] * 2


def test_errors_of_dot_product_attention():
    q, k = ones((2, 3, 4, 5)), ones((2, 6, 2, 5))
    f = partial(fn.dot_product_attention, q)
    with pytest.raises(ValueError, match=r"implementation='flash', wanted one of 'xla', 'cudnn'"):
        f(k, k, implementation="flash")
    for causal in (False, True):
        with pytest.raises(
            ValueError, match=r"attention: k is float32\[5\], wanted \(batch, time, heads, d\)"
        ):
            f(ones(5), k, causal=causal)
    with pytest.raises(TypeError, match=r"attention: input is int32\[2,6,2,5\], wanted floating point"):
        f(k, k.astype(jnp.int32))
    shapes = [((2, 6, 3, 5),) * 2, ((1, 6, 2, 5),) * 2, ((2, 6, 2, 4),) * 2, ((2, 6, 2, 5), (2, 7, 2, 5))]
    for wrong in [*shapes, ((2, 6, 0, 5),) * 2]:
        with pytest.raises(
            ValueError, match=r"q is float32\[2,3,4,5\], k .*, wanted .* a multiple of kv_heads"
        ):
            f(*map(ones, wrong))
    with pytest.raises(TypeError, match=r"mask is int32\[2,6\], wanted bool"):
        f(k, k, mask=ones((2, 6), jnp.int32))
    for wrong in [(3, 6), (2, 3, 6), (2, 1, 3, 5), (2, 2, 3, 6)]:
        with pytest.raises(
            ValueError, match=r"mask is bool.*, wanted \(batch, source\), here \(2, 6\), or four"
        ):
            f(k, k, mask=ones(wrong, bool))


def turned(x, positions):
    """(x_2i, x_2i+1) as a complex number, turned."""
    frequency = 10000.0 ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])
    z = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * positions[:, None, None] * frequency)
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def multi_head(params, x, memory=None, *, heads, kv_heads, mask=None, causal=False, rotary=False):
    memory = x if memory is None else memory
    b = {name: params.get(f"b_{name}", 0.0) for name in "qkvo"}
    q = (x @ params["w_q"] + b["q"]).reshape(*x.shape[:2], heads, -1)
    k, v = ((memory @ params[f"w_{n}"] + b[n]).reshape(*memory.shape[:2], kv_heads, -1) for n in "kv")
    if rotary:
        q, k = turned(q, np.arange(x.shape[1])), turned(k, np.arange(x.shape[1]))
    y = attend(q, k, v, mask, causal)
    return y.reshape(*x.shape[:2], -1) @ params["w_o"] + b["o"]


PADDING = np.array([[True, True, False, False], [False] * 4])
CASES = {
    "plain": ({}, None, None),
    "causal, rotary": ({"causal": True, "rotary": True}, None, None),
    "groups, no bias": ({"kv_heads": 2, "use_bias": False}, None, PADDING),
    "sizes": ({"kv_heads": 1, "features": 3, "head_features": 5}, None, None),
    "memory": ({}, (2, 4, 3), PADDING),
    "memory, whole mask": ({"kv_heads": 2}, (2, 5, 3), normal(2, 4, 4, 5) > 0),
}


@pytest.mark.parametrize("case", CASES)
def test_multi_head_attention(case):
    options, shape, mask = CASES[case]
    layer = fn.multi_head_attention(4, **options)
    x = {"x": normal(2, 4, 8), **({} if shape is None else {"memory": normal(*shape)})}
    given = {**x, **({} if mask is None else {"mask": mask})}
    params = params_for(layer, given, np.float64)
    known = {"heads": 4, "kv_heads": options.get("kv_heads", 4), "mask": mask}
    known |= {name: options[name] for name in ("causal", "rotary") if name in options}

    def f(params, x):
        y = layer(params, {**x, **({} if mask is None else {"mask": mask})})
        assert set(y) == set(given)
        return y["x"]

    agrees(f, lambda params, x: multi_head(params, x["x"], x.get("memory"), **known), params, x)


def test_params():
    layer = fn.multi_head_attention(4, kv_heads=2, features=5)
    x = {
        "x": jax.ShapeDtypeStruct((2, 3, 8), jnp.bfloat16),
        "memory": jax.ShapeDtypeStruct((2, 7, 6), jnp.bfloat16),
    }
    params, state = jax.eval_shape(layer.init, KEY, x)
    shapes = {"w_q": (8, 8), "w_k": (6, 4), "w_v": (6, 4), "w_o": (8, 5)}
    shapes |= {"b_q": (8,), "b_k": (4,), "b_v": (4,), "b_o": (5,)}
    assert jax.tree.map(jnp.shape, params) == shapes
    assert state == {}
    assert all(p.dtype == jnp.bfloat16 for p in params.values())
    wide = fn.multi_head_attention(1).init(KEY, ones((1, 1, 60)))[0]
    assert not any(wide[name].any() for name in shapes if name.startswith("b"))
    for name in ("w_q", "w_k", "w_v", "w_o"):
        bound = np.sqrt(6 / 120)
        assert 0.99 * bound < np.abs(wide[name]).max() <= bound


def test_an_array_or_a_dict():
    layer, x = fn.multi_head_attention(2, causal=True), normal(2, 3, 4).astype(np.float32)
    params = params_for(layer, x)
    y = jax.jit(layer)(params, x)
    assert isinstance(y, jax.Array)
    out = jax.jit(layer)(params, {"mask": None, "x": x})
    assert list(out) == ["mask", "x"]
    np.testing.assert_array_equal(out["x"], y)


def test_a_rotation_of_your_own():
    x = normal(2, 3, 4).astype(np.float32)
    halves = partial(fn.rotary, base=100.0, interleaved=False)
    layer = fn.multi_head_attention(1, use_bias=False, rotary=halves)
    params = params_for(layer, x)

    @jax.jit
    def by_hand(params, x):
        q, k, v = ((x @ params[f"w_{n}"])[:, :, None] for n in "qkv")
        return fn.dot_product_attention(halves(q), halves(k), v)[:, :, 0] @ params["w_o"]

    np.testing.assert_allclose(jax.jit(layer)(params, x), by_hand(params, x), rtol=1e-5, atol=1e-6)


def test_dropout_is_of_the_weights():
    """Weights of 1/n each, of values that show them: 0 or 2/n in training."""
    n = 16
    layer = fn.multi_head_attention(1, use_bias=False, dropout=0.5)
    params = {"w_q": np.zeros((n, n)), "w_k": np.zeros((n, n)), "w_v": np.eye(n), "w_o": np.eye(n)}
    x = np.eye(n)[None]
    np.testing.assert_allclose(jax.jit(layer)(params, x), np.full((1, n, n), 1 / n), rtol=1e-6)

    @jax.jit
    @jax.vmap
    def train(rate):
        layer = fn.multi_head_attention(1, use_bias=False, dropout=rate)
        return layer.apply(params, {}, x, key=KEY, train=True)[0]

    none, weights = train(np.array([0.0, 0.5], np.float32))
    np.testing.assert_allclose(none, np.full((1, n, n), 1 / n), rtol=1e-6)
    dropped = np.asarray(weights) == 0
    assert 0.35 < dropped.mean() < 0.65
    np.testing.assert_allclose(weights[~dropped], 2 / n, rtol=1e-6)
    with pytest.raises(ValueError, match="dropout: train=True and no key"):
        jax.eval_shape(partial(layer.apply, train=True), params, {}, x)


OPTIONS = [
    {"causal": True},
    {"causal": True, "kv_heads": 2, "rotary": True, "features": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_decoding_gives_the_numbers_of_one_causal_pass(options):
    """Three time steps at once, then one by one in a scan; the cache has room to spare."""
    x = normal(2, 7, 8).astype(np.float32)
    whole, layer = fn.multi_head_attention(4, **options), fn.multi_head_attention(4, cache=9, **options)
    params, state = params_for(layer, x[:, :1]), blank(jax.eval_shape(layer.init, KEY, x[:, :1])[1])
    assert fn.check.describe(params) == fn.check.describe(jax.eval_shape(whole.init, KEY, x)[0])
    room = f"float32[2,9,{options.get('kv_heads', 4)},2]"
    assert fn.check.describe(state) == f"{{k: {room}, position: int32[], v: {room}}}"

    @jax.jit
    def decode(params, state, x):
        first, state = layer.apply(params, state, x[:, :3])

        def step(state, x):
            y, state = layer.apply(params, state, x[:, None])
            return state, y[:, 0]

        state, rest = jax.lax.scan(step, state, x[:, 3:].swapaxes(0, 1))
        return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1), state

    y, after = decode(params, state, x)
    np.testing.assert_allclose(y, jax.jit(whole)(params, x), rtol=1e-5, atol=1e-6)
    assert after["position"] == 7
    assert not after["k"][:, 7:].any()
    # Training sees x alone.
    trained, same = jax.jit(partial(layer.apply, train=True))(params, after, x)
    np.testing.assert_allclose(trained, y, rtol=1e-5, atol=1e-6)
    assert same["position"] == 7


def test_decoding_with_a_mask_of_the_cache():
    """The second sequence has one token less in front."""
    x = normal(2, 4, 8).astype(np.float32)
    layer = fn.multi_head_attention(2, causal=True, cache=5)
    params, state = params_for(layer, x), blank(jax.eval_shape(layer.init, KEY, x)[1])
    mask = np.array([[True] * 5, [False, *[True] * 4]])
    y, _ = jax.jit(layer.apply)(params, state, {"x": x, "mask": mask})
    short = jax.jit(fn.multi_head_attention(2, causal=True))(params, x[1:, 1:])
    np.testing.assert_allclose(y["x"][1:, 1:], short, rtol=1e-5, atol=1e-6)


def test_a_full_cache():
    x = ones((1, 2, 4))
    layer = fn.multi_head_attention(2, causal=True, cache=3)
    params, state = params_for(layer, x), blank(jax.eval_shape(layer.init, KEY, x)[1])
    jitted = jax.jit(layer.apply)
    y, state = jitted(params, state, x)
    assert np.isfinite(y).all()
    with pytest.raises(ValueError, match="attention: 2 time steps at position 2, wanted at most 3 in all"):
        layer.apply(params, state, x)
    assert np.isnan(jitted(params, state, x)[0]).all()
    y, state = jitted(params, state, x[:, :1])
    assert np.isfinite(y).all()
    y, state = jitted(params, state, x[:, :1])
    assert np.isnan(y).all()
    with pytest.raises(ValueError, match="attention: 4 time steps, wanted at most 3 in all"):
        jitted(params, state, ones((1, 4, 4)))
    with pytest.raises(ValueError, match="attention: 4 time steps at position 0, wanted at most 3"):
        jax.eval_shape(layer.init, KEY, ones((1, 4, 4)))
    with pytest.raises(
        ValueError, match=r"the cache in state is float32\[1,3,2,2\] and the new keys float32\[2,"
    ):
        jax.eval_shape(layer.apply, params, state, ones((2, 1, 4)))
    with pytest.raises(ValueError, match=r"attention: state has no entries, wanted \['k', 'position', 'v'\]"):
        layer(params, x)


def test_errors_of_multi_head_attention():
    make, x = fn.multi_head_attention, ones((2, 3, 4))
    for name in ("kv_heads", "features", "head_features", "cache"):
        with pytest.raises(ValueError, match=f"multi_head_attention: {name}=0, wanted at least 1"):
            make(2, causal=True, **{name: 0})
    with pytest.raises(TypeError, match=r"multi_head_attention: heads=2\.0"):
        make(2.0)
    with pytest.raises(ValueError, match="heads=4, kv_heads=3, wanted a divisor of heads"):
        make(4, kv_heads=3)
    with pytest.raises(ValueError, match="cache=3 and causal=False, wanted causal=True"):
        make(4, cache=3)
    with pytest.raises(ValueError, match=r"multi_head_attention: dropout=1\.0"):
        make(4, dropout=1.0)
    with pytest.raises(ValueError, match=r"input is float32\[2,3,4\], wanted a multiple of heads=3 features"):
        make(3).init(KEY, x)
    memory = {"x": x, "memory": ones((2, 5, 3))}
    with pytest.raises(ValueError, match="a memory and rotary, wanted one of them"):
        make(2, rotary=True).init(KEY, memory)
    with pytest.raises(ValueError, match="a memory and cache=4, wanted one of them"):
        make(2, causal=True, cache=4).init(KEY, memory)
    layer = make(2)
    params = params_for(layer, memory)
    with pytest.raises(
        ValueError, match=r"memory is float32\[2,3,4\] and w_k float32\[3,4\], wanted 3 features"
    ):
        layer(params, x)
    with pytest.raises(ValueError, match=r"q is .*, k .* and v .*, wanted"):
        jax.eval_shape(layer, params, {"x": x[:1], "memory": memory["memory"]})
    for wrong in ({"memory": x}, {"x": x, "masks": x}):
        with pytest.raises(
            ValueError, match=r"input has \[.*\], wanted 'x' and, where needed, 'memory' and 'mask'"
        ):
            layer(params, wrong)
    with pytest.raises(ValueError, match=r"attention: x is float32\[3,4\], wanted \(batch, time, features\)"):
        layer(params, x[0])
    with pytest.raises(
        ValueError, match=r"attention: memory is float32\[3,4\], wanted \(batch, time, features\)"
    ):
        layer(params, {"x": x, "memory": x[0]})
    with pytest.raises(TypeError, match=r"mask is int32\[2,5\], wanted bool"):
        jax.eval_shape(layer, params, {**memory, "mask": ones((2, 5), jnp.int32)})
