"""Keys of a layer's initializers: one for each that draws, and none split where a single one does."""

import jax
import numpy as np
import pytest

import fnnet as fn
from fnnet.initializers import normal, ones, zeros
from fnnet.layers.keys import keys_for

KEY = jax.random.key(3)
A, B, C = normal(1.0), normal(2.0), normal(1.0)


def data(keys):
    return [tuple(np.asarray(jax.random.key_data(key))) for key in keys]


def test_a_single_one_that_draws_has_the_key_itself():
    assert data(keys_for(KEY, A, zeros))[0] == data([KEY])[0]
    assert data(keys_for(KEY, zeros, ones, A))[2] == data([KEY])[0]


@pytest.mark.parametrize("inits", [(A, B), (A, A), (A, zeros, B), (ones, A, B, C), (A, B, C, C)])
def test_those_that_draw_have_keys_of_their_own(inits):
    keys = data(keys_for(KEY, *inits))
    own = [key for key, init in zip(keys, inits, strict=True) if init not in (zeros, ones)]
    assert own == data(jax.random.split(KEY, len(own)))
    assert len({*own, *data([KEY])}) == len(own) + 1


def test_without_any_that_draws_nothing_is_lost():
    assert len(keys_for(KEY, zeros, ones)) == 2


@pytest.mark.parametrize(
    "layer, x",
    [
        (fn.dense(4, w_init=A, b_init=A), np.ones((1, 1), np.float32)),
        (fn.conv(4, 1, w_init=A, b_init=A), np.ones((1, 1, 1), np.float32)),
        (fn.conv_transpose(4, 1, w_init=A, b_init=A), np.ones((1, 1, 1), np.float32)),
        (fn.depthwise_conv(1, w_init=A, b_init=A), np.ones((1, 1, 4), np.float32)),
        (
            fn.separable_conv(4, 1, depthwise_init=A, pointwise_init=A, b_init=A),
            np.ones((1, 1, 4), np.float32),
        ),
        (fn.recurrent(fn.gru_cell(2, w_init=A, w_h_init=A, b_init=A)), np.ones((1, 1, 2), np.float32)),
        (fn.recurrent(fn.gru_cell(2, w_init=zeros, w_h_init=A, b_init=A)), np.ones((1, 1, 2), np.float32)),
        (fn.recurrent(fn.gru_cell(2, w_init=A, w_h_init=zeros, b_init=A)), np.ones((1, 1, 2), np.float32)),
        (
            fn.recurrent(fn.lstm_cell(2, forget_bias=0.0, w_init=A, w_h_init=A, b_init=A)),
            np.ones((1, 1, 2), np.float32),
        ),
        (fn.recurrent(fn.simple_rnn_cell(2, w_init=A, w_h_init=A, b_init=A)), np.ones((1, 1, 2), np.float32)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_no_two_params_of_a_layer_are_drawn_alike(layer, x):
    params, _ = jax.jit(layer.init)(KEY, x)
    firsts = [float(np.ravel(p)[0]) for p in jax.tree.leaves(params) if np.any(p)]
    assert len(set(firsts)) == len(firsts) > 1
