"""Batches drawn without replacement: each epoch is a permutation of the examples."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check


def count_examples(name: str, part: Any) -> int:
    """The number of examples in a part of the data, a dict with x and y.

    Raises:
        TypeError: it holds something else than arrays of numbers.
        ValueError: the part is not such a dict, or its arrays differ in length or are empty.
    """
    check_names(name, part)
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(part)):
        _check_array(f"{name}: {jax.tree_util.keystr(path, simple=True, separator='/')}", leaf)
    leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(part)}
    if len(leading) != 1 or leading <= {(), (0,)}:
        raise ValueError(
            f"{name} is {check.describe(part)}, wanted arrays with one leading axis, that of the examples, "
            "of one size that is not 0"
        )
    return leading.pop()[0]


def check_names(name: str, part: Any) -> None:
    """Raises ValueError unless a part of the data or a batch is a dict with just x and y, in numbers that JAX holds."""
    if isinstance(part, list | tuple) and len(part) == 2 and all(hasattr(a, "shape") for a in part):
        raise ValueError(f'{name} is {check.describe(part)}, wanted a dict with x and y: {{"x": x, "y": y}}')
    if not isinstance(part, Mapping) or not {"x", "y"} <= set(part):
        raise ValueError(f"{name} is {check.describe(part)}, wanted a dict with x and y")
    if others := sorted(map(repr, set(part) - {"x", "y"})):
        raise ValueError(
            f"{name} has {', '.join(others)} beside x and y, which training would not use; take it out, or, where the "
            'network or the loss reads it, make x or y a dict, such as x={"x": x, "lengths": lengths}'
        )
    check.fits_in_jax(name, part)


def _check_array(name: str, a: Any) -> None:
    """Raises TypeError for a table of another library, and for arrays of objects or text."""
    if hasattr(a, "to_numpy"):
        raise TypeError(
            f"{name} is a {type(a).__module__.split('.')[0]} {type(a).__name__}, wanted an array: .to_numpy()"
        )
    if not hasattr(a, "dtype") or jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended):
        return
    try:
        dtype = np.dtype(a.dtype)
    except TypeError:
        raise TypeError(
            f"{name} is a {type(a).__module__.split('.')[0]} {type(a).__name__}, wanted an array: np.asarray"
        ) from None
    if dtype.kind in "OSUMm" or dtype.names:
        raise TypeError(
            f"{name} is {check.describe(a)}, wanted numbers, all of one dtype; for rows of one length np.stack makes "
            "such an array, for text or dates convert it first"
        )


def epoch_order(key: chex.PRNGKey, step: chex.Numeric, n: int, batch_size: int) -> jax.Array:
    """The permutation, int32[n], of the epoch that a step belongs to. A run that resumes mid-epoch starts with it."""
    epoch = step // (n // batch_size)
    # Sort random numbers. `jax.random.permutation` sorts twice because two of them may be equal. Here, two examples
    # with equal numbers keep their order: for 60,000 examples that is one pair in two epochs.
    return jnp.argsort(jax.random.bits(jax.random.fold_in(key, epoch), (n,))).astype(jnp.int32)


def next_batch(
    key: chex.PRNGKey, order: jax.Array, step: jax.Array, examples: Any, batch_size: int
) -> tuple[jax.Array, Any]:
    """The batch of a step.

    Each epoch has n // batch_size steps and goes through a new permutation. The n % batch_size examples that are
    left over at the end of an epoch are different ones each time.

    Args:
        key: of the run, the same at each step.
        order: int32[n], the epoch's permutation, passed on from step to step. At the first step of an epoch it is
            replaced, so any value will do.
        step: int32[], steps taken.
        examples: pytree of arrays with leading axis n.
        batch_size: examples per batch, at most n.

    Returns:
        (order, batch).
    """
    n = order.shape[0]
    position = step % (n // batch_size)
    # The step does not depend on the key, so under vmap over keys this stays one condition and no epoch is sorted
    # at each step.
    order = jax.lax.cond(
        position == 0,
        lambda order: epoch_order(key, step, n, batch_size),
        lambda order: order,
        order,
    )
    indices = jax.lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
    return order, jax.tree.map(lambda a: a[indices], examples)
