"""Embedding: a vector for each index, such as a token's. `tied_embed` uses the same table for the output."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check, initializers
from fnnet.children import apply_child, output_shape
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, as_layer, printable
from fnnet.layers.dense import product
from fnnet.layers.draw import check_initializers, draw


@printable
def embed(vocabulary: int, features: int, *, w_init: Initializer = initializers.normal(1.0)) -> Layer:
    """Embedding: index i is mapped to row i of a table, which is a one-hot vector times w.

        y = w[x]

    Shapes: x integer (batch, ...), w (vocabulary, features), y (batch, ..., features).

    Args:
        vocabulary: number of indices, 0 to vocabulary - 1.
        features: size of a vector.
        w_init: initializer of w. The default is N(0, 1). The dtype of w is JAX's default, float32.

    Raises:
        TypeError: the input is not integer.
        ValueError: w has another shape; an index is out of range. Under jit nothing can be raised for an index: the
            vector is NaN, which shows in the loss.

    Source: Bengio et al. 2003, "A neural probabilistic language model".

    Example:
        >>> layer = fn.embed(5, 2)
        >>> params, state = layer.init(jax.random.key(0), jnp.zeros((1, 3), int))
        >>> layer(params, jnp.array([[4, 0, 4]])).shape
        (1, 3, 2)
    """
    check.is_positive("embed", "vocabulary", vocabulary)
    check.is_positive("embed", "features", features)
    check_initializers("embed", {"w_init": w_init})
    shapes = {"w": (vocabulary, features)}

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        _check_is_integer(x)
        return draw("embed", key, shapes, {"w": w_init}, jnp.result_type(float)), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check_is_integer(x)
        check.has_shapes("embed", "params", params, shapes)
        check.has_shapes("embed", "state", state, {})
        _check_range(x, vocabulary)
        w = jnp.asarray(params["w"])
        # A plain lookup, then a choice of NaN. XLA's CPU backend is slow at the gradient of a lookup that checks
        # its indices: 0.75 instead of 0.4 ms for 2048 of 10,000 words of 128 features, inside a scan (two cores).
        limits = jnp.iinfo(x.dtype)
        nearest = jnp.clip(x, max(limits.min, 0), min(limits.max, w.shape[0] - 1))
        y = w.at[nearest].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return jnp.where(jnp.broadcast_to((x == nearest)[..., None], y.shape), y, jnp.nan), {}

    return Layer(init, apply, "embed")


def _check_is_integer(x: Any) -> None:
    if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)):
        hint = "; fn.on_x applies layers to the entry 'x' of a dict" if isinstance(x, Mapping) else ""
        raise TypeError(f"embed: input is {check.describe(x)}, wanted integer indices{hint}")


def _check_range(x: Any, vocabulary: int) -> None:
    if isinstance(x, jax.core.Tracer) or not x.size:
        return
    # In NumPy: under jit, JAX's own minimum of an array that is closed over has no value yet.
    low, high = np.min(np.asarray(x)), np.max(np.asarray(x))
    if not 0 <= low <= high < vocabulary:
        raise ValueError(f"embed: indices from {low} to {high}, wanted 0 to {vocabulary - 1}")


@printable
def tied_embed(
    vocabulary: int, features: int, body: Layer, *, w_init: Initializer = initializers.normal(0.02)
) -> Layer:
    """A network from tokens to tokens in which one table embeds the input and scores the output.

        y = f(w[x]) w^T

    The gradient of w is the sum over both uses.

    Shapes: x integer (batch, ...), w (vocabulary, features), y (batch, ..., vocabulary), the logits; params
    {"embed": {"w"}, "body": params of f}, state {"body": state of f}, without "body" where f has none.

    Args:
        vocabulary: number of indices, 0 to vocabulary - 1.
        features: size of a vector, which is the number of features that f takes and gives.
        body: f, a layer on (batch, ..., features), such as `serial(...)`.
        w_init: initializer of w. The default is N(0, 0.02^2), so that the first logits are small. (The default of
            `embed` is N(0, 1).)

    Raises:
        TypeError: the input is not integer.
        ValueError: f does not give `features`; an index is out of range. (Under jit it is NaN: see `embed`.)

    Source: Press & Wolf 2017, arXiv:1608.05859; the deviation is that of Radford et al. 2019 (GPT-2).

    Example:
        >>> net = fn.tied_embed(5, 2, fn.dense(2))
        >>> params, state = net.init(jax.random.key(0), jnp.zeros((1, 3), int))
        >>> jax.tree.map(jnp.shape, params)
        {'body': {'b': (2,), 'w': (2, 2)}, 'embed': {'w': (5, 2)}}
        >>> net(params, jnp.array([[4, 0, 4]])).shape
        (1, 3, 5)
    """
    table = embed(vocabulary, features, w_init=w_init)
    f = as_layer(body)

    def check_output(h: Any) -> None:
        if h.shape[-1:] != (features,):
            raise ValueError(
                f"tied_embed: body gives {check.describe(h)}, wanted {features} features on the last axis, "
                "as in w"
            )

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        w_key, body_key = jax.random.split(key)
        with check.at("tied_embed['embed']", x):
            embed_params, _ = table.init(w_key, x)
        vectors = jax.ShapeDtypeStruct((*x.shape, features), embed_params["w"].dtype)
        with check.at("tied_embed['body']", vectors):
            params, state = f.init(body_key, vectors)
            check_output(output_shape(f, params, state, vectors))
        params = {"embed": embed_params} | ({"body": params} if params else {})
        return params, ({"body": state} if state else {})

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        # A body without params has no entry; whether one is missing, the body says.
        for what, tree, entries in (("params", params, ("embed", "body")), ("state", state, ("body",))):
            check.is_dict("tied_embed", what, tree)
            kept = entries if "body" in tree else entries[:-1]
            check.has_shapes("tied_embed", what, tree, dict.fromkeys(kept, ...))
        with check.at("tied_embed['embed']", x):
            vectors, _ = apply_child("embed", table, params["embed"], {}, x, None, train)
        with check.at("tied_embed['body']", vectors):
            h, state = apply_child(
                "body", f, params.get("body", {}), state.get("body", {}), vectors, key, train
            )
            check_output(h)
        w = jnp.asarray(params["embed"]["w"])
        return product(h, w.T), ({"body": state} if state else {})

    return Layer(init, apply, "tied_embed")
