"""Numbers and names as text, for captions, tables and reports."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def count(n: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def text(value: Any) -> str:
    """A setting as text: floats in three digits, sequences separated by commas, `-` for None."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(text(v) for v in value)
    return "-" if value is None else str(value)


def number(x: float) -> str:
    """A short number in about two digits: 0.0123 as 0.012, 123.4 as 123, 1.2e-05 as 1e-5."""
    if not np.isfinite(x):
        return "inf" if x > 0 else "-"
    if x != 0 and not 1e-3 <= abs(x) < 1e4:
        mantissa, exponent = f"{x:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.2g}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def lowest(values: Mapping[str, float], show: Callable[[float], str] = number) -> str:
    """Who has the lowest value, and the value: `adam (1.2 %)`. All whose value reads the same are named as a tie.

    Args:
        values: by name; what is not finite can't be the lowest.
        show: the value as text, in the digits in which values are compared.
    """
    finite = {name: value for name, value in values.items() if np.isfinite(value)}
    if not finite:
        return "none (no value is finite)"
    best = show(min(finite.values()))
    tied = [name for name, value in finite.items() if show(value) == best]
    if len(tied) == 1:
        return f"{tied[0]} ({best})"
    names = listed(tied) if len(tied) <= 5 else f"{len(tied)} optimizers"
    return f"a tie between {names} ({best})"
