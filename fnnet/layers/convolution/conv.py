"""Convolution over 1 to 3 spatial axes (Fukushima 1980; LeCun et al. 1989), depthwise and separable."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State
from fnnet.layers.convolution.convolve import convolve
from fnnet.layers.convolution.window import (
    LAYOUT,
    Padding,
    PerAxis,
    check_arguments,
    pad_widths,
    per_axis,
    spatial_axes,
)
from fnnet.layers.keys import keys_for


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
        return init_kernel("conv", key, x, features, window, groups, w_init, b_init if use_bias else None), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        axes = spatial_axes("conv", x)
        check.has_keys("conv", "params", params, ("w", "b") if use_bias else ("w",))
        w = params["w"]
        check_kernel("conv", x, w, groups)
        stride = per_axis("conv", "strides", strides, axes)
        dilate = per_axis("conv", "dilation", dilation, axes)
        pads = pad_widths("conv", x, w.shape[:-2], stride, padding, dilate)
        dtype = jnp.result_type(x, w)
        y = convolve(x.astype(dtype), w.astype(dtype), stride, pads, dilate, groups)
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "conv")


def init_kernel(
    layer: str,
    key: chex.PRNGKey,
    x: Any,
    features: int,
    window: PerAxis,
    groups: int,
    w_init: Initializer,
    b_init: Initializer | None,
) -> Params:
    """The params of a convolution: w (*window, in / groups, features), and b unless there is no b_init."""
    axes = spatial_axes(layer, x)
    channels = x.shape[-1]
    if channels % groups:
        raise ValueError(
            f"{layer}: input is {check.describe(x)}, wanted channels that {groups} groups divide"
        )
    w_key, b_key = keys_for(key, w_init, b_init or initializers.zeros)
    shape = (*per_axis(layer, "window", window, axes), channels // groups, features)
    dtype = jnp.result_type(x)
    params = {"w": w_init(w_key, shape, dtype)}
    if b_init is not None:
        params["b"] = b_init(b_key, (features,), dtype)
    return params


def check_kernel(layer: str, x: Any, w: Any, groups: int) -> None:
    """Raises unless the input has the axes and the channels of the kernel w."""
    if w.ndim != len(x.shape) or x.shape[-1] != w.shape[-2] * groups:
        raise ValueError(
            f"{layer}: input is {check.describe(x)} and w {check.describe(w)}, wanted an input {LAYOUT} "
            f"with {w.ndim - 2} spatial axes and {w.shape[-2] * groups} channels"
        )


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
        w_key, b_key = keys_for(key, w_init, b_init if use_bias else initializers.zeros)
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
        y = convolve(x.astype(dtype), w.astype(dtype), stride, pads, dilate, x.shape[-1])
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
        inits = (depthwise_init, pointwise_init, b_init if use_bias else initializers.zeros)
        depthwise_key, pointwise_key, b_key = keys_for(key, *inits)
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
        z = convolve(x.astype(dtype), depthwise.astype(dtype), stride, pads, dilate, x.shape[-1])
        ones = (1,) * axes
        y = convolve(z, pointwise.astype(dtype), ones, ((0, 0),) * axes, ones, 1)
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "separable_conv")


def _has_channels(layer: str, name: str, x: Any, w: Any, multiplier: int) -> None:
    """Raises unless the depthwise kernel w fits to the input."""
    if w.ndim != len(x.shape) or w.shape[-1] != x.shape[-1] * multiplier:
        raise ValueError(
            f"{layer}: input is {check.describe(x)} and {name} {check.describe(w)}, wanted an input {LAYOUT} "
            f"with {w.ndim - 2} spatial axes and {w.shape[-1] // multiplier} channels"
        )
