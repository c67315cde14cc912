"""The fully connected layer, and `flatten`, which turns images into its input."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable, takes_input
from fnnet.layers.draw import check_initializers, draw

HINT = "; for images put flatten before it"


@printable
def dense(
    features: int,
    *,
    use_bias: bool = True,
    w_init: Initializer = initializers.kaiming_normal(),
    b_init: Initializer = initializers.zeros,
) -> Layer:
    """Fully connected layer: an affine map of the last axis.

        y = x w + b

    Shapes: x (batch, ..., in), w (in, features), b (features,), y (batch, ..., features).

    Args:
        features: number of outputs, the last axis of y.
        use_bias: whether to add b.
        w_init: initializer of w. The default is He's normal, for a layer followed by relu.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match w; params have other shapes.

    Example:
        >>> layer = fn.dense(2, w_init=fn.initializers.ones)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> layer(params, jnp.array([[1.0, 2.0, 3.0]]))
        Array([[6., 6.]], dtype=float32)
    """
    check.is_positive("dense", "features", features)
    check.flag("dense", "use_bias", use_bias)
    check_initializers("dense", {"w_init": w_init, "b_init": b_init})

    def shapes(x: Any) -> dict[str, Any]:
        _check_input(x)
        return {"w": (x.shape[-1], features)} | ({"b": (features,)} if use_bias else {})

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return draw("dense", key, shapes(x), {"w": w_init, "b": b_init}, jnp.result_type(x)), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check.has_shapes("dense", "params", params, shapes(x), features=[("w", [0], "input", x)], hint=HINT)
        check.has_shapes("dense", "state", state, {})
        return add_bias(product(jnp.asarray(x), params["w"]), params), {}

    return Layer(init, apply, "dense")


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x w along the last axis of x."""
    # On two axes: XLA's CPU backend is slow at the weight gradient of a product with more.
    return (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])


def add_bias(y: jax.Array, params: Params) -> jax.Array:
    """Y + b along the last axis, or y if the params have no b."""
    return y + jnp.broadcast_to(params["b"], y.shape) if "b" in params else y


def _check_input(x: Any) -> None:
    check.is_floating("dense", x)
    check.has_rank("dense", x, 1, "(batch, features)")


@takes_input
def flatten(x: jax.Array) -> jax.Array:
    """Merges all axes except the batch: (batch, ...) -> (batch, features).

    `flatten` is itself a layer: write `flatten`, not `flatten()`.

    Raises:
        ValueError: the input has no batch axis.

    Example:
        >>> fn.flatten(jnp.ones((5, 8, 8, 1))).shape
        (5, 64)
    """
    check.has_rank("flatten", x, 1, "(batch, ...)")
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
