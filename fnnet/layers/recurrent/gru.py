"""The gated recurrent unit (Cho et al. 2014)."""

import dataclasses
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, printable
from fnnet.layers.draw import check_initializers, draw
from fnnet.layers.recurrent.cell import Cell
from fnnet.layers.recurrent.gates import cell_shapes, check_cell, sigmoid, zero_carry
from fnnet.layers.recurrent.recurrent import recurrent
from fnnet.layers.recurrent.unroll import Outputs

Reset = Literal["after", "before"]


@printable
def gru_cell(
    features: int,
    *,
    reset: Reset = "after",
    w_init: Initializer = initializers.glorot_uniform(),
    w_h_init: Initializer = initializers.orthogonal(),
    b_init: Initializer = initializers.zeros,
) -> Cell:
    """Gated recurrent unit: an update gate decides how much of the state h is replaced.

        r = sigmoid(x w_xr + h w_hr + b_r)                      reset gate
        z = sigmoid(x w_xz + h w_hz + b_z)                      update gate
        n = tanh(x w_xn + b_n + r (h w_hn + b_h))               candidate, reset="after" the matrix product
        n = tanh(x w_xn + b_n + (r h) w_hn)                     candidate, reset="before" it
        h <- (1 - z) n + z h                                    y = h

    Products with r and z are element by element.

    Shapes: x (batch, in), h and y (batch, features), w_x (in, 3 features), w_h (features, 3 features),
    b (3 features,), and b_h (features,) for "after" only. The gates are side by side in the order r, z, n, as in
    PyTorch (whose two biases of r and of z are added up in b). In Keras the order is z, r, n. The carry is h, and
    starts at 0.

    Args:
        features: number of hidden units.
        reset: "after" is the form in cuDNN, PyTorch and Keras, with one matrix product for all gates; "before" is
            the form in the paper.
        w_init: initializer of w_x. The default is Glorot's uniform.
        w_h_init: initializer of w_h. The default is orthogonal, for all gates in one matrix, as in Keras.
        b_init: initializer of b and b_h. The default is zeros.

    Raises:
        TypeError: the input is not floating point.
        ValueError: `reset` is unknown; the number of input features does not match w_x, or the params are those of
            another cell.

    Source: Cho et al. 2014, arXiv:1406.1078, equations 5 to 8.

    Example:
        >>> cell = fn.gru_cell(3)
        >>> params = cell.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> h = cell.initial_carry(params, jnp.ones((2, 4)))
        >>> h, y = cell.step(params, h, jnp.ones((2, 4)))
        >>> y.shape
        (2, 3)
    """
    check.is_positive("gru", "features", features)
    check.one_of("gru", "reset", reset, ("after", "before"))
    check_initializers("gru", {"w_init": w_init, "w_h_init": w_h_init, "b_init": b_init})

    def shapes(x: Any) -> dict[str, Any]:
        return cell_shapes("gru", x, features, 3) | ({"b_h": (features,)} if reset == "after" else {})

    def init(key: chex.PRNGKey, x: Any) -> Params:
        wanted = shapes(x)
        check.has_rank("gru", x, 2, "(batch, features)")
        inits = {"w_x": w_init, "w_h": w_h_init, "b": b_init, "b_h": b_init}
        return draw("gru", key, wanted, inits, jnp.result_type(x))

    def initial_carry(params: Params, x: Any) -> jax.Array:
        check_cell("gru", params, x, shapes(x))
        return zero_carry(params, x, features)

    def step(params: Params, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        check_cell("gru", params, x, shapes(x))
        gates = 2 * features
        from_x = x @ params["w_x"]
        from_x += jnp.broadcast_to(params["b"], from_x.shape)
        if reset == "after":
            from_h = h @ params["w_h"]
            # Both gates in one array: XLA's CPU backend does not vectorize the tanh of a slice.
            r, z = jnp.split(sigmoid(from_x[..., :gates] + from_h[..., :gates]), 2, axis=-1)
            n = jnp.tanh(
                from_x[..., gates:] + r * (from_h[..., gates:] + jnp.broadcast_to(params["b_h"], h.shape))
            )
        else:
            r, z = jnp.split(sigmoid(from_x[..., :gates] + h @ params["w_h"][:, :gates]), 2, axis=-1)
            n = jnp.tanh(from_x[..., gates:] + (r * h) @ params["w_h"][:, gates:])
        h = n + z * (h - n)
        return h, h

    return Cell(init, initial_carry, step, "gru")


@printable
def gru(
    features: int,
    *,
    reset: Reset = "after",
    reverse: bool = False,
    outputs: Outputs = "all",
    cache: bool = False,
) -> Layer:
    """Gated recurrent units along a sequence: `recurrent(gru_cell(features))`.

        h_t = (1 - z_t) n_t + z_t h_{t-1},      y_t = h_t       (the gates: `gru_cell`)

    Shapes, lengths and errors are as in `recurrent`.

    Args:
        features: number of hidden units.
        reset: "after" (cuDNN, PyTorch, Keras) or "before" (Cho et al.).
        reverse: run from the last step to the first.
        outputs: "all", or "last", the output of the last step that is run.
        cache: keep the carry in the state from one evaluation to the next, as in `recurrent`.

    Source: Cho et al. 2014, arXiv:1406.1078.

    Example:
        >>> layer = fn.gru(8)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> layer(params, jnp.ones((4, 5, 3))).shape
        (4, 5, 8)
    """
    cell = gru_cell(features, reset=reset)
    return dataclasses.replace(recurrent(cell, reverse=reverse, outputs=outputs, cache=cache), name="gru")
