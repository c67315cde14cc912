"""Sampling against the plain loop: run the whole network on all tokens, filter in NumPy, take the same draw."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fnnet as fn
from fnnet.sample import _decode, filtered
from tests import arrays

KEY = jax.random.key(7)
VOCABULARY = 6
PROMPT = np.array([[3, 1, 4, 1], [2, 5, 1, 0]], np.int32)
STEPS = 5
LENGTH = PROMPT.shape[1] + STEPS - 1  # tokens that are fed: the last one drawn is not


def gpt(cache: int | None = None, **options: Any) -> fn.Layer:
    return fn.serial(
        *(fn.embed(VOCABULARY, 4), fn.learned_position(LENGTH, cache=cache is not None)),
        fn.repeat(fn.transformer_decoder_block(2, cross=False, cache=cache, **options), 2),
        *(fn.layer_norm(), fn.dense(VOCABULARY)),
    )


def waves(cache: int | None = None) -> fn.Layer:
    return fn.serial(
        *(fn.embed(VOCABULARY, 4), fn.sinusoidal_position(cache=cache is not None)),
        fn.multi_head_attention(2, kv_heads=1, causal=True, cache=cache, rotary=True),
        fn.dense(VOCABULARY),
    )


def rnn(layer: fn.Layer) -> fn.Layer:
    return fn.serial(fn.embed(VOCABULARY, 4), body=layer, head=fn.dense(VOCABULARY))


# By name: the network that is sampled, and the same network without cache or carry.
NETS = {
    "gpt": (gpt(cache=LENGTH), gpt()),
    "gpt without cache": (gpt(), gpt()),
    "attention": (waves(cache=LENGTH + 3), waves()),
    "gru": (rnn(fn.gru(8, cache=True)), rnn(fn.gru(8))),
    "stacked lstm": (
        rnn(fn.recurrent(fn.stack_cells(fn.lstm_cell(5), fn.lstm_cell(8)), cache=True)),
        rnn(fn.recurrent(fn.stack_cells(fn.lstm_cell(5), fn.lstm_cell(8)))),
    ),
    "lstm without carry": (rnn(fn.lstm(8)), rnn(fn.lstm(8))),
    "bigram": (fn.embed(VOCABULARY, VOCABULARY), fn.embed(VOCABULARY, VOCABULARY)),
}


def sharpened(params: Any) -> Any:
    """Params three times as large: far from uniform, so that a wrong position or carry changes the tokens."""
    return arrays.each(lambda a: 3 * a, params)


def started(name: str) -> tuple[fn.Layer, Any, Any, Any]:
    net, plain = NETS[name]
    params, state = jax.jit(net.init)(jax.random.key(1), PROMPT)
    wanted = jax.eval_shape(plain.init, KEY, PROMPT)[0]
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    return net, sharpened(params), state, plain


def nucleus(logits: np.ndarray, top_k: int | None, top_p: float | None) -> list[int]:
    """The tokens that are kept of one row, likeliest first, written as the definition reads."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:top_k]
    if top_p is None:
        return ranked
    weight = np.exp(np.float64(logits[ranked]) - np.max(logits))
    weight /= weight.sum()
    size = 1
    while size < len(ranked) and weight[:size].sum() < top_p:
        size += 1
    return ranked[:size]


