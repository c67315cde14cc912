"""What wrappers that change a layer's "w" share: the weight itself, and their own entries of params or state."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer


def weight(wrapper: str, layer: Layer, params: Any) -> jax.Array:
    """The "w" of a layer's params, whose shape the layer checks. Raises if there is none."""
    check.is_dict(wrapper, "params", params)
    if not hasattr(params.get("w"), "shape"):
        raise ValueError(
            f"{wrapper}: params has {sorted(params) or 'no entries'}, wanted the 'w' of {layer.name}; wrap a "
            "layer that has one, such as dense or conv, and pass the params that init returned"
        )
    check.has_shapes(wrapper, "params", {"w": params["w"]}, {"w": float})
    return jnp.asarray(params["w"])


def split_off(wrapper: str, what: str, tree: Any, *names: str) -> tuple[Any, ...]:
    """The wrapper's own entries, by name, then a dict of the other entries, which the wrapped layer checks."""
    check.is_dict(wrapper, what, tree)
    if not set(names) <= set(tree):
        raise ValueError(
            f"{wrapper}: {what} has {sorted(tree) or 'no entries'}, wanted {list(names)} and the wrapped "
            f"layer's; pass the {what} that this network's init returned"
            + (", and keep the one that apply returns" if what == "state" else "")
        )
    return *(tree[name] for name in names), {k: v for k, v in tree.items() if k not in names}


def check_names_free(wrapper: str, layer: Layer, what: str, tree: Mapping[str, Any], *names: str) -> None:
    """Raises if the wrapped layer has entries with the names that the wrapper uses."""
    if taken := sorted(set(tree) & set(names)):
        raise ValueError(
            f"{wrapper}: {what} of {layer.name} has {taken}, names that the wrapper uses; wanted a layer without them"
        )
