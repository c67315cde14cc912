"""Recurrence over time: cells, and the layers that carry them along a sequence."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State

Carry = Any
Outputs = Literal["all", "last"]


class Cell(NamedTuple):
    """One step of a recurrent network: three pure functions.

    Attributes:
        init: `(key, x) -> params`, with x (batch, features) the input of one step, or its
            `jax.ShapeDtypeStruct`.
        initial_carry: `(params, x) -> carry`, the carry before the first step; it reads shape and dtype of x
            only.
        step: `(params, carry, x) -> (carry, y)`. The carry is a tree of arrays (batch, ...) whose shapes and
            dtypes stay the same, y an array (batch, ...).
        name: the kind, for errors.
        sequence: `(params, carry, x) -> (carry, y)` with x and y (time, batch, features): what a scan over step
            gives, for a cell that knows a faster way to it. None is a scan.

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

    init: Callable[[chex.PRNGKey, Any], Params]
    initial_carry: Callable[[Params, Any], Carry]
    step: Callable[[Params, Carry, Any], tuple[Carry, Any]]
    name: str
    sequence: Callable[[Params, Carry, Any], tuple[Carry, Any]] | None = None


def unroll(
    cell: Cell,
    params: Params,
    x: Any,
    *,
    carry: Carry = None,
    lengths: Any = None,
    reverse: bool = False,
    outputs: Outputs = "all",
) -> tuple[Carry, Any]:
    """A cell along a sequence.

        carry_t, y_t = step(params, carry_{t-1}, x_t),      t = 1 ... time
        carry_t, y_t = step(params, carry_{t+1}, x_t),      t = time ... 1, if reverse

    Shapes: x (batch, time, features), y (batch, time, features'), or (batch, features') for the last output.
    A cell of your own may take more axes than one for the features.

    Call it under `jax.jit`. Outside, JAX compiles the scan anew at each call (0.2 s for a small LSTM).

    Args:
        cell: the cell.
        params: from its init.
        x: the sequences.
        carry: where to begin, such as the carry that an encoder ended with; `cell.initial_carry(params, x)`.
        lengths: integers (batch,): how many steps of each sequence are real, counted from its beginning; all
            of them. Beyond, the carry stays and y is 0. What x holds there, NaN included, changes neither
            results nor gradients: the cell sees 0 in its place.
        reverse: from the last step to the first; with lengths, from the last real one. y_t stays at place t.
        outputs: "all", or "last", the output of the step that was taken last, which with reverse is the first
            in time (0 where no step was taken).

    Returns:
        `(carry, y)`, the carry after the step that was taken last.

    Raises:
        TypeError: `cell` is no Cell; x is not floating point; lengths is no array of integers.
        ValueError: an unknown `outputs`; x is not (batch, time, features); the carry is not of the shapes and
            dtypes that `cell.initial_carry` gives; lengths is not (batch,), or outside 0 to time (under jit
            nothing can be raised: below 0 counts as 0, beyond time as time).

    Example:
        >>> cell = fn.gru_cell(3)
        >>> x = jnp.ones((2, 5, 4))
        >>> params = cell.init(jax.random.key(0), x[:, 0])
        >>> carry, y = fn.unroll(cell, params, x, lengths=jnp.array([5, 2]))
        >>> y.shape, bool((y[1, 2:] == 0).all()), bool((carry[1] == y[1, 1]).all())
        ((2, 5, 3), True, True)
    """
    _is_cell("unroll", cell)
    _check_outputs(cell.name, outputs)
    _check_sequence(cell.name, x, lengths)
    x = jnp.asarray(x)
    batch, time = x.shape[:2]
    one = jax.ShapeDtypeStruct((batch, *x.shape[2:]), x.dtype)
    if carry is None:
        carry = cell.initial_carry(params, one)
    else:
        carry = jax.tree.map(jnp.asarray, carry)
        _check_carry(cell.name, carry, jax.eval_shape(cell.initial_carry, params, one))

    if cell.sequence is not None and lengths is None and time > 0 and x.ndim == 3:
        xs = jnp.swapaxes(x, 0, 1)
        carry, y = cell.sequence(params, carry, jnp.flip(xs, 0) if reverse else xs)
        if outputs == "last":
            return carry, y[-1]
        return carry, jnp.swapaxes(jnp.flip(y, 0) if reverse else y, 0, 1)

    def where(alive: jax.Array, new: Any, old: Any) -> Any:
        def choose(new: Any, old: Any) -> jax.Array:
            shape = jnp.shape(new)
            if shape[:1] != (batch,):
                raise ValueError(
                    f"{cell.name}: the step gave {check.describe(new)}, wanted (batch, ...), here batch "
                    f"{batch}: with lengths, some rows stay as they are"
                )
            return jnp.where(jnp.broadcast_to(alive.reshape(batch, *(1 for _ in shape[1:])), shape), new, old)

        return jax.tree.map(choose, new, old)

    def zeros_like(y: Any) -> Any:
        return jax.tree.map(lambda a: jnp.zeros(jnp.shape(a), jnp.result_type(a)), y)

    alive = None
    if lengths is not None:
        steps = jnp.broadcast_to(jnp.arange(time)[:, None], (time, batch))
        alive = steps < jnp.broadcast_to(lengths, (time, batch))
    last = zeros_like(jax.eval_shape(cell.step, params, carry, one)[1]) if outputs == "last" else None

    def step(before: Any, now: Any) -> tuple[Any, Any]:
        (carry, last), (x, alive) = before, now
        if alive is None:
            carry, y = cell.step(params, carry, x)
        else:
            # Zeros in place of the padding, whose NaN would come back by way of the gradient.
            new, y = cell.step(params, carry, where(alive, x, jnp.zeros_like(x)))
            carry = where(alive, new, carry)
            y = where(alive, y, zeros_like(y) if last is None else last)
        return ((carry, y), None) if outputs == "last" else ((carry, None), y)

    (carry, last), y = lax.scan(step, (carry, last), (jnp.swapaxes(x, 0, 1), alive), reverse=reverse)
    if outputs == "last":
        return carry, last
    return carry, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), y)


