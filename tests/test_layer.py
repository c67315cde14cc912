"""A layer as a value, how it prints, and layers from plain functions."""

import dataclasses
import inspect
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


def test_as_layer_returns_a_layer_as_it_is():
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
def test_a_function_that_makes_a_layer_is_not_one(make):
    name = getattr(make, "func", make).__name__
    with pytest.raises(
        TypeError,
        match=rf"got {name}, a function that makes a layer; wanted a layer: call {name}\(\.\.\.\) with",
    ):
        fn.serial(fn.relu, make)


def test_a_function_that_makes_a_layer_without_saying_so_raises_when_it_is_called():
    net = fn.serial(lambda x: fn.dense(3))
    with pytest.raises(
        TypeError, match="got lambda, a function that makes a layer; wanted a layer: call lambda"
    ):
        net.init(jax.random.key(0), jnp.ones((1, 2)))


NET = """\
serial(
  conv_0=conv(32, (3, 3)),
  batch_norm_0=batch_norm(),
  relu_0=relu,
  dense_0=dense(10),
)"""


def test_a_network_prints_as_it_was_written():
    net = fn.serial(fn.conv(32, (3, 3)), fn.batch_norm(), fn.relu, fn.dense(10))
    assert repr(net) == str(net) == NET


def test_combinators_print_their_children_indented():
    block = fn.residual(fn.dense(3), jnp.tanh, fn.dense(3, use_bias=False), lambda x: x)
    net = fn.serial(fn.repeat(block, 12, unroll=2), fn.repeat(fn.dense(3), 2), head=fn.serial(fn.dense(1)))
    wanted = """\
        serial(
          repeat_0=repeat(
            residual(
              dense_0=dense(3),
              tanh_0=tanh,
              dense_1=dense(3, use_bias=False),
              lambda_0=lambda,
            ),
            12,
            unroll=2,
          ),
          repeat_1=repeat(dense(3), 2),
          head=serial(
            dense_0=dense(1),
          ),
        )"""
    assert repr(net) == inspect.cleandoc(wanted)


@pytest.mark.parametrize(
    "layer, text",
    [
        (fn.serial(), "serial()"),
        (fn.serial(a=fn.relu), "serial(a=relu)"),
        (fn.as_layer(jnp.tanh), "tanh"),
        (scale(2.0), "scale"),
        (fn.gru(4, outputs="last"), "gru(4, outputs='last')"),
        (fn.bidirectional(fn.lstm_cell(4)), "bidirectional(lstm_cell(4))"),
        (fn.recurrent(fn.stack_cells(fn.gru_cell(3))), "recurrent(stack_cells(gru_cell(3)))"),
        (fn.cast(fn.dense(2), jnp.bfloat16), "cast(dense(2), bfloat16)"),
        (fn.remat(fn.dense(2)), "remat(dense(2))"),
        (fn.dense(2, w_init=fn.initializers.normal(0.1)), "dense(2, w_init=normal(0.1))"),
        (fn.dense(2, b_init=fn.initializers.zeros), "dense(2, b_init=zeros)"),
        (fn.dense(2, w_init=partial(shift, by=1)), "dense(2, w_init=partial(shift, by=1))"),
        (fn.dropout(np.float32(0.5)), "dropout(0.5)"),
        (fn.dropout(np.array(0.5, np.float32)), "dropout(float32[])"),
        (fn.embed(3, 4, w_init=lambda *_: 0), "embed(3, 4, w_init=lambda)"),
        (
            fn.multi_head_attention(2, rotary=Shift()),
            "multi_head_attention(2, rotary=<test_layer.Shift object>)",
        ),
        (fn.tied_embed(9, 2, fn.serial(abs)), "tied_embed(\n  9,\n  2,\n  serial(\n    abs_0=abs,\n  ),\n)"),
    ],
)
def test_arguments_are_shown_short(layer, text):
    assert repr(layer).replace(Shift.__module__, "test_layer") == text


def test_arguments_with_many_numbers_are_cut():
    @fn.layer.printable
    def make(*arguments, **named):
        return fn.as_layer(abs)

    many = list(range(100))
    assert repr(make(np.zeros((9, 9)), many)) == "make(float64[9,9], [0, 1, 2, 3, 4, 5, 6, 7, ...])"
    assert repr(make((1,), dict.fromkeys(many, np.ones(2)))).count("float64[2]") == 8
    assert repr(make(1, x={"a": (fn.relu, None)})) == "make(1, x={'a': (relu, None)})"
    assert len(repr(make("x" * 1000))) < 120


def test_what_a_layer_prints_changes_neither_equality_nor_hash():
    layer = fn.dense(3, w_init=lambda *_: np.zeros(3))
    other = dataclasses.replace(layer, call=None)
    assert layer == other
    assert hash(layer) == hash(other)
    assert repr(other) == "dense"


def test_a_printable_constructor_keeps_its_signature():
    assert list(inspect.signature(fn.dense).parameters) == ["features", "use_bias", "w_init", "b_init"]
    assert inspect.signature(fn.dense).return_annotation is fn.Layer
    assert fn.dense.__module__ == "fnnet.layers.dense"
    assert inspect.getdoc(fn.dense).startswith("Fully connected layer")


def test_every_constructor_is_printable():
    """A line `@printable` above each: without it, a network would show a name and no arguments."""
    public = [getattr(fn, name) for name in fn.__all__] + list(vars(fn.initializers).values())
    made = (fn.Layer, fn.Cell, fn.initializers.Initializer)
    makers = [
        f
        for f in public
        if inspect.isfunction(f) and f.__annotations__.get("return") in made and f is not fn.as_layer
    ]
    assert len(makers) > 60
    assert [
        f.__name__ for f in makers if not hasattr(f, "__wrapped__") and not f.__name__.startswith("_")
    ] == []