def plain_loop(
    plain: fn.Layer, params: Any, steps: int, temperature: float, top_k: int | None, top_p: float | None
) -> np.ndarray:
    """Tokens (batch, steps) by running the network without a cache on everything, at each step."""
    forward = jax.jit(plain)
    batch, time = PROMPT.shape
    tokens = np.concatenate([PROMPT, np.full((batch, steps), 2, np.int32)], axis=1)
    for i in range(steps):
        # What has not been drawn yet is all twos: a causal network does not see it.
        logits = np.asarray(forward(params, tokens[:, :LENGTH]))[:, time - 1 + i]
        gumbel = np.asarray(jax.random.gumbel(jax.random.fold_in(KEY, i), logits.shape))
        for row in range(batch):
            if temperature == 0:
                tokens[row, time + i] = logits[row].argmax()
                continue
            kept = nucleus(logits[row] / temperature, top_k, top_p)
            tokens[row, time + i] = max(kept, key=lambda t: logits[row][t] / temperature + gumbel[row][t])
    return tokens[:, time:]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("gpt", "gru") else pytest.mark.slow) for name in NETS]
)
def test_tokens_are_those_of_the_plain_loop(name: str) -> None:
    net, params, state, plain = started(name)
    seen = set()
    for temperature in (0.0, 0.7, 3.0):
        got = fn.sample(net.apply, params, state, PROMPT, STEPS, KEY, temperature, top_k=5, top_p=0.8)
        assert (got.shape, got.dtype) == ((2, STEPS), jnp.int32)
        np.testing.assert_array_equal(got, plain_loop(plain, params, STEPS, temperature, 5, 0.8))
        seen |= set(np.asarray(got).ravel().tolist())
    assert len(seen) > 2  # not one token over and over


@pytest.mark.slow
def test_one_program_whatever_the_numbers() -> None:
    net, params, state, _ = started("gru")
    before = _decode._cache_size()
    for temperature in (0.0, 0.5, 1, 2, np.float32(0.3), np.float32(0.7), jnp.float32(2.0), jnp.float32(3.0)):
        fn.sample(net.apply, params, state, PROMPT, 3, jax.random.key(3), temperature)
    # Eight numbers of four types: a Python int, a float, a float32 of NumPy and one of JAX may each be another to jit.
    assert before < _decode._cache_size() <= before + 4


@pytest.mark.slow
def test_a_longer_continuation_begins_with_the_shorter_one() -> None:
    net, params, state, _ = started("gpt")
    draw = partial(fn.sample, net.apply, params, state, PROMPT)
    long = draw(STEPS, KEY)
    np.testing.assert_array_equal(draw(3, KEY), long[:, :3])
    np.testing.assert_array_equal(draw(STEPS, KEY), long)
    assert np.any(np.asarray(draw(STEPS, jax.random.key(8))) != np.asarray(long))


@pytest.mark.slow
def test_the_state_may_be_that_after_a_text() -> None:
    net, params, state, _ = started("gru")
    _, after = jax.jit(net.apply)(params, state, PROMPT[:, :2])
    np.testing.assert_array_equal(
        fn.sample(net.apply, params, after, PROMPT[:, 2:], STEPS, KEY),
        fn.sample(net.apply, params, state, PROMPT, STEPS, KEY),
    )


@pytest.mark.slow
def test_a_prompt_without_a_batch() -> None:
    net = NETS["gru"][0]
    params, state = jax.jit(net.init)(jax.random.key(1), PROMPT[:1])
    alone = fn.sample(net.apply, params, state, PROMPT[0], STEPS, KEY)
    assert (alone.shape, alone.dtype) == ((STEPS,), jnp.int32)
    np.testing.assert_array_equal(alone, fn.sample(net.apply, params, state, PROMPT[:1], STEPS, KEY)[0])


@pytest.mark.slow
def test_vmap_over_numbers_and_keys() -> None:
    net, params, state, _ = started("gru")
    temperatures, nuclei = np.float32([0, 0.5, 2]), np.float32([1, 0.9, 0.6])
    draw = partial(fn.sample, net.apply, params, state, PROMPT, STEPS)
    many = jax.vmap(lambda t, p: draw(KEY, t, top_p=p))(temperatures, nuclei)
    for t, p, tokens in zip(temperatures, nuclei, many, strict=True):
        np.testing.assert_array_equal(tokens, draw(KEY, t, top_p=p))
    keys = jax.random.split(KEY, 2)
    np.testing.assert_array_equal(jax.vmap(lambda key: draw(key))(keys)[1], draw(keys[1]))


