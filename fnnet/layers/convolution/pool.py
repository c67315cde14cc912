"""Pooling: the largest element or the mean of each window, separately for each channel."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, printable, takes_input
from fnnet.layers.convolution.max_pool_gradient import window_max
from fnnet.layers.convolution.window import (
    Padding,
    Pads,
    PerAxis,
    check_arguments,
    pad_widths,
    per_axis,
    spatial_axes,
)
from fnnet.layers.without_params import without_params


@printable
def max_pool(window: PerAxis, *, strides: PerAxis | None = None, padding: Padding = "VALID") -> Layer:
    """Max pooling: the largest element of each window. Padding is never the largest.

        y[i, c] = max_k x[i * stride + k - low, c]

    The gradient of a window goes to a single element: its largest one, or the first of several equal ones.

    Shapes: x (batch, *space, channels), y (batch, *space', channels), with 1 to 3 spatial axes.

    Args:
        window: size of the window: one int for all spatial axes, or one per axis.
        strides: step of the window, in elements. The default is the size of the window.
        padding: "VALID" (none; elements left over at the end are ignored), "SAME", or ((low, high), ...), a
            pair per axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes, the window does not fit, or a window could be
            all padding.

    Source: Ranzato et al. 2007, "Unsupervised learning of invariant feature hierarchies".

    Example:
        >>> fn.max_pool(2)({}, jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)).squeeze()
        Array([3., 2.], dtype=float32)
    """
    strides = window if strides is None else strides
    check_arguments("max_pool", padding, window=window, strides=strides)

    def windows(x: Any) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        return _check_windows("max_pool", x, window, strides, padding)

    def pool(x: jax.Array) -> jax.Array:
        return window_max(x, *windows(x))

    return without_params("max_pool", windows, pool)


@printable
def avg_pool(window: PerAxis, *, strides: PerAxis | None = None, padding: Padding = "VALID") -> Layer:
    """Average pooling: the mean of the elements in each window. Padding is not counted.

        y[i, c] = mean_k x[i * stride + k - low, c]

    PyTorch counts the zeros of the padding, unless count_include_pad=False. The mean is computed in float32 at
    least; y has the dtype of x.

    Shapes: x (batch, *space, channels), y (batch, *space', channels), with 1 to 3 spatial axes.

    Args:
        window: size of the window: one int for all spatial axes, or one per axis.
        strides: step of the window, in elements. The default is the size of the window.
        padding: "VALID" (none; elements left over at the end are ignored), "SAME", or ((low, high), ...), a
            pair per axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes, the window does not fit, or a window could be
            all padding.

    Source: LeCun et al. 1990, "Handwritten digit recognition with a back-propagation network".

    Example:
        >>> fn.avg_pool(2)({}, jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)).squeeze()
        Array([2., 1.], dtype=float32)
    """
    strides = window if strides is None else strides
    check_arguments("avg_pool", padding, window=window, strides=strides)

    def windows(x: Any) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        return _check_windows("avg_pool", x, window, strides, padding)

    def pool(x: jax.Array) -> jax.Array:
        sizes, steps, pads = windows(x)
        all_axes = ((1, *sizes, 1), (1, *steps, 1), ((0, 0), *pads, (0, 0)))
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        scale = _power_of_2(math.prod(sizes))
        total = lax.reduce_window(x32 * scale, 0.0, lax.add, *all_axes)
        inside = jnp.full((1, *x.shape[1:-1], 1), scale, x32.dtype)
        count = lax.reduce_window(inside, 0.0, lax.add, *all_axes)
        return (total / jnp.broadcast_to(count, total.shape)).astype(jnp.result_type(x))

    return without_params("avg_pool", windows, pool)


@takes_input
def global_avg_pool(x: jax.Array) -> jax.Array:
    """Global average pooling: the mean over all spatial axes, (batch, *space, channels) -> (batch, channels).

        y[c] = mean_i x[i, c]

    `global_avg_pool` is itself a layer: write `global_avg_pool`, not `global_avg_pool()`. The mean is computed
    in float32 at least; y has the dtype of x.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no spatial axis, or an empty one.

    Source: Lin et al. 2013, "Network in network", arXiv:1312.4400, section 3.2.

    Example:
        >>> fn.global_avg_pool(jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1))
        Array([[1.5]], dtype=float32)
    """
    _check_space("global_avg_pool", x)
    return _mean(_pixels(x), 1)


@takes_input
def global_max_pool(x: jax.Array) -> jax.Array:
    """Global max pooling: the largest element over all spatial axes, (batch, *space, channels) -> (batch, channels).

        y[c] = max_i x[i, c]

    `global_max_pool` is itself a layer: write `global_max_pool`, not `global_max_pool()`. The gradient goes to
    a single element: the largest one, or the first of several equal ones.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no spatial axis, or an empty one.

    Source: Oquab et al. 2015, "Is object localization for free?", section 3.

    Example:
        >>> fn.global_max_pool(jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1))
        Array([[3.]], dtype=float32)
    """
    _check_space("global_max_pool", x)
    return _max(_pixels(x), 1)


@printable
def adaptive_avg_pool(size: PerAxis) -> Layer:
    """Adaptive average pooling: the output has a fixed size, whatever the size of the input.

        y[i, c] = mean_j x[j, c],    j from floor(i space / size) to ceil((i + 1) space / size), exclusive

    The windows are those of PyTorch: they overlap where size does not divide space. The mean is computed in
    float32 at least; y has the dtype of x.

    Shapes: x (batch, *space, channels), y (batch, *size, channels), with 1 to 3 spatial axes.

    Args:
        size: size of the output: one int for all spatial axes, or one per axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes, or has an empty one.

    Source: He et al. 2014, "Spatial pyramid pooling in deep convolutional networks for visual recognition",
    arXiv:1406.4729, section 2.3.

    Example:
        >>> fn.adaptive_avg_pool(2)({}, jnp.array([1.0, 3.0, 2.0]).reshape(1, 3, 1)).squeeze()
        Array([2. , 2.5], dtype=float32)
    """

    def mean(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        return _by_axis(_mean, x.astype(jnp.result_type(x, jnp.float32)), sizes).astype(x.dtype)

    return _adaptive("adaptive_avg_pool", mean, size)


@printable
def adaptive_max_pool(size: PerAxis) -> Layer:
    """Adaptive max pooling: the output has a fixed size, whatever the size of the input.

        y[i, c] = max_j x[j, c],    j from floor(i space / size) to ceil((i + 1) space / size), exclusive

    The windows are those of PyTorch: they overlap where size does not divide space. The gradient of a window
    goes to a single element: its largest one, or the first of several equal ones.

    Shapes: x (batch, *space, channels), y (batch, *size, channels), with 1 to 3 spatial axes.

    Args:
        size: size of the output: one int for all spatial axes, or one per axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes, or has an empty one.

    Source: He et al. 2014, "Spatial pyramid pooling in deep convolutional networks for visual recognition",
    arXiv:1406.4729, section 2.3.

    Example:
        >>> fn.adaptive_max_pool(2)({}, jnp.array([1.0, 3.0, 2.0]).reshape(1, 3, 1)).squeeze()
        Array([3., 3.], dtype=float32)
    """
    return _adaptive("adaptive_max_pool", lambda x, sizes: _by_axis(_max, x, sizes), size)


def _adaptive(name: str, pool: Callable[[jax.Array, tuple[int, ...]], jax.Array], size: PerAxis) -> Layer:
    check_arguments(name, "VALID", size=size)

    def sizes(x: Any) -> tuple[int, ...]:
        axes = spatial_axes(name, x)
        _check_not_empty(name, x)
        return per_axis(name, "size", size, axes)

    return without_params(name, sizes, lambda x: pool(x, sizes(x)))


def _by_axis(
    reduce: Callable[[jax.Array, int], jax.Array], x: jax.Array, sizes: tuple[int, ...]
) -> jax.Array:
    """Adaptive pooling one axis at a time, which is possible because a window is a product of intervals."""
    # The last axis first, so that of several equal elements the first one is taken.
    for axis, m in reversed([*enumerate(sizes, start=1)]):
        n = x.shape[axis]
        if n % m == 0:
            x = reduce(x.reshape(*x.shape[:axis], m, n // m, *x.shape[axis + 1 :]), axis + 1)
        else:
            windows = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
            each = [reduce(lax.slice_in_dim(x, low, high, axis=axis), axis) for low, high in windows]
            x = jnp.stack(each, axis)
    return x


def _mean(x: jax.Array, axis: int) -> jax.Array:
    """The mean along an axis, in float32 at least."""
    n = x.shape[axis]
    scale = _power_of_2(n)
    total = jnp.sum(x.astype(jnp.result_type(x, jnp.float32)) * scale, axis)
    return (total / (n * scale)).astype(x.dtype)


def _power_of_2(n: int) -> float:
    """A factor that keeps the sum of n large numbers from overflowing, and rounds nothing."""
    return 2.0 ** -n.bit_length()


def _max(x: jax.Array, axis: int) -> jax.Array:
    """The maximum along an axis. Its gradient goes to the first maximum; that of `jnp.max` is shared by all."""
    return jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis).squeeze(axis)


def _pixels(x: Any) -> jax.Array:
    """Merges the spatial axes: (batch, *space, channels) -> (batch, pixels, channels)."""
    return jnp.asarray(x).reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def _check_space(layer: str, x: Any) -> None:
    check.is_floating(layer, x)
    check.has_rank(layer, x, 3, "(batch, *space, channels)")
    _check_not_empty(layer, x)


def _check_not_empty(layer: str, x: Any) -> None:
    if 0 in x.shape[1:-1]:
        raise ValueError(
            f"{layer}: input is {check.describe(x)}, wanted at least one element on each spatial axis"
        )


def _check_windows(
    layer: str, x: Any, window: PerAxis, strides: PerAxis, padding: Padding
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    """Size, stride and padding of the windows, per spatial axis. Raises if they do not fit the input."""
    axes = spatial_axes(layer, x)
    _check_not_empty(layer, x)
    size = per_axis(layer, "window", window, axes)
    stride = per_axis(layer, "strides", strides, axes)
    pads = pad_widths(layer, x, size, stride, padding, (1,) * axes)
    if any(max(pad) >= n for pad, n in zip(pads, size, strict=True)):
        raise ValueError(
            f"{layer}: padding {pads} and window {size}, wanted padding smaller than the window on each side"
        )
    return size, stride, pads
