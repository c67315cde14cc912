"""Layers without params that change the size of an image: upsampling, padding, space to depth and back."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import check
from fnnet.layer import Layer, printable
from fnnet.layers.convolution.window import Pads, PerAxis, check_arguments, per_axis, spatial_axes
from fnnet.layers.without_params import without_params


@printable
def upsample(factor: PerAxis, *, method: Literal["nearest", "linear"] = "nearest") -> Layer:
    """Upsampling by an integer factor.

        nearest:  y[i, c] = x[floor(i / factor), c]
        linear:   y[i, c] = (1 - t) x[j, c] + t x[j + 1, c],   j + t = (i + 1/2) / factor - 1/2,  0 <= t < 1

    This is done on each spatial axis: linear is bilinear on two axes, trilinear on three. Beyond its ends x is
    extended with its outermost element. The centres of the elements are those of PyTorch's align_corners=False.
    Linear interpolation is computed in float32 at least; y has the dtype of x.

    Shapes: x (batch, *space, channels), y (batch, *space * factor, channels), with 1 to 3 spatial axes.

    Args:
        factor: how many times larger y is: one int for all spatial axes, or one per axis.
        method: "nearest" or "linear".

    Raises:
        TypeError: the input is not floating point.
        ValueError: the method is unknown; the input does not have 1 to 3 spatial axes.

    Source: Odena et al. 2016, "Deconvolution and checkerboard artifacts", distill.pub, which recommends
    upsampling followed by a convolution instead of a transposed convolution.

    Example:
        >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
        >>> fn.upsample(2)({}, x).squeeze()
        Array([1., 1., 3., 3.], dtype=float32)
        >>> fn.upsample(2, method="linear")({}, x).squeeze()
        Array([1. , 1.5, 2.5, 3. ], dtype=float32)
    """
    check_arguments("upsample", "VALID", factor=factor)
    check.one_of("upsample", "method", method, ("nearest", "linear"))

    def factors(x: Any) -> tuple[int, ...]:
        return per_axis("upsample", "factor", factor, spatial_axes("upsample", x))

    def nearest(x: jax.Array) -> jax.Array:
        for axis, f in enumerate(factors(x), start=1):
            x = jnp.repeat(x, f, axis)
        return x

    def linear(x: jax.Array) -> jax.Array:
        y = x.astype(jnp.result_type(x, jnp.float32))
        for axis, f in enumerate(factors(x), start=1):
            y = _interpolate(y, axis, f)
        return y.astype(x.dtype)

    return without_params("upsample", factors, nearest if method == "nearest" else linear)


@printable
def pad(
    widths: int | Sequence[tuple[int, int]],
    *,
    mode: Literal["constant", "reflect", "edge"] = "constant",
    value: chex.Numeric = 0.0,
) -> Layer:
    """Padding of the spatial axes.

        inside:   y[i, c] = x[i - low, c]
        outside, with j = i - low:
        constant: value      edge: x[0] or x[n - 1]      reflect: x[-j] or x[2 (n - 1) - j], no edge repeated

    Shapes: x (batch, *space, channels), y (batch, *space + low + high, channels), with 1 to 3 spatial axes.

    Args:
        widths: how many elements to add: ((low, high), ...), a pair per spatial axis, or an int for all ends.
        mode: "constant", "reflect" or "edge", as in `jnp.pad` (PyTorch calls edge "replicate").
        value: the padding in mode "constant". It may be infinite, or a tracer.

    Raises:
        TypeError: the input is not floating point.
        ValueError: widths are negative, or are not one pair per axis; the mode is unknown; more than size - 1
            elements with "reflect", or an empty axis with "edge".

    Example:
        >>> fn.pad(((2, 1),), mode="reflect")({}, jnp.arange(4.0).reshape(1, 4, 1)).squeeze()
        Array([2., 1., 0., 1., 2., 3., 2.], dtype=float32)
    """
    _check_pad_arguments(widths, mode)
    check.number("pad", "value", value, "[-inf, inf]")

    def pads(x: Any) -> Pads:
        return _check_pad(x, widths, mode)

    def extend(x: jax.Array) -> jax.Array:
        y = jnp.pad(x, [(0, 0), *pads(x), (0, 0)], mode)
        if mode != "constant":
            return y
        # Not through jnp.pad, whose gradient with respect to the value alone raises (jax 0.10.1).
        inside = jnp.pad(jnp.ones((1, *x.shape[1:-1], 1), bool), [(0, 0), *pads(x), (0, 0)])
        return jnp.where(jnp.broadcast_to(inside, y.shape), y, jnp.asarray(value, x.dtype))

    return without_params("pad", pads, extend)


@printable
def space_to_depth(block: PerAxis) -> Layer:
    """Moves blocks of pixels into the channels; `depth_to_space` is the inverse.

        y[i, k channels + c] = x[i * block + k, c]

    k runs over the elements of a block, row by row, which is TensorFlow's order. (In PyTorch's pixel_unshuffle
    the channels come first: y[i, c |block| + k].)

    Shapes: x (batch, *space, channels), y (batch, *space / block, |block| channels), with 1 to 3 spatial
    axes. |block| is the number of elements in a block.

    Args:
        block: size of a block: one int for all spatial axes, or one per axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes, or block does not divide them.

    Source: Shi et al. 2016, "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", arXiv:1609.05158, which has the inverse.

    Example:
        >>> fn.space_to_depth(2)({}, jnp.arange(4.0).reshape(1, 4, 1))[0]
        Array([[0., 1.],
               [2., 3.]], dtype=float32)
    """
    check_arguments("space_to_depth", "VALID", block=block)

    def blocks(x: Any) -> tuple[int, ...]:
        blocks = per_axis("space_to_depth", "block", block, spatial_axes("space_to_depth", x))
        if any(n % b for n, b in zip(x.shape[1:-1], blocks, strict=True)):
            raise ValueError(
                f"space_to_depth: input is {check.describe(x)}, wanted spatial axes that block {blocks} "
                "divides; pad it first"
            )
        return blocks

    def rearrange(x: jax.Array) -> jax.Array:
        axes, sizes = x.ndim - 2, blocks(x)
        after = [n // b for n, b in zip(x.shape[1:-1], sizes, strict=True)]
        split = [size for pair in zip(after, sizes, strict=True) for size in pair]
        x = x.reshape(x.shape[0], *split, x.shape[-1])  # (batch, rows, block rows, columns, ..., channels)
        x = x.transpose(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
        return x.reshape(x.shape[0], *after, math.prod(sizes) * x.shape[-1])

    return without_params("space_to_depth", blocks, rearrange)


@printable
def depth_to_space(block: PerAxis) -> Layer:
    """Moves channels into blocks of pixels, the last step of a sub-pixel convolution; undoes `space_to_depth`.

        y[i * block + k, c] = x[i, k channels + c]

    k runs over the elements of a block, row by row, which is TensorFlow's order. (PyTorch's pixel_shuffle reads
    x[i, c |block| + k].)

    Shapes: x (batch, *space, |block| channels), y (batch, *space * block, channels), with 1 to 3 spatial
    axes. |block| is the number of elements in a block.

    Args:
        block: size of a block: one int for all spatial axes, or one per axis.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes, or |block| does not divide its channels.

    Source: Shi et al. 2016, "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", arXiv:1609.05158, eq. 4.

    Example:
        >>> fn.depth_to_space(2)({}, jnp.arange(4.0).reshape(1, 2, 2)).squeeze()
        Array([0., 1., 2., 3.], dtype=float32)
    """
    check_arguments("depth_to_space", "VALID", block=block)

    def blocks(x: Any) -> tuple[int, ...]:
        blocks = per_axis("depth_to_space", "block", block, spatial_axes("depth_to_space", x))
        if x.shape[-1] % math.prod(blocks):
            raise ValueError(
                f"depth_to_space: input is {check.describe(x)}, wanted channels that the {math.prod(blocks)} "
                f"elements of block {blocks} divide"
            )
        return blocks

    def rearrange(x: jax.Array) -> jax.Array:
        axes, sizes, space = x.ndim - 2, blocks(x), x.shape[1:-1]
        channels = x.shape[-1] // math.prod(sizes)
        x = x.reshape(x.shape[0], *space, *sizes, channels)
        # (batch, rows, block rows, columns, block columns, ..., channels)
        x = x.transpose(0, *(a for axis in range(axes) for a in (1 + axis, 1 + axes + axis)), 2 * axes + 1)
        return x.reshape(x.shape[0], *(n * b for n, b in zip(space, sizes, strict=True)), channels)

    return without_params("depth_to_space", blocks, rearrange)


def _interpolate(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """Linear interpolation along one axis: `factor` phases, each a weighted sum of two neighbours."""
    n = x.shape[axis]
    if n == 0:
        return x
    before = jnp.concatenate(
        [lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis
    )
    after = jnp.concatenate(
        [lax.slice_in_dim(x, 1, n, axis=axis), lax.slice_in_dim(x, n - 1, n, axis=axis)], axis
    )
    phases = []
    for k in range(factor):
        t = (k + 0.5) / factor - 0.5
        # No product with 0: an infinite neighbour of weight 0 would give NaN.
        phases.append(x if t == 0 else (1 - abs(t)) * x + abs(t) * (before if t < 0 else after))
    return jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], n * factor, *x.shape[axis + 1 :])


def _check_pad_arguments(widths: Any, mode: str) -> None:
    check.one_of("pad", "mode", mode, ("constant", "reflect", "edge"))
    pairs = [(widths, widths)] if isinstance(widths, int | np.integer) else widths
    if not isinstance(pairs, Sequence) or not all(
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in pair)
        for pair in pairs
    ):
        raise ValueError(
            f"pad: widths={widths!r}, wanted an int or ((low, high), ...): a pair of ints per axis, not "
            "negative"
        )


def _check_pad(x: Any, widths: Any, mode: str) -> Pads:
    """The padding (low, high) of each spatial axis. Raises if it does not fit the input."""
    axes = spatial_axes("pad", x)
    pads: Pads = ((int(widths),) * 2,) * axes if isinstance(widths, int | np.integer) else tuple(widths)
    if len(pads) != axes:
        raise ValueError(f"pad: widths={widths!r} and {axes} spatial axes, wanted a pair for each")
    for n, pair in zip(x.shape[1:-1], pads, strict=True):
        if (mode == "reflect" and max(pair) > max(n - 1, 0)) or (mode == "edge" and max(pair) > 0 == n):
            raise ValueError(
                f"pad: input is {check.describe(x)}, padded by {pads} in mode {mode!r}, wanted "
                + ("at most size - 1 elements" if mode == "reflect" else "no empty axis")
                + "; use less padding, or mode 'constant'"
            )
    return pads
