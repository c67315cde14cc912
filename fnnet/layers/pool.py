"""Pooling: the largest or the mean element of each window, channel by channel."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet.layer import Layer, Params, State
from fnnet.layers.window import Padding, PerAxis, check_arguments, pad_widths, per_axis, spatial_axes


def max_pool(window: PerAxis, *, strides: PerAxis | None = None, padding: Padding = "VALID") -> Layer:
    """The largest element of each window; padding never wins.

        y[i, c] = max_k x[i * stride + k - low, c]

    Shapes: x (batch, *space, channels), y (batch, *space', channels), with 1 to 3 spatial axes.
    The gradient of a window goes to one element, the first of the largest.

    Args:
        window: size, for each spatial axis; an int for all of them.
        strides: step of the window, in elements; the window's size unless given.
        padding: "VALID" (none: what is left over at the end is not seen), "SAME", or ((low, high), ...), for
            each axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes, the window does not fit, or would lie all in the
            padding.

    Source: Ranzato et al. 2007, "Unsupervised learning of invariant feature hierarchies".

    Example:
        >>> fn.max_pool(2)({}, jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)).squeeze()
        Array([3., 2.], dtype=float32)
    """
    strides = window if strides is None else strides
    check_arguments("max_pool", padding, window=window, strides=strides)

    def pool(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, *_windows("max_pool", x, window, strides, padding))

    return _without_params(pool, "max_pool")


def avg_pool(window: PerAxis, *, strides: PerAxis | None = None, padding: Padding = "VALID") -> Layer:
    """The mean of each window, over the elements of the input in it; padding does not count.

        y[i, c] = mean_k x[i * stride + k - low, c]

    Shapes: x (batch, *space, channels), y (batch, *space', channels), with 1 to 3 spatial axes.
    (PyTorch counts the zeros of the padding in, unless count_include_pad=False.)
    The mean is computed in float32 at least; y has the dtype of x.

    Args:
        window: size, for each spatial axis; an int for all of them.
        strides: step of the window, in elements; the window's size unless given.
        padding: "VALID" (none: what is left over at the end is not seen), "SAME", or ((low, high), ...), for
            each axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes, the window does not fit, or would lie all in the
            padding.

    Source: LeCun et al. 1990, "Handwritten digit recognition with a back-propagation network".

    Example:
        >>> fn.avg_pool(2)({}, jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)).squeeze()
        Array([2., 1.], dtype=float32)
    """
    strides = window if strides is None else strides
    check_arguments("avg_pool", padding, window=window, strides=strides)

    def pool(x: jax.Array) -> jax.Array:
        windows = _windows("avg_pool", x, window, strides, padding)
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        total = lax.reduce_window(x32, 0.0, lax.add, *windows)
        count = lax.reduce_window(jnp.ones((1, *x.shape[1:-1], 1), x32.dtype), 0.0, lax.add, *windows)
        return (total / jnp.broadcast_to(count, total.shape)).astype(jnp.result_type(x))

    return _without_params(pool, "avg_pool")


def _windows(layer: str, x: Any, window: PerAxis, strides: PerAxis, padding: Padding) -> tuple[Any, Any, Any]:
    """Sizes, strides and padding on every axis of x, as `lax.reduce_window` has them."""
    axes = spatial_axes(layer, x)
    size = per_axis(layer, "window", window, axes)
    stride = per_axis(layer, "strides", strides, axes)
    pads = pad_widths(layer, x, size, stride, padding, (1,) * axes)
    if any(max(pad) >= n for pad, n in zip(pads, size, strict=True)):
        raise ValueError(
            f"{layer}: padding {pads} and window {size}, wanted padding smaller than the window on each side"
        )
    return (1, *size, 1), (1, *stride, 1), ((0, 0), *pads, (0, 0))


def _without_params(pool: Any, name: str) -> Layer:
    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        return pool(x), {}

    return Layer(init, apply, name)
