"""Embedding: a vector for each index, such as a word's (Bengio et al. 2003)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State


def embed(vocabulary: int, features: int, *, w_init: Initializer = initializers.normal(1.0)) -> Layer:
    """Embedding: row i of a table for index i, the product of a one-hot vector with w.

        y = w[x]

    Shapes: x integer (batch, ...), w (vocabulary, features), y (batch, ..., features).

    Args:
        vocabulary: how many indices there are: 0 to vocabulary - 1.
        features: size of a vector.
        w_init: initializer of w; N(0, 1). The dtype of w is JAX's default, float32.

    Raises:
        TypeError: the input is not integer.
        ValueError: an index is out of range. Under jit nothing can be raised: the vector is NaN there, and the
            loss shows it.

    Source: Bengio et al. 2003, "A neural probabilistic language model".

    Example:
        >>> layer = fn.embed(5, 2)
        >>> params, state = layer.init(jax.random.key(0), jnp.zeros((1, 3), int))
        >>> layer(params, jnp.array([[4, 0, 4]])).shape
        (1, 3, 2)
    """
    check.is_positive("embed", "vocabulary", vocabulary)
    check.is_positive("embed", "features", features)

    def is_integer(x: Any) -> None:
        if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.integer)):
            raise TypeError(f"embed: input is {check.describe(x)}, wanted integer indices")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        is_integer(x)
        return {"w": w_init(key, (vocabulary, features), jnp.result_type(float))}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        is_integer(x)
        check.has_keys("embed", "params", params, ("w",))
        w = jnp.asarray(params["w"])
        if not isinstance(x, jax.core.Tracer) and x.size:
            # In NumPy: under jit, JAX's own minimum of an array that is closed over has no value yet.
            low, high = np.min(np.asarray(x)), np.max(np.asarray(x))
            if not 0 <= low <= high < w.shape[0]:
                raise ValueError(f"embed: indices from {low} to {high}, wanted 0 to {w.shape[0] - 1}")
        # JAX looks up by 32 bits: what lies beyond is out of range, too.
        limits = jnp.iinfo(x.dtype)
        x = jnp.clip(x, max(limits.min, -1), min(limits.max, w.shape[0]))
        return w.at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False), {}

    return Layer(init, apply, "embed")
