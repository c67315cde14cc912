"""The simple recurrent network (Elman 1990)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import activations, check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, printable
from fnnet.layers.draw import check_activation, check_initializers, draw
from fnnet.layers.recurrent.cell import Cell
from fnnet.layers.recurrent.gates import cell_shapes, check_cell, zero_carry
from fnnet.layers.recurrent.recurrent import recurrent
from fnnet.layers.recurrent.unroll import Outputs

Activation = Callable[[jax.Array], jax.Array]


@printable
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
    b (features,). The carry is h, and starts at 0.

    Args:
        features: number of hidden units.
        activation: a function of an array. The default is `fnnet.tanh`. (With `fnnet.relu`, Le et al. 2015,
            arXiv:1504.00941, initialize w_h with the identity, `fnnet.initializers.identity()`.)
        w_init: initializer of w_x. The default is Glorot's uniform.
        w_h_init: initializer of w_h. The default is orthogonal.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match w_x, or the params are those of another cell.

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
    check_activation("simple_rnn", activation)
    check_initializers("simple_rnn", {"w_init": w_init, "w_h_init": w_h_init, "b_init": b_init})

    def shapes(x: Any) -> dict[str, Any]:
        return cell_shapes("simple_rnn", x, features, 1)

    def init(key: chex.PRNGKey, x: Any) -> Params:
        wanted = shapes(x)
        check.has_rank("simple_rnn", x, 2, "(batch, features)")
        inits = {"w_x": w_init, "w_h": w_h_init, "b": b_init}
        return draw("simple_rnn", key, wanted, inits, jnp.result_type(x))

    def initial_carry(params: Params, x: Any) -> jax.Array:
        check_cell("simple_rnn", params, x, shapes(x))
        return zero_carry(params, x, features)

    def step(params: Params, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        check_cell("simple_rnn", params, x, shapes(x))
        z = x @ params["w_x"] + h @ params["w_h"]
        h = activation(z + jnp.broadcast_to(params["b"], z.shape))
        return h, h

    return Cell(init, initial_carry, step, "simple_rnn")


@printable
def simple_rnn(
    features: int,
    *,
    activation: Activation = activations.tanh,
    reverse: bool = False,
    outputs: Outputs = "all",
    cache: bool = False,
) -> Layer:
    """Simple recurrent network along a sequence: `recurrent(simple_rnn_cell(features))`.

        h_t = activation(x_t w_x + h_{t-1} w_h + b)             y_t = h_t

    Shapes, lengths and errors are as in `recurrent`.

    Args:
        features: number of hidden units.
        activation: a function of an array. The default is `fnnet.tanh`.
        reverse: run from the last step to the first.
        outputs: "all", or "last", the output of the last step that is run.
        cache: keep the carry in the state from one evaluation to the next, as in `recurrent`.

    Source: Elman 1990, "Finding structure in time".

    Example:
        >>> layer = fn.simple_rnn(8)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> layer(params, jnp.ones((4, 5, 3))).shape
        (4, 5, 8)
    """
    cell = simple_rnn_cell(features, activation=activation)
    return dataclasses.replace(
        recurrent(cell, reverse=reverse, outputs=outputs, cache=cache), name="simple_rnn"
    )
