"""The arrays of a checkpoint: from the leaves of a tree to orbax's files, and back to their devices."""

import gc
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check

SHOWN = 3  # leaves named in an error

# What orbax stores, except for the formats of four bits and fewer.
DTYPES = """
    bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64
    complex64 complex128 float8_e3m4 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2
    float8_e5m2fnuz float8_e8m0fnu
"""


def named_leaves(function: str, tree: Any) -> dict[str, Any]:
    """The leaves by their paths.

    Raises:
        TypeError: a leaf is not an array, is traced, or has a dtype that checkpoints cannot hold.
        ValueError: two leaves have one path.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(
                f"{function}: {name or 'the tree'} is traced: call {function} outside jit, vmap and grad"
            )
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{function}: {name or 'the tree'} is {leaf!r}, wanted an array; "
                "numbers and strings go into about"
            )
        if not is_key(leaf) and leaf.dtype.name not in DTYPES.split():
            raise TypeError(
                f"{function}: {name or 'the tree'} is {check.describe(leaf)}, a dtype that checkpoints cannot "
                "hold; convert it, for example to float32, int32 or uint8"
            )
        abstract = isinstance(leaf, jax.ShapeDtypeStruct) and not is_key(leaf)
        if abstract and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            raise TypeError(
                f"{function}: {name or 'the tree'} is {check.describe(leaf)}, which jax would reduce to half its "
                'width; call jax.config.update("jax_enable_x64", True) first'
            )
        if name in leaves:
            raise ValueError(f"{function}: two leaves have the path {name}; give them different paths")
        leaves[name] = leaf
    return leaves


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe_leaf(leaf: Any) -> str:
    """The leaf's dtype and shape, such as float32[3,2], without its byte order."""
    return check.describe(leaf if is_key(leaf) else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype.name))


def leaf_entry(name: str, leaf: Any) -> dict[str, str]:
    """The leaf's entry in about.json."""
    described = {"path": name, "array": describe_leaf(leaf)}
    return described | {"key": str(jax.random.key_impl(leaf))} if is_key(leaf) else described


def differences(got: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The differences between leaves, {path: dtype and shape}, for an error message; "" if there are none."""

    def join_first(names: list[str], show: Any) -> str:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ", ".join(show(name) for name in names[:SHOWN]) + more

    missing = [name for name in wanted if name not in got]
    extra = [name for name in got if name not in wanted]
    other = [name for name in wanted if name in got and got[name] != wanted[name]]
    return "; ".join(
        text
        for names, text in (
            (missing, "it lacks " + join_first(missing, lambda name: f"{name} {wanted[name]}")),
            (extra, "it has, not asked for, " + join_first(extra, lambda name: f"{name} {got[name]}")),
            (other, join_first(other, lambda name: f"{name} is {got[name]}, wanted {wanted[name]}")),
        )
        if names
    )


def make_checkpointer(function: str) -> Any:
    """orbax's reader and writer of arrays."""
    try:
        import orbax.checkpoint as ocp
    except ImportError as exc:
        raise ImportError(
            f"{function}: checkpoints are written by orbax, which is missing; pip install orbax-checkpoint"
        ) from exc
    # Trained weights do not compress: 100 MB became 92 MB, in 400 ms instead of 150.
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False)
    )


def write(checkpointer: Any, path: Path, leaves: Mapping[str, Any]) -> None:
    """Writes the leaves to a new folder, named by number, because paths may contain any character."""
    with _quiet_orbax():
        checkpointer.save(path, _to_orbax(leaves))


def read(
    checkpointer: Any, path: Path, entries: list[dict[str, str]], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """The leaves by their paths, each with the type and the sharding of its counterpart.

    Args:
        checkpointer: from `make_checkpointer`.
        path: of the folder.
        entries: of about.json, in the order of the numbers.
        wanted: the counterparts, by their paths.
    """
    import orbax.checkpoint as ocp

    likes = {str(i): wanted[entry["path"]] for i, entry in enumerate(entries)}
    # On the disk a key is its key data.
    data = {
        i: jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf for i, leaf in likes.items()
    }
    args = {}
    for i, leaf in likes.items():
        sharding = _sharding(leaf)
        if leaf.size and sharding is None:
            args[i] = ocp.RestoreArgs(restore_type=np.ndarray)
        elif leaf.size:
            args[i] = ocp.ArrayRestoreArgs(sharding=sharding, global_shape=data[i].shape)
    arrays = {}
    if args:
        with _quiet_orbax():
            restore_args = ocp.args.PyTreeRestore(item=dict.fromkeys(args, 0), restore_args=args)
            arrays = checkpointer.restore(path, restore_args)
    return {
        entry["path"]: _from_orbax(arrays.get(i), data[i], leaf, entry.get("key"))
        for (i, leaf), entry in zip(likes.items(), entries, strict=True)
    }


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keeps orbax from logging what it raises, and waits for its threads to stop writing after a failure."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.disabled for logger in loggers]
    threads = set(threading.enumerate())
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    except BaseException:
        for thread in set(threading.enumerate()) - threads:
            threading.Thread.join(thread, timeout=10.0)  # orbax's own join of its threads raises
        gc.collect()  # asyncio logs its abandoned tasks now, while the loggers are disabled
        raise
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _to_orbax(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves as orbax can write them: it takes no keys, no empty arrays and no empty tree."""
    stored: dict[str, Any] = {}
    for i, leaf in enumerate(leaves.values()):
        if not leaf.size:
            continue
        array = jax.random.key_data(leaf) if is_key(leaf) else leaf
        if not isinstance(array, jax.Array):
            array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
        elif array.is_fully_addressable and (jax.process_count() > 1 or len(array.sharding.device_set) == 1):
            # With several processes, each has its own copy, and the first process writes. On one device, orbax takes
            # 24 ms for 14 small NumPy arrays and 38 ms for jax's.
            array = np.asarray(array)
        stored[str(i)] = array
    return stored or {"none": np.zeros(1, np.int8)}


def _sharding(leaf: Any) -> jax.sharding.Sharding | None:
    """The sharding of an array like the leaf; None for a NumPy array, or one that is not committed to a device."""
    committed = leaf.committed if isinstance(leaf, jax.Array) else isinstance(leaf, jax.ShapeDtypeStruct)
    return leaf.sharding if committed else None


def _from_orbax(array: Any, data: Any, leaf: Any, key: str | None) -> Any:
    """An array that orbax has read, converted to what the leaf is: a key, a NumPy array, an array on its devices."""
    sharding = _sharding(leaf)
    if array is None:  # it is empty
        array = np.zeros(data.shape, data.dtype)
        if sharding is not None:
            array = jax.make_array_from_callback(data.shape, sharding, array.__getitem__)
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        array = array.astype(leaf.dtype, copy=False)  # it may be big-endian
        return array[()] if isinstance(leaf, np.generic) else array
    if sharding is None:
        array = jnp.array(array)
    if key is not None:
        return jax.random.wrap_key_data(array, impl=key)
    if leaf.weak_type:  # otherwise a compiled step would compile again, and results might have another dtype
        weak = jnp.broadcast_to(jnp.asarray(array.dtype.type(0).item()), array.shape)
        array = jax.device_put(weak, sharding).at[...].set(array) if weak.dtype == array.dtype else array
    return array
