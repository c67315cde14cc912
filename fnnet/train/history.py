"""What a run tells of itself: arrays in the end, and a line of JSON for each evaluation while it runs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fnnet.atomic import write_atomically


def joined(chunks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The values of all steps, by name, from those of some steps at a time."""
    names = chunks[0] if chunks else {}
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The rows, one an evaluation, as an array for each name but the means of steps; NaN where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row if not name.startswith("train_"))
    found = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
    return {"eval_step": found.pop("step", np.zeros(0, int)), **found}


def for_json(value: Any) -> Any:
    """With null for what is not finite, for which JSON has no word."""
    if isinstance(value, Mapping):
        return {name: for_json(child) for name, child in value.items()}
    if isinstance(value, list):
        return [for_json(child) for child in value]
    return value if math.isfinite(value) else None


def from_json(value: Any) -> Any:
    """What `for_json` was given, with NaN for null."""
    if isinstance(value, Mapping):
        return {name: from_json(child) for name, child in value.items()}
    if isinstance(value, list):
        return [from_json(child) for child in value]
    return math.nan if value is None else value


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to a file of JSON lines."""
    with _named(path), path.open("a") as file:
        file.write(json.dumps(for_json(row)) + "\n")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The file anew, whole: a run that goes on from a checkpoint repeats what came after it."""
    text = "".join(json.dumps(for_json(row)) + "\n" for row in rows)
    with _named(path):
        write_atomically(path, lambda beside: beside.write_text(text))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Adds to an error what could not be written, which a full disk's does not say, and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"fit: cannot write {path}: {error.strerror}; make room, or it writable, and go on from the last "
            "checkpoint with resume=True",
        ) from error


def more_is_better(measure: str) -> bool | None:
    """Whether more of a measure is better, by the end of its name; None where that does not say it."""
    for ending, better in (("loss", False), ("penalty", False), ("accuracy", True)):
        if measure.endswith(ending):
            return better
    return None