def test_frequencies_are_the_probabilities() -> None:
    """Of the 25 pairs that follow a token, each within 4.5 standard deviations: by chance 1 in 6,000 tries fails."""
    n = 20_000
    w = arrays.normal(5, 5)
    net = fn.embed(5, 5)
    got = fn.sample(net.apply, {"w": w}, {}, np.full((n, 1), 3, np.int32), 2, KEY, temperature=0.8, top_p=0.9)
    found = np.zeros((5, 5))
    np.add.at(found, tuple(np.asarray(got).T), 1 / n)

    def probabilities(token: int) -> np.ndarray:
        kept = nucleus(w[token] / 0.8, None, 0.9)
        p = np.zeros(5)
        p[kept] = np.exp(w[token, kept] / 0.8)
        return p / p.sum()

    wanted = probabilities(3)[:, None] * np.stack([probabilities(token) for token in range(5)])
    assert np.all(np.abs(found - wanted) <= 4.5 * np.sqrt(wanted * (1 - wanted) / n))
    assert (wanted == 0).any()


LOGITS = st.lists(
    st.lists(st.integers(-4, 4) | st.just(-np.inf), min_size=6, max_size=6), min_size=2, max_size=2
)
kept_by = jax.jit(filtered, static_argnums=1)


@given(LOGITS, st.sampled_from([None, 1, 2, 4, 6, 100]), st.none() | st.floats(0.01, 1.0))
def test_filters_keep_what_their_definition_says(
    rows: list[list[float]], top_k: int | None, top_p: float | None
) -> None:
    logits = np.float32([[-4, *row] for row in rows])  # one is finite
    wanted = np.full(logits.shape, -np.inf, np.float32)
    for row, out in zip(logits, wanted, strict=True):
        share = np.exp(row[nucleus(row, top_k, None)] - row.max())
        reached = np.cumsum(share / share.sum())
        if top_p is not None and top_p < 1 and np.abs(reached - top_p).min() < 1e-5:
            return  # which of two sets reaches top_p is a matter of rounding
        kept = nucleus(row, top_k, top_p)
        out[kept] = row[kept]
    np.testing.assert_array_equal(kept_by(logits, top_k, top_p), wanted)


@pytest.mark.slow
def test_filters_at_their_ends() -> None:
    logits = np.float32([[2, 2, 1, -20, -np.inf]])
    for top_k, top_p in ((None, None), (5, None), (9, None), (None, 1.0), (5, 1.0), (None, np.float32(1))):
        np.testing.assert_array_equal(kept_by(logits, top_k, top_p), logits)
    for top_k, top_p in ((1, None), (None, 1e-30), (1, 1.0), (3, 1e-30)):
        np.testing.assert_array_equal(kept_by(logits, top_k, top_p), np.float32([[2, *[-np.inf] * 4]]))


def test_temperatures_near_0_are_greedy() -> None:
    w = arrays.normal(5, 5)
    net, prompt = fn.embed(5, 5), np.zeros((1, 1), np.int32)
    for temperature in (1e-3, 1e-30, 1e-45):
        got = fn.sample(net.apply, {"w": w}, {}, prompt, 4, KEY, temperature)
        np.testing.assert_array_equal(got, fn.sample(net.apply, {"w": w}, {}, prompt, 4, KEY, 0.0))


