"""Params of several copies of a layer, stacked on a leading axis: which ones they are, and a rule for each copy."""

from collections.abc import Callable
from typing import Any

import jax

# The params under one of these keys belong to copies of a layer, and each array has them on its first axis: of
# `repeat` and of `mixture_of_experts`.
COPIES, EXPERTS = "copies", "experts"


def copy_axes(tree: Any) -> Any:
    """The number of leading axes of each array that count copies of a layer: one for each `repeat` around it.

    `repeat` keeps the params of its copies under the key "copies", and `mixture_of_experts` keeps those of its
    experts under "experts". An optimizer that looks at the shape of a param, or at its norm, treats each copy by
    itself, as if the layers were in a list. A function of your own that looks at shapes can do the same:

        mask = lambda params: jax.tree.map(lambda p, n: p.ndim - n > 1, params, fn.copy_axes(params))

    Args:
        tree: params, or a tree with their structure, such as gradients.

    Returns:
        A tree of ints with that structure.

    Example:
        >>> params, state = fn.repeat(fn.dense(3), 12).init(jax.random.key(0), jnp.ones((1, 3)))
        >>> params["copies"]["w"].shape, fn.copy_axes(params)
        ((12, 3, 3), {'copies': {'b': 1, 'w': 1}})
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: sum(getattr(entry, "key", None) in (COPIES, EXPERTS) for entry in path[:-1]), tree
    )


def for_each_copy(f: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """f, mapped over that many leading axes of all of its arguments."""
    for _ in range(axes):
        f = jax.vmap(f)
    return f


def each_copy(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """A tree of f(array, entries of the other trees in its place); of each copy by itself, where arrays are stacked."""
    return jax.tree.map(lambda x, n, *others: for_each_copy(f, n)(x, *others), tree, copy_axes(tree), *rest)
