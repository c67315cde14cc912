"""Convolution over 1 to 3 spatial axes (Fukushima 1980; LeCun et al. 1989)."""

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

    k runs over the window and c over the channels of o's group; low is the padding in front.

    Shapes: x (batch, *space, in), w (*window, in / groups, features), b (features,),
    y (batch, *space', features), with 1 to 3 spatial axes and
    space' = (space + low + high - (window - 1) dilation - 1) // stride + 1.

    Args:
        features: channels of y.
        window: size of the kernel: one int for all spatial axes, or one per axis.
        strides: step of the window, in elements.
        padding: "SAME" (space' = ceil(space / stride)), "VALID" (none), or ((low, high), ...), how many zeros
            to add, a pair per axis.
        dilation: distance between the elements of the kernel. 1 is an ordinary convolution.
        groups: how many groups of channels are convolved separately. As many groups as channels give a depthwise
            convolution.
        use_bias: whether to add b.
        w_init: initializer of w. The default is He's normal, for a layer followed by relu.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input does not have 1 to 3 spatial axes or the channels of w, groups does not divide the
            channels or the features, the window does not fit, or params have other shapes.

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
    check.flag("conv", "use_bias", use_bias)
    check_initializers("conv", {"w_init": w_init, "b_init": b_init})
    if features % groups:
        raise ValueError(f"conv: {features} features in {groups} groups, wanted a multiple of the groups")

    def shapes(x: Any) -> dict[str, Any]:
        return kernel_shapes("conv", x, features, window, groups, use_bias)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return draw("conv", key, shapes(x), {"w": w_init, "b": b_init}, jnp.result_type(x)), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_input_fits("conv", x, params, "w", groups)
        check.has_shapes("conv", "params", params, shapes(x))
        check.has_shapes("conv", "state", state, {})
        w = params["w"]
        numbers = conv_numbers("conv", x, w, strides, padding, dilation)
        dtype = jnp.result_type(x, w)
        return add_bias(convolve(x.astype(dtype), w.astype(dtype), *numbers, groups), params), {}

    return Layer(init, apply, "conv")


def kernel_shapes(
    layer: str, x: Any, features: int, window: PerAxis, groups: int, use_bias: bool
) -> dict[str, Any]:
    """The shapes of the params of a convolution: w (*window, in / groups, features), and b."""
    axes, channels = spatial_axes(layer, x), x.shape[-1]
    if channels % groups:
        raise ValueError(
            f"{layer}: input is {check.describe(x)}, wanted channels that {groups} groups divide"
        )
    w = (*per_axis(layer, "window", window, axes), channels // groups, features)
    return {"w": w} | ({"b": (features,)} if use_bias else {})


def check_input_fits(layer: str, x: Any, params: Any, name: str, groups: int) -> None:
    """Raises if the input has other spatial axes or channels than a kernel, which is likelier than a wrong kernel."""
    spatial_axes(layer, x)
    w: Any = params.get(name) if isinstance(params, dict) else None
    rank = len(getattr(w, "shape", ()))
    if rank >= 3 and (rank != len(x.shape) or x.shape[-1] != w.shape[-2] * groups):
        raise ValueError(
            f"{layer}: input is {check.describe(x)} and {name} {check.describe(w)}, wanted an input {LAYOUT} "
            f"with {rank - 2} spatial axes and {w.shape[-2] * groups} channels"
        )
