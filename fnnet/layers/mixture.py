"""The sparsely gated mixture of experts (Shazeer et al. 2017)."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, as_layer, printable
from fnnet.layers.draw import check_initializers, draw
from fnnet.layers.mixture_capacity import compute_choices


@printable
def mixture_of_experts(
    expert: Layer,
    experts: int,
    *,
    top_k: int = 2,
    capacity: float | None = None,
    w_init: Initializer = initializers.normal(0.02),
) -> Layer:
    """Mixture of experts: a router sends each token through a few experts that it chooses.

        p = softmax(x w)
        g_e = p_e / sum_chosen p   for the top_k experts with the largest p, which are chosen; else 0
        g_e = p_e                  with top_k = 1, where the router's gradient would otherwise vanish
        y = sum_e g_e f_e(x)

    The router learns to use all experts only if the balance loss is part of the loss. It is in the state:

        balance_loss = experts sum_e f_e P_e,   f_e the fraction of choices of expert e, P_e the mean of p_e

    It is 1 if all experts are used equally, and larger if few are used. In your own training loop, with a factor
    of 0.01:

        prediction, state = net.apply(params, state, x, key=key, train=True)
        loss = task_loss + 0.01 * state["mixture_of_experts_0"]["balance_loss"]

    The router is computed in float32 at least.

    Shapes: x (batch, ..., in), whose leading axes are the tokens; params w (in, experts) and "experts", the
    params of the expert with a leading axis of experts; state balance_loss () and load (experts,), which is f.
    Training overwrites the state, evaluation leaves it unchanged. y (batch, ..., features), as f_e gives.

    Args:
        expert: a layer on (tokens, in) without state, such as `serial(dense(64), relu, dense(16))`.
        experts: number of experts. Each is initialized with a key of its own.
        top_k: experts per token.
        capacity: with None, every expert computes all tokens, which is simple and exact, but expensive. With a
            number, an expert computes at most ceil(capacity * tokens * top_k / experts) tokens. First choices
            are served before second choices, in the order of the tokens. A token that finds its expert full gets
            nothing from it, in evaluation, too. 1.25 is common; with experts / top_k no token is dropped.
        w_init: initializer of w. The default is N(0, 0.02^2).

    Raises:
        TypeError: the input is not floating point; `expert` is not a layer.
        ValueError: the number of input features does not match w; the expert has state, or no params; top_k is
            more than experts; capacity is not above 0; there is no token to train on.

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
    _check_arguments(experts, top_k, capacity)
    check_initializers("mixture_of_experts", {"w_init": w_init})
    f = as_layer(expert)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        _check_input(x)
        w_key, experts_key = jax.random.split(key)
        dtype = jnp.result_type(x)
        tokens = jax.ShapeDtypeStruct((math.prod(x.shape[:-1]), x.shape[-1]), dtype)
        with check.at(f"mixture_of_experts[{f.name!r}]", x):
            params, state = jax.vmap(lambda key: f.init(key, tokens))(jax.random.split(experts_key, experts))
        _check_expert(f, params, state)
        router = draw("mixture_of_experts", w_key, {"w": (x.shape[-1], experts)}, {"w": w_init}, dtype)
        state = {"balance_loss": jnp.zeros((), jnp.float32), "load": jnp.zeros(experts, jnp.float32)}
        return {**router, "experts": params}, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check(params, state, x, experts, train)
        x = jnp.asarray(x)
        tokens = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        p, choices, chosen, gates = _route(jnp.asarray(params["w"]), tokens, top_k)
        keys = None if key is None else jax.random.split(key, experts)

        def each_expert(inputs: jax.Array, axis: int | None) -> jax.Array:
            """f_e(inputs), (experts, ..., features); with axis 0, expert e gets inputs[e]."""

            def run(params: Params, inputs: jax.Array, key: chex.PRNGKey | None) -> jax.Array:
                return f.apply(params, {}, inputs, key=key, train=train)[0]

            with check.at(f"mixture_of_experts[{f.name!r}]", x):
                axes = (0, axis, None if keys is None else 0)
                return jax.vmap(run, axes)(params["experts"], inputs, keys)

        if capacity is None or not len(tokens):
            y = _weighted_sum(gates.T, each_expert(tokens, None))
        else:
            room = min(math.ceil(capacity * len(tokens) * top_k / experts), len(tokens))
            y, dropped = compute_choices(
                lambda inputs: each_expert(inputs, 0), tokens, choices, experts, room
            )
            gates_of_choices = jnp.sum(gates[None] * chosen.swapaxes(0, 1), -1)
            y = _weighted_sum(jnp.where(dropped, 0, gates_of_choices), y)
        if train:
            load = jnp.mean(chosen, (0, 1))
            balance_loss = experts * jnp.sum(load * jnp.mean(p, 0))
            state = {
                "balance_loss": balance_loss.astype(jnp.float32),
                "load": load.astype(jnp.float32),
            }
        return y.astype(x.dtype).reshape(*x.shape[:-1], y.shape[-1]), state

    return Layer(init, apply, "mixture_of_experts")


