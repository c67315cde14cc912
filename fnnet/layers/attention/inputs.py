"""The input of attention layers: an array, or a dict of the sequences and masks that they read."""

from collections.abc import Mapping
from typing import Any

from fnnet import check


def attention_inputs(layer: str, x: Any, optional: tuple[str, ...]) -> dict[str, Any]:
    """The input as a dict: {"x": x}, and those of the optional entries that are given.

    Raises:
        TypeError: a sequence is not floating point.
        ValueError: an entry is unknown or missing, or a sequence is not (batch, time, features).
    """
    inputs = dict(x) if isinstance(x, Mapping) else {"x": x}
    inputs = {key: value for key, value in inputs.items() if value is not None}
    if "x" not in inputs or set(inputs) - {"x", *optional}:
        raise ValueError(
            f"{layer}: input has {sorted(inputs)}, wanted 'x' and, where needed, "
            + " and ".join(repr(o) for o in optional)
        )
    for what in ("x", "memory"):
        if what in inputs:
            check.is_floating(layer, inputs[what])
            if len(inputs[what].shape) != 3:
                raise ValueError(
                    f"{layer}: {what} is {check.describe(inputs[what])}, wanted (batch, time, features)"
                )
    return inputs
