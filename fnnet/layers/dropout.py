"""Dropout: units left out at random while training (Srivastava et al. 2014)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer, Params, State


def dropout(rate: chex.Numeric) -> Layer:
    """Dropout, inverted: what is kept is scaled up, so that nothing changes at test time.

        train:  y = x r / (1 - rate),   r ~ Bernoulli(1 - rate) for each element
        test:   y = x

    Shapes: x and y alike, any shape.

    Args:
        rate: the share that is dropped, in [0, 1); it may be a tracer, as a hyperparameter.

    Raises:
        ValueError: the rate is not in [0, 1); no key is given in training.
        TypeError: the input is not floating point.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting",
    section 10.

    Example:
        >>> layer = fn.dropout(0.5)
        >>> y, state = layer.apply({}, {}, jnp.ones((2, 4)), key=jax.random.key(0), train=True)
        >>> sorted(set(y.ravel().tolist()))
        [0.0, 2.0]
        >>> layer({}, jnp.ones(3))
        Array([1., 1., 1.], dtype=float32)
    """
    check.between("dropout", "rate", rate, 0, 1)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        check.is_floating("dropout", x)
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check.is_floating("dropout", x)
        x = jnp.asarray(x)
        if not train:
            return x, {}
        if key is None:
            raise ValueError(
                "dropout: train=True and no key, wanted one to draw with: apply(..., key=jax.random.key(0))"
            )
        keep = jnp.asarray(1 - rate, x.dtype)
        kept = jax.random.bernoulli(key, 1 - jnp.asarray(rate, jnp.float32), x.shape)
        return jnp.where(kept, x / keep, 0), {}

    return Layer(init, apply, "dropout")
