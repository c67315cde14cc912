"""Attention that aligns output with input: additive (Bahdanau et al.), multiplicative (Luong et al.)."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State
from fnnet.layers.attention.attention import as_inputs


def additive_attention(features: int, *, w_init: Initializer = initializers.glorot_uniform()) -> Layer:
    """Additive attention: the mean of a memory, weighted by a small network's score for query and memory.

        score_ts = v^T tanh(w_q^T x_t + w_k^T m_s)
        y_t = sum_s softmax(score_t)_s m_s                             the context

    The input is a dict {"x": queries, "memory": m, "mask": mask}, mask may be left out. The output is that
    dict with the context for x, and "weights", the softmax, to look at. An array x attends to itself and
    gives the context alone.

    Shapes: x (batch, time, in), m (batch, source, in_m), mask boolean (batch, source), True where there is
    something to attend to; y (batch, time, in_m), weights (batch, time, source); w_q (in, features),
    w_k (in_m, features), v (features,). One query at a time, in a decoder's cell, is time = 1.

    Args:
        features: of the hidden layer.
        w_init: initializer of w_q, w_k and v; Glorot's uniform.

    The softmax is computed in float32 at least. Where all is masked, context and weights are 0.

    Raises:
        TypeError: the input is not floating point, or the mask not boolean.
        ValueError: the shapes do not fit together, or an entry of the input is unknown.

    Source: Bahdanau, Cho & Bengio 2015, arXiv:1409.0473, section 3.1 and appendix A.1.2.

    Example:
        >>> layer = fn.additive_attention(8)
        >>> x = {"x": jnp.ones((5, 2, 3)), "memory": jnp.ones((5, 7, 4))}
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> y = layer(params, x)
        >>> y["x"].shape, y["weights"].shape
        ((5, 2, 4), (5, 2, 7))
    """
    check.is_positive("additive_attention", "features", features)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        x, memory, _ = _inputs("additive_attention", x)
        q_key, k_key, v_key = jax.random.split(key, 3)
        dtype = jnp.result_type(x)
        return {
            "w_q": w_init(q_key, (x.shape[-1], features), dtype),
            "w_k": w_init(k_key, (memory.shape[-1], features), dtype),
            "v": w_init(v_key, (features, 1), dtype).reshape(features),
        }, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        check.has_keys("additive_attention", "params", params, ("w_q", "w_k", "v"))
        w_q, w_k, v = params["w_q"], params["w_k"], params["v"]

        def score(x: jax.Array, memory: jax.Array) -> jax.Array:
            _fits("additive_attention", "x", x, "w_q", w_q)
            _fits("additive_attention", "memory", memory, "w_k", w_k)
            q, k = (x @ w_q)[:, :, None], (memory @ w_k)[:, None]
            hidden = jnp.tanh(jnp.add(*jnp.broadcast_arrays(q, k)))
            return jnp.einsum("btsf,f->bts", hidden, v, preferred_element_type=_wide(x))

        return _align("additive_attention", x, score), {}

    return Layer(init, apply, "additive_attention")


def multiplicative_attention(
    *, score: Literal["general", "dot"] = "general", w_init: Initializer = initializers.glorot_uniform()
) -> Layer:
    """Multiplicative attention: the mean of a memory, weighted by products of query and memory.

        score_ts = x_t^T w m_s ("general")      or      x_t^T m_s ("dot")
        y_t = sum_s softmax(score_t)_s m_s                             the context

    Input, output and masks are those of `additive_attention`.

    Shapes: x (batch, time, in), m (batch, source, in_m), mask boolean (batch, source); y (batch, time, in_m),
    weights (batch, time, source); w (in, in_m). "dot" has no params, and in = in_m.

    Args:
        score: "general" or "dot".
        w_init: initializer of w; Glorot's uniform.

    The scores and the softmax are computed in float32 at least. Where all is masked, context and weights are
    0.

    Raises:
        TypeError: the input is not floating point, or the mask not boolean.
        ValueError: an unknown score, shapes that do not fit together, an unknown entry of the input.

    Source: Luong, Pham & Manning 2015, arXiv:1508.04025, section 3.1.

    Example:
        >>> layer = fn.multiplicative_attention(score="dot")
        >>> x = jnp.array([[[9.0, 0.0]]])
        >>> y = layer({}, {"x": x, "memory": jnp.array([[[0.0, 2.0], [1.0, 0.0]]])})
        >>> y["x"].round(2), y["weights"].round(2)
        (Array([[[1., 0.]]], dtype=float32), Array([[[0., 1.]]], dtype=float32))
    """
    if score not in ("general", "dot"):
        raise ValueError(f"multiplicative_attention: score={score!r}, wanted 'general' or 'dot'")
    names = ("w",) if score == "general" else ()

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        x, memory, _ = _inputs("multiplicative_attention", x)
        same(x, memory)
        shape = (x.shape[-1], memory.shape[-1])
        return {name: w_init(key, shape, jnp.result_type(x)) for name in names}, {}

    def same(x: Any, memory: Any) -> None:
        if score == "dot" and x.shape[-1] != memory.shape[-1]:
            raise ValueError(
                f"multiplicative_attention: x is {check.describe(x)} and memory {check.describe(memory)}, "
                "wanted as many features of both for score='dot'; score='general' takes them as they are"
            )

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        check.has_keys("multiplicative_attention", "params", params, names)

        def product(x: jax.Array, memory: jax.Array) -> jax.Array:
            same(x, memory)
            if score == "general":
                w = params["w"]
                _fits("multiplicative_attention", "x", x, "w", w)
                _fits("multiplicative_attention", "memory", memory, "w.T", w.T)
                x = x @ w
            return jnp.einsum("btf,bsf->bts", x, memory, preferred_element_type=_wide(x))

        return _align("multiplicative_attention", x, product), {}

    return Layer(init, apply, "multiplicative_attention")


def _inputs(layer: str, x: Any) -> tuple[Any, Any, Any]:
    """Queries, memory and mask, checked."""
    # An entry of weights is an earlier layer's, and replaced.
    inputs = as_inputs(layer, x, ("memory", "mask", "weights"))
    x, memory, mask = inputs["x"], inputs.get("memory", inputs["x"]), inputs.get("mask")
    if x.shape[0] != memory.shape[0]:
        raise ValueError(
            f"{layer}: x is {check.describe(x)} and memory {check.describe(memory)}, wanted one batch"
        )
    if mask is not None:
        if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
            raise TypeError(f"{layer}: mask is {check.describe(mask)}, wanted bool: mask.astype(bool)")
        if mask.shape not in (memory.shape[:2], (1, memory.shape[1])):
            raise ValueError(
                f"{layer}: mask is {check.describe(mask)} and memory {check.describe(memory)}, wanted "
                f"(batch, source), here {memory.shape[:2]}"
            )
    return x, memory, mask


def _align(layer: str, given: Any, score: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
    x, memory, mask = _inputs(layer, given)
    memory = jnp.asarray(memory)
    scores = score(jnp.asarray(x), memory)
    if mask is None:
        weights = jax.nn.softmax(scores)
    else:
        there = jnp.broadcast_to(mask[:, None], scores.shape)
        # A finite number, not -inf: where all is masked, no NaN comes up, not even on the way.
        weights = jnp.where(there, jax.nn.softmax(jnp.where(there, scores, jnp.finfo(scores.dtype).min)), 0)
    context = jnp.matmul(weights, memory.astype(weights.dtype)).astype(memory.dtype)
    return (
        {**given, "x": context, "weights": weights.astype(memory.dtype)}
        if isinstance(given, Mapping)
        else context
    )


def _fits(layer: str, what: str, x: Any, name: str, w: Any) -> None:
    if x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"{layer}: {what} is {check.describe(x)} and {name} {check.describe(w)}, wanted {w.shape[0]} "
            "features, on the last axis"
        )


def _wide(x: Any) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
