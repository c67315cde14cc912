"""The operation behind the convolutions, in forms that are fast on a CPU, also inside a scan."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from fnnet.layers.convolution.window import Pads, shifts
from fnnet.layers.dense import product


def convolve(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    """Convolution of x (batch, *space, in) with the kernel w (*window, in / groups, features).

        y[i, o] = sum_{k, c} w[k, c, o] x[i * stride + k * dilation - low, c]

    strides, pads and dilation have one entry per spatial axis.
    """
    window = w.shape[:-2]
    if groups == 1:
        # With a window of 1 it is a matrix product, which takes 0.4 to 0.75 of the time (16x32x32 pixels, 16 or
        # 64 channels to 64, forward and backward; jax 0.10.1, two CPU cores).
        if math.prod(window) == max(strides) == 1 and not any(map(any, pads)):
            return product(x, w[(0,) * len(window)])
        return _conv(x, w, strides, pads, dilation, 1)

    # XLA's CPU backend is slow at grouped convolutions. So a depthwise one is a sum of shifted arrays, and groups
    # are convolved one by one. Gradients of x and w at 16x32x32x64, window 3x3: depthwise 55 -> 3.2 ms, in a scan
    # 53 -> 3.4; 8 groups 1298 -> 19 ms, in a scan 97 -> 22 (the least of 21 runs; jax 0.10.1, two cores; PyTorch
    # takes 2 and 7). Large windows are excluded: a sum of hundreds of shifts takes long to compile. With the
    # checkpoint, the backward pass keeps x and w instead of every shift.
    def fast(x: jax.Array, w: jax.Array) -> jax.Array:
        if w.shape[-2] == 1 and math.prod(window) <= 64:
            wide = jnp.result_type(x, jnp.float32)
            each = jnp.repeat(x, w.shape[-1] // groups, axis=-1).astype(wide)
            return _depthwise(each, w.astype(wide), strides, pads, dilation).astype(x.dtype)
        if w.shape[-2] == 1:
            return plain(x, w)
        parts = zip(jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1), strict=True)
        return jnp.concatenate([convolve(a, b, strides, pads, dilation, 1) for a, b in parts], axis=-1)

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return _conv(x, w, strides, pads, dilation, groups)

    return jax.checkpoint(partial(lax.platform_dependent, cpu=fast, default=plain), prevent_cse=False)(x, w)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _conv(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    space = "DHW"[-len(strides) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        x, w, strides, pads, None, dilation, dimension_numbers=layout, feature_group_count=groups
    )


# XLA's CPU backend is fast at one layout, (batch, *space, in) with (*window, in, out), and converts others to it
# only outside loops. JAX's own gradients have other layouts: inside a lax.scan, where training runs live, they are
# 13 to 85 times slower (jax issue #12868). So the derivative below is written in layouts whose transpose, which is
# what backprop runs, is the fast one: for dx with in and out of the kernel exchanged, for dw with batch and
# channels exchanged.
def _derivative(
    strides: tuple[int, ...],
    pads: Pads,
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
        rhs_dilation=dilation,
        feature_group_count=groups,
    )
    if not isinstance(dx, SymbolicZero):
        layout = (f"N{space}C", f"{space}OI", f"N{space}C")
        dy += convolve(dx, jnp.swapaxes(w, -1, -2), padding=pads, dimension_numbers=layout)
    if not isinstance(dw, SymbolicZero):
        layout = (f"C{space}N", f"I{space}O", f"{space}NC")

        def along_w(x: jax.Array, dw: jax.Array, pads: Pads = pads) -> jax.Array:
            x, dw = jnp.swapaxes(x, 0, -1), jnp.moveaxis(dw, -2, 0)
            return jnp.moveaxis(convolve(x, dw, padding=pads, dimension_numbers=layout), -2, 0)

        # For images with few channels XLA's CPU backend has a better kernel for dw, which it uses if dy is
        # larger than x. So y gets more rows than x, which are then dropped, and x is padded along the other axis
        # beforehand. 28x28 pixels, 5x5 to 32 features, batch 128: one channel 7.0 -> 2.4 ms, two 9.3 -> 4.2,
        # four 11.2 -> 8.6; from 32 channels on it is slower (jax 0.10.1 and 0.12, two cores).
        rows = 1 + x.shape[1] - y.shape[1]

        def taller(x: jax.Array, dw: jax.Array) -> jax.Array:
            (low, high), columns = pads
            x = jnp.pad(x, ((0, 0), (0, 0), columns, (0, 0)))
            return along_w(x, dw, ((low, high + rows), (0, 0)))[:, : y.shape[1]]

        simple = len(strides) == 2 and max(strides + dilation) == groups == 1
        if simple and x.shape[-1] <= 4 and y.shape[1] >= 20 and 0 < rows <= y.shape[1] // 4:
            dy += lax.platform_dependent(x, dw, cpu=taller, default=along_w)
        else:
            dy += along_w(x, dw)
    return y, dy


_conv.defjvp(_derivative, symbolic_zeros=True)


def _sum_of_shifts(
    x: jax.Array,
    w: jax.Array,
    strides: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
) -> jax.Array:
    shifts = _shifts(x, w.shape[:-2], strides, pads, dilation)
    return sum((x_k * jnp.broadcast_to(w[(*k, 0)], x_k.shape) for k, x_k in shifts), jnp.zeros((), x.dtype))


_depthwise = jax.custom_jvp(_sum_of_shifts, nondiff_argnums=(2, 3, 4))


# The gradient of w is a sum over all axes but the last, which XLA's CPU backend does not vectorise inside a
# fusion (29 ms in the case above, 1.7 here). So dw is broadcast to y in two steps. Their transposes first add 8
# pieces element by element, then sum the result. The barrier keeps XLA from merging the two into one sum again.
def _depthwise_derivative(
    strides: tuple[int, ...],
    pads: Pads,
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
    pads: Pads,
    dilation: tuple[int, ...],
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """Pairs of an element k of the window and what it sees: x[i * stride + k * dilation - low] for all i."""
    # The padding of a transposed convolution may be negative.
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))
    return shifts(x, window, strides, dilation)
