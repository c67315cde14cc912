"""One file a workload, one function a library: `fnnet(sizes)`, `torch(sizes, compiled)`, `flax`, `equinox`.

Each builds the same network, as the library's own documentation writes it, from the same arrays, and returns
a function without arguments: it takes one step of training and returns its loss, or one forward and backward
pass and returns a `Pass`, and comes back when that is computed. Peers are imported inside their functions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Pass(NamedTuple):
    """What a forward and backward pass computed, images NHWC, sequences (batch, time, features)."""

    y: Any
    slope_x: Any  # gradient by x
    slopes: Sequence[Any]  # gradients by the params, in any order and layout
