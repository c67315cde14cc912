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
from fnnet.layers.draw import check_initializers, draw


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
        ValueError: the input does not have 1 to 3 spatial axes or the channels of w, the window does not fit, or
            params have other shapes.

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
    check.flag("depthwise_conv", "use_bias", use_bias)
    check_initializers("depthwise_conv", {"w_init": w_init, "b_init": b_init})

    def shapes(x: Any) -> dict[str, Any]:
        w = _depthwise_shape("depthwise_conv", x, window, multiplier)
        return {"w": w} | ({"b": w[-1:]} if use_bias else {})

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return draw("depthwise_conv", key, shapes(x), {"w": w_init, "b": b_init}, jnp.result_type(x)), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check_input_fits("depthwise_conv", x, params, "w", multiplier)
        check.has_shapes("depthwise_conv", "params", params, shapes(x))
        check.has_shapes("depthwise_conv", "state", state, {})
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
        ValueError: the input does not have 1 to 3 spatial axes or the channels of the kernels, the window does
            not fit, or params have other shapes.

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
    check.flag("separable_conv", "use_bias", use_bias)
    inits = {"depthwise": depthwise_init, "pointwise": pointwise_init, "b": b_init}
    check_initializers(
        "separable_conv",
        {"depthwise_init": depthwise_init, "pointwise_init": pointwise_init, "b_init": b_init},
    )

    def shapes(x: Any) -> dict[str, Any]:
        depthwise = _depthwise_shape("separable_conv", x, window, multiplier)
        ones = (1,) * (len(depthwise) - 2)
        pointwise = (*ones, depthwise[-1], features)
        return {"depthwise": depthwise, "pointwise": pointwise} | ({"b": (features,)} if use_bias else {})

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return draw("separable_conv", key, shapes(x), inits, jnp.result_type(x)), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check_input_fits("separable_conv", x, params, "depthwise", multiplier)
        check.has_shapes("separable_conv", "params", params, shapes(x))
        check.has_shapes("separable_conv", "state", state, {})
        depthwise, pointwise = params["depthwise"], params["pointwise"]
        numbers = conv_numbers("separable_conv", x, depthwise, strides, padding, dilation)
        dtype = jnp.result_type(x, depthwise, pointwise)
        z = convolve(x.astype(dtype), depthwise.astype(dtype), *numbers, x.shape[-1])
        ones = (1,) * (x.ndim - 2)
        y = convolve(z, pointwise.astype(dtype), ones, ((0, 0),) * len(ones), ones, 1)
        return add_bias(y, params), {}

    return Layer(init, apply, "separable_conv")


def _depthwise_shape(layer: str, x: Any, window: PerAxis, multiplier: int) -> tuple[int, ...]:
    """The shape of a depthwise kernel: (*window, 1, channels * multiplier)."""
    axes = spatial_axes(layer, x)
    check.is_positive(layer, "channels", x.shape[-1])
    return (*per_axis(layer, "window", window, axes), 1, x.shape[-1] * multiplier)


def _check_input_fits(layer: str, x: Any, params: Any, name: str, multiplier: int) -> None:
    """Raises if the input has other spatial axes or channels than a depthwise kernel."""
    spatial_axes(layer, x)
    w: Any = params.get(name) if isinstance(params, dict) else None
    rank = len(getattr(w, "shape", ()))
    if rank >= 3 and w.shape[-1] % multiplier == 0:
        channels = w.shape[-1] // multiplier
        if rank != len(x.shape) or x.shape[-1] != channels:
            raise ValueError(
                f"{layer}: input is {check.describe(x)} and {name} {check.describe(w)}, wanted an input {LAYOUT} "
                f"with {rank - 2} spatial axes and {channels} channels"
            )
