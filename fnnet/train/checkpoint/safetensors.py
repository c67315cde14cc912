"""Params to and from the safetensors format, which other libraries read."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.layer import Params
from fnnet.train.checkpoint.arrays import describe_leaf, differences

# The format's names of dtypes, and NumPy's.
DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def save_safetensors(
    path: str | os.PathLike[str], params: Params, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes params to a safetensors file, completely or not at all. `{"dense_0": {"w": w}}` becomes "dense_0/w".

    Args:
        path: of the file; an existing file is replaced.
        params: nested dict of arrays.
        metadata: strings by name, for the file's header; `safetensors.safe_open(path, "np").metadata()` reads
            them.

    Raises:
        TypeError: params is not a nested dict of arrays, the format does not have a dtype, or metadata is not a dict
            of strings.
        ValueError: a name is empty or has "/" in it, or a dict is empty; they could not be read back.
        OSError: the file cannot be written.
        ImportError: safetensors is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "params.safetensors")
        ...     fn.train.save_safetensors(path, {"dense_0": {"b": jnp.ones(2, jnp.bfloat16)}})
        ...     fn.train.load_safetensors(path)
        {'dense_0': {'b': Array([1, 1], dtype=bfloat16)}}
    """
    try:
        from safetensors.numpy import save
    except ImportError as exc:
        raise ImportError(
            "save_safetensors: the package safetensors is missing; pip install safetensors"
        ) from exc

    path = check.local_path("save_safetensors", "path", path)
    metadata = dict(metadata or {})
    if not all(isinstance(text, str) for item in metadata.items() for text in item):
        raise TypeError(
            f"save_safetensors: metadata={metadata!r}, wanted strings by name; convert others with json.dumps"
        )
    flat = {}
    for name, leaf in _flatten("save_safetensors: params", params):
        if leaf.dtype.name not in DTYPES.values():
            raise TypeError(
                f"save_safetensors: {name} is {check.describe(leaf)}, a dtype that the format does not have; "
                "convert it, for example to float32"
            )
        # An array that is not contiguous would silently be written in the order of its memory.
        flat[name] = np.asarray(leaf, order="C")
    content = save(flat, metadata or None)

    write_atomically(path, lambda part: part.write_bytes(content))


def load_safetensors(path: str | os.PathLike[str], like: Params | None = None) -> Params:
    """The params in a safetensors file, as jax arrays; "dense_0/w" becomes `{"dense_0": {"w": w}}`.

    Args:
        path: of the file, from fnnet or another library.
        like: params, arrays or `jax.ShapeDtypeStruct`s, whose names, shapes and dtypes the file must have.

    Raises:
        ValueError: the file is damaged or has another format, has a dtype that jax does not have or would change,
            or differs from `like`.
        FileNotFoundError: there is no such file.
        ImportError: safetensors is not installed.

    Example:
        See `save_safetensors`.
    """
    try:
        from safetensors import SafetensorError, deserialize
    except ImportError as exc:
        raise ImportError(
            "load_safetensors: the package safetensors is missing; pip install safetensors"
        ) from exc

    path = check.local_path("load_safetensors", "path", path)
    content = path.read_bytes()
    try:
        entries = sorted(deserialize(content), key=lambda entry: entry[0])
    except SafetensorError as exc:
        raise ValueError(
            f"load_safetensors: {path}: damaged, or not a safetensors file: {len(content)} bytes ({exc}); wanted "
            "a complete one; save it again"
        ) from None

    flat = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"load_safetensors: {path}: {name} is of dtype {entry['dtype']}, wanted one of "
                + ", ".join(DTYPES)
            )
        dtype = jnp.dtype(DTYPES[entry["dtype"]])
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise ValueError(
                f"load_safetensors: {path}: {name} is {dtype}, which jax would reduce to half its width; call "
                'jax.config.update("jax_enable_x64", True) first, or convert the file'
            )
        flat[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])

    if like is not None:
        wanted = {name: describe_leaf(leaf) for name, leaf in _flatten("load_safetensors: like", like)}
        if differs := differences({name: describe_leaf(array) for name, array in flat.items()}, wanted):
            raise ValueError(
                f"load_safetensors: {path} does not fit: {differs}; wanted the params of the network that "
                "it was saved from"
            )

    params: Params = {}
    for name, array in flat.items():
        *parents, last = name.split("/")
        inner = params
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(
                    f"load_safetensors: {path}: {name} is inside of {parent}, which is an array, wanted "
                    "a dict there; rename one of them"
                )
        inner[last] = jnp.array(array)
    return params


def _flatten(what: str, tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(name, array) for each array of a nested dict, checked."""
    if place and hasattr(tree, "shape") and hasattr(tree, "dtype"):
        yield place, tree
        return
    where = what + (place and f": {place}")
    if not isinstance(tree, Mapping):
        raise TypeError(
            f"{where} is {check.describe(tree)}, wanted a nested dict of arrays; fn.train.checkpoint keeps "
            "other trees"
        )
    if place and not tree:
        raise ValueError(f"{where} is an empty dict, which the file cannot hold; leave it out")
    for name, child in tree.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(
                f'{where} has a key {name!r}, wanted a string without "/", which separates names in the file'
            )
        yield from _flatten(what, child, f"{place}/{name}" if place else name)
