"""Cases that need eight devices: all run in one process of their own, and all failures are reported together."""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

Cases = Sequence[Callable[[], None]]


def failures(cases: Cases) -> Iterator[str]:
    for case in cases:
        try:
            case()
        except BaseException:
            yield f"{case.__name__}: {traceback.format_exc()}"


def passes_on_eight_devices(file: str, cases: Cases) -> None:
    """Runs a test file as a program, whose last line counts its cases."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
    }
    done = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(cases)} cases on 8 devices\n", done.stdout + done.stderr
