"""Params as one vector, for methods that treat all params together."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fnnet import check

Unflatten = Callable[[jax.Array], Any]


def as_vector(method: str, params: optax.Params) -> tuple[jax.Array, Unflatten]:
    """Returns the params as one vector, in float32 at least, and a function back to the tree in its own dtypes."""
    flat, unravel = ravel_pytree(params)
    if flat.size and not jnp.issubdtype(flat.dtype, jnp.floating):
        raise TypeError(
            f"{method}: params are {check.describe(params)}, wanted real floating point; "
            "store the real and imaginary parts of complex numbers as two arrays"
        )
    x = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
    return x, lambda x: unravel(x.astype(flat.dtype))
