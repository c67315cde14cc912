"""Batches drawn without replacement: each epoch is a permutation of the examples."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check


def count_examples(name: str, part: Any) -> int:
    """How many examples a part of the data holds, or raises where it is no dict of x and y of one length."""
    if not isinstance(part, Mapping) or not {"x", "y"} <= set(part):
        raise ValueError(f"{name} is {check.describe(part)}, wanted a dict with x and y")
    leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(part)}
    if len(leading) != 1 or leading <= {(), (0,)}:
        raise ValueError(
            f"{name} is {check.describe(part)}, wanted arrays with one leading axis, that of the examples, "
            "of one size that is not 0"
        )
    return leading.pop()[0]


def epoch_order(key: chex.PRNGKey, step: chex.Numeric, n: int, batch_size: int) -> jax.Array:
    """The permutation, int32[n], of the epoch that a step belongs to: where a run goes on in the middle of one."""
    epoch = step // (n // batch_size)
    # The order of random numbers. `jax.random.permutation` sorts twice where two of them may be alike; here two
    # examples with one number (of 60,000 one such pair in two epochs) keep their order.
    return jnp.argsort(jax.random.bits(jax.random.fold_in(key, epoch), (n,))).astype(jnp.int32)


def next_batch(
    key: chex.PRNGKey, order: jax.Array, step: jax.Array, examples: Any, batch_size: int
) -> tuple[jax.Array, Any]:
    """The batch of a step.

    Each epoch of n // batch_size steps goes through a new permutation; the n % batch_size examples that are
    left over at its end are others each time.

    Args:
        key: of the run, the same at each step.
        order: int32[n], the epoch's permutation, handed on from step to step; anything where an epoch begins.
        step: int32[], steps taken.
        examples: pytree of arrays with leading axis n.
        batch_size: examples a batch, n at most.

    Returns:
        (order, batch).
    """
    n = order.shape[0]
    place = step % (n // batch_size)
    # The step has no key in it, so under vmap over keys the condition stays one: no epoch is sorted twice.
    order = jax.lax.cond(
        place == 0,
        lambda order: epoch_order(key, step, n, batch_size),
        lambda order: order,
        order,
    )
    chosen = jax.lax.dynamic_slice_in_dim(order, place * batch_size, batch_size)
    return order, jax.tree.map(lambda a: a[chosen], examples)
