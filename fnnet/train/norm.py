"""The Euclidean norm of a tree of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def euclidean_norm(tree: Any) -> jax.Array:
    """The norm of all numbers in a tree, in float32 at least.

        |a| = s |a / s|,      s = 1, or max_i |a_i| where the squares would overflow or vanish

    The scale is computed only there: it takes one more pass through the arrays.

    Example:
        >>> from fnnet.train.norm import euclidean_norm
        >>> f"{euclidean_norm({'w': jnp.array([3e30, 4e30])}):.3g}"
        '5e+30'
    """
    arrays = [
        a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in map(jnp.asarray, jax.tree.leaves(tree))
    ]
    if not arrays:
        return jnp.zeros([])
    squared = jnp.asarray(optax.tree.norm(arrays, squared=True))

    def scaled() -> jax.Array:
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(a), initial=0) for a in arrays]))
        scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        return scale * optax.tree.norm([a / scale for a in arrays])

    ordinary = jnp.isfinite(squared) & (squared > 1e-30)
    return jax.lax.cond(ordinary, lambda: jnp.sqrt(squared), scaled)
