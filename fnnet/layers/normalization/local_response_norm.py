"""Local response normalization: each channel is normalized by its neighbours (Krizhevsky et al. 2012)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, printable
from fnnet.layers.without_params import without_params


@printable
def local_response_norm(
    size: int = 5, *, k: chex.Numeric = 2.0, alpha: chex.Numeric = 1e-4, beta: chex.Numeric = 0.75
) -> Layer:
    """Local response normalization: each channel is divided by a measure of its neighbours' activity.

        y_c = x_c / (k + alpha sum_j x_j^2)^beta,        c - size // 2 <= j <= c + (size - 1) // 2

    Channels before the first and after the last count as 0. If the sum overflows, as that of numbers beyond 1e19
    does in float32, y is NaN.

    Shapes: x and y (..., channels).

    Args:
        size: number of channels in the window.
        k: added to the sum. It is 2 in the paper, 1 in PyTorch.
        alpha: factor of the sum. PyTorch divides its alpha by size, so its alpha is size times this one.
        beta: the exponent.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no axis; k, alpha or beta is negative.

    Source: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural
    networks", section 3.3.

    Example:
        >>> layer = fn.local_response_norm(3, k=1.0, alpha=1.0, beta=0.5)
        >>> layer({}, jnp.array([[1.0, 0.0, 0.0, 4.0]])).round(3)
        Array([[0.707, 0.   , 0.   , 0.97 ]], dtype=float32)
    """
    check.is_positive("local_response_norm", "size", size)
    for name, value in {"k": k, "alpha": alpha, "beta": beta}.items():
        check.number("local_response_norm", name, value, "[0, inf)")

    def check_input(x: Any) -> None:
        check.is_floating("local_response_norm", x)
        check.has_rank("local_response_norm", x, 1, "(batch, ..., channels)")

    def normalize(x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        ones = (1,) * (x.ndim - 1)
        pads = [*((0, 0) for _ in ones), (size // 2, (size - 1) // 2)]
        total = lax.reduce_window(jnp.square(x32), 0.0, lax.add, (*ones, size), (*ones, 1), pads)
        y = x32 * (k + alpha * total) ** -beta
        return jnp.where(jnp.isinf(total), jnp.nan, y).astype(x.dtype)

    return without_params("local_response_norm", check_input, normalize)
