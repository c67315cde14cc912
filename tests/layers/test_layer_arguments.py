"""Every argument of every constructor of layers and cells: what it cannot be is refused, by its name."""

import inspect
import math

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from fnnet.initializers import Initializer
from fnnet.layers.convolution.window import PerAxis
from tests.layers.test_layer_contract import LAYERS

MADE = {name: case.make() for name, case in LAYERS.items() if getattr(case.make(), "call", None) is not None}
MADE |= {
    "simple_rnn_cell": fn.simple_rnn_cell(4),
    "lstm_cell": fn.lstm_cell(4),
    "gru_cell": fn.gru_cell(4),
    "sinusoidal_position with a cache": fn.sinusoidal_position(cache=True),
    "multi_head_attention with a cache": fn.multi_head_attention(
        2, causal=True, cache=3, features=4, head_features=2
    ),
    "transformer_encoder_block of a size": fn.transformer_encoder_block(2, kv_heads=1, hidden=3),
    "radial_basis of a width": fn.radial_basis(4, beta=0.5),
    "unrolled repeat": fn.repeat(fn.dense(3), 2, unroll=2),
}

NO_NUMBERS = (True, np.True_, "0.5", [0.5], 0.5j, np.array([0.5]), {})
FLAGS = ("no", 1, 0, np.True_, np.array(True), 1.0)
SIZES = (0, -1, 1.5, True, np.True_, "3", math.nan, math.inf, np.float32(1), np.int64(0), 2j, {})
CHOICES = ("nope", "", 3, True)
# A function of fnnet that makes an initializer is none, and must be called.
INITIALIZERS = (3, "normal", 0.5, fn.initializers.normal, fn.initializers.glorot_uniform, np.ones(3))

# Arguments with rules of their own, and what is wrong for them.
OF_THEIR_OWN = {
    "widths": (-1, 1.5, True, "ab", ((1,),), ((1, -1),), None),
    "axis_name": (3, 0.5, True),
    "dtype": (np.int32, "nope", 3, None),
    "activation": (3, "relu", None),
    "policy": (3, "dots_saveable", True),
    "rotary": ("no", 1, 0, np.True_),
    "padding": ("nope", "same", 3, ((1,),), ((0, -1),), ((0.5, 1),), ((True, True),)),
}
LAYERS_OF_ARGUMENTS = (
    "layer",
    "layers",
    "branches",
    "expert",
    "body",
    "cell",
    "cells",
    "backward",
    "named",
)


def wrong_values(layer, name, parameter):
    """What this argument cannot be."""
    kind, default = parameter.annotation, parameter.default
    if name == "padding" and layer.startswith("conv_transpose"):
        return OF_THEIR_OWN[name][:4]  # negative is allowed
    if name in OF_THEIR_OWN:
        return OF_THEIR_OWN[name]
    if isinstance(default, bool):
        return FLAGS
    if isinstance(default, str):
        return CHOICES
    if kind is Initializer:
        return INITIALIZERS
    if kind in (int, PerAxis, int | None, PerAxis | None):
        return SIZES
    assert kind in (float, chex.Numeric, float | None, chex.Numeric | None), (name, kind)
    return (*NO_NUMBERS, math.nan, np.float32(math.nan), jnp.float32(math.nan), *numbers_outside(layer, name))


def numbers_outside(layer, name):
    if name == "value":
        return ()
    beyond = (math.inf, -math.inf, np.float32(math.inf))
    if name in ("gate_bias", "forget_bias"):
        return beyond
    negative = (*beyond, -1, -0.5, np.float32(-1), np.array(-1), jnp.float32(-1))
    if name in ("rate", "dropout", "attention_dropout", "momentum"):
        return (*negative, 1, 1.5, np.float32(1))
    if name in ("beta", "capacity") and not layer.startswith("local"):
        return (*negative, 0, 0.0, np.float32(0))
    if name == "base":
        return (*negative, 0, 0.5, np.float32(0.5))
    assert name in ("eps", "stddev", "k", "alpha", "beta"), name
    return negative


@pytest.mark.parametrize("layer", MADE)
def test_what_an_argument_cannot_be(layer):
    call = MADE[layer].call
    for name, parameter in inspect.signature(call.func).parameters.items():
        if name in LAYERS_OF_ARGUMENTS:
            continue
        for wrong in wrong_values(layer, name, parameter):
            bound = inspect.signature(call.func).bind(*call.args, **call.keywords)
            bound.arguments[name] = wrong
            with pytest.raises((TypeError, ValueError), match=rf"^[\w()]+: .*\b{name}\b") as caught:
                call.func(*bound.args, **bound.kwargs)
            assert any(word in str(caught.value) for word in ("wanted", "write ")), (
                name,
                wrong,
                caught.value,
            )


def test_numbers_of_numpy_and_arrays_without_axes_are_taken():
    for number in (np.float32(0.5), np.float64(0.5), np.array(0.5), jnp.float32(0.5)):
        fn.dropout(number)
        fn.batch_norm(momentum=number, eps=number)
        fn.radial_basis(3, beta=number)
        fn.highway(gate_bias=number)
        fn.lstm_cell(3, forget_bias=number)
        fn.local_response_norm(k=number, alpha=number, beta=number)
    fn.pad(1, value=-math.inf)
    fn.radial_basis(3)
    fn.dot_product_attention(*(np.ones((1, 2, 1, 2), np.float32),) * 3, scale=np.float32(0.5))


def test_arguments_of_functions():
    q = np.ones((1, 2, 1, 2), np.float32)
    for wrong in (math.nan, math.inf, "1", True, np.array([1.0])):
        with pytest.raises((TypeError, ValueError), match=r"^dot_product_attention: scale.*, wanted"):
            fn.dot_product_attention(q, q, q, scale=wrong)
    for wrong in (0, 0.5, -1, math.nan, math.inf, "1", True):
        with pytest.raises((TypeError, ValueError), match=r"^rotary: base=.*, wanted"):
            fn.rotary(q, base=wrong)
    for wrong in FLAGS:
        with pytest.raises(TypeError, match=r"^dot_product_attention: causal=.*, wanted True or False"):
            fn.dot_product_attention(q, q, q, causal=wrong)
        with pytest.raises(TypeError, match=r"^rotary: interleaved=.*, wanted True or False"):
            fn.rotary(q, interleaved=wrong)
        with pytest.raises(TypeError, match=r"^gru: reverse=.*, wanted True or False"):
            fn.unroll(fn.gru_cell(2), {}, q[0], reverse=wrong)
        with pytest.raises(TypeError, match=r"^summary: train=.*, wanted True or False"):
            fn.summary(fn.dense(2), q, train=wrong)


def test_an_initializer_of_another_shape():
    with pytest.raises(ValueError, match=r"^dense: the initializer of w gave float32\[3\], wanted \(4, 3\)"):
        fn.dense(3, w_init=lambda key, shape, dtype: jnp.ones(3, dtype)).init(0, np.ones((5, 4), np.float32))
