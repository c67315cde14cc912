"""Checks of shapes, dtypes and arguments. Each message says what was given, what was wanted and what to do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import jax.numpy as jnp


def describe(x: Any) -> str:
    """The shape and dtype of an array, or of each array in a tree, as text for an error message.

    Example:
        >>> fn.check.describe({"x": jnp.zeros((8, 32)), "y": (jnp.zeros(8, int), None)})
        '{x: float32[8,32], y: (int32[8], None)}'
    """
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}[{','.join(str(n) for n in x.shape)}]"
    if isinstance(x, Mapping):
        return "{" + ", ".join(f"{name}: {describe(child)}" for name, child in x.items()) + "}"
    if isinstance(x, tuple | list):
        shown = [describe(child) for child in x[:8]]
        return "(" + ", ".join(shown if len(x) <= 8 else [*shown, f"... {len(x)} in all"]) + ")"
    return repr(x)


@contextmanager
def at(place: str, x: Any) -> Iterator[None]:
    """Adds a note such as `in serial['conv_1'], input float32[8,32]` to an exception that leaves the block."""
    try:
        yield
    except Exception as exc:
        exc.add_note(f"in {place}, input {describe(x)}")
        raise


def has_keys(layer: str, what: str, got: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    """Raises ValueError unless `got`, the params or state of a layer, is a dict with exactly the keys `wanted`."""
    if not isinstance(got, Mapping):
        raise TypeError(f"{layer}: {what} is {describe(got)}, wanted the dict that init returned")
    if set(got) != set(wanted):
        raise ValueError(
            f"{layer}: {what} has {sorted(got) or 'no entries'}, wanted {sorted(wanted)}; "
            f"pass the {what} that this network's init returned"
            + (", and keep the one that apply returns" if what == "state" else "")
        )


def is_floating(layer: str, x: Any) -> None:
    """Raises TypeError unless the input is an array in floating point."""
    if not hasattr(x, "dtype"):
        raise TypeError(f"{layer}: input is {describe(x)}, wanted one array")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{layer}: input is {describe(x)}, wanted floating point; convert it first, for example "
            "x.astype(jnp.float32) / 255 for pixels, or embed for indices"
        )


def has_rank(layer: str, x: Any, at_least: int, layout: str) -> None:
    """Raises ValueError unless the input has `at_least` axes or more. The layout is text: "(batch, features)"."""
    if len(getattr(x, "shape", ())) < at_least:
        raise ValueError(f"{layer}: input is {describe(x)}, wanted {layout}")


def is_positive(layer: str, name: str, value: Any) -> None:
    """Raises TypeError or ValueError unless a size, such as a number of features, is a positive int."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{layer}: {name}={value!r}, wanted a positive int")
    if value < 1:
        raise ValueError(f"{layer}: {name}={value}, wanted at least 1")


def between(function: str, name: str, value: Any, low: float, high: float = float("inf")) -> None:
    """Raises ValueError unless low <= value < high. A tracer passes: it has no value yet."""
    if isinstance(value, Real) and not low <= float(value) < high:
        wanted = f"at least {low}" if high == float("inf") else f"in [{low}, {high})"
        raise ValueError(f"{function}: {name}={value}, wanted {wanted}")


def probability(function: str, name: str, value: Any) -> None:
    """Raises ValueError unless 0 <= value <= 1. A tracer passes: it has no value yet."""
    if isinstance(value, Real) and not 0 <= float(value) <= 1:
        raise ValueError(f"{function}: {name}={value}, wanted in [0, 1]")
