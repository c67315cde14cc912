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
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.convolution.conv import check_input_fits, kernel_shapes
from fnnet.layers.convolution.convolve import convolve
from fnnet.layers.convolution.window import Padding, Pads, PerAxis, check_arguments, per_axis
from fnnet.layers.dense import add_bias, product
from fnnet.layers.draw import check_initializers, draw


@printable
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
    """Transposed convolution: the gradient of `conv`, with the same arguments, with respect to its input.

        y[i * stride + k * dilation - low, o] = b[o] + sum_{k, c} w[k, c, o] x[i, c]

    The sum is over all pairs of i and k that lead to the same element of y. What falls outside y is dropped. c
    runs over the channels of o's group.

    Shapes: x (batch, *space, in), w (*window, in / groups, features), b (features,),
    y (batch, *space', features), with 1 to 3 spatial axes. With reach = (window - 1) dilation + 1 the size is

        "SAME":                 space' = space stride,                    low = max(reach - stride, 0) // 2
        "VALID":                space' = (space - 1) stride + reach,      low = 0
        ((low, high), ...):     space' = (space - 1) stride + reach - low - high

    The kernel is not flipped, and its last axis holds the outputs, as in all layers. For one group, w is the kernel
    of the corresponding conv with its last two axes exchanged. PyTorch's ConvTranspose stores it as
    (in, features / groups, *window). Its `padding` p and `output_padding` q are the pair (p, p - q) here, and its
    default is "VALID". A negative low or high extends y by elements that get b and whatever reaches them.

    Args:
        features: channels of y.
        window: size of the kernel: one int for all spatial axes, or one per axis.
        strides: distance in y between the positions of two neighbours in x.
        padding: "SAME", "VALID" or ((low, high), ...), a pair per axis: how many elements to cut off the ends of
            y, as above.
        dilation: distance between the elements of the kernel. 1 is an ordinary kernel.
        groups: how many groups of channels are convolved separately.
        use_bias: whether to add b.
        w_init: initializer of w. The default is He's normal. An element of y sums over only about window / stride
            elements of the kernel, so with large strides y has a smaller variance than fan_in promises.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes or the channels of w, groups does not divide the
            channels or the features, nothing is left of y, or params have other shapes.

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
    check.flag("conv_transpose", "use_bias", use_bias)
    check_initializers("conv_transpose", {"w_init": w_init, "b_init": b_init})
    if features % groups:
        raise ValueError(
            f"conv_transpose: {features} features in {groups} groups, wanted a multiple of the groups"
        )

    def shapes(x: Any) -> dict[str, Any]:
        return kernel_shapes("conv_transpose", x, features, window, groups, use_bias)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return draw("conv_transpose", key, shapes(x), {"w": w_init, "b": b_init}, jnp.result_type(x)), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_input_fits("conv_transpose", x, params, "w", groups)
        check.has_shapes("conv_transpose", "params", params, shapes(x))
        check.has_shapes("conv_transpose", "state", state, {})
        w = params["w"]
        numbers = _numbers(x, w, strides, padding, dilation)
        dtype = jnp.result_type(x, w)
        return add_bias(_convolve_transposed(x.astype(dtype), w.astype(dtype), *numbers, groups), params), {}

    return Layer(init, apply, "conv_transpose")


def _numbers(
    x: Any, w: Any, strides: PerAxis, padding: Padding, dilation: PerAxis
) -> tuple[tuple[int, ...], Pads, tuple[int, ...]]:
    """Strides, what is cut off (low, high), and dilation, per spatial axis. Raises if nothing is left of y."""
    sizes = x.shape[1:-1]
    stride = per_axis("conv_transpose", "strides", strides, len(sizes))
    dilate = per_axis("conv_transpose", "dilation", dilation, len(sizes))
    reach = [(n - 1) * d + 1 for n, d in zip(w.shape[:-2], dilate, strict=True)]
    if isinstance(padding, str) and padding == "VALID":
        cuts = ((0, 0),) * len(sizes)
    elif isinstance(padding, str):
        low = [max(r - s, 0) // 2 for r, s in zip(reach, stride, strict=True)]
        cuts = tuple((a, r - s - a) for a, r, s in zip(low, reach, stride, strict=True))
    else:
        cuts = tuple((int(a), int(b)) for a, b in padding)
    if len(cuts) != len(sizes):
        raise ValueError(
            f"conv_transpose: padding={padding!r} and {len(sizes)} spatial axes, wanted a pair for each"
        )
    if any(n < 1 or size < 1 for n, size in zip(sizes, _sizes(sizes, reach, stride, cuts), strict=True)):
        raise ValueError(
            f"conv_transpose: input is {check.describe(x)}, the window reaches over {tuple(reach)} and "
            f"padding {cuts} is cut off, wanted something to be left of the output; use less padding"
        )
    return stride, cuts, dilate


def _sizes(sizes: Any, reach: Any, strides: Any, cuts: Any) -> list[int]:
    """The sizes of the output's spatial axes."""
    return [
        (n - 1) * s + r - low - high for n, r, s, (low, high) in zip(sizes, reach, strides, cuts, strict=True)
    ]


def _convolve_transposed(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    cuts: Pads,
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    """y[i * stride + k * dilation - low] = sum_k x[i] w[k], in the form that is fastest on the device."""
    window = w.shape[:-2]
    axes = len(window)
    reach = [(n - 1) * d + 1 for n, d in zip(window, dilation, strict=True)]
    flipped_pads = tuple((r - 1 - low, r - 1 - high) for r, (low, high) in zip(reach, cuts, strict=True))
    flip = partial(jnp.flip, axis=tuple(range(axes)))
    if max(strides) == 1:
        return convolve(x, flip(w), strides, flipped_pads, dilation, groups)

    # The plain form, a convolution of x with zeros between its elements, multiplies those zeros, too. With one
    # product per element of the window instead, the gradients of x and w at 16x16x16x64 -> 32x32x32, strides 2,
    # window 4x4, take 17 instead of 145 ms, and 7 instead of 253 in a scan; window 3x3: 3.7 instead of 40, and
    # 3.7 instead of 125 (the least of 21 runs; jax 0.10.1, two cores).
    def fast(x: jax.Array, w: jax.Array) -> jax.Array:
        if groups > 1 and w.shape[-2] > 1:
            parts = zip(jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1), strict=True)
            return jnp.concatenate(
                [_convolve_transposed(a, b, strides, cuts, dilation, 1) for a, b in parts], axis=-1
            )
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
            x, flip(w), (1,) * axes, flipped_pads, strides, dilation, layout, feature_group_count=groups
        )

    return lax.platform_dependent(x, w, cpu=fast, default=plain)
