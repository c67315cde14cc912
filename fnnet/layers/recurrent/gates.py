"""What the cells with gates share: their params side by side, their checks, the carry at 0, a fast sigmoid."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.initializers import Initializer
from fnnet.layer import Params


def sigmoid(z: jax.Array) -> jax.Array:
    """Sigmoid by tanh, which is faster than XLA's logistic on a CPU (an LSTM's forward pass: 18 ms -> 10 ms)."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


def init_cell(
    name: str,
    keys: Sequence[chex.PRNGKey],
    x: Any,
    features: int,
    gates: int,
    w_init: Initializer,
    w_h_init: Initializer,
    b_init: Initializer,
) -> Params:
    """Weights of the input, weights of the hidden state, and biases, each of all gates side by side."""
    check.is_floating(name, x)
    check.has_rank(name, x, 2, "(batch, features)")
    width, dtype = gates * features, jnp.result_type(x)
    return {
        "w_x": w_init(keys[0], (x.shape[-1], width), dtype),
        "w_h": w_h_init(keys[1], (features, width), dtype),
        "b": b_init(keys[2], (width,), dtype),
    }


def check_cell(name: str, params: Params, x: Any, wanted: tuple[str, ...]) -> None:
    """Raises unless params are those of such a cell, and the input of a step matches them."""
    check.is_floating(name, x)
    check.has_rank(name, x, 1, "(batch, features)")
    check.has_keys(name, "params", params, wanted)
    if x.shape[-1] != params["w_x"].shape[0]:
        raise ValueError(
            f"{name}: input of a step is {check.describe(x)} and w_x {check.describe(params['w_x'])}, wanted "
            f"{params['w_x'].shape[0]} features"
        )


def zero_carry(name: str, params: Params, x: Any, features: int, wanted: tuple[str, ...]) -> jax.Array:
    """The hidden state before the first step, zeros, in the dtype that it has after the step."""
    check_cell(name, params, x, wanted)
    w_h = params["w_h"]
    if w_h.shape[0] != features:
        raise ValueError(
            f"{name}: w_h is {check.describe(w_h)}, wanted {features} rows for features={features}; pass the "
            "params that this cell's init returned"
        )
    return jnp.zeros((*x.shape[:-1], features), jnp.result_type(x, w_h))