@pytest.mark.parametrize(
    "changes, error, text",
    [
        ({"prompt": np.zeros((2, 0), np.int32)}, ValueError, r"prompt is int32\[2,0\], wanted .* not empty"),
        ({"prompt": np.zeros((0, 2), np.int32)}, ValueError, r"prompt is int32\[0,2\], wanted .* not empty"),
        ({"prompt": np.zeros((2, 2, 2), np.int32)}, ValueError, r"prompt is int32\[2,2,2\], wanted"),
        ({"prompt": np.int32(1)}, ValueError, r"prompt is int32\[\], wanted"),
        ({"prompt": np.ones((2, 4), np.float32)}, TypeError, r"prompt is float32\[2,4\], wanted .* integers"),
        ({"prompt": [1, 2]}, TypeError, r"prompt is \(1, 2\), wanted an array of integers"),
        ({"prompt": PROMPT + 1}, ValueError, r"prompt has tokens 1 to 6, wanted 0 to 5"),
        ({"prompt": PROMPT - 1}, ValueError, r"prompt has tokens -1 to 4, wanted 0 to 5"),
        ({"steps": 0}, ValueError, "steps=0, wanted at least 1"),
        ({"steps": 2.0}, TypeError, r"steps=2.0, wanted a positive int"),
        ({"top_k": 0}, ValueError, "top_k=0, wanted at least 1"),
        ({"top_k": 2.0}, TypeError, r"top_k=2.0, wanted a positive int"),
        ({"top_p": 0.0}, ValueError, r"top_p=0.0, wanted in \(0, 1\]"),
        ({"top_p": 1.01}, ValueError, r"top_p=1.01, wanted in \(0, 1\]"),
        ({"top_p": jnp.float32(-1)}, ValueError, r"top_p=-1.0, wanted in \(0, 1\]"),
        ({"top_p": float("nan")}, ValueError, r"top_p=nan, wanted in \(0, 1\]"),
        ({"top_p": np.float32([0.5])}, TypeError, r"top_p is float32\[1\], wanted one real number"),
        ({"temperature": -0.1}, ValueError, r"temperature=-0.1, wanted at least 0"),
        ({"temperature": float("nan")}, ValueError, r"temperature=nan, wanted at least 0"),
        ({"temperature": float("inf")}, ValueError, "temperature=inf, wanted a finite number"),
        ({"temperature": None}, TypeError, r"temperature=None, wanted a number"),
        ({"temperature": True}, TypeError, r"temperature=True, wanted a number, not a bool"),
    ],
)
def test_arguments_that_raise_before_anything_is_compiled(
    changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    net = fn.embed(VOCABULARY, VOCABULARY)
    arguments = {"prompt": PROMPT, "steps": 2, "key": KEY, **changes}
    before = _decode._cache_size()
    with pytest.raises(error, match=f"^sample: {text}"):
        fn.sample(net.apply, {"w": np.zeros((VOCABULARY, VOCABULARY), np.float32)}, {}, **arguments)
    assert _decode._cache_size() == before


@pytest.mark.parametrize("name", ["gpt", "gpt without cache", "attention"])
def test_more_tokens_than_there_is_room_for(name: str) -> None:
    net, params, state, _ = started(name)
    with pytest.raises(ValueError, match=r"wanted at most \d+ in all; make it longer"):
        fn.sample(net.apply, params, state, PROMPT, STEPS + (4 if name == "attention" else 1), KEY)


@pytest.mark.slow
def test_a_cache_that_was_used_has_less_room() -> None:
    net, params, state, _ = started("attention")
    _, after = jax.jit(net.apply)(params, state, PROMPT)
    with pytest.raises(ValueError, match=r"8 time steps at position 4, wanted at most 11 in all"):
        fn.sample(net.apply, params, after, PROMPT, STEPS, KEY)
    # Under jit the position is not known before the end of the cache is reached: after 4 + 7 tokens.
    tokens = jax.jit(lambda state: fn.sample(net.apply, params, state, PROMPT, STEPS, KEY))(after)
    np.testing.assert_array_equal(np.asarray(tokens) >= 0, [[True] * 4 + [False]] * 2)


@pytest.mark.slow
def test_a_layer_without_its_cache_raises() -> None:
    half = fn.serial(
        *(fn.embed(VOCABULARY, 4), fn.learned_position(LENGTH)),
        *(fn.transformer_decoder_block(2, cross=False, cache=LENGTH), fn.dense(VOCABULARY)),
    )
    other = rnn(fn.serial(fn.gru(4), fn.gru(4, cache=True)))
    for net, name in ((half, "learned_position_0"), (other, "gru_0")):
        params, state = jax.jit(net.init)(KEY, PROMPT)
        with pytest.raises(ValueError, match=rf"some layers have a cache and \['{name}'\] have none, wanted"):
            fn.sample(net.apply, params, state, PROMPT, STEPS, KEY)


def test_a_network_that_gives_no_logits_raises() -> None:
    for net in (rnn(fn.gru(4, outputs="last")), fn.flatten):
        net = fn.as_layer(net)
        params = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(net.init, KEY, PROMPT)[0])
        with pytest.raises(ValueError, match=r"maps int32\[2,8\] to .*, wanted logits \(2, 8, vocabulary\)"):
            fn.sample(net.apply, params, {}, PROMPT, STEPS, KEY)


