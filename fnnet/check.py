"""Checks of shapes, dtypes and arguments. Each message says what was given, what was wanted and what to do."""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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


def is_dict(layer: str, what: str, got: Any) -> None:
    """Raises TypeError unless `got`, the params or state of a layer, is a dict.

    Other mappings, such as a FrozenDict, are other trees to JAX: a state that came in as one and out as a dict could
    be no scan's carry. So a state is asked for in the kind that init returns, and params in a dict of any kind.
    """
    if type(got) is dict or (what.startswith("params") and isinstance(got, dict)):
        return
    if isinstance(got, Mapping):
        raise TypeError(
            f"{layer}: {what} is of type {type(got).__name__}, wanted the dict that init returned; make a dict "
            "of it, at every level"
        )
    raise TypeError(f"{layer}: {what} is {describe(got)}, wanted the dict that init returned")


def has_shapes(
    layer: str,
    what: str,
    got: Any,
    wanted: Mapping[str, Any],
    *,
    features: Sequence[tuple[str, Sequence[int], str, Any]] = (),
    hint: str = ", on the last axis",
) -> None:
    """Raises unless `got` is a dict of floating-point arrays with exactly the names and shapes of `wanted`.

    Args:
        layer: for the message.
        what: "params" or "state".
        got: the params or state of the layer.
        wanted: `{name: shape}`, nested as `got` is. In a shape, None is an axis of any size. Instead of a shape, `int`
            is one integer, `float` an array of any shape, and `...` an entry that a child checks.
        features: `(name, axes, "input", x)`, the axes of an array that have the size of the input's last one. If
            these alone differ, the input may be what is wrong, and the message names it.
        hint: what that message ends with.

    Raises:
        TypeError: `got` is not a dict, or an entry is not an array, or has integers.
        ValueError: a name or a shape differs.

    Example:
        >>> w = jnp.ones((4, 5))
        >>> fn.check.has_shapes("dense", "params", {"w": w}, {"w": (4, 3)})
        Traceback (most recent call last):
        ...
        ValueError: dense: params has w float32[4,5], wanted (4, 3); pass the params that this network's init returned
    """
    kind = what.split("[")[0]
    remedy = f"pass the {kind} that this network's init returned" + (
        ", and keep the one that apply returns" if kind == "state" else ""
    )
    is_dict(layer, what, got)
    if set(got) != set(wanted):
        raise ValueError(
            f"{layer}: {what} has {sorted(map(str, got)) or 'no entries'}, wanted "
            f"{sorted(wanted) or 'none'}; {remedy}"
        )
    for name, shape in wanted.items():
        leaf = got[name]
        if shape is ...:
            continue
        if isinstance(shape, Mapping):
            has_shapes(layer, f"{what}[{name!r}]", leaf, shape)
            continue
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer if shape is int else jnp.floating):
            kind_of_array = "an integer" if shape is int else "an array in floating point"
            raise TypeError(f"{layer}: {what} has {name} {describe(leaf)}, wanted {kind_of_array}; {remedy}")
        if shape is float:
            continue
        shape = () if shape is int else shape
        differs = [
            i for i, (n, m) in enumerate(zip(leaf.shape, shape, strict=False)) if m is not None and n != m
        ]
        if len(leaf.shape) == len(shape) and not differs:
            continue
        for of, axes, said, x in features:
            if of == name and len(leaf.shape) == len(shape) and differs == list(axes):
                sizes = {leaf.shape[axis] for axis in axes}
                if len(sizes) == 1:
                    raise ValueError(
                        f"{layer}: {said} is {describe(x)} and {name} {describe(leaf)}, wanted {sizes.pop()} "
                        f"features{hint}"
                    )
        text = str(tuple(shape)).replace("None", "any")
        raise ValueError(f"{layer}: {what} has {name} {describe(leaf)}, wanted {text}; {remedy}")


def is_floating(layer: str, x: Any) -> None:
    """Raises TypeError unless the input is an array in floating point."""
    if not hasattr(x, "dtype"):
        hint = "; fn.on_x applies layers to the entry 'x' of a dict" if isinstance(x, Mapping) else ""
        raise TypeError(f"{layer}: input is {describe(x)}, wanted one array{hint}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{layer}: input is {describe(x)}, wanted floating point; convert it first, for example "
            "x.astype(jnp.float32) / 255 for pixels, or embed for indices"
        )


