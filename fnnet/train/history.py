"""The history of a run: arrays at the end, and while it runs a line of JSON for each evaluation."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fnnet.atomic import write_atomically


def join_chunks(chunks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The numbers of all steps, by name, from those of a few steps at a time."""
    names = chunks[0] if chunks else {}
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}


def rows_to_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """An array per name from rows, one per evaluation; NaN where a row lacks the name.

    The means over steps, "train_...", are left out: the history has the steps themselves.
    """
    names = dict.fromkeys(name for row in rows for name in row if not name.startswith("train_"))
    found = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
    return {"eval_step": found.pop("step", np.zeros(0, int)), **found}


def for_json(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON cannot express."""
    if isinstance(value, Mapping):
        return {name: for_json(child) for name, child in value.items()}
    if isinstance(value, list):
        return [for_json(child) for child in value]
    return value if math.isfinite(value) else None


def from_json(value: Any) -> Any:
    """The inverse of `for_json`, with NaN for null."""
    if isinstance(value, Mapping):
        return {name: from_json(child) for name, child in value.items()}
    if isinstance(value, list):
        return [from_json(child) for child in value]
    return math.nan if value is None else value


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to a file of JSON lines."""
    with _name_the_file(path), path.open("a") as file:
        file.write(json.dumps(for_json(row)) + "\n")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the whole file again: a run that resumes from a checkpoint repeats the rows after it."""
    text = "".join(json.dumps(for_json(row)) + "\n" for row in rows)
    with _name_the_file(path):
        write_atomically(path, lambda beside: beside.write_text(text))


@contextmanager
def _name_the_file(path: Path) -> Iterator[None]:
    """Adds to an error the file that could not be written, which that of a full disk lacks, and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"fit: cannot write {path}: {error.strerror}; make room or make it writable, then resume from the last "
            "checkpoint with resume=True",
        ) from error


def more_is_better(measure: str) -> bool | None:
    """Whether more of a measure is better, by the end of its name; None where the name does not say it."""
    for ending, better in (("loss", False), ("penalty", False), ("accuracy", True)):
        if measure.endswith(ending):
            return better
    return None
