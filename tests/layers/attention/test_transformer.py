"""Transformer blocks beside their equations in NumPy; a whole GPT decoding beside its full pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import fnnet as fn
from tests.arrays import blank, normal, ones, params_for
from tests.oracle import agrees

KEY = jax.random.key(0)
TRIANGLE = np.tril(np.ones((3, 3), bool))[None, None]


def normalize(p, x):
    mu, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return p["gamma"] * (x - mu) / np.sqrt(var + 1e-5) + p["beta"]


def attend(p, x, memory, mask, heads):
    def cut(z, n):
        z = (z @ p[f"w_{n}"] + p.get(f"b_{n}", 0.0)).reshape(*z.shape[:2], heads, -1)
        return z.transpose(0, 2, 1, 3)

    q, k, v = cut(x, "q"), cut(memory, "k"), cut(memory, "v")
    e = np.where(mask, np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])), 0)
    y = (e / np.sum(e, -1, keepdims=True)) @ v
    return y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1) @ p["w_o"] + p.get("b_o", 0.0)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def mlp(p, x, activation):
    h = activation(x @ p["dense_0"]["w"] + p["dense_0"].get("b", 0.0))
    return h @ p["dense_1"]["w"] + p["dense_1"].get("b", 0.0)


def block(p, x, memory=None, *, mask=True, memory_mask=True, heads=2, norm="pre", activation=gelu):
    parts = [lambda h: attend(p["attention"], h, h, mask, heads)]
    if memory is not None:
        parts.append(lambda h: attend(p["cross_attention"], h, memory, memory_mask, heads))
    parts.append(lambda h: mlp(p["mlp"], h, activation))
    for i, part in enumerate(parts):
        n = p[f"norm_{i}"]
        x = x + part(normalize(n, x)) if norm == "pre" else normalize(n, x + part(x))
    return x


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_encoder_block(norm):
    layer, x = fn.transformer_encoder_block(2, hidden=5, norm=norm), normal(2, 3, 4)
    mask = np.array([[True, True, False], [True] * 3])
    agrees(
        lambda params, x: layer(params, {"x": x, "mask": mask})["x"],
        partial(block, mask=mask[:, None, None], norm=norm),
        *(params_for(layer, x, np.float64), x),
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_decoder_block(norm):
    layer = fn.transformer_decoder_block(2, hidden=5, norm=norm, activation=fn.tanh)
    x, memory = normal(2, 3, 4), normal(2, 4, 6)
    masks = {"mask": np.array([[True] * 3, [True, True, False]])}
    masks["memory_mask"] = np.array([[True, False, True, True], [True] * 4])
    params = params_for(layer, {"x": x, "memory": memory}, np.float64)
    agrees(
        lambda params, x, memory: layer(params, {"x": x, "memory": memory, **masks})["x"],
        partial(
            block,
            mask=masks["mask"][:, None, None] & TRIANGLE,
            memory_mask=masks["memory_mask"][:, None, None],
            norm=norm,
            activation=np.tanh,
        ),
        *(params, x, memory),
    )


def test_decoder_block_without_memory():
    """The block of GPT, without biases."""
    layer, x = fn.transformer_decoder_block(2, cross=False, use_bias=False), normal(2, 3, 4)
    agrees(layer, partial(block, mask=TRIANGLE), params_for(layer, x, np.float64), x)


def test_params():
    layer = fn.transformer_decoder_block(2, kv_heads=1)
    x = {
        "x": jax.ShapeDtypeStruct((2, 3, 4), jnp.float32),
        "memory": jax.ShapeDtypeStruct((2, 5, 6), jnp.float32),
    }
    params, state = jax.eval_shape(layer.init, KEY, x)
    assert state == {}
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes["norm_0"] == shapes["norm_1"] == shapes["norm_2"] == {"gamma": (4,), "beta": (4,)}
    assert shapes["mlp"] == {"dense_0": {"w": (4, 16), "b": (16,)}, "dense_1": {"w": (16, 4), "b": (4,)}}
    assert (shapes["attention"]["w_k"], shapes["cross_attention"]["w_k"]) == ((4, 2), (6, 2))
    ones, _ = jax.jit(fn.transformer_encoder_block(2, w_init=fn.initializers.ones).init)(KEY, x["x"])
    for w in (ones["attention"]["w_o"], ones["mlp"]["dense_0"]["w"], ones["mlp"]["dense_1"]["w"]):
        np.testing.assert_array_equal(w, np.ones(w.shape))


def test_mask_and_memory_flow_through_serial():
    """What is masked changes nothing: not in two blocks of an encoder, nor in the decoder behind it."""
    x, target = (normal(1, n, 4).astype(np.float32) for n in (5, 3))
    encoder = fn.serial(fn.transformer_encoder_block(2), fn.transformer_encoder_block(2))
    decoder = fn.serial(fn.transformer_decoder_block(2), fn.transformer_decoder_block(2))
    params = params_for(encoder, x), params_for(decoder, {"x": target, "memory": x})
    mask = np.arange(5)[None] < 3

    @jax.jit
    def run(params, x):
        encoded = encoder(params[0], {"x": x, "mask": mask})
        decoded = decoder(params[1], {"x": target, "memory": encoded["x"], "memory_mask": encoded["mask"]})
        assert set(decoded) == {"x", "memory", "memory_mask"}
        return encoded["x"], decoded["x"]

    encoded, decoded = run(params, x)
    masked, seen = x + ~mask[..., None] * np.float32(0.5), x + mask[..., None] * normal(4).astype(np.float32)
    other, same = run(params, masked)
    np.testing.assert_array_equal(encoded[:, :3], other[:, :3])
    np.testing.assert_array_equal(decoded, same)
    assert not np.allclose(run(params, seen)[1], decoded, atol=1e-3)


def test_dropout():
    """Attention and mlp add 1 each: at rate 0.5, 0 or 2 each, drawn apart."""
    x = np.zeros((1, 8, 16), np.float32)
    layer = fn.transformer_encoder_block(2, dropout=0.5)
    params = jax.tree.map(np.zeros_like, params_for(layer, x))
    params["attention"]["b_o"] += 1
    params["mlp"]["dense_1"]["b"] += 1
    np.testing.assert_array_equal(jax.jit(layer)(params, x), np.full(x.shape, 2))
    train = jax.jit(partial(layer.apply, train=True))
    y, other = (train(params, {}, x, key=jax.random.key(seed))[0] for seed in (0, 1))
    share = [np.mean(y == n) for n in (0, 2, 4)]
    np.testing.assert_allclose(share, [0.25, 0.5, 0.25], atol=0.15)
    assert sum(share) == 1
    assert not np.array_equal(y, other)


def test_dropout_of_attention():
    """Its own rate, and nothing of what the parts add."""
    make = fn.transformer_encoder_block
    x = normal(1, 8, 4).astype(np.float32)
    layer = make(2, attention_dropout=0.5)
    params = params_for(layer, x)
    train, plain = jax.jit(partial(layer.apply, train=True)), jax.jit(layer)
    assert not np.allclose(train(params, {}, x, key=KEY)[0], plain(params, x), atol=1e-3)
    params["attention"]["w_o"] *= 0
    np.testing.assert_allclose(train(params, {}, x, key=KEY)[0], plain(params, x), rtol=1e-6)
    for rates in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
        with pytest.raises(ValueError, match="dropout: train=True and no key"):
            jax.eval_shape(partial(make(2, **rates).apply, train=True), params, {}, x)
    decoder = fn.transformer_decoder_block(2, cross=False, attention_dropout=0.5)
    with pytest.raises(ValueError, match="dropout: train=True and no key"):
        jax.eval_shape(partial(decoder.apply, train=True), params, {}, x)


def gpt(cache, position, **options):
    block = partial(fn.transformer_decoder_block, 4, cross=False, cache=cache, **options)
    return fn.serial(fn.embed(11, 8), position, block(), block(), fn.layer_norm(), fn.dense(11))


@pytest.mark.slow
@pytest.mark.parametrize(
    "position, options",
    [
        (partial(fn.learned_position, 8), {"rotary": True, "kv_heads": 2}),
        (fn.sinusoidal_position, {"norm": "post"}),
    ],
)
def test_a_gpt_decodes_token_by_token(position, options):
    """Three tokens at once, then each choice fed back, in a scan; the full pass would have chosen alike."""
    full, cached = gpt(None, position(), **options), gpt(8, position(cache=True), **options)
    prompt = np.array([[1, 2, 3], [7, 5, 3]])
    params, shapes = params_for(full, prompt), jax.eval_shape(cached.init, KEY, prompt)
    assert jax.tree.map(np.shape, params) == jax.tree.map(jnp.shape, shapes[0])

    @jax.jit
    def decode(params):
        logits, state = cached.apply(params, blank(shapes[1]), prompt)
        token = jnp.argmax(logits[:, -1], axis=-1)

        def step(carry, _):
            state, token = carry
            logits, state = cached.apply(params, state, token[:, None])
            return (state, jnp.argmax(logits[:, 0], axis=-1)), (token, logits[:, 0])

        _, (tokens, rest) = jax.lax.scan(step, (state, token), length=5)
        return tokens.T, jnp.concatenate([logits, rest.swapaxes(0, 1)], axis=1)

    tokens, logits = decode(params)
    wanted = jax.jit(full)(params, np.concatenate([prompt, tokens], axis=1))
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(tokens, np.argmax(wanted[:, 2:-1], axis=-1))


def test_decoding_with_a_memory():
    x, memory = (normal(2, n, 4).astype(np.float32) for n in (3, 5))
    full, cached = fn.transformer_decoder_block(2), fn.transformer_decoder_block(2, cache=3)
    both = {"x": x, "memory": memory}
    params, state = params_for(cached, both), blank(jax.eval_shape(cached.init, KEY, both)[1])
    assert list(state) == ["attention"]
    step = jax.jit(cached.apply)
    ys = []
    for t in range(3):
        y, state = step(params, state, {"x": x[:, t : t + 1], "memory": memory})
        ys.append(y["x"])
    wanted = jax.jit(full)(params, both)["x"]
    np.testing.assert_allclose(np.concatenate(ys, axis=1), wanted, rtol=1e-5, atol=1e-6)


def test_errors():
    x = ones((2, 3, 4))
    for make in (fn.transformer_encoder_block, fn.transformer_decoder_block):
        name = make.__name__
        with pytest.raises(ValueError, match=f"{name}: norm='both', wanted one of 'pre', 'post'"):
            make(2, norm="both")
        with pytest.raises(ValueError, match=f"{name}: hidden=0, wanted at least 1"):
            make(2, hidden=0)
        with pytest.raises(ValueError, match=f"{name}: dropout=1, wanted in"):
            make(2, dropout=1)
        with pytest.raises(ValueError, match=f"{name}: input has .*'y'.*, wanted 'x' and, where needed"):
            make(2).init(KEY, {"x": x, "y": x})
    layer = fn.transformer_decoder_block(2)
    for run in (layer.init, layer.apply):
        with pytest.raises(ValueError, match=r"input is float32\[2,3,4\], wanted a dict .* or cross=False"):
            run(*((KEY,) if run is layer.init else ({}, {})), x)
    with pytest.raises(ValueError, match="wanted a multiple of heads=3") as caught:
        fn.transformer_encoder_block(3).init(KEY, x)
    assert caught.value.__notes__ == ["in transformer_encoder_block['attention'], input float32[2,3,4]"]
