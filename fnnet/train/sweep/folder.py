"""A sweep on disk: its settings, and one file for each chunk of trials that has finished."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.train.fingerprint import digest, fingerprint
from fnnet.train.sweep.plan import Plan
from fnnet.train.sweep.settings import Settings
from fnnet.train.sweep.trials import Space

SETTINGS = "sweep.json"
PLANNED = {"chunk": int, "mapping": str, "why": str, "program": str}  # settings that the plan adds
# Settings that are digests, as a message says that they differ.
DIGESTS = {
    "hparams": "the trials are others",
    "data": "data has other numbers",
    "program": "run (its network, loss, optimizer or steps) is another one",
}


def describe_request(
    space: Space, hparams: Mapping[str, Any], data: Any, settings: Settings
) -> dict[str, Any]:
    """What determines the results of a sweep, as JSON, but for the run itself: see `describe_plan`."""
    device = jax.local_devices()[0] if settings.mesh is None else settings.mesh.devices.flat[0]
    return {
        "space": {name: str(given) for name, given in space.items()},
        "trials": settings.trials,
        "hparams": digest(hparams),
        "data": digest(data),
        "seeds": settings.seeds.tolist(),
        "score": settings.score,
        "maximize": settings.maximize,
        "halving": settings.halving,
        "keep": settings.keep,
        "histories": settings.histories,
        "asked mapping": settings.mapping,
        "asked chunk": settings.chunk,
        # The last bits may depend on these.
        "devices": 1 if settings.mesh is None else settings.mesh.devices.size,
        "device": device.device_kind,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


def describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan as JSON, with a fingerprint of the program."""
    return {
        "chunk": plan.chunk,
        "mapping": plan.mapping,
        "why": plan.why,
        "program": fingerprint(plan.program.traced.jaxpr),
    }


def read_settings(folder: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings in the sweep's folder, or None if there are none yet.

    Raises:
        ValueError: they differ from the request; the folder holds other files; the settings cannot be read.
    """
    path = folder / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found.keys() >= PLANNED.keys():
            raise ValueError("it lacks settings")
        for name, kind in PLANNED.items():
            if type(found[name]) is not kind:
                raise ValueError(f"{name} is {_short(found[name])}")
    except FileNotFoundError:
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise ValueError(
                f"sweep: {folder} has files in it and no {SETTINGS}, wanted a new folder, or that of a sweep"
            ) from None
        return None
    except (ValueError, RecursionError) as exc:  # brackets in brackets, by the thousand
        raise ValueError(f"sweep: {path} is damaged ({exc}); use a new folder") from exc
    _compare(folder, found, request)
    return found


def write_settings(
    folder: Path, found: Mapping[str, Any] | None, request: Mapping[str, Any], plan: Mapping[str, Any]
) -> None:
    """Writes the settings, or raises ValueError if there are settings whose program differs."""
    if found is not None:
        _compare(folder, found, plan)
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**request, **plan}, indent=2) + "\n"
    write_atomically(folder / SETTINGS, lambda path: path.write_text(text, encoding="utf-8"))


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differ = [
        DIGESTS.get(name) or f"{name} was {_short(found.get(name))} and is {_short(value)}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if differ:
        raise ValueError(
            f"sweep: {folder} holds another sweep: {'; '.join(differ)}. Call sweep with the same arguments to "
            "resume it, or use a new folder"
        )


def write_chunk(folder: Path, name: str, tree: Any) -> None:
    """Writes a tree of NumPy arrays as one file."""

    def write(path: Path) -> None:
        with path.open("wb") as f:
            arrays: dict[str, Any] = {k: _plain(a) for k, a in arrays_by_path(tree).items()}
            np.savez(f, **arrays)

    write_atomically(folder / f"{name}.npz", write)


def read_chunk(folder: Path, name: str, like: Any) -> Any:
    """The results of a chunk, or None if it has not finished.

    Args:
        folder: of the sweep.
        name: of the chunk.
        like: a tree with the same structure, shapes and dtypes.

    Raises:
        ValueError: the file is damaged, or holds other arrays.
    """
    path = folder / f"{name}.npz"
    if not path.exists():
        return None
    wanted = arrays_by_path(like)
    try:
        with path.open("rb") as f, np.load(f) as file:
            found = {k: file[k] for k in file.files}
        if found.keys() != wanted.keys():
            raise ValueError(f"it holds {sorted(found)}, wanted {sorted(wanted)}")
        arrays = {k: found[k].view(a.dtype) if _is_extended(a.dtype) else found[k] for k, a in wanted.items()}
        for k, a in wanted.items():
            if (arrays[k].shape, arrays[k].dtype) != (a.shape, a.dtype):
                raise ValueError(f"{k} is {check.describe(arrays[k])}, wanted {check.describe(a)}")
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as exc:
        raise ValueError(f"sweep: {path} is damaged ({exc}); delete it to run its trials again") from exc
    return jax.tree.unflatten(jax.tree.structure(like), arrays.values())


def _is_extended(dtype: Any) -> bool:
    """Whether the dtype is one that NumPy's files do not know, such as bfloat16."""
    return np.dtype(dtype).kind == "V"


def _plain(a: np.ndarray) -> np.ndarray:
    return a.view(f"u{a.dtype.itemsize}") if _is_extended(a.dtype) else a


def arrays_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
