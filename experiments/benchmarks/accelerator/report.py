"""The results on disk: a JSON that is complete whenever it is read, and a Markdown table for docs/benchmarks.md."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks.accelerator.part import Part
from fnnet.atomic import write_atomically

JSON, MARKDOWN = "accelerator.json", "accelerator.md"
Results = dict[str, Any]  # "environment", "tiny", and "parts": name -> {"status", "seconds", "rows"}


def start(folder: Path, environment: Mapping[str, Any], tiny: bool) -> Results:
    """The finished parts of an earlier run in this folder; empty results if there was none.

    Raises:
        ValueError: the earlier run had another device, other versions or other sizes, or the file is something else.
    """
    new: Results = {"environment": dict(environment), "tiny": tiny, "parts": {}}
    try:
        old = json.loads((folder / JSON).read_text())
    except FileNotFoundError:
        return new
    except ValueError as error:
        raise ValueError(f"{folder / JSON} is not JSON ({error}), wanted results of this command") from error
    if not isinstance(old, dict) or not new.keys() <= old.keys():
        raise ValueError(f"{folder / JSON} is from another program, wanted results of this command")
    for name in ("device", "versions"):
        before, now = old["environment"].get(name), new["environment"].get(name)
        if before != now:
            raise ValueError(f"{folder / JSON}: {name} was {before}, and is {now}; name another folder")
    if old["tiny"] != tiny:
        raise ValueError(f"{folder / JSON}: tiny was {old['tiny']}, and is {tiny}; name another folder")
    kept = {name: part for name, part in old["parts"].items() if part["status"] == "done"}
    return new | {"parts": kept}


def write(folder: Path, results: Results, parts: Mapping[str, Part]) -> None:
    """Writes both files atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(finite(results), indent=2, allow_nan=False) + "\n"
    write_atomically(folder / JSON, lambda beside: beside.write_text(text))
    write_atomically(folder / MARKDOWN, lambda beside: beside.write_text(document(results, parts)))


def document(results: Results, parts: Mapping[str, Part]) -> str:
    """All tables, below the machine."""
    tables = [table(parts[name], found) for name, found in results["parts"].items() if name in parts]
    return "\n\n".join([machine_line(results), *tables]) + "\n"


def machine_line(results: Results) -> str:
    """The card, its driver and clocks, and the versions."""
    where = results["environment"]
    card = where.get("card", {})
    told = [where["device"]]
    told += [f"driver {card['driver_version']}"] if "driver_version" in card else []
    told += [f"clock {card['clocks.sm']} of {card['clocks.max.sm']} MHz"] if "clocks.sm" in card else []
    told += [
        f"Python {where['python']}",
        *(f"{name} {version}" for name, version in where["versions"].items()),
    ]
    sizes = " Tiny sizes: a test of the command, not a measurement." if results["tiny"] else ""
    return f"{', '.join(told)}.{sizes}"


def table(part: Part, found: Mapping[str, Any]) -> str:
    """One part in Markdown, with notes where something failed or was skipped."""
    rows = found["rows"]
    lines = [f"**{part.title}**"]
    if found.get("note"):
        lines += ["", found["note"]]
    if not rows:
        return "\n".join(lines)
    columns = dict(part.columns)
    if any("note" in row for row in rows):
        columns["note"] = ""
    lines += ["", f"| {' | '.join(columns.values())} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(shown(row.get(name)) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as a table shows it: numbers with three digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def finite(tree: Any) -> Any:
    """The tree with None for NaN and infinities, which JSON does not have."""
    if isinstance(tree, Mapping):
        return {name: finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
