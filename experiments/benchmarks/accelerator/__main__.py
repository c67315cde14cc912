"""fnnet on one accelerator, in at most eight minutes: `python -m experiments.benchmarks.accelerator`.

It needs JAX, optax and chex, and no network. PyTorch, Flax and Equinox are measured if they are installed. Each row is
written to disk when it is measured, so nothing is lost if the command is stopped. With the --out of an earlier run, it
measures the parts that are missing there.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

# PyTorch uses the same card, so JAX must not reserve most of its memory at the start; it may have it later.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")

from experiments.benchmarks.accelerator import (
    fashion_mnist,
    gpt2,
    layer_errors,
    machine,
    many_runs,
    optimizer_parity,
    report,
    steps,
)
from experiments.benchmarks.accelerator.part import LATE, Part, Settings, reason, share, too_short

COMMAND = "experiments.benchmarks.accelerator"
PARTS: dict[str, Part] = {
    "layers": layer_errors.PART,
    "optimizers": optimizer_parity.PART,
    "steps": steps.PART,
    "gpt2": gpt2.PART,
    "many_runs": many_runs.PART,
    "fashion_mnist": fashion_mnist.PART,
}
MARGIN = 15.0  # seconds for the imports before the clock starts, and for ending


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {COMMAND}", description=(__doc__ or "").split("\n\n", 1)[1]
    )
    parser.add_argument(
        "--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="the parts; default: all"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="limit for everything; default: 8")
    parser.add_argument("--out", type=Path, help="folder for the results; default: a new one under runs/")
    parser.add_argument("--data", type=Path, help="folder with the four IDX files of Fashion-MNIST")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test the command on a CPU")
    given = parser.parse_args(argv)
    if not given.minutes > 0:
        parser.error(f"--minutes {given.minutes} is too small, wanted more than 0")
    given.out = given.out or Path("runs") / f"accelerator-{time.strftime('%Y%m%d-%H%M%S')}"
    return given


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 if a part failed or the time was short, 2 for a bad argument."""
    start = time.perf_counter()
    given = arguments(sys.argv[1:] if argv is None else argv)
    end = start + 60 * given.minutes
    try:
        results = report.start(given.out, machine.describe(), given.tiny)
    except ValueError as error:
        print(f"{COMMAND}: --out: {error}", file=sys.stderr)
        return 2
    print(report.machine_line(results), flush=True)
    waiting = [name for name in PARTS if name in given.parts and name not in results["parts"]]
    watchdog = threading.Timer(max(end - MARGIN - time.perf_counter(), 0.1), cut_off, (given.out, results))
    watchdog.daemon = True
    watchdog.start()
    try:
        for i, name in enumerate(waiting):
            later = [PARTS[other].seconds for other in waiting[i + 1 :]]
            allowed = share(PARTS[name].seconds, end - MARGIN - time.perf_counter(), later)
            results["parts"][name] = {"status": "running", "rows": []}
            measure(PARTS[name], results["parts"][name], allowed, given, results)
            print(f"\n{report.table(PARTS[name], results['parts'][name])}", flush=True)
    finally:  # else it would end the process later, whatever that does by then
        watchdog.cancel()
    report.write(given.out, results, PARTS)
    print(f"\n{time.perf_counter() - start:.0f} s; results: {given.out}")
    return int(any(results["parts"][name]["status"] != "done" for name in given.parts))


def measure(part: Part, found: dict[str, Any], allowed: float, given: Any, results: report.Results) -> None:
    """Runs a part, and writes its results to disk after each row."""
    start = time.perf_counter()
    if note := None if given.tiny else too_short(part, allowed):
        found |= {"status": "skipped", "note": note}
    else:
        try:
            for row in part.rows(Settings(given.tiny, start + allowed, given.data)):
                found["rows"].append(row)
                report.write(given.out, results, PARTS)
            late = any(row.get("note", "").startswith(LATE) for row in found["rows"])
            found["status"] = "incomplete" if late else "done"
        except Exception as error:
            found |= {"status": "failed", "note": reason(error)}
    found["seconds"] = time.perf_counter() - start
    report.write(given.out, results, PARTS)


def cut_off(folder: Path, results: report.Results) -> NoReturn:
    """Ends the process at its limit, even if a part hangs. What was measured is on disk already."""
    try:
        for found in results["parts"].values():
            if found["status"] == "running":
                found |= {"status": "cut off", "note": "cut off: the time was over"}
        report.write(folder, results, PARTS)
        print(f"\n{COMMAND}: the time is over; results so far: {folder}", flush=True)
    finally:
        os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
