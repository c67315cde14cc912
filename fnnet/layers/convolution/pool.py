"""Pooling: the largest or the mean element of each window, channel by channel."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.layers.convolution.window import (
    Padding,
    PerAxis,
    check_arguments,
    pad_widths,
    per_axis,
    spatial_axes,
)
from fnnet.layers.convolution.window_max import window_max


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
        sizes, steps, pads = _windows("max_pool", x, window, strides, padding)
        return window_max(x, sizes[1:-1], steps[1:-1], pads[1:-1])

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
        scale = _power_of_2(math.prod(windows[0]))
        total = lax.reduce_window(x32 * scale, 0.0, lax.add, *windows)
        count = lax.reduce_window(jnp.full((1, *x.shape[1:-1], 1), scale, x32.dtype), 0.0, lax.add, *windows)
        return (total / jnp.broadcast_to(count, total.shape)).astype(jnp.result_type(x))

    return _without_params(pool, "avg_pool")


def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean over all spatial axes: (batch, *space, channels) -> (batch, channels).

        y[c] = mean_i x[i, c]

    A plain function: write `global_avg_pool`, not `global_avg_pool()`. The mean is computed in float32 at
    least; y has the dtype of x.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no spatial axis, or an empty one.

    Source: Lin et al. 2013, "Network in network", arXiv:1312.4400, section 3.2.

    Example:
        >>> fn.global_avg_pool(jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1))
        Array([[1.5]], dtype=float32)
    """
    return _mean(_pixels("global_avg_pool", x), 1)


def global_max_pool(x: jax.Array) -> jax.Array:
    """The largest element over all spatial axes: (batch, *space, channels) -> (batch, channels).

        y[c] = max_i x[i, c]

    A plain function: write `global_max_pool`, not `global_max_pool()`. The gradient goes to one element, the
    first of the largest.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no spatial axis, or an empty one.

    Source: Oquab et al. 2015, "Is object localization for free?", section 3.

    Example:
        >>> fn.global_max_pool(jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1))
        Array([[3.]], dtype=float32)
    """
    return _max(_pixels("global_max_pool", x), 1)


def adaptive_avg_pool(size: PerAxis) -> Layer:
    """Averages over as many windows as the output has elements, whatever the size of the input.

        y[i, c] = mean_j x[j, c],    j from floor(i space / size) to ceil((i + 1) space / size), exclusive

    Shapes: x (batch, *space, channels), y (batch, *size, channels), with 1 to 3 spatial axes. The windows are
    PyTorch's: they overlap where size does not divide space. The mean is computed in float32 at least; y has
    the dtype of x.

    Args:
        size: of the output, for each spatial axis; an int for all of them.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes, or an empty one.

    Source: He et al. 2014, "Spatial pyramid pooling in deep convolutional networks for visual recognition",
    arXiv:1406.4729, section 2.3.

    Example:
        >>> fn.adaptive_avg_pool(2)({}, jnp.array([1.0, 3.0, 2.0]).reshape(1, 3, 1)).squeeze()
        Array([2. , 2.5], dtype=float32)
    """
    check_arguments("adaptive_avg_pool", "VALID", size=size)
    return _without_params(lambda x: _adaptive("adaptive_avg_pool", _mean, x, size), "adaptive_avg_pool")


def adaptive_max_pool(size: PerAxis) -> Layer:
    """The largest elements of as many windows as the output has elements, whatever the size of the input.

        y[i, c] = max_j x[j, c],    j from floor(i space / size) to ceil((i + 1) space / size), exclusive

    Shapes: x (batch, *space, channels), y (batch, *size, channels), with 1 to 3 spatial axes. The windows are
    PyTorch's: they overlap where size does not divide space. The gradient of a window goes to one element,
    the first of the largest.

    Args:
        size: of the output, for each spatial axis; an int for all of them.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes, or an empty one.

    Source: He et al. 2014, "Spatial pyramid pooling in deep convolutional networks for visual recognition",
    arXiv:1406.4729, section 2.3.

    Example:
        >>> fn.adaptive_max_pool(2)({}, jnp.array([1.0, 3.0, 2.0]).reshape(1, 3, 1)).squeeze()
        Array([3., 3.], dtype=float32)
    """
    check_arguments("adaptive_max_pool", "VALID", size=size)
    return _without_params(lambda x: _adaptive("adaptive_max_pool", _max, x, size), "adaptive_max_pool")


def _pixels(layer: str, x: Any) -> jax.Array:
    """The spatial axes made one: (batch, *space, channels) -> (batch, pixels, channels)."""
    check.is_floating(layer, x)
    check.has_rank(layer, x, 3, "(batch, *space, channels)")
    _has_elements(layer, x)
    return jnp.asarray(x).reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def _has_elements(layer: str, x: Any) -> None:
    if 0 in x.shape[1:-1]:
        raise ValueError(
            f"{layer}: input is {check.describe(x)}, wanted at least one element on each spatial axis"
        )


def _adaptive(layer: str, reduce: Callable[[jax.Array, int], jax.Array], x: Any, size: PerAxis) -> jax.Array:
    axes = spatial_axes(layer, x)
    _has_elements(layer, x)
    sizes = per_axis(layer, "size", size, axes)
    dtype = jnp.result_type(x)
    # Axis by axis: the windows are products of intervals. The last one first, for the first of the largest.
    x = jnp.asarray(x)
    if reduce is _mean:
        x = x.astype(jnp.result_type(x, jnp.float32))
    for axis, m in reversed([*enumerate(sizes, start=1)]):
        n = x.shape[axis]
        if n % m == 0:
            x = reduce(x.reshape(*x.shape[:axis], m, n // m, *x.shape[axis + 1 :]), axis + 1)
        else:
            windows = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
            each = [reduce(lax.slice_in_dim(x, low, high, axis=axis), axis) for low, high in windows]
            x = jnp.stack(each, axis)
    return x.astype(dtype)


def _mean(x: jax.Array, axis: int) -> jax.Array:
    """The mean along an axis, in float32 at least."""
    n = x.shape[axis]
    scale = _power_of_2(n)
    total = jnp.sum(x.astype(jnp.result_type(x, jnp.float32)) * scale, axis)
    return (total / (n * scale)).astype(x.dtype)


def _power_of_2(n: int) -> float:
    """A factor that rounds nothing and keeps the sum of n large numbers from overflowing."""
    return 2.0 ** -n.bit_length()


def _max(x: jax.Array, axis: int) -> jax.Array:
    """The largest along an axis; the gradient goes to the first, where `jnp.max` would share it out."""
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis).squeeze(axis)


def _windows(layer: str, x: Any, window: PerAxis, strides: PerAxis, padding: Padding) -> tuple[Any, Any, Any]:
    """Sizes, strides and padding on every axis of x, as `lax.reduce_window` has them."""
    axes = spatial_axes(layer, x)
    _has_elements(layer, x)
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
