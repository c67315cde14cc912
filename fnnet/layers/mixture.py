"""The sparsely gated mixture of experts (Shazeer et al. 2017)."""

import math
from numbers import Real
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, as_layer


def mixture_of_experts(
    expert: Layer,
    experts: int,
    *,
    top_k: int = 2,
    capacity: float | None = None,
    w_init: Initializer = initializers.normal(0.02),
) -> Layer:
    """Mixture of experts: each token goes through those few experts that a router chooses for it.

        p = softmax(x w)
        g_e = p_e / sum_chosen p   for the top_k experts with the largest p, which are chosen; else 0
        g_e = p_e                  with top_k = 1, where the router's gradient would vanish otherwise
        y = sum_e g_e f_e(x)

    The router learns to use all experts only if the balance loss is part of the loss; state has it:

        balance_loss = experts sum_e f_e P_e,   f_e the share of choices that fell on e, P_e the mean of p_e

    It is 1 where all are used alike, and larger the fewer are used. In a loop of your own, with a factor of 0.01, say:

        prediction, state = net.apply(params, state, x, key=key, train=True)
        loss = task_loss + 0.01 * state["mixture_of_experts_0"]["balance_loss"]

    Shapes: x (batch, ..., in), whose leading axes are the tokens; params w (in, experts) and "experts", the
    params of the expert with an axis of experts in front; state balance_loss () and load (experts,), which is
    f; both are overwritten in training and left alone in evaluation. y (batch, ..., features), as f_e gives.

    Args:
        expert: a layer on (tokens, in) without state: `serial(dense(64), relu, dense(16))`.
        experts: how many there are. Each starts by a key of its own.
        top_k: experts for each token.
        capacity: None, and every expert computes all tokens: simple, exact, costly. A number, and an expert
            computes at most ceil(capacity * tokens * top_k / experts) of them; tokens beyond, counted over
            all first choices, then over all second ones, get nothing from it (in evaluation, too). 1.25 is
            usual; experts / top_k drops none.
        w_init: initializer of w; N(0, 0.02^2).

    The router is computed in float32 at least.

    Raises:
        TypeError: the input is not floating point; `expert` is no layer.
        ValueError: the input's features are not those of w; the expert has state, or no params; top_k is more
            than experts; capacity is not above 0; no token to train on.

    Source: Shazeer et al. 2017, arXiv:1701.06538, eq. 1; Fedus et al. 2021, arXiv:2101.03961, eq. 4 to 6;
    Lepikhin et al. 2020 (GShard), arXiv:2006.16668, the order in which tokens are dropped.

    Example:
        >>> layer = fn.mixture_of_experts(fn.dense(2), 4)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> jax.tree.map(jnp.shape, params)
        {'experts': {'b': (4, 2), 'w': (4, 3, 2)}, 'w': (3, 4)}
        >>> y, state = layer.apply(params, state, jnp.ones((5, 3)), train=True)
        >>> y.shape, state["load"].sum()
        ((5, 2), Array(1., dtype=float32))
    """
    check.is_positive("mixture_of_experts", "experts", experts)
    check.is_positive("mixture_of_experts", "top_k", top_k)
    if top_k > experts:
        raise ValueError(f"mixture_of_experts: top_k={top_k} of {experts} experts, wanted at most all")
    if capacity is not None and not (isinstance(capacity, Real) and 0 < float(capacity) < math.inf):
        raise ValueError(f"mixture_of_experts: capacity={capacity!r}, wanted a number above 0, or None")
    one = as_layer(expert)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        check.is_floating("mixture_of_experts", x)
        check.has_rank("mixture_of_experts", x, 2, "(batch, ..., features)")
        w_key, experts_key = jax.random.split(key)
        dtype = jnp.result_type(x)
        tokens = jax.ShapeDtypeStruct((math.prod(x.shape[:-1]), x.shape[-1]), dtype)
        with check.at(f"mixture_of_experts[{one.name!r}]", x):
            many, own = jax.vmap(lambda key: one.init(key, tokens))(jax.random.split(experts_key, experts))
        if not many:
            raise ValueError(f"mixture_of_experts: the expert, {one.name}, has no params: all would be alike")
        if own:
            raise ValueError(
                f"mixture_of_experts: the expert, {one.name}, has state, {check.describe(own)}; wanted an "
                "expert without, such as layer_norm in place of batch_norm"
            )
        params = {"w": w_init(w_key, (x.shape[-1], experts), dtype), "experts": many}
        return params, {"balance_loss": jnp.zeros((), jnp.float32), "load": jnp.zeros(experts, jnp.float32)}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check.is_floating("mixture_of_experts", x)
        check.has_rank("mixture_of_experts", x, 2, "(batch, ..., features)")
        check.has_keys("mixture_of_experts", "params", params, ("w", "experts"))
        check.has_keys("mixture_of_experts", "state", state, ("balance_loss", "load"))
        w = jnp.asarray(params["w"])
        if w.shape != (x.shape[-1], experts):
            raise ValueError(
                f"mixture_of_experts: input is {check.describe(x)} and w {check.describe(w)}, wanted "
                f"{w.shape[0]} features and {experts} experts"
            )
        x = jnp.asarray(x)
        tokens = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        if train and not len(tokens):
            raise ValueError(
                f"mixture_of_experts: input is {check.describe(x)}, wanted at least one token to train on"
            )
        dtype = jnp.result_type(x, jnp.float32)
        logits = tokens.astype(dtype) @ w.astype(dtype)
        p = jax.nn.softmax(logits)
        choices = lax.top_k(lax.stop_gradient(logits), top_k)[1]
        chosen = jax.nn.one_hot(choices, experts, dtype=dtype)
        gates = p * jnp.sum(chosen, 1)
        if top_k > 1:
            gates /= jnp.sum(gates, axis=-1, keepdims=True)
        keys = None if key is None else jax.random.split(key, experts)

        def compute(inputs: jax.Array, axis: int | None) -> jax.Array:
            def run(params: Params, inputs: jax.Array, key: chex.PRNGKey | None) -> jax.Array:
                return one.apply(params, {}, inputs, key=key, train=train)[0]

            with check.at(f"mixture_of_experts[{one.name!r}]", x):
                axes = (0, axis, None if keys is None else 0)
                return jax.vmap(run, axes)(params["experts"], inputs, keys)

        if capacity is None or not len(tokens):
            y = _weighted(gates.T, compute(tokens, None))
        else:
            room = min(math.ceil(capacity * len(tokens) * top_k / experts), len(tokens))
            source, slot = _places(choices, experts, room)
            inputs = tokens.at[source].get(mode="promise_in_bounds")
            y = compute(inputs.reshape(experts, room, -1), 0)
            y = y.reshape(experts * room, -1).at[jnp.maximum(slot, 0)].get(mode="promise_in_bounds")
            y = _weighted(jnp.where(slot < 0, 0, jnp.sum(gates[None] * chosen.swapaxes(0, 1), -1)), y)
        if train:
            load = jnp.mean(chosen, (0, 1))
            balance_loss = experts * jnp.sum(load * jnp.mean(p, 0))
            seen = {"balance_loss": balance_loss, "load": load}
            state = {name: value.astype(jnp.float32) for name, value in seen.items()}
        return y.astype(x.dtype).reshape(*x.shape[:-1], y.shape[-1]), state

    return Layer(init, apply, "mixture_of_experts")