def recurrent(cell: Cell, *, reverse: bool = False, outputs: Outputs = "all") -> Layer:
    """A cell along a sequence, as a layer; its params are the cell's.

        carry_t, y_t = step(params, carry_{t-1}, x_t)

    Shapes: x (batch, time, features), y (batch, time, features'), or (batch, features') for the last output.
    Sequences of unequal lengths come as `{"x": x, "lengths": lengths}`, with lengths (batch,) the number of
    steps of each that are real: what lies beyond changes nothing, and its y is 0. All outputs are handed on
    in such a dict, the last output as a bare array.

    The carry begins at `cell.initial_carry`, and is not returned: `unroll` takes one and returns one.

    Args:
        cell: `lstm_cell(features)`, `gru_cell(features)`, `simple_rnn_cell(features)`, `stack_cells(...)`, or
            your own `Cell`.
        reverse: from the last step to the first; with lengths, from the last real one. y_t stays at place t.
        outputs: "all", or "last", the output of the step that was taken last, which with reverse is the first
            in time.

    Raises:
        TypeError: `cell` is no Cell; x is not floating point; lengths is no array of integers.
        ValueError: an unknown `outputs`; a dict without "x"; x is not (batch, time, features); lengths is not
            (batch,), or outside 0 to time.

    Example:
        >>> net = fn.serial(fn.recurrent(fn.lstm_cell(8), outputs="last"), fn.dense(2))
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> net(params, jnp.ones((4, 5, 3))).shape
        (4, 2)
    """
    return dataclasses.replace(_layer("recurrent", cell, reverse, outputs), name="recurrent")


