"""The simple recurrent network (Elman 1990)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import activations, check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params
from fnnet.layers.keys import keys_for
from fnnet.layers.recurrent.recurrent import Cell, Outputs, recurrent

Activation = Callable[[jax.Array], jax.Array]


def simple_rnn_cell(
    features: int,
    *,
    activation: Activation = activations.tanh,
    w_init: Initializer = initializers.glorot_uniform(),
    w_h_init: Initializer = initializers.orthogonal(),
    b_init: Initializer = initializers.zeros,
) -> Cell:
    """Simple recurrent cell: the hidden state is an activation of an affine map of the input and itself.

        h <- activation(x w_x + h w_h + b)                      y = h

    Shapes: x (batch, in), h and y (batch, features), w_x (in, features), w_h (features, features),
    b (features,). The carry is h, and begins at 0.

    Args:
        features: hidden units.
        activation: a function of an array; `fnnet.tanh`. (With `fnnet.relu`, Le et al. 2015,
            arXiv:1504.00941, start w_h at the identity, `fnnet.initializers.identity()`.)
        w_init: initializer of w_x; Glorot's uniform.
        w_h_init: initializer of w_h; orthogonal.
        b_init: initializer of b; zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input's features are not those of w_x, or the params are of another cell.

    Source: Elman 1990, "Finding structure in time".

    Example:
        >>> cell = fn.simple_rnn_cell(3)
        >>> params = cell.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> h = cell.initial_carry(params, jnp.ones((2, 4)))
        >>> h, y = cell.step(params, h, jnp.ones((2, 4)))
        >>> y.shape
        (2, 3)
    """
    check.is_positive("simple_rnn", "features", features)
    entries = ("w_x", "w_h", "b")

    def init(key: chex.PRNGKey, x: Any) -> Params:
        keys = keys_for(key, w_init, w_h_init, b_init)
        return init_cell("simple_rnn", keys, x, features, 1, w_init, w_h_init, b_init)

    def initial_carry(params: Params, x: Any) -> jax.Array:
        return zero_carry("simple_rnn", params, x, features, entries)

    def step(params: Params, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        check_cell("simple_rnn", params, x, entries)
        z = x @ params["w_x"] + h @ params["w_h"]
        h = activation(z + jnp.broadcast_to(params["b"], z.shape))
        return h, h

    return Cell(init, initial_carry, step, "simple_rnn")


def simple_rnn(
    features: int,
    *,
    activation: Activation = activations.tanh,
    reverse: bool = False,
    outputs: Outputs = "all",
) -> Layer:
    """Simple recurrent network along a sequence: `recurrent(simple_rnn_cell(features))`.

        h_t = activation(x_t w_x + h_{t-1} w_h + b)             y_t = h_t

    Shapes, lengths and errors as in `recurrent`.

    Args:
        features: hidden units.
        activation: a function of an array; `fnnet.tanh`.
        reverse: from the last step to the first.
        outputs: "all", or "last", the output of the step that was taken last.

    Source: Elman 1990, "Finding structure in time".

    Example:
        >>> layer = fn.simple_rnn(8)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> layer(params, jnp.ones((4, 5, 3))).shape
        (4, 5, 8)
    """
    cell = simple_rnn_cell(features, activation=activation)
    return dataclasses.replace(recurrent(cell, reverse=reverse, outputs=outputs), name="simple_rnn")


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
    """Weights of the input and of the hidden state, and biases, of all gates side by side."""
    check.is_floating(name, x)
    check.has_rank(name, x, 2, "(batch, features)")
    width, dtype = gates * features, jnp.result_type(x)
    return {
        "w_x": w_init(keys[0], (x.shape[-1], width), dtype),
        "w_h": w_h_init(keys[1], (features, width), dtype),
        "b": b_init(keys[2], (width,), dtype),
    }


def check_cell(name: str, params: Params, x: Any, wanted: tuple[str, ...]) -> None:
    """Raises unless params are of such a cell, and the input fits them."""
    check.is_floating(name, x)
    check.has_rank(name, x, 1, "(batch, features)")
    check.has_keys(name, "params", params, wanted)
    if x.shape[-1] != params["w_x"].shape[0]:
        raise ValueError(
            f"{name}: input of a step is {check.describe(x)} and w_x {check.describe(params['w_x'])}, wanted "
            f"{params['w_x'].shape[0]} features"
        )


def zero_carry(name: str, params: Params, x: Any, features: int, wanted: tuple[str, ...]) -> jax.Array:
    """The hidden state before the first step, of the dtype that it has after it."""
    check_cell(name, params, x, wanted)
    w_h = params["w_h"]
    if w_h.shape[0] != features:
        raise ValueError(
            f"{name}: w_h is {check.describe(w_h)}, wanted {features} rows for features={features}; pass the "
            "params that this cell's init returned"
        )
    return jnp.zeros((*x.shape[:-1], features), jnp.result_type(x, w_h))
