"""Convolution over 1 to 3 spatial axes (Fukushima 1980; LeCun et al. 1989)."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
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
        y = _conv(x.astype(dtype), w.astype(dtype), stride, pads, dilate, groups)
        return (y + jnp.broadcast_to(params["b"], y.shape) if use_bias else y), {}

    return Layer(init, apply, "conv")


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
