"""Inputs, casts and comparisons of tests, in NumPy: every operation of JAX outside a test's own program is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes  # noqa: F401  NumPy learns bfloat16
import numpy as np


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Standard normal numbers of a shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def integers(below: int, *shape: int, seed: int = 0) -> np.ndarray:
    """int32 from 0 to below - 1."""
    return np.random.default_rng(seed).integers(below, size=shape).astype(np.int32)


def is_floating(a: Any) -> bool:
    """Whether an array is of floating-point numbers, bfloat16 among them."""
    return jax.dtypes.issubdtype(np.result_type(a), np.floating)


def each(f: Callable[..., Any], *trees: Any) -> Any:
    """A NumPy function of every leaf of a tree; typed PRNG keys stay as they are."""

    def on(*leaves: Any) -> Any:
        if jax.dtypes.issubdtype(getattr(leaves[0], "dtype", np.float32), jax.dtypes.prng_key):
            return leaves[0]
        return f(*map(np.asarray, leaves))

    return jax.tree.map(on, *trees)


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point leaves in a dtype, such as params in float64."""
    return each(lambda a: a.astype(dtype) if is_floating(a) else a, tree)


def stack(*trees: Any) -> Any:
    """Trees stacked on a new leading axis."""
    return each(lambda *leaves: np.stack(leaves), *trees)


def at(tree: Any, i: Any) -> Any:
    """Element i of the leading axis of every leaf."""
    return each(lambda a: a[i], tree)


def shapes(tree: Any) -> Any:
    """The tree of `jax.ShapeDtypeStruct`s of arrays."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(np.shape(a), getattr(a, "dtype", None) or np.result_type(a)), tree
    )


def close(got: Any, wanted: Any, rtol: float = 1e-7, atol: float = 0.0) -> None:
    """Asserts that two trees have one structure, equal shapes and close numbers; NaN equals NaN."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        assert np.shape(a) == np.shape(b), (jax.tree_util.keystr(path), np.shape(a), np.shape(b))
        a, b = (np.asarray(x).astype(np.float64) if is_floating(x) else np.asarray(x) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))


def equal(got: Any, wanted: Any) -> None:
    """Asserts that two trees have one structure, equal dtypes and shapes, and the same numbers."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        place = jax.tree_util.keystr(path)
        assert (np.shape(a), np.result_type(a)) == (np.shape(b), np.result_type(b)), place
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=place)
