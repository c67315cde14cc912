"""Layers that run a cell along a sequence, in one direction or in both."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.recurrent.cell import Cell, check_is_cell, check_names
from fnnet.layers.recurrent.unroll import (
    Outputs,
    check_carry_of_another_batch,
    check_outputs,
    check_sequence,
    unroll,
)


@printable
def recurrent(cell: Cell, *, reverse: bool = False, outputs: Outputs = "all", cache: bool = False) -> Layer:
    """A layer that runs a cell along a sequence. Its params are those of the cell.

        carry_t, y_t = step(params, carry_{t-1}, x_t)

    Sequences of unequal lengths are given as a dict `{"x": x, "lengths": lengths}`, where lengths (batch,) is the
    number of real steps of each. What comes after these changes nothing, and its y is 0. With outputs="all" the
    output is such a dict, too; with outputs="last" it is an array.

    The carry starts at `cell.initial_carry`, and is not returned, unless there is a cache. Use `unroll` to give one
    and get one back.

    Shapes: x (batch, time, features), y (batch, time, features'), or (batch, features') for the last output.

    Args:
        cell: `lstm_cell(features)`, `gru_cell(features)`, `simple_rnn_cell(features)`, `stack_cells(...)`, or
            your own `Cell`.
        reverse: run from the last step to the first; with lengths, from the last real step. y_t keeps its place t.
        outputs: "all", or "last", the output of the last step that is run, which is the first in time if reverse.
        cache: keep the carry from one evaluation to the next, to decode token by token. The state is {"carry"}: an
            evaluation starts from it and ends in it. Training starts at `cell.initial_carry` and does not change
            it. Params are the same as without.

    Raises:
        TypeError: `cell` is not a Cell; x is not floating point; lengths is not an array of integers.
        ValueError: `outputs` is unknown; a dict has no "x"; x is not (batch, time, features); lengths is not
            (batch,), or outside 0 to time; there is a cache with reverse, or with the carry of another batch.

    Example:
        >>> net = fn.serial(fn.recurrent(fn.lstm_cell(8), outputs="last"), fn.dense(2))
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> net(params, jnp.ones((4, 5, 3))).shape
        (4, 2)
    """
    check.flag("recurrent", "cache", cache)
    if cache and reverse:
        raise ValueError(
            "recurrent: cache=True and reverse=True, wanted one of them: later steps are not known yet"
        )
    return dataclasses.replace(_run("recurrent", cell, reverse, outputs, cache), name="recurrent")


@printable
def bidirectional(
    cell: Cell,
    backward: Cell | None = None,
    *,
    merge: Literal["concatenate", "sum"] = "concatenate",
    outputs: Outputs = "all",
) -> Layer:
    """Two cells along a sequence, one forward and one backward, whose outputs are merged.

        y_t = [forward y_t, backward y_t]      or      y_t = forward y_t + backward y_t

    Shapes and lengths are as in `recurrent`. Params are {"forward", "backward"}, each those of its cell. With
    outputs="last" each direction gives the output of the last step that it runs, which is the first in time for the
    backward cell.

    Args:
        cell: the forward cell.
        backward: the backward cell. The default is a cell like the first one, with its own params.
        merge: "concatenate" (along the features) or "sum".
        outputs: "all" or "last".

    Raises:
        TypeError: as in `recurrent`.
        ValueError: as in `recurrent`; `merge` is unknown; the shapes of the outputs do not match.

    Source: Schuster & Paliwal 1997, "Bidirectional recurrent neural networks".

    Example:
        >>> net = fn.bidirectional(fn.lstm_cell(8))
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 5, 3)))
        >>> net(params, jnp.ones((4, 5, 3))).shape
        (4, 5, 16)
    """
    check.one_of("bidirectional", "merge", merge, ("concatenate", "sum"))
    directions = {
        "forward": _run("bidirectional", cell, False, outputs, False),
        "backward": _run("bidirectional", cell if backward is None else backward, True, outputs, False),
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
        check_names("bidirectional", params, tuple(directions))
        check.has_shapes("bidirectional", "state", state, {})
        a, b = (layer.apply(params.get(name, {}), {}, x)[0] for name, layer in directions.items())
        if isinstance(x, Mapping) and outputs == "all":
            return {**x, "x": merged(a["x"], b["x"])}, {}
        return merged(a, b), {}

    def merged(a: jax.Array, b: jax.Array) -> jax.Array:
        shared = slice(None) if merge == "sum" else slice(-1)
        if a.shape[shared] != b.shape[shared]:
            raise ValueError(
                f"bidirectional: forward gave {check.describe(a)} and backward {check.describe(b)}; to merge "
                f"by {merge} they must have one shape"
                + ("" if merge == "sum" else " except for the last axis")
            )
        return a + b if merge == "sum" else jnp.concatenate([a, b], axis=-1)

    return Layer(init, apply, "bidirectional")


def _run(name: str, cell: Cell, reverse: bool, outputs: Outputs, cache: bool) -> Layer:
    """A cell along a sequence in one direction, for the layer that is named in errors."""
    check_is_cell(name, cell)
    check_outputs(name, outputs)
    check.flag(name, "reverse", reverse)
    name = f"{name}({cell.name})"

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        array, lengths = _array_and_lengths(name, x)
        with check.at(name, x):
            check_sequence(cell.name, array, lengths)
            one = jax.ShapeDtypeStruct((array.shape[0], *array.shape[2:]), jnp.result_type(array))
            params = cell.init(key, one)
            return params, {"carry": cell.initial_carry(params, one)} if cache else {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        array, lengths = _array_and_lengths(name, x)
        with check.at(name, x):
            check.has_shapes(name, "state", state, {"carry": ...} if cache else {})
            if cache and train:
                check_carry_of_another_batch(cell, params, state["carry"], array)
            before = state["carry"] if cache and not train else None
            after, y = unroll(
                cell, params, array, carry=before, lengths=lengths, reverse=reverse, outputs=outputs
            )
        y = {**x, "x": y} if isinstance(x, Mapping) and outputs == "all" else y
        if not cache:
            return y, {}
        return y, state if train else {"carry": after}

    return Layer(init, apply, name)


def _array_and_lengths(name: str, x: Any) -> tuple[Any, Any]:
    if not isinstance(x, Mapping):
        return x, None
    # Unknown entries raise, so that a misspelt "lengths" is not ignored.
    if "x" not in x or set(x) - {"x", "lengths"}:
        raise ValueError(
            f"{name}: input is {check.describe(x)}, wanted an array or a dict with 'x' and 'lengths' alone"
        )
    return x["x"], x.get("lengths")
