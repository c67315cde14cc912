"""JAX's persistent compilation cache, for commands and tests: a program that was compiled before is read from disk."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib
from jax.experimental.compilation_cache.compilation_cache import reset_cache


def use_compilation_cache() -> Path | None:
    """Turns the cache on, in this process and in those that it starts. Returns its folder, or None if it is off.

    It is in the user's cache folder, with one folder per release of jaxlib and kind of processor, because machine code
    for one may not run on another. It can be deleted at any time.

    JAX's own environment variables take precedence: JAX_ENABLE_COMPILATION_CACHE=false turns the cache off, and
    JAX_COMPILATION_CACHE_DIR names another folder.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "fnnet" / "programs" / f"jaxlib-{jaxlib.__version__}-{_processor()}"
    for name, value in (
        ("compilation_cache_dir", folder),
        ("persistent_cache_min_compile_time_secs", 0),
        ("persistent_cache_min_entry_size_bytes", -1),
    ):
        text = os.environ.setdefault(f"JAX_{name.upper()}", str(value))
        jax.config.update(f"jax_{name}", type(value)(text) if isinstance(value, int) else text)
    return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Turns the cache off inside a `with` block, to measure how long compilation takes."""
    enabled = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        reset_cache()  # JAX decides once whether it uses the cache, and forgets that only here
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        reset_cache()


def _processor() -> str:
    """A short digest of the processor's model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    except OSError:  # not Linux
        told = [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *told]).encode()).hexdigest()[:12]
