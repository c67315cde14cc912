"""Inputs, casts and comparisons of tests, in NumPy: every operation of JAX outside a test's own program is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes  # noqa: F401  NumPy learns bfloat16
import numpy as np


def array(a: Any, dtype: Any = None) -> np.ndarray:
    """An array in the dtype that `jnp.asarray` gives it: float32 and int32, unless double precision is on."""
    a = np.asarray(a)
    return a.astype(jax.dtypes.canonicalize_dtype(a.dtype if dtype is None else dtype))


def ones(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """Ones, in the dtype that `jnp.ones` gives them."""
    return array(np.ones(shape), dtype)


def zeros(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """Zeros, in the dtype that `jnp.zeros` gives them."""
    return array(np.zeros(shape), dtype)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Standard normal numbers of a shape. Arrays of different shapes do not begin alike."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def like(tree: Any, seed: int = 0, scale: float = 1.0, dtype: Any = np.float32) -> Any:
    """Normal numbers in the shapes of the tree's leaves, each drawn by itself."""
    leaves, structure = jax.tree.flatten(tree)
    drawn = (normal(*np.shape(leaf), seed=1000 * seed + i, dtype=np.float64) for i, leaf in enumerate(leaves))
    return structure.unflatten([(scale * a).astype(dtype) for a in drawn])


def params_for(layer: Any, x: Any, dtype: Any = np.float32, scale: float = 0.5) -> Any:
    """Params for a layer and its input: the shapes are those of init, which is not compiled."""
    return like(jax.eval_shape(layer.init, jax.random.key(0), x)[0], scale=scale, dtype=dtype)


def integers(below: int, *shape: int, seed: int = 0) -> np.ndarray:
    """int32 from 0 to below - 1."""
    return np.random.default_rng([seed, *shape]).integers(below, size=shape).astype(np.int32)


def is_floating(a: Any) -> bool:
    """Whether an array is of floating-point numbers, bfloat16 among them."""
    return jax.dtypes.issubdtype(dtype_of(a), np.floating)


def dtype_of(a: Any) -> Any:
    """The dtype of an array or of a number."""
    return a.dtype if hasattr(a, "dtype") else np.result_type(a)


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


def blank(tree: Any) -> Any:
    """Zeros in the shapes and dtypes of a tree, such as those of an empty cache that init would return."""
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), tree)


def shapes(tree: Any) -> Any:
    """The tree of `jax.ShapeDtypeStruct`s of arrays."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), dtype_of(a)), tree)


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
        assert (np.shape(a), dtype_of(a)) == (np.shape(b), dtype_of(b)), place
        a, b = (
            np.asarray(x).astype(np.float64) if is_floating(x) else np.asarray(x) for x in (a, b)
        )  # exactly
        np.testing.assert_array_equal(a, b, err_msg=place)
