"""Long short-term memory (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000)."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, printable
from fnnet.layers.draw import check_initializers, draw
from fnnet.layers.recurrent import lstm_fused
from fnnet.layers.recurrent.cell import Cell
from fnnet.layers.recurrent.gates import cell_shapes, check_cell, sigmoid, zero_carry
from fnnet.layers.recurrent.recurrent import recurrent
from fnnet.layers.recurrent.unroll import Outputs


@printable
def lstm_cell(
    features: int,
    *,
    forget_bias: float = 1.0,
    peepholes: bool = False,
    w_init: Initializer = initializers.glorot_uniform(),
    w_h_init: Initializer = initializers.orthogonal(),
    b_init: Initializer = initializers.zeros,
) -> Cell:
    """Long short-term memory: gates decide what a state c forgets, what is written to it, and what is read.

        [z_i, z_f, z_g, z_o] = x w_x + h w_h + b
        i = sigmoid(z_i + p_i c)        input gate
        f = sigmoid(z_f + p_f c)        forget gate
        g = tanh(z_g)                   candidate
        c <- f c + i g
        o = sigmoid(z_o + p_o c)        output gate, with the new c
        h <- o tanh(c)                  y = h

    Products with f, i, o and p are element by element. Without peepholes p is 0, and params have no p.

    Shapes: x (batch, in), c, h and y (batch, features), w_x (in, 4 features), w_h (features, 4 features),
    b (4 features,), p (3, features): p_i, p_f, p_o. The gates are side by side in the order i, f, g, o, as in
    PyTorch and Keras. The carry is (c, h), and starts at 0.

    Args:
        features: number of hidden units.
        forget_bias: what `init` adds to b_f. The default is 1, so that c is kept at first (Jozefowicz et al. 2015).
            It becomes part of b, so that trained biases of Keras, or of PyTorch (the sum of its two), can be used
            unchanged. A finite number; it may be a tracer.
        peepholes: whether the gates see c. p starts at 0.
        w_init: initializer of w_x. The default is Glorot's uniform.
        w_h_init: initializer of w_h. The default is orthogonal, for all gates in one matrix, as in Keras.
        b_init: initializer of b. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match w_x, or the params are those of another cell.

    Source: Hochreiter & Schmidhuber 1997, "Long short-term memory"; forget gate: Gers, Schmidhuber & Cummins
    2000, "Learning to forget"; peepholes: Gers & Schmidhuber 2000, "Recurrent nets that time and count".

    Example:
        >>> cell = fn.lstm_cell(3)
        >>> params = cell.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> carry = cell.initial_carry(params, jnp.ones((2, 4)))
        >>> (c, h), y = cell.step(params, carry, jnp.ones((2, 4)))
        >>> y.shape
        (2, 3)
    """
    check.is_positive("lstm", "features", features)
    check.number("lstm", "forget_bias", forget_bias)
    check.flag("lstm", "peepholes", peepholes)
    check_initializers("lstm", {"w_init": w_init, "w_h_init": w_h_init, "b_init": b_init})

    def shapes(x: Any) -> dict[str, Any]:
        return cell_shapes("lstm", x, features, 4) | ({"p": (3, features)} if peepholes else {})

    def init(key: chex.PRNGKey, x: Any) -> Params:
        wanted = shapes(x)
        check.has_rank("lstm", x, 2, "(batch, features)")
        inits = {"w_x": w_init, "w_h": w_h_init, "b": b_init, "p": initializers.zeros}
        params = draw("lstm", key, wanted, inits, jnp.result_type(x))
        params["b"] = params["b"].at[features : 2 * features].add(jnp.asarray(forget_bias, params["b"].dtype))
        return params

    def initial_carry(params: Params, x: Any) -> tuple[jax.Array, jax.Array]:
        check_cell("lstm", params, x, shapes(x))
        zeros = zero_carry(params, x, features)
        return zeros, zeros

    def step(
        params: Params, carry: tuple[jax.Array, jax.Array], x: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        check_cell("lstm", params, x, shapes(x))
        c, h = carry
        w = jnp.concatenate([params["w_x"], params["w_h"]])
        if not peepholes:
            return lstm_fused.step(w, params["b"], carry, x)
        p_i, p_f, p_o = (jnp.broadcast_to(p, c.shape) for p in params["p"])
        z_i, z_f, z_g, z_o = jnp.split(lstm_fused.affine(w, params["b"], h, x), 4, axis=-1)
        i = sigmoid(z_i + p_i * c)
        f = sigmoid(z_f + p_f * c)
        g = jnp.tanh(z_g)
        c = f * c + i * g
        o = sigmoid(z_o + p_o * c)
        h = o * jnp.tanh(c)
        return (c, h), h

    def sequence(params: Params, carry: tuple[jax.Array, jax.Array], x: jax.Array) -> Any:
        check_cell("lstm", params, x, shapes(x))
        w = jnp.concatenate([params["w_x"], params["w_h"]])
        dtype = jnp.result_type(x, w)
        return lstm_fused.sequence(*(a.astype(dtype) for a in (x, w, params["b"], *carry)))

    return Cell(init, initial_carry, step, "lstm", None if peepholes else sequence)


@printable
def lstm(
    features: int,
    *,
    forget_bias: float = 1.0,
    peepholes: bool = False,
    reverse: bool = False,
    outputs: Outputs = "all",
    cache: bool = False,
) -> Layer:
    """Long short-term memory along a sequence: `recurrent(lstm_cell(features))`.

        c_t = f_t c_{t-1} + i_t g_t,    h_t = o_t tanh(c_t),    y_t = h_t        (the gates: `lstm_cell`)

    Shapes, lengths and errors are as in `recurrent`.

    Args:
        features: number of hidden units.
        forget_bias: what is added to the initial bias of the forget gate. The default is 1.
        peepholes: whether the gates see c.
        reverse: run from the last step to the first.
        outputs: "all", or "last", the output of the last step that is run.
        cache: keep the carry in the state from one evaluation to the next, as in `recurrent`.

    Source: Hochreiter & Schmidhuber 1997, "Long short-term memory".

    Example:
        >>> layer = fn.lstm(8, outputs="last")
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> layer(params, {"x": jnp.ones((2, 5, 3)), "lengths": jnp.array([5, 2])}).shape
        (2, 8)
    """
    cell = lstm_cell(features, forget_bias=forget_bias, peepholes=peepholes)
    return dataclasses.replace(recurrent(cell, reverse=reverse, outputs=outputs, cache=cache), name="lstm")
