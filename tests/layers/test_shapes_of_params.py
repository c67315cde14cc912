"""Params and state of another network: each layer refuses every other shape and kind of each of their leaves."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import blank, integers
from tests.layers.test_layer_contract import KEY, LAYERS, Case, arrays

# Further variants: other arguments, other params or another state.
VARIANTS = {
    "dense without a bias": Case(lambda: fn.dense(4, use_bias=False), (5, 3)),
    "conv in groups": Case(lambda: fn.conv(4, 3, groups=2, use_bias=False), (2, 5, 4)),
    "conv_transpose in groups": Case(lambda: fn.conv_transpose(4, 3, groups=2), (2, 5, 4)),
    "maxout without a bias": Case(lambda: fn.maxout(4, 3, use_bias=False), (5, 3)),
    "batch_norm of images": Case(lambda: fn.batch_norm(), (2, 4, 4, 3)),
    "weight_norm of a convolution": Case(lambda: fn.weight_norm(fn.conv(4, 3)), (2, 5, 3)),
    "spectral_norm of a convolution": Case(lambda: fn.spectral_norm(fn.conv(4, 3)), (2, 5, 3)),
    "multi_head_attention to a memory": Case(
        lambda: fn.multi_head_attention(2, features=5, head_features=3, use_bias=False),
        {"x": (2, 3, 4), "memory": (2, 6, 7)},
    ),
    "multi_head_attention with a cache": Case(
        lambda: fn.multi_head_attention(2, causal=True, cache=6), (2, 3, 4)
    ),
    "learned_position with a cache": Case(lambda: fn.learned_position(5, cache=True), (2, 3, 4)),
    "sinusoidal_position with a cache": Case(lambda: fn.sinusoidal_position(cache=True), (2, 3, 4)),
    "multiplicative_attention by products": Case(
        lambda: fn.multiplicative_attention(score="dot"), {"x": (2, 3, 4), "memory": (2, 5, 4)}
    ),
    "transformer_decoder_block with a cache": Case(
        lambda: fn.transformer_decoder_block(2, cross=False, hidden=5, cache=6), (2, 3, 4)
    ),
    "simple_rnn with a cache": Case(lambda: fn.simple_rnn(4, cache=True), (2, 3, 3)),
    "lstm with a cache": Case(lambda: fn.lstm(4, cache=True), (2, 3, 3)),
    "lstm of unequal lengths": Case(lambda: fn.lstm(4, peepholes=True), {"x": (2, 3, 3)}),
    "recurrent of stacked cells": Case(
        lambda: fn.recurrent(fn.stack_cells(fn.lstm_cell(4), fn.gru_cell(2))), (2, 3, 3)
    ),
    "repeat of a convolution": Case(lambda: fn.repeat(fn.conv(3, 3), 2), (2, 5, 3)),
    "remat of an attention": Case(lambda: fn.remat(fn.multi_head_attention(2)), (2, 3, 4)),
}
ALL = LAYERS | VARIANTS

# (layer, leaf, axis, train): why another size of that axis is no error.
ANOTHER_BATCH = (
    "training does not read the cache, and may be of another batch than the decoding it is kept for"
)
FREE = {
    **{
        ("multi_head_attention with a cache", f"state['{name}']", 0, True): ANOTHER_BATCH
        for name in ("k", "v")
    },
    **{
        ("transformer_decoder_block with a cache", f"state['attention']['{name}']", 0, True): ANOTHER_BATCH
        for name in ("k", "v")
    },
    ("simple_rnn with a cache", "state['carry']", 0, True): ANOTHER_BATCH,
}


def prepared(name: str) -> Any:
    """A layer, its params and state as zeros, and an input: nothing is compiled."""
    case, layer = ALL[name], fn.as_layer(ALL[name].make())
    x = (
        integers(7, *case.shape)
        if case.integer
        else arrays(case.shape, lambda *shape: np.ones(shape, np.float32))
    )
    return layer, *blank(jax.eval_shape(layer.init, KEY, x)), x


def other_shapes(shape: tuple[int, ...]) -> dict[tuple[int, str], tuple[int, ...]]:
    """The shape with each axis one longer, of size 1, and gone, and with an axis more."""
    changed = {(-1, "one more axis"): (1, *shape)}
    for i, n in enumerate(shape):
        changed |= {(i, "longer"): (*shape[:i], n + 1, *shape[i + 1 :])}
        changed |= {(i, "one"): (*shape[:i], 1, *shape[i + 1 :])} if n != 1 else {}
        changed |= {(i, "gone"): (*shape[:i], *shape[i + 1 :])}
    return changed


def leaves_and_rest(params: Any, state: Any) -> Any:
    """(path, leaf, function that puts another leaf in its place and returns params and state) for every leaf."""
    flat, tree = jax.tree.flatten_with_path({"params": params, "state": state})
    for i, (path, leaf) in enumerate(flat):
        text = jax.tree_util.keystr(path)

        def put(other: Any, i: int = i) -> Any:
            both = tree.unflatten([other if j == i else old for j, (_, old) in enumerate(flat)])
            return both["params"], both["state"]

        yield text.replace("['params']", "params", 1).replace("['state']", "state", 1), leaf, put


CELLS = ("simple_rnn", "lstm", "gru", "stack_cells")
NAMES = {
    *(fn.as_layer(case.make()).name for case in ALL.values()),
    *CELLS,
    *(f"recurrent({cell})" for cell in CELLS),
}


def refused(layer: Any, params: Any, state: Any, x: Any, train: bool) -> bool:
    """Whether apply raises, in a layer's own words."""
    try:
        layer.apply(params, state, x, key=KEY, train=train)
    except (TypeError, ValueError) as exc:
        said = str(exc)
    else:
        return False
    assert said.split(": ")[0] in NAMES, said
    return True


def traced(f: Any) -> Any:
    """The test as one program that is only traced, where the layer is applied to many params: nothing is computed."""

    def test(name: str) -> None:
        layer, *arrays = prepared(name)
        jax.eval_shape(partial(f, name, layer), *arrays)

    return pytest.mark.parametrize("name", ALL)(test)


@traced
def test_every_other_shape_of_every_leaf_is_refused(name, layer, params, state, x):
    for train in (False, True) if state else (False,):
        assert not refused(layer, params, state, x, train)
        for path, leaf, put in leaves_and_rest(params, state):
            for (axis, how), shape in other_shapes(leaf.shape).items():
                taken = not refused(layer, *put(np.zeros(shape, leaf.dtype)), x, train)
                free = how in ("longer", "one") and (name, path, axis, train) in FREE
                assert taken == free, (path, leaf.shape, shape, train)


@traced
def test_what_is_no_array_of_floats_is_refused(name, layer, params, state, x):
    """Integers, bools, Python's numbers, a tree; floats instead of a position."""
    assert not refused(layer, params, state, x, True)
    for path, leaf, put in leaves_and_rest(params, state):
        kinds = (np.int32, bool) if jnp.issubdtype(leaf.dtype, jnp.floating) else (np.float32, bool)
        for other in (*(np.zeros(leaf.shape, kind) for kind in kinds), 0.0, {"w": leaf}):
            assert refused(layer, *put(other), x, True), (path, other)


@traced
def test_other_entries_are_refused(name, layer, params, state, x):
    extra = {"nobody": np.ones(3, np.float32)}
    for others in (({**params, **extra}, state), (params, {**state, **extra})):
        assert refused(layer, *others, x, True)