def _route(w: jax.Array, tokens: jax.Array, top_k: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """p and gates (tokens, experts), choices (tokens, top_k), and chosen, their one-hot form."""
    dtype = jnp.result_type(tokens, jnp.float32)
    logits = tokens.astype(dtype) @ w.astype(dtype)
    p = jax.nn.softmax(logits)
    choices = lax.top_k(lax.stop_gradient(logits), top_k)[1]
    chosen = jax.nn.one_hot(choices, w.shape[1], dtype=dtype)
    gates = p * jnp.sum(chosen, 1)
    if top_k > 1:
        gates /= jnp.sum(gates, axis=-1, keepdims=True)
    return p, choices, chosen, gates


def _weighted_sum(gates: jax.Array, y: jax.Array) -> jax.Array:
    """Sum over the first axis of gates (k, tokens) times y (k, tokens, features)."""
    gates = jnp.broadcast_to(gates[..., None], y.shape)
    # An expert that a token does not use may give inf for it: 0 * inf would be NaN.
    return jnp.sum(gates * jnp.where(gates == 0, 0, y), axis=0)


def _check_arguments(experts: int, top_k: int, capacity: float | None) -> None:
    check.is_positive("mixture_of_experts", "experts", experts)
    check.is_positive("mixture_of_experts", "top_k", top_k)
    if top_k > experts:
        raise ValueError(f"mixture_of_experts: top_k={top_k} of {experts} experts, wanted at most all")
    if capacity is not None:
        check.number("mixture_of_experts", "capacity", capacity, "(0, inf)")
        if isinstance(capacity, jax.core.Tracer):
            raise TypeError(
                "mixture_of_experts: capacity is traced, wanted a number: it sets the size of arrays"
            )


def _check_expert(expert: Layer, params: Params, state: State) -> None:
    if not params:
        raise ValueError(f"mixture_of_experts: the expert, {expert.name}, has no params: all would be alike")
    if state:
        raise ValueError(
            f"mixture_of_experts: the expert, {expert.name}, has state, {check.describe(state)}; wanted an "
            "expert without, such as layer_norm instead of batch_norm"
        )


def _check_input(x: Any) -> None:
    check.is_floating("mixture_of_experts", x)
    check.has_rank("mixture_of_experts", x, 2, "(batch, ..., features)")


def _check(params: Params, state: State, x: Any, experts: int, train: bool) -> None:
    _check_input(x)
    wanted = {"w": (x.shape[-1], experts), "experts": ...}  # the expert checks its own
    check.has_shapes("mixture_of_experts", "params", params, wanted, features=[("w", [0], "input", x)])
    check.is_dict("mixture_of_experts", "params['experts']", params["experts"])
    for leaf in jax.tree.leaves(params["experts"]):
        if getattr(leaf, "shape", ())[:1] != (experts,):
            raise ValueError(
                f"mixture_of_experts: params['experts'] has {check.describe(leaf)}, wanted {experts} experts on the "
                "first axis; pass the params that this network's init returned"
            )
    check.has_shapes("mixture_of_experts", "state", state, {"balance_loss": (), "load": (experts,)})
    if train and 0 in x.shape[:-1]:
        raise ValueError(
            f"mixture_of_experts: input is {check.describe(x)}, wanted at least one token to train on"
        )