def test_a_state_that_changes_its_shape_raises() -> None:
    def apply(params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False) -> Any:
        return jnp.zeros((*x.shape, 3)), {"seen": jnp.concatenate([state["seen"], x], axis=1)}

    with pytest.raises(ValueError, match=r"state is \{seen: .*\} and after .*, wanted the same shapes"):
        fn.sample(apply, {}, {"seen": PROMPT}, PROMPT % 3, STEPS, KEY)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_distribution(bad: float) -> None:
    w = np.zeros((3, 3), np.float32)
    w[0, 1], w[1, 2], w[2, 0] = 99, 99, bad  # 0 -> 1 -> 2 -> not finite
    net, prompt = fn.embed(3, 3), np.array([[0], [1]], np.int32)
    with pytest.raises(FloatingPointError, match="logits of prompt 1 at step 1 are NaN or infinite, wanted"):
        fn.sample(net.apply, {"w": w}, {}, prompt, 4, KEY)
    tokens = jax.jit(lambda w: fn.sample(net.apply, {"w": w}, {}, prompt, 4, KEY))(w)
    np.testing.assert_array_equal(tokens, [[1, 2, -1, -1], [2, -1, -1, -1]])


@pytest.mark.slow
def test_wrong_values_under_vmap_give_no_tokens() -> None:
    w, net = arrays.normal(3, 3), fn.embed(3, 3)
    draw = partial(fn.sample, net.apply, {"w": w}, {})
    prompt = np.array([[0, 1]], np.int32)
    tokens = jax.vmap(lambda t, p: draw(prompt, 2, KEY, t, top_p=p))(
        np.float32([1, -1, np.nan, np.inf, 1, 1, 1]), np.float32([1, 1, 1, 1, 0, 1.5, np.nan])
    )
    np.testing.assert_array_equal(np.asarray(tokens)[:, 0, :] >= 0, [[True] * 2, *[[False] * 2] * 6])
    prompts = np.array([[0, 1], [0, -1], [-1, 0], [3, 1], [1, 3]], np.int32)
    tokens = jax.jit(lambda prompts: draw(prompts, 2, KEY))(prompts)
    # What the network does with a token that is too large in the middle is its own matter: embed gives NaN for it,
    # and a bigram does not look at it.
    np.testing.assert_array_equal(np.asarray(tokens)[:, 0] >= 0, [True, False, False, True, False])


@pytest.mark.slow
@pytest.mark.parametrize("make", [fn.simple_rnn, fn.gru, fn.lstm])
def test_a_cached_recurrent_layer_is_the_layer_in_pieces(make: Any) -> None:
    x = arrays.normal(2, 5, 3)
    layer, plain = make(4, cache=True), make(4)
    assert layer.name == plain.name
    params, state = jax.jit(layer.init)(KEY, x)
    arrays.equal(params, jax.jit(plain.init)(KEY, x)[0])
    apply = jax.jit(layer.apply, static_argnames="train")
    whole, _ = apply(params, state, x)
    arrays.close(whole, jax.jit(plain)(params, x), rtol=1e-6)
    _, after = apply(params, state, x[:, :2])
    arrays.close(apply(params, after, x[:, 2:])[0], whole[:, 2:], rtol=1e-5, atol=1e-6)
    trained, kept = apply(params, after, x, train=True)
    arrays.close(trained, whole, rtol=1e-6)
    arrays.equal(kept, after)


def test_a_cached_recurrent_layer_raises_for_what_does_not_fit() -> None:
    layer, x = fn.gru(4, cache=True), arrays.normal(2, 5, 3)
    params, state = jax.eval_shape(layer.init, KEY, x)
    with pytest.raises(ValueError, match=r"gru\): state has no entries, wanted \['carry'\]"):
        jax.eval_shape(layer.apply, params, {}, x)
    with pytest.raises(ValueError, match=r"carry is float32\[2,4\], wanted float32\[3,4\]"):
        jax.eval_shape(layer.apply, params, state, arrays.normal(3, 5, 3))
    with pytest.raises(ValueError, match="cache=True and reverse=True, wanted one of them"):
        fn.gru(4, cache=True, reverse=True)
