"""What commands write besides their results: versions and device, strict JSON, a folder that is complete or absent."""

import contextlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fnnet as fn


def environment() -> dict[str, Any]:
    """The device, the versions and the git revision: without them, numbers mean little."""
    device = jax.devices()[0]
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return {
        "device": f"{device.device_kind} ({device.platform})",
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "versions": {"fnnet": fn.__version__}
        | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax", "numpy")},
        "git_revision": git.stdout.strip() or None,
    }


def strict(x: Any) -> Any:
    """The same content for JSON, which has no NaN and no infinity: they become text."""
    if isinstance(x, dict):
        return {k: strict(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [strict(v) for v in x]
    if isinstance(x, float) and not np.isfinite(x):
        return str(x)
    return x


def write_json(file: Path, config: dict[str, Any], results: Any) -> None:
    """One JSON object: the settings, the environment and the results."""
    content = {"config": config, **environment(), "results": results}
    file.write_text(json.dumps(strict(content), indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A temporary folder to write into. It is renamed to `out` at the end, or removed if anything fails."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
