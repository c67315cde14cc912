"""Long short-term memory (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000)."""

import dataclasses
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params
from fnnet.layers.keys import keys_for
from fnnet.layers.recurrent.recurrent import Cell, Outputs, recurrent
from fnnet.layers.recurrent.simple_rnn import check_cell, init_cell, zero_carry


def lstm_cell(
    features: int,
    *,
    forget_bias: float = 1.0,
    peepholes: bool = False,
    w_init: Initializer = initializers.glorot_uniform(),
    w_h_init: Initializer = initializers.orthogonal(),
    b_init: Initializer = initializers.zeros,
) -> Cell:
    """Long short-term memory: a state c that is forgotten and written to by gates.

        [z_i, z_f, z_g, z_o] = x w_x + h w_h + b
        i = sigmoid(z_i + p_i c)        input gate
        f = sigmoid(z_f + p_f c)        forget gate
        g = tanh(z_g)                   candidate
        c <- f c + i g
        o = sigmoid(z_o + p_o c)        output gate, with the new c
        h <- o tanh(c)                  y = h

    Products with f, i, o and p are by element. Without peepholes p is 0, and there is no such entry.

    Shapes: x (batch, in), c, h and y (batch, features), w_x (in, 4 features), w_h (features, 4 features),
    b (4 features,), p (3, features): p_i, p_f, p_o. The gates stand side by side in the order i, f, g, o,
    which is that of PyTorch and Keras. The carry is (c, h), and begins at 0.

    Args:
        features: hidden units.
        forget_bias: what `init` adds to b_f; 1, so that c is kept at first (Jozefowicz et al. 2015). The
            equation has it in b: trained biases of Keras, or of PyTorch (the sum of its two), fit as they
            are. It may be a tracer.
        peepholes: whether the gates see c; p starts at 0.
        w_init: initializer of w_x; Glorot's uniform.
        w_h_init: initializer of w_h; orthogonal, all gates in one matrix, as in Keras.
        b_init: initializer of b; zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input's features are not those of w_x, or the params are of another cell.

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
    entries = ("w_x", "w_h", "b", "p") if peepholes else ("w_x", "w_h", "b")

    def init(key: chex.PRNGKey, x: Any) -> Params:
        keys = keys_for(key, w_init, w_h_init, b_init)
        params = init_cell("lstm", keys, x, features, 4, w_init, w_h_init, b_init)
        params["b"] = params["b"].at[features : 2 * features].add(jnp.asarray(forget_bias, params["b"].dtype))
        if peepholes:
            params["p"] = jnp.zeros((3, features), params["b"].dtype)
        return params

    def initial_carry(params: Params, x: Any) -> tuple[jax.Array, jax.Array]:
        zeros = zero_carry("lstm", params, x, features, entries)
        return zeros, zeros

    def step(
        params: Params, carry: tuple[jax.Array, jax.Array], x: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        check_cell("lstm", params, x, entries)
        c, h = carry
        w = jnp.concatenate([params["w_x"], params["w_h"]])
        if not peepholes:
            return _step(w, params["b"], carry, x)
        p_i, p_f, p_o = (jnp.broadcast_to(p, c.shape) for p in params["p"])
        z_i, z_f, z_g, z_o = jnp.split(_affine(w, params["b"], h, x), 4, axis=-1)
        i, f = sigmoid(z_i + p_i * c), sigmoid(z_f + p_f * c)
        c = f * c + i * jnp.tanh(z_g)
        h = sigmoid(z_o + p_o * c) * jnp.tanh(c)
        return (c, h), h

    def sequence(params: Params, carry: tuple[jax.Array, jax.Array], x: jax.Array) -> Any:
        check_cell("lstm", params, x, entries)
        w = jnp.concatenate([params["w_x"], params["w_h"]])
        dtype = jnp.result_type(x, w)
        return _sequence(*(a.astype(dtype) for a in (x, w, params["b"], *carry)))

    return Cell(init, initial_carry, step, "lstm", None if peepholes else sequence)


def _affine(w: jax.Array, b: jax.Array, h: jax.Array, x: jax.Array) -> jax.Array:
    # One product for x and h: two of half the size take longer.
    z = jnp.concatenate([x, h], axis=-1) @ w
    return z + jnp.broadcast_to(b, z.shape)


def _gates(w: jax.Array, b: jax.Array, h: jax.Array, x: jax.Array) -> list[jax.Array]:
    # sigmoid(z) = tanh(z / 2) / 2 + 1/2. All four in one tanh of the whole array: XLA's CPU backend does not
    # vectorize that of a slice, and a forward pass took 20 ms instead of 11.
    z = _affine(w, b, h, x)
    half = jnp.full(h.shape[-1:], 0.5, z.dtype)
    scale = jnp.broadcast_to(jnp.concatenate([half, half, 2 * half, half]), z.shape)
    return jnp.split(scale * jnp.tanh(scale * z) + (1 - scale), 4, axis=-1)


def _step(w: jax.Array, b: jax.Array, carry: tuple[jax.Array, jax.Array], x: jax.Array) -> Any:
    c, h = carry
    i, f, g, o = _gates(w, b, h, x)
    c = f * c + i * g
    h = o * jnp.tanh(c)
    return (c, h), h


# The scan over `step` is the plain formula, and the reference in the tests. Backprop through it adds up the
# gradient of w step by step. Here the derivative is stated so that what is linear in dw is one product for all
# steps, and so is its transpose, which backprop runs.
@jax.custom_jvp
def _sequence(x: jax.Array, w: jax.Array, b: jax.Array, c: jax.Array, h: jax.Array) -> Any:
    return lax.scan(partial(_step, w, b), (c, h), x)


@_sequence.defjvp
def _derivative(primals: Any, tangents: Any) -> Any:
    (x, w, b, c, h), (dx, dw, db, dc, dh) = primals, tangents
    time, batch, inputs = x.shape
    w_x, w_h = w[:inputs], w[inputs:]

    def step(carry: Any, x: jax.Array) -> Any:
        c, h = carry
        i, f, g, o = _gates(w, b, h, x)
        t = jnp.tanh(f * c + i * g)
        # Of c by z_i, z_f, z_g, and of h by z_o; of c by the c before; of h by c.
        by_z = jnp.concatenate([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), t * o * (1 - o)], axis=-1)
        c, h = f * c + i * g, o * t
        return (c, h), (h, by_z, f, o * (1 - t * t))

    carry, (hs, *slopes) = lax.scan(step, (c, h), x)
    before = jnp.concatenate([x, jnp.concatenate([h[None], hs[:-1]])], axis=-1)
    dz = dx.reshape(time * batch, inputs) @ w_x + before.reshape(time * batch, len(w)) @ dw

    def tangent(carry: Any, now: Any) -> Any:
        (dc, dh), (dz, by_z, kept, by_c) = carry, now
        dz += dh @ w_h + jnp.broadcast_to(db, dz.shape)
        dc_i, dc_f, dc_g, dh_o = jnp.split(by_z * dz, 4, axis=-1)
        dc = kept * dc + (dc_i + dc_f + dc_g)
        dh = by_c * dc + dh_o
        return (dc, dh), dh

    return (carry, hs), lax.scan(tangent, (dc, dh), (dz.reshape(time, batch, len(b)), *slopes))


def sigmoid(z: jax.Array) -> jax.Array:
    """By tanh, which is faster than XLA's logistic on a CPU (18 ms -> 10 ms for an LSTM forward)."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5


def lstm(
    features: int,
    *,
    forget_bias: float = 1.0,
    peepholes: bool = False,
    reverse: bool = False,
    outputs: Outputs = "all",
) -> Layer:
    """Long short-term memory along a sequence: `recurrent(lstm_cell(features))`.

        c_t = f_t c_{t-1} + i_t g_t,    h_t = o_t tanh(c_t),    y_t = h_t        (the gates: `lstm_cell`)

    Shapes, lengths and errors as in `recurrent`.

    Args:
        features: hidden units.
        forget_bias: what the forget gate's bias starts at; 1.
        peepholes: whether the gates see c.
        reverse: from the last step to the first.
        outputs: "all", or "last", the output of the step that was taken last.

    Source: Hochreiter & Schmidhuber 1997, "Long short-term memory".

    Example:
        >>> layer = fn.lstm(8, outputs="last")
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> layer(params, {"x": jnp.ones((2, 5, 3)), "lengths": jnp.array([5, 2])}).shape
        (2, 8)
    """
    cell = lstm_cell(features, forget_bias=forget_bias, peepholes=peepholes)
    return dataclasses.replace(recurrent(cell, reverse=reverse, outputs=outputs), name="lstm")
