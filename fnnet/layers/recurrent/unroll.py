"""Running a cell along a sequence, forward or backward, for sequences of equal or unequal lengths."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import check
from fnnet.layer import Params
from fnnet.layers.recurrent.cell import Carry, Cell, check_is_cell

Outputs = Literal["all", "last"]


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
    """Runs a cell along a sequence.

        carry_t, y_t = step(params, carry_{t-1}, x_t),      t = 1 ... time
        carry_t, y_t = step(params, carry_{t+1}, x_t),      t = time ... 1, if reverse

    Call it under `jax.jit`. Otherwise JAX compiles the scan again at each call (0.2 s for a small LSTM).

    Shapes: x (batch, time, features), y (batch, time, features'), or (batch, features') for the last output.
    A cell of your own may have several feature axes.

    Args:
        cell: the cell.
        params: its params, from `cell.init`.
        x: the sequences.
        carry: the carry to start from, such as an encoder's last carry. The default is
            `cell.initial_carry(params, x)`.
        lengths: integers (batch,), how many steps of each sequence are real, counted from its beginning. The
            default is all of them. After the real steps the carry does not change, and y is 0. Whatever x holds
            there, NaN included, changes neither results nor gradients: the cell gets 0 instead.
        reverse: run from the last step to the first; with lengths, from the last real step. y_t keeps its place t.
        outputs: "all", or "last", the output of the last step that is run, which is the first in time if reverse
            (0 if no step is run).

    Returns:
        `(carry, y)`, where carry is the one after the last step that is run.

    Raises:
        TypeError: `cell` is not a Cell; x is not floating point; lengths is not an array of integers.
        ValueError: `outputs` is unknown; x is not (batch, time, features); the carry does not have the shapes and
            dtypes of `cell.initial_carry`; lengths is not (batch,), or outside 0 to time (under jit nothing can be
            raised: less than 0 counts as 0, more than time as time).

    Example:
        >>> cell = fn.gru_cell(3)
        >>> x = jnp.ones((2, 5, 4))
        >>> params = cell.init(jax.random.key(0), x[:, 0])
        >>> carry, y = fn.unroll(cell, params, x, lengths=jnp.array([5, 2]))
        >>> y.shape, bool((y[1, 2:] == 0).all()), bool((carry[1] == y[1, 1]).all())
        ((2, 5, 3), True, True)
    """
    check_is_cell("unroll", cell)
    check_outputs(cell.name, outputs)
    check.flag(cell.name, "reverse", reverse)
    check_sequence(cell.name, x, lengths)
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

    real = None
    if lengths is not None:
        steps = jnp.broadcast_to(jnp.arange(time)[:, None], (time, batch))
        real = steps < jnp.broadcast_to(lengths, (time, batch))
    last = _zeros_like(jax.eval_shape(cell.step, params, carry, one)[1]) if outputs == "last" else None

    def step(before: Any, now: Any) -> tuple[Any, Any]:
        (carry, last), (x, real) = before, now
        if real is None:
            carry, y = cell.step(params, carry, x)
        else:
            # The cell gets zeros instead of the padding: NaN there would reach the gradient.
            new, y = cell.step(params, carry, _where(cell.name, real, x, jnp.zeros_like(x)))
            carry = _where(cell.name, real, new, carry)
            y = _where(cell.name, real, y, _zeros_like(y) if last is None else last)
        return ((carry, y), None) if outputs == "last" else ((carry, None), y)

    (carry, last), y = lax.scan(step, (carry, last), (jnp.swapaxes(x, 0, 1), real), reverse=reverse)
    if outputs == "last":
        return carry, last
    return carry, jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), y)


def _where(name: str, rows: jax.Array, new: Any, old: Any) -> Any:
    """The tree `new` in the given rows of the batch, bool (batch,), else `old`."""
    batch = len(rows)

    def choose(new: Any, old: Any) -> jax.Array:
        shape = jnp.shape(new)
        if shape[:1] != (batch,):
            raise ValueError(
                f"{name}: the step gave {check.describe(new)}, wanted (batch, ...), here batch "
                f"{batch}: with lengths, some rows do not change"
            )
        return jnp.where(jnp.broadcast_to(rows.reshape(batch, *(1 for _ in shape[1:])), shape), new, old)

    return jax.tree.map(choose, new, old)


def _zeros_like(y: Any) -> Any:
    return jax.tree.map(lambda a: jnp.zeros(jnp.shape(a), jnp.result_type(a)), y)


def check_outputs(name: str, outputs: str) -> None:
    """Raises ValueError unless outputs is "all" or "last"."""
    check.one_of(name, "outputs", outputs, ("all", "last"))


def check_sequence(name: str, x: Any, lengths: Any) -> None:
    """Raises unless x is (batch, time, features), and lengths None or integers (batch,) from 0 to time."""
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


def check_carry_of_another_batch(cell: Cell, params: Params, carry: Carry, x: Any) -> None:
    """Raises unless the carry is that of the cell, for some batch: training does not read it."""
    carry = jax.tree.map(jnp.asarray, carry)
    batches = [leaf.shape[0] for leaf in jax.tree.leaves(carry) if leaf.shape]
    one = jax.ShapeDtypeStruct(((batches or x.shape)[0], *x.shape[2:]), jnp.result_type(x))
    _check_carry(cell.name, carry, jax.eval_shape(cell.initial_carry, params, one))


def _check_carry(name: str, carry: Carry, wanted: Carry) -> None:
    def matches(got: Any, wanted: Any) -> bool:
        # A carry that starts as Python numbers, of weak type, takes the dtype of what the step gives.
        return got.shape == wanted.shape and (got.dtype == wanted.dtype or wanted.weak_type)

    leaves, tree = jax.tree.flatten(carry)
    wanted_leaves, wanted_tree = jax.tree.flatten(wanted)
    if len({tree, wanted_tree}) > 1 or not all(map(matches, leaves, wanted_leaves)):
        raise ValueError(
            f"{name}: carry is {check.describe(carry)}, wanted {check.describe(wanted)}, as initial_carry "
            "gives it for this input"
        )
