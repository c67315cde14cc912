"""Autoregressive sampling: draw the next token, feed it back, repeat, in one compiled scan."""

from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import check
from fnnet.children import observing_children
from fnnet.layer import Apply, Layer, Params, State

# Layers that read other time steps than their own, or count them. Fed one token at a time they need their cache.
READS_TIME = (
    *(
        "learned_position",
        "sinusoidal_position",
        "multi_head_attention",
        "conv",
        "depthwise_conv",
        "separable_conv",
    ),
    *("recurrent", "simple_rnn", "gru", "lstm", "bidirectional"),
)


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
    """Tokens that continue a prompt, each drawn from what the network predicts after all tokens before it.

        token_t ~ softmax(filter(logits_{t-1} / temperature)),    logits_{t-1} = f(prompt, token_0 ... token_{t-1})

    Shapes: prompt (batch, time), the result int32 (batch, steps); prompt (time,), the result (steps,), and then
    the network's state is that of a batch of 1. All prompts of a batch have one length.

    The network must be causal: its logits at one time step depend on the tokens up to that step only. How it is run
    depends on whether an evaluation changes its state:

    - With a cache, the prompt is read at once, then one token per step is fed. Build the network with `cache=` in
      every attention, position and recurrent layer. Params are the same with and without, so it can be a second
      network, for sampling only. The state that `init` returned, for a prompt of the batch to be sampled, is the
      empty cache.
    - Without, every step runs the network on all tokens. The tokens are the same, up to rounding of the logits; the
      time grows with the square of the length.

    The whole is one compiled program, for prompt and continuation. It is compiled again for another network
    (another `apply`), prompt shape, `steps` or `top_k`, not for another temperature or top_p. Only tokens are
    returned. For a longer text call it with more steps: step i draws with `fold_in(key, i)`, so that a longer
    continuation begins with the shorter one.

    Args:
        apply: a network's apply, such as `net.apply`, from tokens (batch, time) to logits (batch, time, vocabulary).
        params: the network's.
        state: the network's, from `init`, or from an evaluation after which the prompt follows.
        prompt: integers, 0 to vocabulary - 1.
        steps: how many tokens to draw.
        key: for the draws.
        temperature: below 1 likely tokens become likelier; 0 takes the most likely token each time (the first of
            equal ones) and ignores `top_k` and `top_p`. It may be a tracer, such as under `vmap`.
        top_k: draw from the k most likely tokens only (all, if there are fewer); None for all.
        top_p: draw from the nucleus only, the smallest set of most likely tokens that have at least this probability
            together, in (0, 1]; None for all. It may be a tracer. With top_k it counts what top_k left, as 1.

    Of tokens with equal logits, `top_k` and `top_p` keep those that come first.

    Raises:
        TypeError: the prompt is not integer, or steps or top_k not an int.
        ValueError: the prompt is empty, not of rank 1 or 2 or has tokens that are not in the vocabulary; steps or
            top_k is not positive; temperature is negative or top_p outside (0, 1], or one of them is not a number;
            the output is not (batch, time, vocabulary); prompt and continuation are longer than a cache or a table of
            positions; one layer has a cache and another, which needs one, does not.
        FloatingPointError: logits are NaN or infinite, so that there is no distribution to draw from.

    Under `jit` and `vmap`, where values are not known, what would have raised for its value gives -1 for each token
    from there on: wrong tokens in the prompt, a cache that had been used before and is full, NaN.

    Source: Fan et al. 2018, arXiv:1805.04833, section 5.1 (top-k); Holtzman et al. 2020, arXiv:1904.09751, section
    3.1 (nucleus).

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
    _check_number("temperature", temperature, "at least 0, and finite", lambda t: 0 <= t < np.inf)
    if top_p is not None:
        _check_number("top_p", top_p, "in (0, 1]", lambda p: 0 < p <= 1)
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


def _check_number(name: str, value: Any, wanted: str, fits: Callable[[float], bool]) -> None:
    """Raises unless the value is a number that fits. A tracer has no value yet."""
    if not isinstance(value, Real) and not hasattr(value, "dtype"):
        raise TypeError(f"sample: {name}={value!r}, wanted a number {wanted}")
    if np.shape(value) != ():
        raise ValueError(f"sample: {name} is {check.describe(value)}, wanted one number {wanted}")
    if not isinstance(value, jax.core.Tracer) and not fits(float(value)):
        raise ValueError(f"sample: {name}={value}, wanted {wanted}")


def _check_network(apply: Apply, params: Params, state: State, prompt: Any, steps: int) -> bool:
    """Traces the network on all tokens at once. Whether it has a cache; raises where it would go wrong."""
    batch, time = prompt.shape[0], prompt.shape[1] + steps - 1
    state = jax.tree.map(jnp.asarray, state)
    same = False
    forgetful: dict[str, str] = {}

    def see(name: str, child: Layer, params: Any, state: State, x: Any, key: Any, train: bool) -> Any:
        y, after = child.apply(params, state, x, key=key, train=train)
        of_time = child.name in READS_TIME and not after and not (isinstance(x, dict) and "memory" in x)
        forgetful.update({name: child.name} if of_time else {})
        return y, after

    def whole(params: Params, tokens: Any) -> tuple[Any, State]:
        nonlocal same
        # The state is not an argument: a cache's position is known, and the cache raises if it is too short.
        with observing_children(see):
            logits, after = apply(params, state, tokens)
        before, later = jax.tree.leaves(state), jax.tree.leaves(after)
        same = len(before) == len(later) and all(a is b for a, b in zip(before, later, strict=True))
        return logits, after

    tokens = jax.ShapeDtypeStruct((batch, time), jnp.int32)
    logits, after = jax.eval_shape(whole, params, tokens)
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
    if not same and forgetful:
        raise ValueError(
            f"sample: some layers keep a cache in the state but {sorted(forgetful)} do not, wanted one in each: "
            "cache= in every attention, position and recurrent layer"
        )
    return not same


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
