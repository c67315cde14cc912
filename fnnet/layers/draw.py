"""What layers with params share: checks of the functions they are given, and params in the shapes that they state."""

from collections.abc import Mapping
from typing import Any

import chex

from fnnet import check
from fnnet.initializers import Initializer
from fnnet.layer import Params
from fnnet.layers.keys import keys_for


def check_initializers(layer: str, inits: Mapping[str, Initializer]) -> None:
    """Raises TypeError unless each is an initializer, by the name of the argument."""
    for name, init in inits.items():
        if not callable(init):
            raise TypeError(
                f"{layer}: {name}={init!r}, wanted an initializer, such as fn.initializers.normal(0.01)"
            )
        if getattr(init, "__annotations__", {}).get("return") is Initializer:
            made = getattr(init, "__name__", "it")
            raise TypeError(
                f"{layer}: {name} is {made}, a function that makes an initializer: write {made}()"
            )


def check_activation(layer: str, activation: Any) -> None:
    """Raises TypeError unless the activation is a function."""
    if not callable(activation):
        raise TypeError(f"{layer}: activation={activation!r}, wanted a function of an array, such as fn.relu")


def draw(
    layer: str, key: chex.PRNGKey, shapes: Mapping[str, Any], inits: Mapping[str, Initializer], dtype: Any
) -> Params:
    """Params of the shapes, each from the initializer of its name, with a key of its own.

    Raises:
        ValueError: an initializer gives another shape.
    """
    keys = keys_for(key, *(inits[name] for name in shapes))
    params = {}
    for (name, shape), own in zip(shapes.items(), keys, strict=True):
        params[name] = inits[name](own, shape, dtype)
        if getattr(params[name], "shape", None) != shape:
            raise ValueError(
                f"{layer}: the initializer of {name} gave {check.describe(params[name])}, wanted {shape}"
            )
    return params