def bidirectional(
    cell: Cell,
    backward: Cell | None = None,
    *,
    merge: Literal["concatenate", "sum"] = "concatenate",
    outputs: Outputs = "all",
) -> Layer:
    """Two cells along a sequence, one forward and one backward, their outputs merged.

        y_t = [forward y_t, backward y_t]      or      y_t = forward y_t + backward y_t

    Shapes and lengths as in `recurrent`; params {"forward", "backward"}, each of its cell. With
    outputs="last" each direction gives the output of its own last step, which is the first in time for the
    one backward.

    Args:
        cell: the cell forward.
        backward: the cell backward; one like the first, with params of its own.
        merge: "concatenate" (along the features) or "sum".
        outputs: "all" or "last".

    Raises:
        TypeError: as `recurrent`.
        ValueError: as `recurrent`; an unknown `merge`; outputs whose shapes do not fit together.

    Source: Schuster & Paliwal 1997, "Bidirectional recurrent neural networks".

    Example:
        >>> net = fn.bidirectional(fn.lstm_cell(8))
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> net(params, jnp.ones((4, 5, 3))).shape
        (4, 5, 16)
    """
    if merge not in ("concatenate", "sum"):
        raise ValueError(f"bidirectional: merge={merge!r}, wanted 'concatenate' or 'sum'")
    directions = {
        "forward": _layer("bidirectional", cell, False, outputs),
        "backward": _layer("bidirectional", cell if backward is None else backward, True, outputs),
    }

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        keys = jax.random.split(key)
        params = {
            name: layer.init(k, x)[0] for (name, layer), k in zip(directions.items(), keys, strict=True)
        }
        return {name: p for name, p in params.items() if p}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        _known("bidirectional", params, tuple(directions))
        a, b = (layer.apply(params.get(name, {}), {}, x)[0] for name, layer in directions.items())
        if isinstance(x, Mapping) and outputs == "all":
            return {**x, "x": merged(a["x"], b["x"])}, {}
        return merged(a, b), {}

    def merged(a: jax.Array, b: jax.Array) -> jax.Array:
        shared = slice(None) if merge == "sum" else slice(-1)
        if a.shape[shared] != b.shape[shared]:
            raise ValueError(
                f"bidirectional: forward gave {check.describe(a)} and backward {check.describe(b)}; to merge "
                f"by {merge} they must have one shape" + ("" if merge == "sum" else " but for the last axis")
            )
        return a + b if merge == "sum" else jnp.concatenate([a, b], axis=-1)

    return Layer(init, apply, "bidirectional")


def stack_cells(*cells: Cell) -> Cell:
    """Cells on top of each other as one: the output of each is the input of the next.

        carry = (carry_0, carry_1, ...),    params = {"cell_0": ..., "cell_1": ..., ...}

    A cell without params has no entry in params. Bidirectional layers cannot be stacked so, since each reads
    the whole output of the one below: `serial` does that.

    Args:
        *cells: the cells, the one that sees x first.

    Raises:
        TypeError: one of them is no Cell.
        ValueError: there is none; params have a cell that there is not.

    Example:
        >>> deep = fn.recurrent(fn.stack_cells(fn.lstm_cell(8), fn.lstm_cell(4)))
        >>> params, state = deep.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> deep(params, jnp.ones((2, 5, 3))).shape
        (2, 5, 4)
    """
    if not cells:
        raise ValueError("stack_cells: no cells, wanted at least one")
    for cell in cells:
        _is_cell("stack_cells", cell)
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
        _known("stack_cells", params, names)
        carries = []
        for name, cell in zip(names, cells, strict=True):
            with check.at(f"stack_cells[{name!r}]", x):
                p = params.get(name, {})
                carries.append(cell.initial_carry(p, x))
                x = jax.eval_shape(cell.step, p, carries[-1], x)[1]
        return tuple(carries)

    def step(params: Params, carry: Carry, x: Any) -> tuple[Carry, Any]:
        _known("stack_cells", params, names)
        carries = []
        for name, cell, before in zip(names, cells, carry, strict=True):
            with check.at(f"stack_cells[{name!r}]", x):
                after, x = cell.step(params.get(name, {}), before, x)
            carries.append(after)
        return tuple(carries), x

    return Cell(init, initial_carry, step, "stack_cells")


