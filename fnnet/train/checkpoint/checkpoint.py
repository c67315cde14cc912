"""Checkpoints: all arrays of a run in one folder, written completely or not at all, and verified when read.

    folder/step_000000001200/arrays/        the arrays, in orbax's files
    folder/step_000000001200/about.json     versions, leaves, each file's size and SHA-256, what the caller added

Everything is written under a hidden name, and a single rename makes it a checkpoint. If the process is killed at
any moment, the earlier checkpoints stay as they were. Only one run may write to a folder at a time: `fit` locks it.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fnnet import check
from fnnet.train.checkpoint.arrays import (
    describe_leaf,
    differences,
    leaf_entry,
    make_checkpointer,
    named_leaves,
    read,
    write,
)
from fnnet.train.checkpoint.files import (
    CheckpointError,
    check_free_space,
    checkpoints,
    errno_of,
    explain_empty,
    flush,
    remove_unfinished,
    suggest_intact,
    verify,
    write_record,
)
from fnnet.train.devices.processes import raise_together


def save(
    folder: str | os.PathLike[str],
    step: int,
    tree: Any,
    about: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Writes a checkpoint, `folder/step_000000001200`, and then removes all but the last `keep`.

    When this returns, the checkpoint is on the disk. With several processes (`jax.distributed`) each of them calls it,
    with a folder that all can see. Arrays that are split over processes are written by the processes that hold them,
    other arrays by the first one.

    Args:
        folder: of this run's checkpoints. It is created if its parent exists.
        step: of the run, greater than that of any checkpoint in the folder.
        tree: pytree of jax arrays, typed PRNG keys and NumPy arrays, such as `(train_state, key)`.
        about: dict of JSON that `restore` returns, such as the position in the data.
        keep: number of checkpoints to keep, including this one.

    Returns:
        The checkpoint's path.

    Raises:
        TypeError: a leaf is not an array or has a dtype that orbax does not store, or `about` is not JSON.
        ValueError: step is negative, keep is not positive, or a leaf was donated to a step.
        CheckpointError: the folder has this step or a later one.
        OSError: the disk is full, the folder is read-only or gone, ...; the earlier checkpoints are intact.
        ImportError: orbax is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = fn.train.checkpoint.save(folder, 3, {"w": jnp.ones(2)}, {"epoch": 1})
        ...     tree, about = fn.train.checkpoint.restore(folder, like={"w": jnp.zeros(2)})
        >>> path.name, tree, about
        ('step_000000000003', {'w': Array([1., 1.], dtype=float32)}, {'epoch': 1})
    """
    if isinstance(step, bool) or not isinstance(step, Integral):
        raise TypeError(f"save: step={step!r}, wanted an int; write int(train_state.step)")
    check.number("save", "step", step, "[0, 1e12)")
    check.is_positive("save", "keep", keep)
    leaves = named_leaves("save", tree)
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array) and leaf.is_deleted():
            raise ValueError(f"save: {name or 'the tree'} was donated to a step; save what the step returned")
    record = {
        "step": int(step),
        "about": _json(about or {}),
        "leaves": [leaf_entry(*leaf) for leaf in leaves.items()],
    }
    checkpointer = make_checkpointer("save")

    folder = check.local_path("save", "folder", folder).absolute()
    path = folder / f"step_{step:012d}"
    try:
        earlier = checkpoints(folder)
        if later := [s for s in earlier if s >= step]:
            raise CheckpointError(
                f"save: {folder} has a checkpoint of step {later[-1]}, and this is step {step}, wanted a later "
                f"one; to resume from an earlier step, move {earlier[later[0]].name} and what follows out of the "
                "folder, or save to another one"
            )
        saving = folder / f".saving-{step:012d}-{_of_first_process(os.getpid())}"
        is_first = jax.process_index() == 0
        with raise_together("save", CheckpointError):
            if is_first:
                if not folder.is_dir():
                    folder.mkdir()
                    flush(folder.parent)
                remove_unfinished(folder)
                check_free_space(folder, sum(leaf.nbytes for leaf in leaves.values()))
                saving.mkdir()
        try:
            with raise_together("save", CheckpointError):
                write(checkpointer, saving / "arrays", leaves)
            with raise_together("save", CheckpointError):
                if is_first:
                    write_record(saving, record)
                    saving.rename(path)
                    flush(folder)
        except BaseException:
            shutil.rmtree(saving, ignore_errors=True)
            raise
    except Exception as error:
        number = errno_of(error)
        if number is None:
            raise
        raise OSError(number, _cannot_write(folder, step, number, error)) from error

    if is_first:
        for old in sorted(earlier)[: len(earlier) + 1 - keep]:
            # Renamed to a hidden name first, so that a process killed between two files leaves no half checkpoint.
            with suppress(OSError):
                earlier[old].rename(folder / f".removing-{earlier[old].name}")
        remove_unfinished(folder)
    return path


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps of the checkpoints in a folder, ascending; [] if there are none, or no folder.

    Unfinished checkpoints of a killed process do not count. Files are not verified; `restore` does that.

    Example:
        >>> fn.train.checkpoint.steps("no/such/folder")
        []
    """
    return list(checkpoints(check.local_path("steps", "folder", folder).absolute()))


def restore(
    folder: str | os.PathLike[str], like: Any, *, step: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint, bit for bit as it was saved, after verifying its files.

    Args:
        folder: that was given to `save`.
        like: tree of the same structure, shapes and dtypes: arrays, such as those of `fn.train.start`, or
            `jax.ShapeDtypeStruct`s. It also says where the arrays go: to the `sharding` of the leaf, whatever devices
            the run was saved from; to the default device if the leaf is not committed to one; NumPy arrays stay
            NumPy arrays. Or a function of `about` that returns such a tree.
        step: which checkpoint; the latest by default.

    Returns:
        (tree, about), as they were given to `save`.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, not fnnet's, of a newer format, or of
            another network or optimizer. A damaged one is never skipped silently: the message names an older one
            that is intact.
        TypeError, ValueError: a leaf of `like` has no shape and dtype, or has 64 bits and jax is not set to 64 bits;
            the folder is no path of this machine; the step is not an int of at least 0.
        ImportError: orbax is not installed.

    Example:
        >>> fn.train.checkpoint.restore("no/such/folder", {"w": jnp.zeros(2)})
        Traceback (most recent call last):
            ...
        fnnet.train.checkpoint.files.CheckpointError: restore: no checkpoint in ...: there is no such folder
    """
    wanted = None if callable(like) else named_leaves("restore", like)
    if step is not None:
        check.integer("restore", "step", step, "[0, 1e12)")
    checkpointer = make_checkpointer("restore")
    folder = check.local_path("restore", "folder", folder).absolute()
    with raise_together("restore", CheckpointError):
        found = checkpoints(folder)
        if not found:
            raise CheckpointError(f"restore: no checkpoint in {folder}: {explain_empty(folder)}")
        if step is not None and step not in found:
            raise CheckpointError(f"restore: {folder} has no checkpoint of step {step}; it has {list(found)}")
        path = found[max(found) if step is None else step]
        try:
            record = verify(path)
        except CheckpointError as error:
            intact = suggest_intact([p for p in found.values() if p != path])
            raise CheckpointError(f"restore: {error}{intact}") from error.__cause__
        if wanted is None:
            like = like(record["about"])
            wanted = named_leaves("restore", like)
        saved = {entry["path"]: entry["array"] for entry in record["leaves"]}
        if differs := differences(saved, {name: describe_leaf(leaf) for name, leaf in wanted.items()}):
            raise CheckpointError(
                f"restore: {path} does not fit: {differs}; another network or optimizer wrote it: build that "
                "one, or save to another folder"
            )
    leaves = read(checkpointer, path / "arrays", record["leaves"], wanted)
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted]), record["about"]


def _json(about: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's dict, if JSON gives back what was written."""
    try:
        back = json.loads(json.dumps(dict(about)))
    except (TypeError, ValueError) as exc:
        raise TypeError(f"save: about={about!r} is not JSON ({exc}); arrays go into the tree") from exc
    if repr(back) != repr(dict(about)):
        raise TypeError(
            f"save: about={about!r} would come back as {back!r}; wanted dicts with strings as keys, lists, "
            "strings, Python's numbers, bools and None"
        )
    return back


def _cannot_write(folder: Path, step: int, number: int, error: BaseException) -> str:
    good = []
    with suppress(OSError):
        good = steps(folder)
    what = getattr(error, "filename", None)
    return (
        f"save: the checkpoint of step {step} could not be written to {folder}: {os.strerror(number)}"
        + (f" ({what}); " if what else "; ")
        + (f"that of step {good[-1]} is intact" if good else "there is no earlier one in it")
        + "; make room or make the folder writable, and save again"
    )


def _of_first_process(number: int) -> int:
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.array(number, np.int32)))
