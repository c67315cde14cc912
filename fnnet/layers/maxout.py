"""Maxout: the largest of several affine maps (Goodfellow et al. 2013)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.dense import dense
from fnnet.layers.draw import check_initializers


@printable
def maxout(
    features: int,
    pieces: int = 2,
    *,
    use_bias: bool = True,
    w_init: Initializer = initializers.kaiming_normal(),
    b_init: Initializer = initializers.zeros,
) -> Layer:
    """Maxout: the largest of several affine maps of the last axis, a learned convex activation.

        y = max_k (x w_k + b_k),   k = 1, ..., pieces

    The gradient goes to the largest piece. Equal pieces share it.

    Shapes: x (batch, ..., in), w (in, pieces * features), b (pieces * features,), y (batch, ..., features).
    w_k consists of the columns of w from (k - 1) features to k features.

    Args:
        features: number of outputs, the last axis of y.
        pieces: affine maps per output.
        use_bias: whether to add b.
        w_init: initializer of w. The default is He's normal.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match w.

    Source: Goodfellow et al. 2013, arXiv:1302.4389, section 2.

    Example:
        The absolute value:

        >>> layer = fn.maxout(1, 2, use_bias=False)
        >>> layer({"w": jnp.array([[1.0, -1.0]])}, jnp.array([[3.0], [-2.0]]))
        Array([[3.],
               [2.]], dtype=float32)
    """
    check.is_positive("maxout", "features", features)
    check.is_positive("maxout", "pieces", pieces)
    check.flag("maxout", "use_bias", use_bias)
    check_initializers("maxout", {"w_init": w_init, "b_init": b_init})
    affine = dense(pieces * features, use_bias=use_bias, w_init=w_init, b_init=b_init)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        with check.at("maxout", x):
            return affine.init(key, x)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        with check.at("maxout", x):
            z, _ = affine.apply(params, state, x)
        return jnp.max(z.reshape(*z.shape[:-1], pieces, features), axis=-2), {}

    return Layer(init, apply, "maxout")