def _weighted(gates: jax.Array, y: jax.Array) -> jax.Array:
    """Sum over the first axis of gates (k, tokens) times y (k, tokens, features)."""
    gates = jnp.broadcast_to(gates[..., None], y.shape)
    # An expert that is infinite elsewhere is none of a token's business: 0 * inf is NaN.
    return jnp.sum(gates * jnp.where(gates == 0, 0, y), axis=0)


def _places(choices: jax.Array, experts: int, room: int) -> tuple[jax.Array, jax.Array]:
    """Which token each place computes, and in which place each choice is; -1 where there was no room.

    Shapes: choices (tokens, top_k); source (experts * room,), slot (top_k, tokens). A place that is left over
    computes token 0, and nobody reads it.
    """
    tokens = len(choices)
    expert = choices.T.ravel()
    ones = jax.nn.one_hot(expert, experts, dtype=jnp.int32)
    before = jnp.sum((jnp.cumsum(ones, 0) - ones) * ones, -1)
    slot = jnp.where(before < room, expert * room + before, -1)
    token = jnp.tile(jnp.arange(tokens), choices.shape[1])
    source = jnp.zeros(experts * room + 1, jnp.int32)
    # The place behind the last is for those without.
    source = source.at[jnp.where(slot < 0, experts * room, slot)].set(token.astype(jnp.int32))
    return source[:-1], slot.reshape(choices.T.shape)
