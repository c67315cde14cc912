"""Batches drawn without replacement: each epoch is a permutation of the examples."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check


def count_examples(part: str, examples: Any) -> int:
    """How many examples a pytree of arrays with equal leading axes holds; raises where they are unequal, or none."""
    leaves = jax.tree.leaves(examples)
    sizes = {leaf.shape[0] if jnp.ndim(leaf) else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(
            f"{part} data is {check.describe(examples)}, wanted arrays with one leading axis, that of the examples, "
            "of one size that is not 0"
        )
    return sizes.pop()


def take(
    key: chex.PRNGKey, order: jax.Array, step: jax.Array, examples: Any, batch_size: int
) -> tuple[jax.Array, Any]:
    """The batch of a step.

    Each epoch of n // batch_size steps goes through a new permutation; the n % batch_size examples that are left over
    at its end are others each time.

    Args:
        key: of the run, the same at each step.
        order: int32[n], the epoch's permutation, handed on from step to step; anything at step 0.
        step: int32[], steps taken.
        examples: pytree of arrays with leading axis n.
        batch_size: examples a batch, n at most.

    Returns:
        (order, batch).
    """
    n = order.shape[0]
    epoch, place = jnp.divmod(step, n // batch_size)
    # Under vmap over keys the condition stays one for all, for the step has no key in it: no epoch is sorted twice.
    order = jax.lax.cond(
        place == 0,
        lambda order: jax.random.permutation(jax.random.fold_in(key, epoch), n).astype(order.dtype),
        lambda order: order,
        order,
    )
    chosen = jax.lax.dynamic_slice_in_dim(order, place * batch_size, batch_size)
    return order, jax.tree.map(lambda a: a[chosen], examples)
