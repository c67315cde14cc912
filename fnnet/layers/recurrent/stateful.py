"""A recurrent layer that keeps its carry in the state, to decode token by token."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.recurrent.cell import Cell, check_is_cell
from fnnet.layers.recurrent.unroll import unroll


@printable
def stateful(cell: Cell) -> Layer:
    """A cell along a sequence whose carry is kept from one evaluation to the next, to decode token by token.

        carry_t, y_t = step(params, carry_{t-1}, x_t),    carry_0 = state["carry"]

    Shapes: x (batch, time, features), y (batch, time, features'). Params and name are those of the cell's layer:
    `stateful(gru_cell(8))` takes the place, and the params, of `gru(8)`. The state is {"carry": the cell's}.

    In evaluation the carry starts from the state and ends in it; the state of `init` is `cell.initial_carry`. In
    training each sequence starts from `cell.initial_carry`, and the state stays.

    Args:
        cell: the cell, such as `gru_cell(8)` or one of your own.

    Raises:
        TypeError: `cell` is not a Cell; x is not floating point.
        ValueError: x is not (batch, time, features); the carry in the state is of another batch.

    Example:
        >>> layer = fn.stateful(fn.gru_cell(2))
        >>> x = jnp.ones((1, 5, 3))
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> y, _ = layer.apply(params, state, x)
        >>> first, state = layer.apply(params, state, x[:, :2])
        >>> rest, state = layer.apply(params, state, x[:, 2:])
        >>> bool(jnp.allclose(jnp.concatenate([first, rest], axis=1), y))
        True
    """
    check_is_cell("stateful", cell)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        check.is_floating(cell.name, x)
        check.has_rank(cell.name, x, 3, "(batch, time, features)")
        one = jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), jnp.result_type(x))
        params = cell.init(key, one)
        return params, {"carry": cell.initial_carry(params, one)}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check.has_keys(cell.name, "state", state, ("carry",))
        carry, y = unroll(cell, params, x, carry=None if train else state["carry"])
        return y, state if train else {"carry": carry}

    return Layer(init, apply, cell.name)
