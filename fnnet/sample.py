"""Autoregressive sampling: draw the next token, feed it back, repeat, in one compiled scan."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import check
from fnnet.children import observing_children
from fnnet.layer import Apply, Layer, Params, State

# fmt: off
# Layers that read other time steps than their own, or count them: fed one token at a time, they need a cache.
READ_TIME = {
    "learned_position", "sinusoidal_position", "multi_head_attention", "recurrent", "simple_rnn", "gru", "lstm",
    "bidirectional", "conv", "depthwise_conv", "separable_conv",
}
# fmt: on


def sample(
    apply: Apply,
    params: Params,
    state: State,
    prompt: Any,
    steps: int,
    key: chex.PRNGKey,
    temperature: chex.Numeric = 1.0,
    top_k: int | None = None,
    top_p: chex.Numeric | None = None,
) -> jax.Array:
    """Draws the tokens that continue a prompt, one after the other, from a network's predictions.

        token_t ~ softmax(filter(logits_{t-1} / temperature)),    logits_{t-1} = f(prompt, token_0 ... token_{t-1})

    Shapes: prompt (batch, time) and result int32 (batch, steps); or prompt (time,) and result (steps,), with a state
    for a batch of 1. All prompts of a batch have the same length.

    The network must be causal: its logits at one time step depend only on the tokens up to that step. If an
    evaluation changes its state, the state is taken for a cache:

    - With a cache, the network reads the prompt at once, and then one token per step. Build it with `cache=` in
      every attention, position and recurrent layer. Params are the same with and without, so this can be a second
      network, used for sampling only. The state that `init` returns for a batch of prompts is the empty cache.
    - Without a cache, the network reads all tokens at every step. The tokens are the same, up to rounding of the
      logits, but the time grows with the square of the length.

    Prompt and continuation are one compiled program. Another `apply`, prompt shape, `steps` or `top_k` compiles it
    again; another temperature or top_p does not. Only the tokens are returned: for a longer text, call it with more
    steps. Step i draws with `fold_in(key, i)`, so a longer continuation begins with the shorter one.

    Args:
        apply: of a network, such as `net.apply`. It maps tokens (batch, time) to logits (batch, time, vocabulary).
        params: of the network.
        state: of the network, from `init`, or from an evaluation of the text before the prompt.
        prompt: integers from 0 to vocabulary - 1.
        steps: number of tokens to draw, at least 1.
        key: PRNG key of the draws.
        temperature: in [0, inf). Below 1, likely tokens become more likely. With 0 each token is the most likely one
            (the first of equal ones), whatever `top_k` and `top_p` are. It may be a tracer.
        top_k: draw from the k most likely tokens only. None, and more than the vocabulary has, mean all.
        top_p: draw from the nucleus only: the smallest set of most likely tokens whose probability is at least
            top_p, in (0, 1]. None and 1 mean all. It may be a tracer. With `top_k`, the probabilities are those
            among the tokens that top_k keeps.

    Among tokens with equal logits, `top_k` and `top_p` keep those with the lower numbers.

    Raises:
        TypeError: the prompt is not integer; steps or top_k is not an int; temperature or top_p is not one number.
        ValueError: the prompt is empty, not (batch, time) or (time,), or has a token outside the vocabulary; steps or
            top_k is not positive; temperature is negative, infinite or NaN; top_p is outside (0, 1]; the output is
            not (batch, time, vocabulary); prompt and continuation do not fit in a cache or a table of positions; one
            layer has a cache and another one, which needs it, has none.
        FloatingPointError: the logits are NaN or infinite, so there is no distribution to draw from.

    Under `jit` and `vmap` values are not known, and no error can depend on them. Instead, all tokens from the fault
    on are -1: for NaN, for a bad temperature or top_p, for a negative prompt, for a cache that is full because it
    had been used before.

    Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (nucleus).

    Example:
        A transformer with a cache for 8 tokens:

        >>> gpt = fn.serial(
        ...     *(fn.embed(11, 4), fn.learned_position(8, cache=True)),
        ...     *(fn.transformer_decoder_block(2, cross=False, cache=8), fn.layer_norm(), fn.dense(11)),
        ... )
        >>> prompt = jnp.array([[3, 1, 4], [2, 7, 1]])
        >>> params, state = gpt.init(jax.random.key(0), prompt)
        >>> fn.sample(gpt.apply, params, state, prompt, 5, jax.random.key(1), top_k=3).shape
        (2, 5)

        A recurrent network, whose cache is the carry:

        >>> rnn = fn.serial(fn.embed(11, 4), fn.gru(8, cache=True), fn.dense(11))
        >>> params, state = rnn.init(jax.random.key(0), prompt)
        >>> fn.sample(rnn.apply, params, state, prompt, 5, jax.random.key(1), temperature=0.5).shape
        (2, 5)
    """
    if not hasattr(prompt, "dtype") or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(f"sample: prompt is {check.describe(prompt)}, wanted an array of integers")
    if len(prompt.shape) not in (1, 2) or 0 in prompt.shape:
        raise ValueError(
            f"sample: prompt is {check.describe(prompt)}, wanted (batch, time) or (time,), not empty"
        )
    check.is_positive("sample", "steps", steps)
    if top_k is not None:
        check.is_positive("sample", "top_k", top_k)
    check.number("sample", "temperature", temperature, "[0, inf)")
    if top_p is not None:
        check.number("sample", "top_p", top_p, "(0, 1]")
    tokens = prompt if len(prompt.shape) == 2 else prompt[None]
    cached = _check_network(apply, params, state, tokens, steps)

    drawn = _decode(apply, params, state, tokens, int(steps), key, temperature, top_k, top_p, cached)
    if not isinstance(drawn, jax.core.Tracer) and drawn.is_fully_addressable:
        failed = np.argwhere(np.asarray(drawn) < 0)
        if len(failed):
            row, step = failed[failed[:, 1].argmin()]
            raise FloatingPointError(
                f"sample: the logits of prompt {row} at step {step} are NaN or infinite, wanted a distribution; "
                "look for NaN in params, and for a cache in state that is full"
            )
    return drawn if len(prompt.shape) == 2 else drawn[0]


@dataclass
class Trace:
    """What a trace of the network shows: whether its state changes, and which layers lack a cache."""

    changes: bool = True
    without_cache: list[str] = field(default_factory=list)

    def observe(
        self, name: str, child: Layer, params: Any, state: State, x: Any, key: Any, train: bool
    ) -> Any:
        """Applies a child, as `apply_child` does."""
        y, after = child.apply(params, state, x, key=key, train=train)
        attends_elsewhere = isinstance(x, dict) and "memory" in x
        if child.name in READ_TIME and not after and not attends_elsewhere:
            self.without_cache.append(name)
        return y, after


def _check_network(apply: Apply, params: Params, state: State, prompt: Any, steps: int) -> bool:
    """Traces the network on all tokens at once, and raises what can be known from that. True if it has a cache."""
    batch, time = prompt.shape[0], prompt.shape[1] + steps - 1
    state = jax.tree.map(jnp.asarray, state)
    trace = Trace()

    def evaluate(params: Params, tokens: Any) -> tuple[Any, State]:
        # The state is not an argument: so the position in a cache is known, and a cache that is too short raises.
        with observing_children(trace.observe):
            logits, after = apply(params, state, tokens)
        before, later = jax.tree.leaves(state), jax.tree.leaves(after)
        trace.changes = len(before) != len(later) or any(
            a is not b for a, b in zip(before, later, strict=True)
        )
        return logits, after

    tokens = jax.ShapeDtypeStruct((batch, time), jnp.int32)
    logits, after = jax.eval_shape(evaluate, params, tokens)
    if getattr(logits, "shape", ())[:-1] != (batch, time) or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"sample: the network maps {check.describe(tokens)} to {check.describe(logits)}, wanted logits "
            f"({batch}, {time}, vocabulary) in floating point"
        )
    if _kinds(after) != _kinds(state):
        raise ValueError(
            f"sample: the network's state is {check.describe(state)} and after an evaluation "
            f"{check.describe(after)}, wanted the same shapes and dtypes"
        )
    if not isinstance(prompt, jax.core.Tracer):
        low, high = int(np.min(np.asarray(prompt))), int(np.max(np.asarray(prompt)))
        if not 0 <= low <= high < logits.shape[-1]:
            raise ValueError(f"sample: prompt has tokens {low} to {high}, wanted 0 to {logits.shape[-1] - 1}")
    if trace.changes and trace.without_cache:
        raise ValueError(
            f"sample: some layers have a cache and {sorted(set(trace.without_cache))} have none, wanted cache= in "
            "every attention, position and recurrent layer, or in none"
        )
    return trace.changes


def _kinds(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


@partial(jax.jit, static_argnums=(0, 4, 7, 9))
def _decode(
    apply: Apply,
    params: Params,
    state: State,
    prompt: jax.Array,
    steps: int,
    key: chex.PRNGKey,
    temperature: chex.Numeric,
    top_k: int | None,
    top_p: chex.Numeric | None,
    cached: bool,
) -> jax.Array:
    time = prompt.shape[1]
    prompt = prompt.astype(jnp.int32)

    def draw_or_fail(i: jax.Array, logits: jax.Array, before: jax.Array) -> jax.Array:
        token, valid = draw(jax.random.fold_in(key, i), logits, temperature, top_k, top_p)
        return jnp.where(valid & (before >= 0), token, -1)

    def with_cache(carry: tuple[State, jax.Array], i: jax.Array) -> tuple[tuple[State, jax.Array], jax.Array]:
        state, token = carry
        logits, state = apply(params, state, jnp.maximum(token, 0)[:, None])
        token = draw_or_fail(i, logits[:, 0], token)
        return (state, token), token

    def without(
        carry: tuple[jax.Array, jax.Array], i: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        tokens, token = carry
        logits, _ = apply(params, state, tokens)
        last = lax.dynamic_index_in_dim(logits, time - 1 + i, axis=1, keepdims=False)
        token = draw_or_fail(i, last, token)
        # The last token drawn has no place, and is not needed: nothing is drawn after it.
        return (tokens.at[:, time + i].set(jnp.maximum(token, 0), mode="drop"), token), token

    # A token of the prompt that is out of range must not pass for another: the network is free to clip it.
    valid = jnp.all(prompt >= 0, axis=1)
    last = jnp.where(valid, prompt[:, -1], -1)
    if cached:
        if time > 1:
            _, state = apply(params, state, jnp.maximum(prompt[:, :-1], 0))
        _, tokens = lax.scan(with_cache, (state, last), jnp.arange(steps))
    else:
        room = jnp.pad(jnp.maximum(prompt, 0), ((0, 0), (0, steps - 1)))
        _, tokens = lax.scan(without, (room, last), jnp.arange(steps))
    return tokens.T


def draw(
    key: chex.PRNGKey,
    logits: jax.Array,
    temperature: chex.Numeric,
    top_k: int | None,
    top_p: chex.Numeric | None,
) -> tuple[jax.Array, jax.Array]:
    """One token per row of logits (batch, vocabulary), and whether there was a distribution to draw it from."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    likeliest = jnp.argmax(logits, axis=-1)
    # At most 0, so that a low temperature does not overflow.
    falls = logits - jnp.broadcast_to(jnp.max(logits, axis=-1, keepdims=True), logits.shape)
    scaled = falls / jnp.maximum(jnp.asarray(temperature, logits.dtype), jnp.finfo(logits.dtype).tiny)
    drawn = jax.random.categorical(key, filtered(scaled, top_k, top_p), axis=-1)
    token = jnp.where(jnp.equal(temperature, 0), likeliest, drawn)
    valid = jnp.isfinite(jnp.max(logits, axis=-1)) & (temperature >= 0) & jnp.isfinite(temperature)
    if top_p is not None:
        valid &= (jnp.asarray(top_p) > 0) & (jnp.asarray(top_p) <= 1)
    return token.astype(jnp.int32), valid


def filtered(logits: jax.Array, top_k: int | None, top_p: chex.Numeric | None) -> jax.Array:
    """Logits (batch, vocabulary) with -inf for the tokens that top_k and top_p leave out."""
    if top_k is None and top_p is None:
        return logits
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    falling = jnp.take_along_axis(logits, order, axis=-1)
    rank = jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape)
    kept = jnp.ones(logits.shape, bool)
    if top_k is not None:
        kept &= rank < top_k
    if top_p is not None:
        probability = jax.nn.softmax(jnp.where(kept, falling, -jnp.inf), axis=-1)
        # What is likelier has not reached top_p yet. Rounding must not cut the tail off where top_p is 1.
        above = jnp.cumsum(probability, axis=-1) - probability
        kept &= (above < top_p) | jnp.greater_equal(top_p, 1) | (rank == 0)
    kept = jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(kept, logits, -jnp.inf)
