"""Experts with a limited capacity: which tokens each of them computes, and which are dropped (GShard)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def compute_choices(
    each_expert: Callable[[jax.Array], jax.Array],
    tokens: jax.Array,
    choices: jax.Array,
    experts: int,
    room: int,
) -> tuple[jax.Array, jax.Array]:
    """The output of the expert that each token chose, where an expert computes at most `room` tokens.

    Args:
        each_expert: applies expert e to x[e], for x (experts, room, in).
        tokens: (tokens, in).
        choices: int (tokens, top_k), the experts that each token chose, best first.
        experts: number of experts.
        room: tokens per expert.

    Returns:
        y (top_k, tokens, features): the output for each choice.
        dropped, bool (top_k, tokens): whether the expert was full. Then y is the output of some other token.
    """
    source, place = _assign_places(choices, experts, room)
    inputs = tokens.at[source].get(mode="promise_in_bounds")
    y = each_expert(inputs.reshape(experts, room, -1))
    y = y.reshape(experts * room, -1).at[jnp.maximum(place, 0)].get(mode="promise_in_bounds")
    return y, place < 0


def _assign_places(choices: jax.Array, experts: int, room: int) -> tuple[jax.Array, jax.Array]:
    """Gives each expert `room` places, and each choice of an expert a place there, as long as there are any.

    First choices are served before second choices, in the order of the tokens.

    Args:
        choices: int (tokens, top_k), the experts that each token chose, best first.
        experts: number of experts.
        room: places per expert.

    Returns:
        source (experts * room,): the token in each place. An empty place computes token 0, and its result is
        not used.
        place (top_k, tokens): the place of each choice, or -1 if the expert was full.
    """
    tokens = len(choices)
    expert = choices.T.ravel()
    ones = jax.nn.one_hot(expert, experts, dtype=jnp.int32)
    before = jnp.sum((jnp.cumsum(ones, 0) - ones) * ones, -1)  # earlier choices of the same expert
    place = jnp.where(before < room, expert * room + before, -1)
    token = jnp.tile(jnp.arange(tokens), choices.shape[1])
    source = jnp.zeros(experts * room + 1, jnp.int32)
    # Choices without a place are written behind the last one, which is cut off.
    source = source.at[jnp.where(place < 0, experts * room, place)].set(token.astype(jnp.int32))
    return source[:-1], place.reshape(choices.T.shape)
