"""Images made larger or smaller without params: upsampling, padding, space to depth and back."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.layers.convolution.window import PerAxis, check_arguments, per_axis, spatial_axes


def upsample(factor: PerAxis, *, method: Literal["nearest", "linear"] = "nearest") -> Layer:
    """Upsampling by a whole factor.

        nearest:  y[i, c] = x[floor(i / factor), c]
        linear:   y[i, c] = (1 - t) x[j, c] + t x[j + 1, c],   j + t = (i + 1/2) / factor - 1/2,  0 <= t < 1

    on each spatial axis: linear is bilinear on two axes, trilinear on three. x goes on beyond its ends with
    its outermost element, and the centres of the elements are those of PyTorch's align_corners=False.

    Shapes: x (batch, *space, channels), y (batch, *space * factor, channels), with 1 to 3 spatial axes.
    Linear is computed in float32 at least; y has the dtype of x.

    Args:
        factor: how many times larger, for each spatial axis; an int for all of them.
        method: "nearest" or "linear".

    Raises:
        TypeError: the input is not floating point.
        ValueError: an unknown method; the input has not 1 to 3 spatial axes.

    Source: Odena et al. 2016, "Deconvolution and checkerboard artifacts", distill.pub, resizes in front of a
    convolution instead of transposing one.

    Example:
        >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
        >>> fn.upsample(2)({}, x).squeeze()
        Array([1., 1., 3., 3.], dtype=float32)
        >>> fn.upsample(2, method="linear")({}, x).squeeze()
        Array([1. , 1.5, 2.5, 3. ], dtype=float32)
    """
    check_arguments("upsample", "VALID", factor=factor)
    if method not in ("nearest", "linear"):
        raise ValueError(f"upsample: method={method!r}, wanted 'nearest' or 'linear'")

    def resize(x: jax.Array) -> jax.Array:
        dtype = x.dtype
        if method == "linear":
            x = x.astype(jnp.result_type(x, jnp.float32))
        factors = per_axis("upsample", "factor", factor, x.ndim - 2)
        for axis, f in enumerate(factors, start=1):
            x = _linear(x, axis, f) if method == "linear" else jnp.repeat(x, f, axis)
        return x.astype(dtype)

    return _without_params(resize, "upsample")


def pad(
    widths: int | Sequence[tuple[int, int]],
    *,
    mode: Literal["constant", "reflect", "edge"] = "constant",
    value: chex.Numeric = 0.0,
) -> Layer:
    """Padding of the spatial axes.

        y[i, c] = x[i - low, c] inside;  outside, with j = i - low,
        constant: value      edge: x[0] or x[n - 1]      reflect: x[-j] or x[2 (n - 1) - j], no edge repeated

    Shapes: x (batch, *space, channels), y (batch, *space + low + high, channels), with 1 to 3 spatial axes.

    Args:
        widths: elements that are added: ((low, high), ...) for each spatial axis, or an int for all ends.
        mode: "constant", "reflect" or "edge", as `jnp.pad` names them (PyTorch calls edge "replicate").
        value: of mode "constant"; it may be a tracer.

    Raises:
        TypeError: the input is not floating point.
        ValueError: widths are negative or not one pair for each axis; an unknown mode; "reflect" with more
            than size - 1 elements, "edge" of an empty axis.

    Example:
        >>> fn.pad(((2, 1),), mode="reflect")({}, jnp.arange(4.0).reshape(1, 4, 1)).squeeze()
        Array([2., 1., 0., 1., 2., 3., 2.], dtype=float32)
    """
    if mode not in ("constant", "reflect", "edge"):
        raise ValueError(f"pad: mode={mode!r}, wanted 'constant', 'reflect' or 'edge'")
    same = isinstance(widths, int | np.integer)
    pairs: Any = [(widths, widths)] if same else widths
    if not isinstance(pairs, Sequence) or not all(
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in pair)
        for pair in pairs
    ):
        raise ValueError(
            f"pad: widths={widths!r}, wanted an int or ((low, high), ...): a pair of ints for each axis, not "
            "negative"
        )

    def extend(x: jax.Array) -> jax.Array:
        sizes = x.shape[1:-1]
        each = [*pairs] * (len(sizes) if same else 1)
        if len(each) != len(sizes):
            raise ValueError(f"pad: widths={widths!r} and {len(sizes)} spatial axes, wanted a pair for each")
        for n, pair in zip(sizes, each, strict=True):
            if (mode == "reflect" and max(pair) > max(n - 1, 0)) or (mode == "edge" and max(pair) > 0 == n):
                raise ValueError(
                    f"pad: input is {check.describe(x)}, padded by {each} in mode {mode!r}, wanted "
                    + ("at most size - 1 elements" if mode == "reflect" else "no empty axis")
                    + "; take less padding, or mode 'constant'"
                )
        y = jnp.pad(x, [(0, 0), *each, (0, 0)], mode)
        if mode != "constant":
            return y
        # Not through jnp.pad, whose gradient by the value alone raises (jax 0.10.1).
        inside = jnp.pad(jnp.ones((1, *sizes, 1), bool), [(0, 0), *each, (0, 0)])
        return jnp.where(jnp.broadcast_to(inside, y.shape), y, jnp.asarray(value, x.dtype))

    return _without_params(extend, "pad")


def space_to_depth(block: PerAxis) -> Layer:
    """Blocks of pixels moved into the channels; `depth_to_space` is its inverse.

        y[i, k channels + c] = x[i * block + k, c]

    k runs over the elements of a block, row by row: TensorFlow's order. (PyTorch's pixel_unshuffle has the
    channels in front: y[i, c |block| + k].)

    Shapes: x (batch, *space, channels), y (batch, *space / block, |block| channels), with 1 to 3 spatial
    axes, |block| the elements of a block.

    Args:
        block: size of a block, for each spatial axis; an int for all of them.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes; block divides one with a remainder.

    Source: Shi et al. 2016, "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", arXiv:1609.05158, whose inverse it is.

    Example:
        >>> fn.space_to_depth(2)({}, jnp.arange(4.0).reshape(1, 4, 1))[0]
        Array([[0., 1.],
               [2., 3.]], dtype=float32)
    """
    check_arguments("space_to_depth", "VALID", block=block)

    def rearrange(x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        blocks = per_axis("space_to_depth", "block", block, axes)
        space = x.shape[1:-1]
        if any(n % b for n, b in zip(space, blocks, strict=True)):
            raise ValueError(
                f"space_to_depth: input is {check.describe(x)}, wanted spatial axes that block {blocks} "
                "divides; pad it first"
            )
        after = [n // b for n, b in zip(space, blocks, strict=True)]
        split = [size for pair in zip(after, blocks, strict=True) for size in pair]
        x = x.reshape(x.shape[0], *split, x.shape[-1])
        x = x.transpose(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
        return x.reshape(x.shape[0], *after, math.prod(blocks) * x.shape[-1])

    return _without_params(rearrange, "space_to_depth")


def depth_to_space(block: PerAxis) -> Layer:
    """Channels moved into blocks of pixels, a sub-pixel convolution's last step; undoes `space_to_depth`.

        y[i * block + k, c] = x[i, k channels + c]

    k runs over the elements of a block, row by row: TensorFlow's order. (PyTorch's pixel_shuffle reads
    x[i, c |block| + k].)

    Shapes: x (batch, *space, |block| channels), y (batch, *space * block, channels), with 1 to 3 spatial
    axes, |block| the elements of a block.

    Args:
        block: size of a block, for each spatial axis; an int for all of them.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes; |block| divides the channels with a remainder.

    Source: Shi et al. 2016, "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", arXiv:1609.05158, eq. 4.

    Example:
        >>> fn.depth_to_space(2)({}, jnp.arange(4.0).reshape(1, 2, 2)).squeeze()
        Array([0., 1., 2., 3.], dtype=float32)
    """
    check_arguments("depth_to_space", "VALID", block=block)

    def rearrange(x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        blocks = per_axis("depth_to_space", "block", block, axes)
        if x.shape[-1] % math.prod(blocks):
            raise ValueError(
                f"depth_to_space: input is {check.describe(x)}, wanted channels that the {math.prod(blocks)} "
                f"elements of block {blocks} divide"
            )
        channels = x.shape[-1] // math.prod(blocks)
        space = x.shape[1:-1]
        x = x.reshape(x.shape[0], *space, *blocks, channels)
        x = x.transpose(0, *(a for axis in range(axes) for a in (1 + axis, 1 + axes + axis)), 2 * axes + 1)
        return x.reshape(x.shape[0], *(n * b for n, b in zip(space, blocks, strict=True)), channels)

    return _without_params(rearrange, "depth_to_space")


def _linear(x: jax.Array, axis: int, factor: int) -> jax.Array:
    """Linear interpolation along one axis: `factor` phases, each a sum of two neighbours."""
    n = x.shape[axis]
    if n == 0:
        return x
    before = jnp.concatenate(
        [lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis
    )
    behind = jnp.concatenate(
        [lax.slice_in_dim(x, 1, n, axis=axis), lax.slice_in_dim(x, n - 1, n, axis=axis)], axis
    )
    phases = []
    for k in range(factor):
        t = (k + 0.5) / factor - 0.5
        # No product with 0: an infinite neighbour must not make NaN of an element that does not see it.
        phases.append(x if t == 0 else (1 - abs(t)) * x + abs(t) * (before if t < 0 else behind))
    return jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], n * factor, *x.shape[axis + 1 :])


def _without_params(f: Callable[[jax.Array], jax.Array], name: str) -> Layer:
    """A layer from a function of an array with 1 to 3 spatial axes."""

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        spatial_axes(name, x)
        jax.eval_shape(f, jax.ShapeDtypeStruct(x.shape, jnp.result_type(x)))
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        spatial_axes(name, x)
        return f(jnp.asarray(x)), {}

    return Layer(init, apply, name)
