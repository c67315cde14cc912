"""Transposed convolution (Zeiler et al. 2010)."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State
from fnnet.layers.convolution.conv import check_kernel, init_kernel
from fnnet.layers.convolution.convolve import convolve
from fnnet.layers.convolution.window import Padding, PerAxis, check_arguments, per_axis, spatial_axes
from fnnet.layers.dense import product


def conv_transpose(
    features: int,
    window: PerAxis,
    *,
    strides: PerAxis = 1,
    padding: Padding = "SAME",
    dilation: PerAxis = 1,
    groups: int = 1,
    use_bias: bool = True,
    w_init: Initializer = initializers.kaiming_normal(),
    b_init: Initializer = initializers.zeros,
) -> Layer:
    """Transposed convolution: the gradient of `conv`, with the same arguments, by its input.

        y[i * stride + k * dilation - low, o] = b[o] + sum_{k, c} w[k, c, o] x[i, c]

    summed over all i and k that meet at an element of y; what falls outside y is dropped. c runs over the
    channels of o's group.

    Shapes: x (batch, *space, in), w (*window, in / groups, features), b (features,),
    y (batch, *space', features), with 1 to 3 spatial axes. With reach = (window - 1) dilation + 1,

        "SAME":                 space' = space stride,                    low = max(reach - stride, 0) // 2
        "VALID":                space' = (space - 1) stride + reach,      low = 0
        ((low, high), ...):     space' = (space - 1) stride + reach - low - high

    The kernel is not flipped, and its last axis are the outputs, as everywhere here: for one group, the conv
    whose gradient this is has w with its last two axes exchanged. PyTorch's ConvTranspose has it as
    (in, features / groups, *window), and its `padding` p and `output_padding` q are the pair (p, p - q); its
    default is "VALID". A negative number adds elements that have nothing but b, or what reaches so far.

    Args:
        features: channels of y.
        window: size of the kernel, for each spatial axis; an int for all of them.
        strides: distance, in y, of the places of two neighbours in x.
        padding: "SAME", "VALID" or ((low, high), ...) for each axis: what is cut off y at its ends, as above.
        dilation: distance of the kernel's elements; 1 is a plain window.
        groups: parts of the channels that do not see each other.
        use_bias: whether there is b.
        w_init: initializer of w; He's normal. An element of y sums over about window / stride of the kernel's
            elements, so with wide strides it is that much smaller than fan_in says.
        b_init: initializer of b; zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes or not w's channels, groups divides the channels or
            the features with a remainder, or nothing is left of y.

    Source: Zeiler et al. 2010, "Deconvolutional networks"; Dumoulin & Visin 2016, "A guide to convolution
    arithmetic for deep learning", arXiv:1603.07285, section 4.

    Example:
        >>> layer = fn.conv_transpose(1, 3, strides=2, padding="VALID", w_init=fn.initializers.ones)
        >>> x = jnp.array([1.0, 10.0]).reshape(1, 2, 1)
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).squeeze()
        Array([ 1.,  1., 11., 10., 10.], dtype=float32)
    """
    check.is_positive("conv_transpose", "features", features)
    check.is_positive("conv_transpose", "groups", groups)
    check_arguments(
        "conv_transpose", padding, negative=True, window=window, strides=strides, dilation=dilation
    )
    if features % groups:
        raise ValueError(
            f"conv_transpose: {features} features in {groups} groups, wanted a multiple of the groups"
        )

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return init_kernel(
            "conv_transpose", key, x, features, window, groups, w_init, b_init if use_bias else None
        ), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        axes = spatial_axes("conv_transpose", x)
        check.has_keys("conv_transpose", "params", params, ("w", "b") if use_bias else ("w",))
        w = params["w"]
        check_kernel("conv_transpose", x, w, groups)
        stride = per_axis("conv_transpose", "strides", strides, axes)
        dilate = per_axis("conv_transpose", "dilation", dilation, axes)
        cuts = _cuts(x, w.shape[:-2], stride, padding, dilate)
        dtype = jnp.result_type(x, w)
        y = _transpose(x.astype(dtype), w.astype(dtype), stride, cuts, dilate, groups)
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "conv_transpose")


def _cuts(
    x: Any,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Padding,
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each spatial axis of a transposed convolution; raises where nothing is left."""
    sizes = x.shape[1:-1]
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    if isinstance(padding, str) and padding == "VALID":
        cuts = ((0, 0),) * len(sizes)
    elif isinstance(padding, str):
        low = [max(r - s, 0) // 2 for r, s in zip(reach, strides, strict=True)]
        cuts = tuple((a, r - s - a) for a, r, s in zip(low, reach, strides, strict=True))
    else:
        cuts = tuple((int(a), int(b)) for a, b in padding)
    if len(cuts) != len(sizes):
        raise ValueError(
            f"conv_transpose: padding={padding!r} and {len(sizes)} spatial axes, wanted a pair for each"
        )
    if any(n < 1 or size < 1 for n, size in zip(sizes, _sizes(sizes, reach, strides, cuts), strict=True)):
        raise ValueError(
            f"conv_transpose: input is {check.describe(x)}, the window reaches over {tuple(reach)} and "
            f"padding {cuts} is cut off, wanted something to be left of the output; take less padding"
        )
    return cuts


def _sizes(sizes: Any, reach: Any, strides: Any, cuts: Any) -> list[int]:
    """What the spatial axes of a transposed convolution's output have."""
    return [
        (n - 1) * s + r - low - high for n, r, s, (low, high) in zip(sizes, reach, strides, cuts, strict=True)
    ]


def _transpose(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    cuts: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    """y[i * stride + k * dilation - low] = sum_k x[i] w[k], in the form that is fast where it runs."""
    window = w.shape[:-2]
    axes = len(window)
    reach = [(n - 1) * d + 1 for n, d in zip(window, dilation, strict=True)]
    turned = tuple((r - 1 - low, r - 1 - high) for r, (low, high) in zip(reach, cuts, strict=True))
    flip = partial(jnp.flip, axis=tuple(range(axes)))
    if max(strides) == 1:
        return convolve(x, flip(w), strides, turned, dilation, groups)

    # A convolution of x with zeros put between its elements multiplies the zeros, too. Gradients by x and w
    # at 16x16x16x64 -> 32x32x32, strides 2, window 4x4: 145 -> 17 ms, 253 -> 7 in a scan, with a product for
    # each element of the window; window 3x3: 40 -> 3.7 and 125 -> 3.7 (the least of 21 runs; jax 0.10.1, two
    # cores).
    def fast(x: jax.Array, w: jax.Array) -> jax.Array:
        if groups > 1 and w.shape[-2] > 1:
            parts = zip(jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1), strict=True)
            return jnp.concatenate([_transpose(a, b, strides, cuts, dilation, 1) for a, b in parts], axis=-1)
        dtype = x.dtype
        wide = jnp.result_type(x, jnp.float32)
        x, w = x.astype(wide), w.astype(wide)
        if groups > 1:
            x = jnp.repeat(x, w.shape[-1] // groups, axis=-1)
        sizes = _sizes(x.shape[1:-1], reach, strides, cuts)
        y = jnp.zeros((x.shape[0], *sizes, w.shape[-1]), wide)
        for k in np.ndindex(*window):
            y_k = product(x, w[k]) if groups == 1 else x * jnp.broadcast_to(w[(*k, 0)], x.shape)
            low = [a * d - cut for a, d, (cut, _) in zip(k, dilation, cuts, strict=True)]
            stretched = [(n - 1) * s + 1 for n, s in zip(x.shape[1:-1], strides, strict=True)]
            pads = [
                (a, size - a - n, s - 1) for a, size, n, s in zip(low, sizes, stretched, strides, strict=True)
            ]
            y += lax.pad(y_k, jnp.zeros((), wide), ((0, 0, 0), *pads, (0, 0, 0)))
        return y.astype(dtype)

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        space = "DHW"[-axes:]
        layout = (f"N{space}C", f"{space}IO", f"N{space}C")
        return lax.conv_general_dilated(
            x, flip(w), (1,) * axes, turned, strides, dilation, layout, feature_group_count=groups
        )

    return lax.platform_dependent(x, w, cpu=fast, default=plain)
