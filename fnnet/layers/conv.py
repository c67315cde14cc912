"""Convolution over 1 to 3 spatial axes (Fukushima 1980; LeCun et al. 1989), its kin and its transpose."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State
from fnnet.layers.window import LAYOUT, Padding, PerAxis, check_arguments, pad_widths, per_axis, spatial_axes


def conv(
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
    """Convolution (as a cross-correlation: the kernel is not flipped).

        y[i, o] = b[o] + sum_{k, c} w[k, c, o] x[i * stride + k * dilation - low, c]

    k runs over the window, c over the channels of o's group, low is the padding in front.

    Shapes: x (batch, *space, in), w (*window, in / groups, features), b (features,),
    y (batch, *space', features), with 1 to 3 spatial axes;
    space' = (space + low + high - (window - 1) dilation - 1) // stride + 1.

    Args:
        features: channels of y.
        window: size of the kernel, for each spatial axis; an int for all of them.
        strides: step of the window, in elements.
        padding: "SAME" (space' = ceil(space / stride)), "VALID" (none), or ((low, high), ...), zeros for each
            axis.
        dilation: distance of the kernel's elements; 1 is a plain window.
        groups: parts of the channels that do not see each other; as many as channels is a depthwise
            convolution.
        use_bias: whether there is b.
        w_init: initializer of w; He's normal, for a relu behind it.
        b_init: initializer of b; zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes or not w's channels, groups divides the channels or
            the features with a remainder, or the window does not fit.

    Example:
        >>> layer = fn.conv(1, 3, padding="VALID", w_init=fn.initializers.ones)
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).squeeze()
        Array([3., 6., 9.], dtype=float32)
    """
    check.is_positive("conv", "features", features)
    check.is_positive("conv", "groups", groups)
    check_arguments("conv", padding, window=window, strides=strides, dilation=dilation)
    if features % groups:
        raise ValueError(f"conv: {features} features in {groups} groups, wanted a multiple of the groups")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        axes = spatial_axes("conv", x)
        channels = x.shape[-1]
        if channels % groups:
            raise ValueError(
                f"conv: input is {check.describe(x)}, wanted channels that {groups} groups divide"
            )
        w_key, b_key = jax.random.split(key)
        shape = (*per_axis("conv", "window", window, axes), channels // groups, features)
        dtype = jnp.result_type(x)
        params = {"w": w_init(w_key, shape, dtype)}
        if use_bias:
            params["b"] = b_init(b_key, (features,), dtype)
        return params, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        axes = spatial_axes("conv", x)
        check.has_keys("conv", "params", params, ("w", "b") if use_bias else ("w",))
        w = params["w"]
        if w.ndim != axes + 2 or x.shape[-1] != w.shape[-2] * groups:
            raise ValueError(
                f"conv: input is {check.describe(x)} and w {check.describe(w)}, wanted an input {LAYOUT} "
                f"with {w.ndim - 2} spatial axes and {w.shape[-2] * groups} channels"
            )
        stride = per_axis("conv", "strides", strides, axes)
        dilate = per_axis("conv", "dilation", dilation, axes)
        pads = pad_widths("conv", x, w.shape[:-2], stride, padding, dilate)
        dtype = jnp.result_type(x, w)
        y = _convolve(x.astype(dtype), w.astype(dtype), stride, pads, dilate, groups)
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "conv")


def depthwise_conv(
    window: PerAxis,
    *,
    multiplier: int = 1,
    strides: PerAxis = 1,
    padding: Padding = "SAME",
    dilation: PerAxis = 1,
    use_bias: bool = True,
    w_init: Initializer = initializers.kaiming_normal(),
    b_init: Initializer = initializers.zeros,
) -> Layer:
    """Depthwise convolution: each channel by itself, with `multiplier` kernels of its own.

        y[i, c multiplier + m] = b[c multiplier + m]
            + sum_k w[k, 0, c multiplier + m] x[i * stride + k * dilation - low, c]

    Shapes: x (batch, *space, channels), w (*window, 1, channels * multiplier), b (channels * multiplier,),
    y (batch, *space', channels * multiplier), with 1 to 3 spatial axes; space' as in `conv`.

    Args:
        window: size of the kernels, for each spatial axis; an int for all of them.
        multiplier: outputs for each channel; 1 keeps the number of channels.
        strides: step of the window, in elements.
        padding: "SAME" (space' = ceil(space / stride)), "VALID" (none), or ((low, high), ...), zeros for each
            axis.
        dilation: distance of the kernel's elements; 1 is a plain window.
        use_bias: whether there is b.
        w_init: initializer of w; He's normal, for a relu behind it.
        b_init: initializer of b; zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes or not w's channels, or the window does not fit.

    Source: Sifre 2014, "Rigid-motion scattering for image classification", PhD thesis, section 6.2.

    Example:
        >>> layer = fn.depthwise_conv(2, padding="VALID", w_init=fn.initializers.ones)
        >>> x = jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])[None]
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x)[0]
        Array([[ 3., 30.],
               [ 5., 50.]], dtype=float32)
    """
    check.is_positive("depthwise_conv", "multiplier", multiplier)
    check_arguments("depthwise_conv", padding, window=window, strides=strides, dilation=dilation)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        axes = spatial_axes("depthwise_conv", x)
        check.is_positive("depthwise_conv", "channels", x.shape[-1])
        w_key, b_key = jax.random.split(key)
        shape = (*per_axis("depthwise_conv", "window", window, axes), 1, x.shape[-1] * multiplier)
        dtype = jnp.result_type(x)
        params = {"w": w_init(w_key, shape, dtype)}
        if use_bias:
            params["b"] = b_init(b_key, shape[-1:], dtype)
        return params, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        axes = spatial_axes("depthwise_conv", x)
        check.has_keys("depthwise_conv", "params", params, ("w", "b") if use_bias else ("w",))
        w = params["w"]
        _has_channels("depthwise_conv", "w", x, w, multiplier)
        stride = per_axis("depthwise_conv", "strides", strides, axes)
        dilate = per_axis("depthwise_conv", "dilation", dilation, axes)
        pads = pad_widths("depthwise_conv", x, w.shape[:-2], stride, padding, dilate)
        dtype = jnp.result_type(x, w)
        y = _convolve(x.astype(dtype), w.astype(dtype), stride, pads, dilate, x.shape[-1])
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "depthwise_conv")


def separable_conv(
    features: int,
    window: PerAxis,
    *,
    multiplier: int = 1,
    strides: PerAxis = 1,
    padding: Padding = "SAME",
    dilation: PerAxis = 1,
    use_bias: bool = True,
    depthwise_init: Initializer = initializers.kaiming_normal("identity"),
    pointwise_init: Initializer = initializers.kaiming_normal(),
    b_init: Initializer = initializers.zeros,
) -> Layer:
    """Depthwise separable convolution: a depthwise one, then a convolution with a window of 1.

        z[i, c multiplier + m] = sum_k depthwise[k, 0, c multiplier + m] x[i * stride + k * dilation - low, c]
        y[i, o] = b[o] + sum_j pointwise[j, o] z[i, j]

    Nothing stands between the two: no bias, no activation.

    Shapes: x (batch, *space, channels), depthwise (*window, 1, channels * multiplier),
    pointwise (*1s, channels * multiplier, features), with a 1 for each spatial axis, b (features,),
    y (batch, *space', features), with 1 to 3 spatial axes; space' as in `conv`.

    Args:
        features: channels of y.
        window: size of the depthwise kernels, for each spatial axis; an int for all of them.
        multiplier: channels of z for each channel of x.
        strides: step of the window, in elements.
        padding: "SAME" (space' = ceil(space / stride)), "VALID" (none), or ((low, high), ...), zeros for each
            axis.
        dilation: distance of the kernel's elements; 1 is a plain window.
        use_bias: whether there is b.
        depthwise_init: initializer of depthwise; LeCun's normal, as nothing stands behind it.
        pointwise_init: initializer of pointwise; He's normal, for a relu behind it.
        b_init: initializer of b; zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not 1 to 3 spatial axes or not the kernels' channels, or the window does not
            fit.

    Source: Chollet 2017, "Xception: deep learning with depthwise separable convolutions", arXiv:1610.02357;
    Sifre 2014, "Rigid-motion scattering for image classification", PhD thesis, section 6.2.

    Example:
        >>> layer = fn.separable_conv(4, 3)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
        >>> jax.tree.map(jnp.shape, params)
        {'b': (4,), 'depthwise': (3, 3, 1, 2), 'pointwise': (1, 1, 2, 4)}
    """
    check.is_positive("separable_conv", "features", features)
    check.is_positive("separable_conv", "multiplier", multiplier)
    check_arguments("separable_conv", padding, window=window, strides=strides, dilation=dilation)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        axes = spatial_axes("separable_conv", x)
        check.is_positive("separable_conv", "channels", x.shape[-1])
        between = x.shape[-1] * multiplier
        depthwise_key, pointwise_key, b_key = jax.random.split(key, 3)
        shape = (*per_axis("separable_conv", "window", window, axes), 1, between)
        dtype = jnp.result_type(x)
        params = {
            "depthwise": depthwise_init(depthwise_key, shape, dtype),
            "pointwise": pointwise_init(pointwise_key, (*(1,) * axes, between, features), dtype),
        }
        if use_bias:
            params["b"] = b_init(b_key, (features,), dtype)
        return params, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        axes = spatial_axes("separable_conv", x)
        names = ("depthwise", "pointwise", "b") if use_bias else ("depthwise", "pointwise")
        check.has_keys("separable_conv", "params", params, names)
        depthwise, pointwise = params["depthwise"], params["pointwise"]
        _has_channels("separable_conv", "depthwise", x, depthwise, multiplier)
        stride = per_axis("separable_conv", "strides", strides, axes)
        dilate = per_axis("separable_conv", "dilation", dilation, axes)
        pads = pad_widths("separable_conv", x, depthwise.shape[:-2], stride, padding, dilate)
        dtype = jnp.result_type(x, depthwise, pointwise)
        z = _convolve(x.astype(dtype), depthwise.astype(dtype), stride, pads, dilate, x.shape[-1])
        ones = (1,) * axes
        y = _convolve(z, pointwise.astype(dtype), ones, ((0, 0),) * axes, ones, 1)
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "separable_conv")


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
        axes = spatial_axes("conv_transpose", x)
        channels = x.shape[-1]
        if channels % groups:
            raise ValueError(
                f"conv_transpose: input is {check.describe(x)}, wanted channels that {groups} groups divide"
            )
        w_key, b_key = jax.random.split(key)
        shape = (*per_axis("conv_transpose", "window", window, axes), channels // groups, features)
        dtype = jnp.result_type(x)
        params = {"w": w_init(w_key, shape, dtype)}
        if use_bias:
            params["b"] = b_init(b_key, (features,), dtype)
        return params, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        axes = spatial_axes("conv_transpose", x)
        check.has_keys("conv_transpose", "params", params, ("w", "b") if use_bias else ("w",))
        w = params["w"]
        if w.ndim != axes + 2 or x.shape[-1] != w.shape[-2] * groups:
            raise ValueError(
                f"conv_transpose: input is {check.describe(x)} and w {check.describe(w)}, wanted an input "
                f"{LAYOUT} with {w.ndim - 2} spatial axes and {w.shape[-2] * groups} channels"
            )
        stride = per_axis("conv_transpose", "strides", strides, axes)
        dilate = per_axis("conv_transpose", "dilation", dilation, axes)
        cuts = _cuts(x, w.shape[:-2], stride, padding, dilate)
        dtype = jnp.result_type(x, w)
        y = _transpose(x.astype(dtype), w.astype(dtype), stride, cuts, dilate, groups)
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "conv_transpose")


def _has_channels(layer: str, name: str, x: Any, w: Any, multiplier: int) -> None:
    """Raises unless the depthwise kernel w fits to the input."""
    if w.ndim != len(x.shape) or w.shape[-1] != x.shape[-1] * multiplier:
        raise ValueError(
            f"{layer}: input is {check.describe(x)} and {name} {check.describe(w)}, wanted an input {LAYOUT} "
            f"with {w.ndim - 2} spatial axes and {w.shape[-1] // multiplier} channels"
        )


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


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _conv(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    space = "DHW"[-len(strides) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        x, w, strides, pads, None, dilation, dimension_numbers=layout, feature_group_count=groups
    )


# XLA's CPU backend brings a convolution to its fast layout, (batch, *space, in) with (*window, in, out), only
# outside loops; JAX's own gradients are in other layouts, and 13 to 85 times slower inside a lax.scan, where
# training runs live (jax issue #12868). So the derivative below is stated in those layouts whose transpose,
# which is what backprop runs, is in the fast one: for dx with in and out exchanged in the kernel, for dw with
# batch and channels exchanged.
def _derivative(
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[Any, Any],
) -> tuple[jax.Array, jax.Array]:
    (x, w), (dx, dw) = primals, tangents
    y = _conv(x, w, strides, pads, dilation, groups)
    dy = jnp.zeros_like(y)
    space = "DHW"[-len(strides) :]
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        rhs_dilation=dilation,
        feature_group_count=groups,
    )
    if not isinstance(dx, SymbolicZero):
        layout = (f"N{space}C", f"{space}OI", f"N{space}C")
        dy += convolve(dx, jnp.swapaxes(w, -1, -2), dimension_numbers=layout)
    if not isinstance(dw, SymbolicZero):
        layout = (f"C{space}N", f"I{space}O", f"{space}NC")
        along_w = convolve(jnp.swapaxes(x, 0, -1), jnp.moveaxis(dw, -2, 0), dimension_numbers=layout)
        dy += jnp.moveaxis(along_w, -2, 0)
    return y, dy


_conv.defjvp(_derivative, symbolic_zeros=True)


def _convolve(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    """`_conv` in the form that is fast where it runs."""
    window = w.shape[:-2]
    if groups == 1:
        # With a window of 1 it is a product of matrices, which takes 0.4 to 0.75 of the time (16x32x32
        # pixels, 16 or 64 channels to 64, forward and backward; jax 0.10.1, two CPU cores).
        if math.prod(window) == max(strides) == 1 and not any(map(any, pads)):
            return _product(x, w[(0,) * len(window)])
        return _conv(x, w, strides, pads, dilation, 1)

    # XLA's CPU backend is slow at grouped convolutions. Gradients by x and w at 16x32x32x64, window 3x3:
    # depthwise 55 -> 3.2 ms, 53 -> 3.4 in a scan, as sums of shifted arrays; 8 groups 1298 -> 19 ms, 97 -> 22
    # in a scan, one by one (the least of 21 runs; jax 0.10.1, two cores; PyTorch 2 and 7). A sum of hundreds
    # of shifts takes long to compile. The checkpoint keeps x and w for the backward pass, not each shift.
    def fast(x: jax.Array, w: jax.Array) -> jax.Array:
        if w.shape[-2] == 1 and math.prod(window) <= 64:
            wide = jnp.result_type(x, jnp.float32)
            each = jnp.repeat(x, w.shape[-1] // groups, axis=-1).astype(wide)
            return _depthwise(each, w.astype(wide), strides, pads, dilation).astype(x.dtype)
        if w.shape[-2] == 1:
            return plain(x, w)
        parts = zip(jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1), strict=True)
        return jnp.concatenate([_convolve(a, b, strides, pads, dilation, 1) for a, b in parts], axis=-1)

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return _conv(x, w, strides, pads, dilation, groups)

    return jax.checkpoint(partial(lax.platform_dependent, cpu=fast, default=plain), prevent_cse=False)(x, w)


def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    # On two axes: XLA's CPU backend is slow at the weight gradient of a product with more.
    return (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])


def _sum_of_shifts(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> jax.Array:
    shifts = _shifts(x, w.shape[:-2], strides, pads, dilation)
    return sum((x_k * jnp.broadcast_to(w[(*k, 0)], x_k.shape) for k, x_k in shifts), jnp.zeros((), x.dtype))


_depthwise = jax.custom_jvp(_sum_of_shifts, nondiff_argnums=(2, 3, 4))


# The gradient by w is a sum over all axes but the last, which XLA's CPU backend does not vectorise inside a
# fusion (29 ms in the case above, 1.7 here). So dw is spread over y in steps, whose transposes are: add 8
# pieces, element by element; sum what is left, behind a barrier that keeps XLA from making it one sum again.
def _depthwise_derivative(
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[Any, Any],
) -> tuple[jax.Array, jax.Array]:
    (x, w), (dx, dw) = primals, tangents
    y = _depthwise(x, w, strides, pads, dilation)
    dy = jnp.zeros_like(y)
    if not isinstance(dx, SymbolicZero):
        dy += _sum_of_shifts(dx, w, strides, pads, dilation)
    if not isinstance(dw, SymbolicZero):
        axis = int(np.argmax(y.shape[:-1]))
        n = y.shape[axis]
        pieces = min(n, 8)
        piece = list(y.shape)
        piece[axis] = -(-n // pieces)
        for k, x_k in _shifts(x, w.shape[:-2], strides, pads, dilation):
            spread = jnp.broadcast_to(lax.optimization_barrier(dw[(*k, 0)]), piece)
            spread = jnp.concatenate([lax.optimization_barrier(spread)] * pieces, axis)
            dy += x_k * lax.slice_in_dim(spread, 0, n, axis=axis)
    return y, dy


_depthwise.defjvp(_depthwise_derivative, symbolic_zeros=True)


def _shifts(
    x: jax.Array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """For each element k of the window, what it sees: x[i * stride + k * dilation - low] for all i."""
    # The padding of a transpose may be negative.
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))
    space = [n - (size - 1) * d for n, size, d in zip(x.shape[1:-1], window, dilation, strict=True)]
    for k in np.ndindex(*window):
        start = [a * d for a, d in zip(k, dilation, strict=True)]
        stop = [a + n for a, n in zip(start, space, strict=True)]
        yield k, lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))


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
        return _convolve(x, flip(w), strides, turned, dilation, groups)

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
            y_k = _product(x, w[k]) if groups == 1 else x * jnp.broadcast_to(w[(*k, 0)], x.shape)
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
