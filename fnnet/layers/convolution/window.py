"""Windows of convolution and pooling: sizes, strides, padding and dilation, with one entry per spatial axis."""

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import jax
import numpy as np
from jax import lax

from fnnet import check

PerAxis = int | Sequence[int]
Padding = str | Sequence[tuple[int, int]]
Pads = tuple[tuple[int, int], ...]

LAYOUT = "(batch, 1 to 3 spatial axes, channels)"


def check_arguments(layer: str, padding: Padding, *, negative: bool = False, **sizes: PerAxis) -> None:
    """Checks a layer's arguments when it is made, as far as that is possible without an input."""
    for name, value in sizes.items():
        for n in value if isinstance(value, Sequence) else (value,):
            check.is_positive(layer, name, n)
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        raise ValueError(
            f"{layer}: padding={padding!r}, wanted 'SAME', 'VALID' or ((low, high), ...)"
            + check.did_you_mean(padding.upper(), ("SAME", "VALID"))
        )
    if not isinstance(padding, str):
        pairs = padding if isinstance(padding, Sequence) else [padding]
        if not all(
            isinstance(pair, Sequence)
            and len(pair) == 2
            and all(
                isinstance(n, Integral) and not isinstance(n, bool) and (negative or n >= 0) for n in pair
            )
            for pair in pairs
        ):
            raise ValueError(
                f"{layer}: padding={padding!r}, wanted 'SAME', 'VALID' or ((low, high), ...): a pair of ints "
                "for each axis" + ("" if negative else ", not negative")
            )


def spatial_axes(layer: str, x: Any) -> int:
    """The number of spatial axes of the input. Raises unless there are 1 to 3."""
    check.is_floating(layer, x)
    if not 3 <= len(x.shape) <= 5:
        raise ValueError(f"{layer}: input is {check.describe(x)}, wanted {LAYOUT}")
    return len(x.shape) - 2


def per_axis(layer: str, name: str, value: PerAxis, axes: int) -> tuple[int, ...]:
    """One number per spatial axis. An int stands for all of them."""
    numbers = tuple(map(int, value if isinstance(value, Sequence) else (value,) * axes))
    if len(numbers) != axes:
        raise ValueError(
            f"{layer}: {name}={value!r} and {axes} spatial axes in the input, wanted one number for each"
        )
    return numbers


def pad_widths(
    layer: str,
    x: Any,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Padding,
    dilation: tuple[int, ...],
) -> Pads:
    """The padding (low, high) of each spatial axis. Raises if the window does not fit into the padded input.

    "SAME" is TensorFlow's: outputs = ceil(inputs / stride), an odd element goes on the high side. "VALID" is none.
    """
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    sizes = x.shape[1:-1]
    if isinstance(padding, str):
        pads = tuple(lax.padtype_to_pads(sizes, reach, strides, padding))
    else:
        pads = tuple((int(low), int(high)) for low, high in padding)
    if len(pads) != len(sizes):
        raise ValueError(
            f"{layer}: padding={padding!r} and {len(sizes)} spatial axes, wanted a pair for each"
        )
    if any(n + low + high < r for n, (low, high), r in zip(sizes, pads, reach, strict=True)):
        raise ValueError(
            f"{layer}: input is {check.describe(x)}, padded by {pads}, and the window reaches over "
            f"{tuple(reach)}; wanted an input at least as large: use a smaller window, smaller strides before "
            "it, or padding 'SAME'"
        )
    return pads


def conv_numbers(
    layer: str, x: Any, w: Any, strides: PerAxis, padding: Padding, dilation: PerAxis
) -> tuple[tuple[int, ...], Pads, tuple[int, ...]]:
    """Strides, padding and dilation for the kernel w, as `convolve` takes them. Raises if w does not fit the input."""
    axes = spatial_axes(layer, x)
    stride = per_axis(layer, "strides", strides, axes)
    dilate = per_axis(layer, "dilation", dilation, axes)
    return stride, pad_widths(layer, x, w.shape[:-2], stride, padding, dilate), dilate


def shifts(
    x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """Pairs of an element k of the window and what it sees of the padded x: x[i * stride + k * dilation] for all i."""
    space = [n - (size - 1) * d for n, size, d in zip(x.shape[1:-1], window, dilation, strict=True)]
    for k in np.ndindex(*window):
        start = [a * d for a, d in zip(k, dilation, strict=True)]
        stop = [a + n for a, n in zip(start, space, strict=True)]
        yield k, lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))