def _layer(name: str, cell: Cell, reverse: bool, outputs: Outputs) -> Layer:
    _is_cell(name, cell)
    _check_outputs(name, outputs)
    name = f"{name}({cell.name})"

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        array, lengths = _array_and_lengths(name, x)
        with check.at(name, x):
            _check_sequence(cell.name, array, lengths)
            one = jax.ShapeDtypeStruct((array.shape[0], *array.shape[2:]), jnp.result_type(array))
            return cell.init(key, one), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        array, lengths = _array_and_lengths(name, x)
        with check.at(name, x):
            _, y = unroll(cell, params, array, lengths=lengths, reverse=reverse, outputs=outputs)
        return ({**x, "x": y} if isinstance(x, Mapping) and outputs == "all" else y), {}

    return Layer(init, apply, name)


def _is_cell(name: str, cell: Any) -> None:
    if not isinstance(cell, Cell):
        raise TypeError(
            f"{name}: {cell!r} is no Cell, wanted one, such as lstm_cell(features); lstm(features) is a "
            "layer already"
        )


def _check_outputs(name: str, outputs: str) -> None:
    if outputs not in ("all", "last"):
        raise ValueError(f"{name}: outputs={outputs!r}, wanted 'all' or 'last'")


def _known(name: str, params: Params, children: tuple[str, ...]) -> None:
    """Raises where params have an entry that there is not: they are some other network's."""
    if not isinstance(params, Mapping) or not set(params) <= set(children):
        check.has_keys(name, "params", params, children)


def _array_and_lengths(name: str, x: Any) -> tuple[Any, Any]:
    if not isinstance(x, Mapping):
        return x, None
    # What is unknown raises: a misspelt "lengths" must not be lost.
    if "x" not in x or set(x) - {"x", "lengths"}:
        raise ValueError(
            f"{name}: input is {check.describe(x)}, wanted an array or a dict with 'x' and 'lengths' alone"
        )
    return x["x"], x.get("lengths")


def _check_sequence(name: str, x: Any, lengths: Any) -> None:
    check.is_floating(name, x)
    check.has_rank(name, x, 3, "(batch, time, features)")
    if lengths is None:
        return
    if not hasattr(lengths, "dtype") or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{name}: lengths is {check.describe(lengths)}, wanted an array of integers")
    if lengths.shape != x.shape[:1]:
        raise ValueError(
            f"{name}: input is {check.describe(x)} and lengths {check.describe(lengths)}, wanted one length "
            f"for each sequence, ({x.shape[0]},)"
        )
    if isinstance(lengths, jax.Array | np.ndarray) and not isinstance(lengths, jax.core.Tracer):
        known = np.asarray(lengths)
        outside = np.unique(known[(known < 0) | (known > x.shape[1])])
        if outside.size:
            raise ValueError(
                f"{name}: lengths has {outside[:8].tolist()}, wanted 0 to {x.shape[1]}, the steps of "
                f"{check.describe(x)}"
            )


def _check_carry(name: str, carry: Carry, wanted: Carry) -> None:
    def fits(got: Any, wanted: Any) -> bool:
        # A carry that begins at Python numbers, of weak type, takes the dtype of what the step gives.
        return got.shape == wanted.shape and (got.dtype == wanted.dtype or wanted.weak_type)

    leaves, tree = jax.tree.flatten(carry)
    wanted_leaves, wanted_tree = jax.tree.flatten(wanted)
    if len({tree, wanted_tree}) > 1 or not all(map(fits, leaves, wanted_leaves)):
        raise ValueError(
            f"{name}: carry is {check.describe(carry)}, wanted {check.describe(wanted)}, as initial_carry "
            "gives it for this input"
        )
