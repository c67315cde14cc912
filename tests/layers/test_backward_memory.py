"""The faster forms keep no more memory for the backward pass than the plain formulas do."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import fnnet as fn
from fnnet.layers.convolution.max_pool_gradient import window_max


def pools():
    x = jax.ShapeDtypeStruct((16, 24, 24, 8), jnp.float32)
    sizes = ((1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    fast = partial(window_max, window=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)))
    return fast, lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *sizes), (x,)


def convolutions(image=(16, 16, 16), **keywords):
    layer = fn.conv(16, 3, use_bias=False, **keywords)
    x = jax.ShapeDtypeStruct((4, *image), jnp.float32)
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)

    def plain(params, x):
        layout = ("NHWC", "HWIO", "NHWC")
        groups = keywords.get("groups", 1)
        return lax.conv_general_dilated(
            x, params["w"], (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups
        )

    return layer, plain, (params, x)


def lstm():
    cell = fn.lstm_cell(32)
    x = jax.ShapeDtypeStruct((8, 50, 16), jnp.float32)
    params = jax.eval_shape(cell.init, jax.random.key(0), jax.ShapeDtypeStruct((8, 16), jnp.float32))

    def unrolled(cell, params, x):
        return fn.unroll(cell, params, x)[1]

    assert cell.sequence is not None
    return partial(unrolled, cell), partial(unrolled, dataclasses.replace(cell, sequence=None)), (params, x)


@pytest.mark.parametrize(
    "case",
    [
        pools,
        convolutions,
        partial(convolutions, image=(28, 28, 1)),
        partial(convolutions, groups=16),
        partial(convolutions, groups=4),
        lstm,
    ],
    ids=["max_pool", "conv", "conv of an image", "depthwise", "groups", "lstm"],
)
def test_no_more_than_the_plain_formula(case):
    fast, plain, shapes = case()

    def temporary(f):
        gradient = jax.grad(lambda *args: jnp.sum(jnp.square(f(*args))), tuple(range(len(shapes))))
        return jax.jit(gradient).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    # Groups one after the other are put side by side again, which takes a tenth more.
    assert temporary(fast) <= 1.1 * temporary(plain)