def fits_in_jax(name: str, tree: Any) -> None:
    """Raises ValueError for integers of NumPy that JAX would cut off: in 32 bits, label 2^32 + 1 would become 1."""
    for a in jax.tree.leaves(tree):
        if isinstance(a, np.ndarray | np.generic) and a.dtype.kind in "iu" and a.size:
            info = jnp.iinfo(jax.dtypes.canonicalize_dtype(a.dtype))
            if a.dtype != info.dtype and (a.min() < info.min or a.max() > info.max):
                raise ValueError(
                    f"{name}: {describe(a)} has numbers from {a.min()} to {a.max()}, wanted numbers that fit in "
                    f"{info.dtype}, which JAX uses; renumber them, or turn jax_enable_x64 on"
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


def number(function: str, name: str, value: Any, interval: str = "(-inf, inf)") -> None:
    """Raises unless `value` is one real number in an interval. A tracer passes: it has no value yet.

    Numbers are Python's, NumPy's, and arrays without axes. NaN is in no interval, and infinity only in one with a
    bracket beside it, such as "[0, inf]".

    Args:
        function: whose argument it is, for the message.
        name: of the argument.
        value: of the argument.
        interval: such as "[0, 1)". A bracket includes the end, a parenthesis excludes it.

    Raises:
        TypeError: it is no number, or a bool, or several numbers.
        ValueError: it is outside the interval.

    Example:
        >>> fn.check.number("huber", "delta", -1, "(0, inf)")
        Traceback (most recent call last):
        ...
        ValueError: huber: delta=-1, wanted more than 0
    """
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{function}: {name}={value}, wanted a number, not a bool")
    if isinstance(value, jax.Array | np.ndarray):
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        if value.ndim or not real:
            raise TypeError(f"{function}: {name} is {describe(value)}, wanted one real number")
    elif not isinstance(value, Real):
        raise TypeError(f"{function}: {name}={value!r}, wanted a number")
    low, high = (float(end) for end in interval[1:-1].split(","))
    x = float(value)
    above = low <= x if interval[0] == "[" else low < x
    below = x <= high if interval[-1] == "]" else x < high
    if not (above and below):
        if math.isinf(x) and not (math.isfinite(low) and math.isfinite(high)):
            wanted = "a finite number"
        elif math.isinf(high):
            wanted = (
                "a number"
                if math.isinf(low)
                else f"{'at least' if interval[0] == '[' else 'more than'} {low:g}"
            )
        else:
            wanted = f"in {interval}"
        raise ValueError(f"{function}: {name}={value}, wanted {wanted}")


def integer(function: str, name: str, value: Any, interval: str = "(-inf, inf)") -> None:
    """Raises unless `value` is an int, Python's or NumPy's, in an interval, such as a seed in "[0, inf)"."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{function}: {name}={value!r}, wanted an int")
    number(function, name, value, interval)


def flag(function: str, name: str, value: Any) -> None:
    """Raises TypeError unless the value is True or False: any other object has a truth value, too."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: {name}={value!r}, wanted True or False")


def local_path(function: str, name: str, value: Any) -> Path:
    """The path, with ~ expanded. Raises unless it is one of this machine: Python takes "gs://a/b" for the folder "gs:".

    Example:
        >>> fn.check.local_path("fit", "folder", "gs://bucket/run")
        Traceback (most recent call last):
        ...
        ValueError: fit: folder='gs://bucket/run' is an address, wanted a path of this machine; ...
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(path := os.fspath(value), str):
        raise TypeError(f"{function}: {name}={value!r}, wanted a path: a str or a pathlib.Path")
    if not path:
        raise ValueError(f"{function}: {name}='' is empty, wanted a path; '.' is the current folder")
    # pathlib.Path("gs://bucket") has one slash. A drive of Windows, such as C:/, has one letter.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise ValueError(
            f"{function}: {name}={path!r} is an address, wanted a path of this machine; mount the bucket, for example "
            "with gcsfuse, or write here and copy it"
        )
    return Path(path).expanduser()


def one_of(function: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises ValueError unless the value is one of the choices, and names the one that is spelt alike.

    Example:
        >>> fn.check.one_of("muon", "preconditioning", "spektral", ("frobenius", "spectral"))
        Traceback (most recent call last):
        ...
        ValueError: muon: preconditioning='spektral', wanted one of 'frobenius', 'spectral'; did you mean 'spectral'?
    """
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return
    raise ValueError(
        f"{function}: {name}={value!r}, wanted one of {', '.join(map(repr, choices))}"
        + did_you_mean(value, choices)
    )


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """`; did you mean 'adam'?` if a known name is spelt like this one, or up to three; otherwise nothing."""
    texts = [text for text in known if isinstance(text, str)]
    alike = get_close_matches(name, texts, n=3) if isinstance(name, str) else []
    return f"; did you mean {' or '.join(map(repr, alike))}?" if alike else ""
