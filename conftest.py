"""The names that the docstrings' examples use, and how programs are compiled in tests."""

import gc
import os
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import pytest

import fnnet as fn
from experiments.compilation_cache import use_compilation_cache

# Nearly all of the suite's time is compilation, and most of that is LLVM and the emitters of fused loops, of which the
# older jaxlib has a simpler kind. XLA's own optimizations stay. What depends on the others is run once more with all of
# them by `make test`: tests leave those flags alone where XLA_FLAGS has the level already.
# One module of machine code per program: XLA's 32, for 32 threads, take a fifth more CPU time.
fast = ["--xla_cpu_parallel_codegen_split_count=1"]
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    fast.append("--xla_backend_optimization_level=0")
    if jaxlib.version.__version_info__ < (0, 11):  # a flag that XLA doesn't know ends the process
        fast.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*fast, os.environ.get("XLA_FLAGS", "")])

# Tracebacks of ten frames for each operation take a tenth of the time of lowering, and nobody reads them.
jax.config.update("jax_include_full_tracebacks_in_locations", False)

# What was compiled before is read from disk.
# JAX_ENABLE_COMPILATION_CACHE=false compiles everything anew.
use_compilation_cache()


def pytest_collection_finish() -> None:
    """Leaves thousands of modules and tests out of every garbage collection: a tenth of the time went there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(fn=fn, jax=jax, jnp=jnp)
