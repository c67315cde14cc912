"""A layer as a value, and layers from plain functions."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn


def scale(factor):
    """A layer written by hand that draws, has params and a state: everything that a layer may have."""

    def init(key, x):
        return {"gain": jnp.full(x.shape[-1:], factor, x.dtype)}, {"calls": jnp.zeros((), jnp.int32)}

    def apply(params, state, x, *, key=None, train=False):
        y = x * jnp.broadcast_to(params["gain"], x.shape)
        return y + jax.random.normal(key, x.shape) if train else y, {"calls": state["calls"] + train}

    return fn.Layer(init, apply, "scale")


def test_a_call_is_apply_without_state_key_and_training():
    seen = []

    def apply(params, state, x, *, key=None, train=False):
        seen.append((params, state, x, key, train))
        return x + 1, {}

    layer = fn.Layer(lambda key, x: ({}, {}), apply, "spy")
    assert layer({"w": 1}, 2) == 3
    assert seen == [({"w": 1}, {}, 2, None, False)]


def test_a_layer_can_be_transformed_as_any_function():
    layer = fn.dense(2)
    x = jnp.array([[1.0, 2.0, 3.0]])
    params, _ = layer.init(jax.random.key(0), x)
    y = x @ params["w"]
    np.testing.assert_allclose(jax.jit(layer)(params, x), y, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(layer, (None, 0))(params, x), y, rtol=1e-6)
    np.testing.assert_allclose(jax.checkpoint(layer)(params, x), y, rtol=1e-6)
    np.testing.assert_allclose(jax.jacobian(layer, 1)(params, x).squeeze(), params["w"].T, rtol=1e-6)
    assert jax.eval_shape(layer, params, x).shape == (1, 2)


def test_a_layer_is_a_constant_that_jit_can_hold():
    layer = scale(2.0)
    apply = jax.jit(lambda layer, params, x: layer.apply(params, {"calls": 0}, x)[0], static_argnums=0)
    x = jnp.array([[3.0]])
    np.testing.assert_array_equal(apply(layer, layer.init(jax.random.key(0), x)[0], x), [[6.0]])
    assert layer == layer
    assert layer != scale(2.0)  # other functions
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.name = "other"


def test_a_layer_by_hand_in_a_network():
    net = fn.serial(scale(2.0), fn.tanh, scale(3.0))
    x = jnp.array([[1.0, -2.0]])
    params, state = net.init(jax.random.key(0), x)
    y, after = net.apply(params, state, x)
    np.testing.assert_allclose(y, 3 * np.tanh(2 * np.asarray(x)), rtol=1e-6)
    assert after == state == {"scale_0": {"calls": 0}, "scale_1": {"calls": 0}}
    y, after = net.apply(params, state, x, key=jax.random.key(0), train=True)
    assert after == {"scale_0": {"calls": 1}, "scale_1": {"calls": 1}}
    assert np.all(y != net.apply(params, state, x)[0])


class Shift:
    def __call__(self, x):
        return x + 1

    def method(self, x):
        return x + 1


def shift(x, by=1):
    return x + by


@pytest.mark.parametrize(
    "f, name",
    [
        (shift, "shift"),
        (lambda x: x + 1, "lambda"),
        (partial(shift, by=1), "shift"),
        (partial(partial(shift), by=1), "shift"),
        (Shift(), "Shift"),
        (partial(Shift()), "Shift"),
        (Shift().method, "method"),
        (jax.jit(shift), "shift"),
        (jax.jit(lambda x: x + 1), "lambda"),
        (jax.vmap(shift), "shift"),
        (jax.checkpoint(shift), "shift"),
    ],
)
def test_functions_are_layers_under_their_names(f, name):
    layer = fn.as_layer(f)
    x = jnp.arange(3)
    assert layer.name == name
    assert layer.init(jax.random.key(0), x) == ({}, {})
    y, state = layer.apply({}, {}, x, key=jax.random.key(0), train=True)
    np.testing.assert_array_equal(y, [1, 2, 3])
    assert state == {}


@pytest.mark.parametrize("f", [jnp.tanh, np.tanh, fn.relu, jax.nn.relu, jax.nn.gelu, jnp.exp, abs])
def test_functions_of_libraries(f):
    assert fn.as_layer(f).name == {jax.nn.relu: "relu"}.get(f, f.__name__)
    x = jnp.array([-1.0, 0.5])
    np.testing.assert_array_equal(fn.as_layer(f)({}, x), f(x))


def test_a_layer_comes_back_as_it_is():
    layer = fn.dense(3)
    assert fn.as_layer(layer) is layer


@pytest.mark.parametrize("wrong", ["dense", None, 3, (fn.relu, fn.relu), [fn.dense(3)], jnp.ones(3)])
def test_what_is_no_layer_raises(wrong):
    with pytest.raises(TypeError, match=r"a layer is a fnnet.Layer or a function of an array, got "):
        fn.as_layer(wrong)


@pytest.mark.parametrize(
    "make",
    [
        *(fn.dense, fn.conv, fn.max_pool, fn.avg_pool, fn.batch_norm, fn.layer_norm, fn.dropout, fn.embed),
        *(fn.serial, fn.parallel, fn.residual, partial(fn.dense, use_bias=False)),
    ],
)
def test_a_maker_of_layers_is_none(make):
    name = getattr(make, "func", make).__name__
    with pytest.raises(
        TypeError, match=rf"{name} makes a layer and is none: write {name}\(\.\.\.\), with its arg"
    ):
        fn.serial(fn.relu, make)


def test_a_maker_that_does_not_say_so_is_caught_when_it_is_called():
    net = fn.serial(lambda x: fn.dense(3))
    with pytest.raises(TypeError, match="lambda makes a layer and is none"):
        net.init(jax.random.key(0), jnp.ones((1, 2)))
