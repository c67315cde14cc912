"""Depthwise and depthwise separable convolution (Sifre 2014; Chollet 2017)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.convolution.convolve import convolve
from fnnet.layers.convolution.window import (
    LAYOUT,
    Padding,
    PerAxis,
    check_arguments,
    conv_numbers,
    per_axis,
    spatial_axes,
)
from fnnet.layers.dense import add_bias
from fnnet.layers.keys import keys_for


@printable
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
    """Depthwise convolution: each channel is convolved separately, with `multiplier` kernels of its own.

        y[i, c multiplier + m] = b[c multiplier + m]
            + sum_k w[k, 0, c multiplier + m] x[i * stride + k * dilation - low, c]

    Shapes: x (batch, *space, channels), w (*window, 1, channels * multiplier), b (channels * multiplier,),
    y (batch, *space', channels * multiplier), with 1 to 3 spatial axes; space' as in `conv`.

    Args:
        window: size of the kernels: one int for all spatial axes, or one per axis.
        multiplier: outputs per channel. 1 keeps the number of channels.
        strides: step of the window, in elements.
        padding: "SAME" (space' = ceil(space / stride)), "VALID" (none), or ((low, high), ...), how many zeros
            to add, a pair per axis.
        dilation: distance between the elements of the kernel. 1 is an ordinary convolution.
        use_bias: whether to add b.
        w_init: initializer of w. The default is He's normal, for a layer followed by relu.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes or the channels of w, or the window does not fit.

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
        axes = _check_input("depthwise_conv", x)
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
        _check("depthwise_conv", params, x, ("w", "b") if use_bias else ("w",), multiplier)
        w = params["w"]
        numbers = conv_numbers("depthwise_conv", x, w, strides, padding, dilation)
        dtype = jnp.result_type(x, w)
        return add_bias(convolve(x.astype(dtype), w.astype(dtype), *numbers, x.shape[-1]), params), {}

    return Layer(init, apply, "depthwise_conv")


@printable
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
    """Depthwise separable convolution: a depthwise convolution, then a convolution with a window of 1.

        z[i, c multiplier + m] = sum_k depthwise[k, 0, c multiplier + m] x[i * stride + k * dilation - low, c]
        y[i, o] = b[o] + sum_j pointwise[j, o] z[i, j]

    There is no bias and no activation between the two.

    Shapes: x (batch, *space, channels), depthwise (*window, 1, channels * multiplier),
    pointwise (*1s, channels * multiplier, features), with a 1 for each spatial axis, b (features,),
    y (batch, *space', features), with 1 to 3 spatial axes; space' as in `conv`.

    Args:
        features: channels of y.
        window: size of the depthwise kernels: one int for all spatial axes, or one per axis.
        multiplier: channels of z per channel of x.
        strides: step of the window, in elements.
        padding: "SAME" (space' = ceil(space / stride)), "VALID" (none), or ((low, high), ...), how many zeros
            to add, a pair per axis.
        dilation: distance between the elements of the kernel. 1 is an ordinary convolution.
        use_bias: whether to add b.
        depthwise_init: initializer of depthwise. The default is LeCun's normal, since no activation follows.
        pointwise_init: initializer of pointwise. The default is He's normal, for a layer followed by relu.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes or the channels of the kernels, or the window does
            not fit.

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
    names = ("depthwise", "pointwise", "b") if use_bias else ("depthwise", "pointwise")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        axes = _check_input("separable_conv", x)
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
        _check("separable_conv", params, x, names, multiplier)
        depthwise, pointwise = params["depthwise"], params["pointwise"]
        numbers = conv_numbers("separable_conv", x, depthwise, strides, padding, dilation)
        dtype = jnp.result_type(x, depthwise, pointwise)
        z = convolve(x.astype(dtype), depthwise.astype(dtype), *numbers, x.shape[-1])
        ones = (1,) * (x.ndim - 2)
        y = convolve(z, pointwise.astype(dtype), ones, ((0, 0),) * len(ones), ones, 1)
        return add_bias(y, params), {}

    return Layer(init, apply, "separable_conv")


def _check_input(layer: str, x: Any) -> int:
    """The number of spatial axes. Raises if the input has none, or no channels."""
    axes = spatial_axes(layer, x)
    check.is_positive(layer, "channels", x.shape[-1])
    return axes


def _check(layer: str, params: Params, x: Any, names: tuple[str, ...], multiplier: int) -> None:
    """Raises unless the params have the names, and the depthwise kernel, the first of them, fits the input."""
    spatial_axes(layer, x)
    check.has_keys(layer, "params", params, names)
    w = params[names[0]]
    if w.ndim != len(x.shape) or w.shape[-1] != x.shape[-1] * multiplier:
        raise ValueError(
            f"{layer}: input is {check.describe(x)} and {names[0]} {check.describe(w)}, wanted an input "
            f"{LAYOUT} with {w.ndim - 2} spatial axes and {w.shape[-1] // multiplier} channels"
        )
