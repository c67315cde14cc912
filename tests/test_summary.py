"""The table of a network beside counts by hand."""

import jax
import jax.numpy as jnp
import pytest

import fnnet as fn
from tests.arrays import ones
from tests.layers.test_layer_contract import LAYERS, Case, arrays


def table(net, shape, dtype=jnp.float32, **keywords):
    """{layer: (output, params, FLOPs)}, the layer with its indentation."""
    lines = fn.summary(net, jax.ShapeDtypeStruct(shape, dtype), **keywords).splitlines()
    assert lines[0].split() == ["layer", "output", "params", "FLOPs"]
    assert len({len(line) for line in lines}) == 1
    rows = {}
    for line in lines[1:]:
        name, output, size, flops = line.rsplit(maxsplit=3)
        rows[name] = (output, int(size.replace(",", "")), int(flops.replace(",", "")))
    return rows


def test_convolution_pooling_and_products():
    net = fn.serial(fn.conv(6, (3, 2), groups=2), fn.max_pool(2), fn.flatten, fn.dense(10, use_bias=False))
    rows = table(net, (5, 8, 6, 4))
    conv = 5 * 8 * 6 * 6
    assert rows["  conv_0"] == ("float32[5,8,6,6]", 3 * 2 * 2 * 6 + 6, conv * (2 * 3 * 2 * 2 + 1))
    assert rows["  max_pool_0"] == ("float32[5,4,3,6]", 0, 3 * conv // 4)
    assert rows["  flatten_0"] == ("float32[5,72]", 0, 0)
    assert rows["  dense_0"] == ("float32[5,10]", 720, 2 * 5 * 72 * 10)
    assert rows["serial"][1:] == tuple(
        sum(row[i] for name, row in rows.items() if name != "serial") for i in (1, 2)
    )


def test_nested_layers_and_the_copies_of_repeat():
    net = fn.serial(fn.repeat(fn.residual(fn.dense(4), fn.relu), 12), head=fn.dense(2))
    rows = table(net, (3, 4))
    one = 3 * 4 * (2 * 4 + 1) + 12 + 12
    assert list(rows) == ["serial", "  repeat_0", "    residual", "      dense_0", "      relu_0", "  head"]
    assert rows["    residual"] == ("float32[3,4]", 20, one)
    assert rows["  repeat_0"] == ("float32[3,4]", 240, 12 * one)
    assert rows["serial"][1:] == (240 + 10, 12 * one + 3 * 2 * 9)


def test_states_indices_functions_and_training():
    net = fn.serial(fn.embed(7, 3), fn.batch_norm(), fn.dropout(0.5), fn.cast(fn.dense(2)))
    for train in (False, True):
        rows = table(net, (2, 5), jnp.int32, train=train)
        assert rows["  embed_0"] == ("float32[2,5,3]", 21, 0)
        assert rows["    dense"][0] == "bfloat16[2,5,2]"
    assert table(jnp.tanh, (2, 3)) == {"tanh": ("float32[2,3]", 0, 6)}
    assert fn.summary(fn.tanh, ones((2, 3))).splitlines()[1].startswith("tanh")


def test_transformer_blocks_ties_and_transposes():
    net = fn.tied_embed(11, 4, fn.transformer_encoder_block(2))
    rows = table(net, (2, 5), jnp.int32)
    names = ["norm_0", "attention", "norm_1", "mlp"]
    assert [name.strip() for name in rows][:3] == ["tied_embed", "embed", "body"]
    assert [name.strip() for name in rows if name.strip() in names] == names
    assert rows["tied_embed"][1] == 11 * 4 + rows["  body"][1]
    transposed = table(fn.conv_transpose(2, 3, strides=2, use_bias=False), (1, 8, 8, 4))["conv_transpose"]
    assert transposed == ("float32[1,16,16,2]", 72, 2 * 64 * 9 * 4 * 2)


def test_a_network_that_does_not_fit_raises_with_the_path():
    net = fn.serial(fn.serial(fn.dense(3), fn.conv(2, 3)))
    with pytest.raises(ValueError, match=r"conv: input is float32\[5,3\]") as caught:
        fn.summary(net, ones((5, 4)))
    assert [note for note in caught.value.__notes__ if note.startswith("in ")] == [
        "in serial['conv_0'], input float32[5,3]",
        "in serial['serial_0'], input float32[5,4]",
    ]
    # What watched it is gone: the next network runs as it did.
    assert fn.dense(2).init(jax.random.key(0), ones((1, 3)))[0]["w"].shape == (3, 2)


CALLS_WITHOUT_INPUT = {  # an arange of floats is an operation without an input
    "rotary": Case(lambda: fn.multi_head_attention(2, rotary=True), (2, 3, 4)),
    "cached positions": Case(lambda: fn.sinusoidal_position(cache=True), (2, 3, 4)),
    "a function with an arange": Case(lambda: lambda x: x + jnp.arange(3.0)[None], (2, 3)),
    "a function with an iota": Case(lambda: lambda x: x * jax.lax.iota(jnp.float32, 3)[None], (2, 3)),
    "a constant alone": Case(lambda: lambda x: jnp.ones(3), (2, 3)),
}


@pytest.mark.parametrize("name", [*LAYERS, *CALLS_WITHOUT_INPUT])
def test_every_layer_has_a_summary(name):
    case = (LAYERS | CALLS_WITHOUT_INPUT)[name]
    layer = fn.as_layer(case.make())
    x = arrays(case.shape, lambda *shape: ones(shape, jnp.int32 if case.integer else jnp.float32))
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    for train in (False, True):
        first = fn.summary(layer, x, train=train).splitlines()[1]
        assert first.startswith(layer.name)
        assert int(first.split()[-2].replace(",", "")) == sum(leaf.size for leaf in jax.tree.leaves(params))
        assert int(first.split()[-1].replace(",", "")) >= 0
