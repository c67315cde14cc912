"""A layer without params and state, made from functions of its input."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.layers.keys import required_key


def without_params(
    name: str,
    check_input: Callable[[Any], object],
    f: Callable[[jax.Array], jax.Array],
    *,
    in_training: Callable[[chex.PRNGKey, jax.Array], jax.Array] | None = None,
) -> Layer:
    """A layer without params: y = f(x), or in_training(key, x) where that is given and train=True.

    Args:
        name: the kind of layer.
        check_input: called with x before anything else, by init and by apply. It raises if x is wrong.
        f: `x -> y`.
        in_training: `(key, x) -> y`, for a layer that draws in training. Without a key, apply raises.
    """

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        check_input(x)
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_input(x)
        check.has_shapes(name, "params", params, {})
        check.has_shapes(name, "state", state, {})
        x = jnp.asarray(x)
        if train and in_training is not None:
            return in_training(required_key(name, key), x), {}
        return f(x), {}

    return Layer(init, apply, name)
