"""What people write first and wrong: each mistake is told by its name, with the remedy."""

import collections
import inspect
import types
from functools import partial

import jax
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import blank, equal, ones
from tests.layers.test_layer_contract import KEY, LAYERS, arrays

X = ones((5, 3))


def layer_and_input(name):
    case = LAYERS[name]
    dtype = np.int32 if case.integer else np.float32
    return fn.as_layer(case.make()), arrays(case.shape, lambda *shape: np.ones(shape, dtype))


@pytest.mark.parametrize("name", LAYERS)
def test_init_takes_a_seed(name):
    layer, x = layer_and_input(name)
    for seed in (0, np.int64(0), np.uint8(0)):
        shapes = jax.eval_shape(lambda x, seed=seed: layer.init(seed, x), x)
        assert shapes == jax.eval_shape(layer.init, KEY, x)
    for wrong in (True, np.True_, 0.0, "0", None, [0], np.float32(0), x):
        with pytest.raises(
            TypeError, match=rf"{layer.name}.*: key=.*, wanted a key such as jax.random.key\(0\)"
        ):
            layer.init(wrong, x)
    for wrong in (2**40, 2**32, -1, np.int64(2**40), 10**30):
        with pytest.raises(ValueError, match=r": key=.*, wanted a seed from 0 to 2\*\*32 - 1"):
            layer.init(wrong, x)
    with pytest.raises(TypeError, match=r": init got one argument, wanted a key, or its seed, and an input"):
        layer.init(x)


def test_a_seed_is_the_key_of_that_seed():
    net = fn.serial(fn.dense(2), fn.dropout(0.5))
    equal(net.init(3, X), net.init(jax.random.key(3), X))
    params, state = net.init(2**32 - 1, X)
    equal(net.init(np.uint32(2**32 - 1), X)[0], params)
    equal(
        net.apply(params, state, X, key=5, train=True),
        net.apply(params, state, X, key=jax.random.key(5), train=True),
    )
    cell = fn.gru_cell(2)
    equal(cell.init(3, X), cell.init(jax.random.key(3), X))
    seeds = jax.vmap(lambda seed: net.init(seed, X)[0])(np.arange(2))
    assert seeds["dense_0"]["w"].shape == (2, 3, 2)
    old = jax.eval_shape(net.init, jax.random.PRNGKey(0), X)
    assert old == jax.eval_shape(net.init, KEY, X)


@pytest.mark.parametrize("name", LAYERS)
def test_train_is_a_bool(name):
    layer, x = layer_and_input(name)
    params, state = jax.eval_shape(layer.init, KEY, x)
    for wrong in ("no", 1, 0, None, np.True_):
        with pytest.raises(TypeError, match=rf"{layer.name}.*: train={wrong!r}, wanted True or False"):
            jax.eval_shape(partial(layer.apply, train=wrong), params, state, x)
    with pytest.raises(TypeError, match=r"train is a traced value, wanted True or False: .*static_argnames"):
        jax.eval_shape(lambda train: layer.apply(params, state, x, train=train), True)
    with pytest.raises(TypeError, match=r": apply got two arguments, wanted apply\(params, state, x\)"):
        layer.apply(params, x)


def test_a_layer_that_is_renamed_is_checked_once():
    layer = fn.freeze(fn.gru(2))
    assert list(inspect.signature(layer.apply).parameters) == ["params", "state", "x", "key", "train"]
    assert not hasattr(layer.apply.unchecked, "unchecked")
    with pytest.raises(TypeError, match=r"^freeze: train=2"):
        layer.apply({}, {}, X, train=2)


@pytest.mark.parametrize("name", [name for name in LAYERS if not isinstance(LAYERS[name].shape, dict)])
def test_a_dict_where_one_array_is_wanted_names_on_x(name):
    layer, x = layer_and_input(name)
    takes_dicts = ("attention", "transformer", "rnn", "lstm", "gru", "recurrent", "bidirectional")
    if any(part in name for part in takes_dicts) or name in ("flatten", "a function"):
        return
    wanted = r"input is \{x: .*\}, wanted (one array|integer indices).*fn\.on_x|residual: input is"
    params, state = blank(jax.eval_shape(layer.init, KEY, x))
    for call in (partial(layer.init, KEY), partial(layer.apply, params, state)):
        with pytest.raises(TypeError, match=wanted):
            jax.eval_shape(call, {"x": x})


def test_what_is_no_layer():
    for several in ([fn.dense(3), fn.relu], (fn.dense(3), fn.relu)):
        with pytest.raises(TypeError, match=r"several layers are arguments of their own: serial\(\*layers\)"):
            fn.serial(several)
    with pytest.raises(TypeError, match="got dense, a function that makes a layer"):
        fn.serial(fn.dense)


PLAIN = [name for name in fn.__all__ if getattr(getattr(fn, name), "__module__", "") == "fnnet.activations"]


@pytest.mark.parametrize("name", [*PLAIN, "flatten", "global_avg_pool", "global_max_pool"])
def test_a_plain_function_called_without_an_input(name):
    f = getattr(fn, name)
    with pytest.raises(
        TypeError, match=rf"^{name}: called without an input; .*write fn\.{name}, not fn\.{name}\(\)"
    ):
        f()
    with pytest.raises(TypeError, match=rf"write partial\(fn\.{name}, axis=1\), not"):
        f(axis=1)
    assert f.__name__ == name
    assert fn.as_layer(f).name == name
    equal(f(x=ones((2, 2, 3))), f(ones((2, 2, 3))))


# Mappings that are no dict: what init returns is asked for.


@pytest.mark.parametrize("name", LAYERS)
def test_params_and_state_are_dicts(name):
    layer, x = layer_and_input(name)
    params, state = blank(jax.eval_shape(layer.init, KEY, x))
    for wrong in (types.MappingProxyType(params), collections.UserDict(params), list(params), None):
        with pytest.raises(TypeError, match=r"params is .*, wanted the dict that init returned"):
            layer.apply(wrong, state, x)
    for wrong in (types.MappingProxyType(state), collections.OrderedDict(state), None):
        with pytest.raises(TypeError, match=r"state is .*, wanted the dict that init returned"):
            layer.apply(params, wrong, x)
