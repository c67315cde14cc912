"""The names that the docstrings' examples use, and how programs are compiled in tests."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import fnnet as fn
from experiments.compilation_cache import use_compilation_cache

# LLVM's optimizations take half of the suite's time, which is nearly all compilation. XLA's own stay, and what depends
# on LLVM's is run once more with them by `make test`. XLA_FLAGS=--xla_backend_optimization_level=3 has the last word.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

# Nearly all of the suite's time is compilation: what was compiled before is read from disk.
# JAX_ENABLE_COMPILATION_CACHE=false compiles everything anew.
use_compilation_cache()


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(fn=fn, jax=jax, jnp=jnp)
