"""The Euclidean norm of a tree of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from fnnet.optim.numerics import global_norm


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
    return global_norm(arrays).value
