"""An oracle for whatever can be differentiated: its equation in NumPy, and central differences of that."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def agrees(
    f: Callable[..., Any],
    reference: Callable[..., Any],
    *args: Any,
    tolerance: float = 1e-10,
    slope_tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Asserts that f is the reference, in value and in the gradient by each array of floating point, in float64.

    Args:
        f: a function of trees of arrays, in JAX; its output is a tree of arrays, too.
        reference: the same function, written from the equation for NumPy arrays.
        *args: what both are called with.
        tolerance: of the values, relative and absolute.
        slope_tolerance: of the gradients, relative to the largest. Each is compared along a random direction,
            which no wrong gradient survives, argument by argument, so that no two errors cancel.
        seed: of the directions.
    """
    rng = np.random.default_rng(seed)
    leaves, tree = jax.tree.flatten(jax.tree.map(np.asarray, args))
    floating = [i for i, leaf in enumerate(leaves) if np.issubdtype(leaf.dtype, np.floating)]
    leaves = [leaf.astype(np.float64) if i in floating else leaf for i, leaf in enumerate(leaves)]
    wanted = [np.asarray(y) for y in jax.tree.leaves(reference(*tree.unflatten(leaves)))]
    cotangents = [rng.normal(size=y.shape) for y in wanted]

    def with_floating(changed: list[Any]) -> Any:
        whole = list(leaves)
        for i, leaf in zip(floating, changed, strict=True):
            whole[i] = leaf
        return tree.unflatten(whole)

    @jax.jit
    def value_and_gradients(changed: list[Any], cotangents: list[Any]) -> Any:
        y, back = jax.vjp(lambda changed: jax.tree.leaves(f(*with_floating(changed))), changed)
        return y, back([c.astype(leaf.dtype) for c, leaf in zip(cotangents, y, strict=True)])[0]

    with jax.enable_x64(True):
        got, gradients = value_and_gradients([jnp.asarray(leaves[i]) for i in floating], cotangents)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)

    def along(i: int, direction: np.ndarray, eps: float) -> float:
        moved = list(leaves)
        moved[i] = leaves[i] + eps * direction
        outputs = jax.tree.leaves(reference(*tree.unflatten(moved)))
        return float(sum(np.sum(c * np.asarray(y)) for c, y in zip(cotangents, outputs, strict=True)))

    for i, gradient in zip(floating, gradients, strict=True):
        assert gradient.shape == leaves[i].shape
        if not leaves[i].size:
            continue
        direction = rng.normal(size=leaves[i].shape)
        slope = (along(i, direction, 1e-6) - along(i, direction, -1e-6)) / 2e-6
        scale = 1 + float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        np.testing.assert_allclose(
            np.sum(np.asarray(gradient) * direction), slope, rtol=0, atol=slope_tolerance * scale
        )
