"""Attention that aligns an output with an input: additive (Bahdanau et al.), multiplicative (Luong et al.)."""

from collections.abc import Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.attention.inputs import attention_inputs
from fnnet.layers.draw import check_initializers, draw


@printable
def additive_attention(features: int, *, w_init: Initializer = initializers.glorot_uniform()) -> Layer:
    """Additive attention: a mean of the memory, weighted by a small network's scores of query and memory.

        score_ts = v^T tanh(w_q^T x_t + w_k^T m_s)
        y_t = sum_s softmax(score_t)_s m_s                             the context

    The input is a dict {"x": queries, "memory": m, "mask": mask}, in which mask is optional. The output is that
    dict with the context in place of x, and with "weights", the softmax, to look at. If the input is an array x, it
    attends to itself, and the output is the context alone.

    The softmax is computed in float32 at least. If all of the memory is masked, context and weights are 0.

    Shapes: x (batch, time, in), m (batch, source, in_m), mask boolean (batch, source), True where there is
    something to attend to; y (batch, time, in_m), weights (batch, time, source); w_q (in, features),
    w_k (in_m, features), v (features,). For one query at a time, as in the cell of a decoder, time is 1.

    Args:
        features: size of the hidden layer.
        w_init: initializer of w_q, w_k and v. The default is Glorot's uniform.

    Raises:
        TypeError: the input is not floating point, or the mask is not boolean.
        ValueError: the shapes do not match, or an entry of the input is unknown.

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
    check_initializers("additive_attention", {"w_init": w_init})

    def shapes(x: Any, memory: Any) -> dict[str, Any]:
        return {"w_q": (x.shape[-1], features), "w_k": (memory.shape[-1], features), "v": (features,)}

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        x, memory, _ = _check_inputs("additive_attention", x)
        # v is drawn as the weights of a layer with one output.
        as_weights = shapes(x, memory) | {"v": (features, 1)}
        inits = dict.fromkeys(as_weights, w_init)
        params = draw("additive_attention", key, as_weights, inits, jnp.result_type(x))
        return {**params, "v": params["v"].reshape(features)}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        given = x
        x, memory, mask = _check_inputs("additive_attention", x)
        inputs = [("w_q", [0], "x", x), ("w_k", [0], "memory", memory)]
        check.has_shapes("additive_attention", "params", params, shapes(x, memory), features=inputs)
        check.has_shapes("additive_attention", "state", state, {})
        w_q, w_k, v = params["w_q"], params["w_k"], params["v"]
        x, memory = jnp.asarray(x), jnp.asarray(memory)

        q, k = (x @ w_q)[:, :, None], (memory @ w_k)[:, None]
        hidden = jnp.tanh(jnp.add(*jnp.broadcast_arrays(q, k)))  # (batch, time, source, features)
        scores = jnp.einsum("btsf,f->bts", hidden, v, preferred_element_type=_at_least_float32(x))
        return _context(given, memory, mask, scores), {}

    return Layer(init, apply, "additive_attention")


@printable
def multiplicative_attention(
    *, score: Literal["general", "dot"] = "general", w_init: Initializer = initializers.glorot_uniform()
) -> Layer:
    """Multiplicative attention: a mean of the memory, weighted by products of query and memory.

        score_ts = x_t^T w m_s ("general")      or      x_t^T m_s ("dot")
        y_t = sum_s softmax(score_t)_s m_s                             the context

    Input, output and mask are as in `additive_attention`. The scores and the softmax are computed in float32 at
    least. If all of the memory is masked, context and weights are 0.

    Shapes: x (batch, time, in), m (batch, source, in_m), mask boolean (batch, source); y (batch, time, in_m),
    weights (batch, time, source); w (in, in_m). "dot" has no params and requires in = in_m.

    Args:
        score: "general" or "dot".
        w_init: initializer of w. The default is Glorot's uniform.

    Raises:
        TypeError: the input is not floating point, or the mask is not boolean.
        ValueError: the score is unknown, the shapes do not match, or an entry of the input is unknown.

    Source: Luong, Pham & Manning 2015, arXiv:1508.04025, section 3.1.

    Example:
        >>> layer = fn.multiplicative_attention(score="dot")
        >>> x = jnp.array([[[9.0, 0.0]]])
        >>> y = layer({}, {"x": x, "memory": jnp.array([[[0.0, 2.0], [1.0, 0.0]]])})
        >>> y["x"].round(2), y["weights"].round(2)
        (Array([[[1., 0.]]], dtype=float32), Array([[[0., 1.]]], dtype=float32))
    """
    check.one_of("multiplicative_attention", "score", score, ("general", "dot"))
    check_initializers("multiplicative_attention", {"w_init": w_init})

    def shapes(x: Any, memory: Any) -> dict[str, Any]:
        return {"w": (x.shape[-1], memory.shape[-1])} if score == "general" else {}

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        x, memory, _ = _check_inputs("multiplicative_attention", x)
        check_dot(x, memory)
        inits = {"w": w_init}
        return draw("multiplicative_attention", key, shapes(x, memory), inits, jnp.result_type(x)), {}

    def check_dot(x: Any, memory: Any) -> None:
        if score == "dot" and x.shape[-1] != memory.shape[-1]:
            raise ValueError(
                f"multiplicative_attention: x is {check.describe(x)} and memory {check.describe(memory)}, "
                "wanted as many features in x as in memory for score='dot'; or use score='general'"
            )

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        given = x
        x, memory, mask = _check_inputs("multiplicative_attention", x)
        check_dot(x, memory)
        inputs = [("w", [0], "x", x), ("w", [1], "memory", memory)]
        check.has_shapes("multiplicative_attention", "params", params, shapes(x, memory), features=inputs)
        check.has_shapes("multiplicative_attention", "state", state, {})
        x, memory = jnp.asarray(x), jnp.asarray(memory)

        q = x @ params["w"] if score == "general" else x
        scores = jnp.einsum("btf,bsf->bts", q, memory, preferred_element_type=_at_least_float32(q))
        return _context(given, memory, mask, scores), {}

    return Layer(init, apply, "multiplicative_attention")


def _check_inputs(layer: str, x: Any) -> tuple[Any, Any, Any]:
    """Queries, memory and mask, checked."""
    # An entry "weights" comes from an earlier layer, and is replaced.
    inputs = attention_inputs(layer, x, ("memory", "mask", "weights"))
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


def _context(given: Any, memory: jax.Array, mask: Any, scores: jax.Array) -> Any:
    """The output: the context sum_s softmax(score_t)_s m_s, in a dict with the weights if a dict was given."""
    if mask is None:
        weights = jax.nn.softmax(scores)
    else:
        mask = jnp.broadcast_to(mask[:, None], scores.shape)
        # A finite number instead of -inf, so that no NaN arises if all of the memory is masked.
        weights = jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min)), 0)
    context = jnp.matmul(weights, memory.astype(weights.dtype)).astype(memory.dtype)
    if not isinstance(given, Mapping):
        return context
    return {**given, "x": context, "weights": weights.astype(memory.dtype)}


def _at_least_float32(x: Any) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
