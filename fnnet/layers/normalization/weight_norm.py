"""Weight normalization: a wrapper that computes a layer's weights from a length and a direction."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State, as_layer, printable
from fnnet.layers.normalization.inner_weight import check_names_free, split_off, weight


@printable
def weight_norm(layer: Layer) -> Layer:
    """Weight normalization: the length and the direction of each output's weights are separate params.

        f with w = g v / ||v||,       the norm over all axes but the last, which holds the output features

    Initially, g and v give the w that the layer itself would start with. Where that is 0, v is 1 and g is 0. The
    norm is computed in float32 at least; w has the dtype of v.

    Shapes: x, y and state are those of the layer; params g (features,), v like w, and the layer's other params.

    Args:
        layer: a layer whose params have "w", such as `dense` or `conv`.

    Raises:
        TypeError: `layer` is not a layer.
        ValueError: the layer's params have no "w", or have a "g" or "v".

    Source: Salimans & Kingma 2016, arXiv:1602.07868, eq. 2.

    Example:
        >>> layer = fn.weight_norm(fn.dense(1, w_init=fn.initializers.ones))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> params["g"], layer(params, jnp.ones((1, 4)))
        (Array([2.], dtype=float32), Array([[4.]], dtype=float32))
    """
    inner = as_layer(layer)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        with check.at(f"weight_norm[{inner.name!r}]", x):
            params, state = inner.init(key, x)
        w = weight("weight_norm", inner, params)
        check_names_free("weight_norm", inner, "params", params, "g", "v")
        others = {name: p for name, p in params.items() if name != "w"}
        norm = _norm(w)
        v = jnp.where(jnp.broadcast_to(norm == 0, w.shape), 1, w)
        return {"g": norm.reshape(w.shape[-1:]).astype(w.dtype), "v": v, **others}, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        g, v, others = split_off("weight_norm", "params", params, "g", "v")
        # v has the shape of w, which the wrapped layer checks.
        check.has_shapes("weight_norm", "params", {"v": v}, {"v": float})
        check.has_shapes("weight_norm", "params", {"g": g}, {"g": v.shape[-1:]})
        g, v = jnp.asarray(g), jnp.asarray(v)
        scale = g.reshape(*(1 for _ in v.shape[1:]), -1) / _norm(v)
        w = (v * jnp.broadcast_to(scale, v.shape)).astype(v.dtype)
        with check.at(f"weight_norm[{inner.name!r}]", x):
            return inner.apply({"w": w, **others}, state, x, key=key, train=train)

    return Layer(init, apply, "weight_norm")


def _norm(v: jax.Array) -> jax.Array:
    """The norm over all axes but the last, with these axes kept."""
    axes = tuple(range(v.ndim - 1))
    v = v.astype(jnp.result_type(v, jnp.float32))
    # In units of the largest entry, so that no square overflows or underflows.
    largest = lax.stop_gradient(jnp.max(jnp.abs(v), axes, keepdims=True, initial=0))
    unit = jnp.where(largest == 0, 1, largest)
    return unit * jnp.sqrt(jnp.sum(jnp.square(v / jnp.broadcast_to(unit, v.shape)), axes, keepdims=True))
