"""The accelerator: its name, driver and clocks, the versions, and how fast it can be at most."""

import importlib.metadata
import importlib.util
import re
import subprocess
from typing import Any

from experiments.results_folder import environment

QUERY = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "power.limit")
PEERS = ("torch", "flax", "equinox")

# Dense TFLOP/s in bfloat16 (T4: float16) with sums in float32, from NVIDIA's data sheets, without sparsity.
PEAK_TFLOPS = (
    (r"\bH200\b", 989.0),
    (r"\bH100 PCIe\b", 756.0),
    (r"\bH100\b.*\b(SXM5?|HBM3)\b", 989.0),
    (r"\bA100\b", 312.0),
    (r"\bL4\b", 121.0),
    (r"\bT4\b", 65.0),
    (r"\bRTX 4090\b", 165.0),
)


def describe() -> dict[str, Any]:
    """Device, versions, git revision; on a GPU of NVIDIA also what nvidia-smi reports."""
    where = environment()
    where["versions"] |= {
        name: importlib.metadata.version(name) for name in PEERS if importlib.util.find_spec(name)
    }
    return where | {"card": card()}


def card() -> dict[str, str]:
    """What nvidia-smi reports of the first card; nothing where it is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = done.stdout.splitlines()[0].split(", ") if done.stdout.strip() else []
    return dict(zip(QUERY, values, strict=False))


def peak_flops(name: str) -> float | None:
    """FLOP/s of a card by its name; None for a card that is not in the table, and for a slice of one (MIG)."""
    if "MIG" in name:
        return None
    return next(
        (1e12 * peak for pattern, peak in PEAK_TFLOPS if re.search(pattern, name, re.IGNORECASE)), None
    )
