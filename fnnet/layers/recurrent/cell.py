"""Recurrent cells: one step of a recurrent network, and cells stacked on top of each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import chex
import jax

from fnnet import check
from fnnet.layer import Params, checked_init, printable, show_call

Carry = Any


@dataclass(frozen=True, repr=False)
class Cell:
    """One step of a recurrent network: three pure functions.

    Attributes:
        init: `(key, x) -> params`, where x (batch, features) is the input of one step, or its
            `jax.ShapeDtypeStruct`.
        initial_carry: `(params, x) -> carry`, the carry before the first step. Only the shape and dtype of x are
            read.
        step: `(params, carry, x) -> (carry, y)`. The carry is a tree of arrays (batch, ...) whose shapes and
            dtypes do not change; y is an array (batch, ...).
        name: the kind of cell, for errors.
        sequence: `(params, carry, x) -> (carry, y)` with x and y (time, batch, features): the same as a scan over
            step, for a cell that has a faster way. None uses a scan.
        call: the constructor and its arguments, which `print` shows, as in `Layer`.

    Example:
        A cell written by hand, the running sum of its inputs:

        >>> total = fn.Cell(
        ...     init=lambda key, x: {},
        ...     initial_carry=lambda params, x: jnp.zeros(x.shape, x.dtype),
        ...     step=lambda params, carry, x: (carry + x, carry + x),
        ...     name="total",
        ... )
        >>> fn.recurrent(total)({}, jnp.arange(4.0).reshape(1, 4, 1)).squeeze()
        Array([0., 1., 3., 6.], dtype=float32)
    """

    init: Callable[[Any, Any], Params]
    initial_carry: Callable[[Params, Any], Carry]
    step: Callable[[Params, Carry, Any], tuple[Carry, Any]]
    name: str
    sequence: Callable[[Params, Carry, Any], tuple[Carry, Any]] | None = None
    call: partial[Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", checked_init(self.name, self.init))

    def __repr__(self) -> str:
        return self.name if self.call is None else show_call(self.call)


@printable
def stack_cells(*cells: Cell) -> Cell:
    """Several cells as one: the output of each is the input of the next.

        carry = (carry_0, carry_1, ...),    params = {"cell_0": ..., "cell_1": ..., ...}

    A cell without params has no entry in params. Bidirectional layers cannot be stacked in this way, since each
    reads the whole output of the layer below. Use `serial` for them.

    Args:
        *cells: the cells. The first one gets x.

    Raises:
        TypeError: one of them is not a Cell.
        ValueError: there is no cell; params have an entry that is not the name of a cell.

    Example:
        >>> deep = fn.recurrent(fn.stack_cells(fn.lstm_cell(8), fn.lstm_cell(4)))
        >>> params, state = deep.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> deep(params, jnp.ones((2, 5, 3))).shape
        (2, 5, 4)
    """
    if not cells:
        raise ValueError("stack_cells: no cells, wanted at least one")
    for cell in cells:
        check_is_cell("stack_cells", cell)
    names = tuple(f"cell_{i}" for i in range(len(cells)))

    def init(key: chex.PRNGKey, x: Any) -> Params:
        params: Params = {}
        for i, (name, cell) in enumerate(zip(names, cells, strict=True)):
            with check.at(f"stack_cells[{name!r}]", x):
                p = cell.init(jax.random.fold_in(key, i), x)
                x = jax.eval_shape(cell.step, p, jax.eval_shape(cell.initial_carry, p, x), x)[1]
            params |= {name: p} if p else {}
        return params

    def initial_carry(params: Params, x: Any) -> Carry:
        check_names("stack_cells", params, names)
        carries = []
        for name, cell in zip(names, cells, strict=True):
            with check.at(f"stack_cells[{name!r}]", x):
                p = params.get(name, {})
                carries.append(cell.initial_carry(p, x))
                x = jax.eval_shape(cell.step, p, carries[-1], x)[1]
        return tuple(carries)

    def step(params: Params, carry: Carry, x: Any) -> tuple[Carry, Any]:
        check_names("stack_cells", params, names)
        carries = []
        for name, cell, before in zip(names, cells, carry, strict=True):
            with check.at(f"stack_cells[{name!r}]", x):
                after, x = cell.step(params.get(name, {}), before, x)
            carries.append(after)
        return tuple(carries), x

    return Cell(init, initial_carry, step, "stack_cells")


def check_is_cell(name: str, cell: Any) -> None:
    """Raises TypeError unless the argument is a Cell."""
    if not isinstance(cell, Cell):
        raise TypeError(
            f"{name}: {cell!r} is not a Cell, wanted one, such as lstm_cell(features); lstm(features) is a "
            "layer already"
        )


def check_names(name: str, params: Params, children: tuple[str, ...]) -> None:
    """Raises if params have an entry that is not the name of a child: they are of another network."""
    check.is_dict(name, "params", params)
    if not set(params) <= set(children):
        check.has_shapes(name, "params", params, dict.fromkeys(children, ...))
