"""The mask of attention: which keys each query may attend to, from padding and causality."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check


def attention_mask(
    layer: str, mask: Any, offset: chex.Numeric | None, shape: tuple[int, int, int, int]
) -> jax.Array | None:
    """A boolean mask of four axes, True where a query may attend; None if every query may attend to every key.

    Args:
        layer: for errors.
        mask: None, (batch, source) for padding, or four axes that broadcast to the shape.
        offset: for causal attention, query i may attend to the keys j <= i + offset. None is not causal.
        shape: of the scores, (batch, heads, time, source).

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask has another shape.
    """
    batch, _, time, source = shape
    if mask is not None:
        mask = jnp.asarray(mask)
        if not jnp.issubdtype(mask.dtype, jnp.bool_):
            raise TypeError(
                f"{layer}: mask is {check.describe(mask)}, wanted bool, True where a query may attend: "
                "mask.astype(bool)"
            )
        four_axes = (mask.shape[0], 1, 1, mask.shape[1]) if mask.ndim == 2 else mask.shape
        if len(four_axes) != 4 or any(n not in (1, m) for n, m in zip(four_axes, shape, strict=True)):
            raise ValueError(
                f"{layer}: mask is {check.describe(mask)}, wanted (batch, source), here {(batch, source)}, "
                f"or four axes that broadcast to (batch, heads, time, source), here {shape}"
            )
        mask = mask.reshape(four_axes)
    if offset is None:
        return mask
    causal = jnp.arange(source)[None, :] <= jnp.arange(time)[:, None] + offset
    if mask is None:
        return causal[None, None]
    return jnp.logical_and(*jnp.broadcast_arrays(mask, causal[None, None]))


def mask_scores(scores: jax.Array, mask: jax.Array | None, shape: tuple[int, int, int, int]) -> jax.Array:
    """The scores, with -inf where a query may not attend. `shape` is (batch, heads, time, source)."""
    if mask is None:
        return scores
    return jnp.where(jnp.broadcast_to(mask, shape).reshape(scores.shape), scores, -jnp.inf)
