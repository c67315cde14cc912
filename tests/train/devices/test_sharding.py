"""A training loop on one device and on eight: the same losses; and which device holds what.

This file is a program, too, because eight devices need their own process: `test_on_eight_devices` runs it.
"""

import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import fnnet as fn
from fnnet.train.devices.sharding import with_auto_axes
from tests import arrays
from tests.train.eight_devices import failures, passes_on_eight_devices

STEPS = 20
LOSS = fn.losses.softmax_cross_entropy


def digits_like() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {"x": draw.normal(size=(16, 4, 4, 1)), "y": draw.integers(0, 4, 16)}


def convolutional() -> fn.Layer:
    return fn.serial(
        *(fn.conv(8, 3, use_bias=False), fn.batch_norm(), fn.relu, fn.max_pool(2), fn.flatten),
        *(fn.dense(64), fn.relu, fn.dropout(0.3), fn.dense(4)),
    )


def words() -> dict[str, Any]:
    tokens = np.random.default_rng(1).integers(0, 16, (16, 9))
    return {"x": tokens[:, :-1], "y": tokens[:, 1:]}


def gpt(around: Callable[[Any], fn.Layer] = lambda layer: layer) -> fn.Layer:
    block = fn.transformer_decoder_block(4, cross=False)
    return fn.serial(
        around(fn.embed(16, 16)), fn.repeat(around(block), 3), fn.layer_norm(), around(fn.dense(16))
    )


class Trained:
    """Losses of a run, its state at the end, and the compiled step; without a mesh on one device."""

    def __init__(self, net: fn.Layer, batch: Any, mesh: Any = None, rules: Any = ()) -> None:
        optimizer, key = fn.optim.adam(0.01), jax.random.key(0)
        options: dict[str, Any] = {}
        if mesh is None:
            self.start = jax.jit(lambda key: fn.train.start(net, optimizer, key, batch["x"]))(key)
        else:
            self.start = fn.train.start_sharded(net, optimizer, key, batch["x"], mesh, rules)
            batch = fn.train.shard_batch(batch, mesh)
            where = jax.tree.map(lambda a: a.sharding, self.start)
            options = {"out_shardings": (where, NamedSharding(with_auto_axes(mesh), P()))}
        step = jax.jit(fn.train.make_step(net, LOSS, optimizer), **options)
        self.compiled = step.lower(self.start, batch, key).compile()
        now, self.losses = self.start, []
        for i in range(STEPS):
            now, seen = self.compiled(now, batch, jax.random.key(i))
            self.losses.append(float(seen["loss"]))
        self.end = now

    def collectives(self) -> dict[str, list[str]]:
        """The shapes that each kind of communication in the step gives."""
        found: dict[str, list[str]] = {}
        for shapes, kind in re.findall(
            r" = (.*?) (all-\w+|reduce-scatter)(?:-start)?\(", self.compiled.as_text()
        ):
            found.setdefault(kind, []).append(shapes)
        return found

    def operations(self) -> float:
        return self.compiled.cost_analysis()["flops"]


def same(one: Trained, many: Trained) -> None:
    """The start, losses and params to rounding in double precision."""
    assert one.losses[-1] < one.losses[0] / 2
    for wanted, got in zip(*(jax.tree.leaves(run.start) for run in (one, many)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-13)
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-10)
    for wanted, got in zip(*(jax.tree.leaves(run.end.params) for run in (one, many)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-9)
    # Running averages are float32.
    for wanted, got in zip(*(jax.tree.leaves(run.end.state) for run in (one, many)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def part(array: jax.Array) -> tuple[int, ...]:
    """What one device has of it: equal parts, so the shape of any."""
    shapes = {shard.data.shape for shard in array.addressable_shards}
    assert len(array.addressable_shards) == 8
    assert len(shapes) == 1
    return shapes.pop()


def a_convolutional_network() -> None:
    """With batch_norm, whose statistics are the whole batch's, and dropout, whose draws are the same."""
    data, both = jax.make_mesh((8,), ("data",)), jax.make_mesh((2, 4), ("data", "model"))
    net, batch = convolutional(), digits_like()
    one = Trained(net, batch)

    parallel = Trained(net, batch, data)
    same(one, parallel)
    assert "all-reduce" in parallel.collectives()
    assert "all-gather" not in parallel.collectives()
    assert parallel.operations() < one.operations() / 4
    assert part(parallel.end.params["dense_0"]["w"]) == (32, 64)

    sharded = Trained(net, batch, data, fn.train.fully_sharded(at_least=256))
    same(one, sharded)
    for copy in (sharded.end.params, sharded.end.opt_state.m, sharded.end.opt_state.v):
        assert part(copy["dense_0"]["w"]) == (32, 8)
        assert part(copy["dense_1"]["w"]) == (8, 4)
        assert part(copy["conv_0"]["w"]) == (3, 3, 1, 8)  # 72 elements

    pair = [("dense_0/w", P(None, "model")), ("dense_0/b", P("model")), ("dense_1/w", P("model", None))]
    rules = fn.train.fully_sharded(at_least=256, rules=pair)
    combined = Trained(fn.train.gather_params(net, both, pair), batch, both, rules)
    same(one, combined)
    assert part(combined.end.params["dense_0"]["w"]) == (16, 16)
    assert part(combined.end.params["dense_0"]["b"]) == (16,)
    assert part(combined.end.opt_state.v["dense_1"]["w"]) == (16, 2)
    assert combined.operations() < one.operations() / 2

    # From two by four devices to eight, and to one: nothing but the places changes.
    where = fn.train.shardings(combined.end, data, fn.train.fully_sharded(at_least=256))
    for moved in (jax.device_put(combined.end, where), jax.device_put(combined.end, jax.devices()[0])):
        jax.tree.map(np.testing.assert_array_equal, moved, combined.end)


def a_transformer() -> None:
    data, both = jax.make_mesh((8,), ("data",)), jax.make_mesh((2, 4), ("data", "model"))
    batch = words()
    one = Trained(gpt(), batch)
    size = one.compiled.memory_analysis()

    net = gpt(partial(fn.train.gather_params, mesh=data))
    sharded = Trained(net, batch, data, fn.train.fully_sharded(at_least=32))
    same(one, sharded)
    block = sharded.end.params["repeat_0"]["copies"]
    assert part(block["attention"]["w_q"]) == (3, 16, 2)
    assert part(block["mlp"]["dense_0"]["w"]) == (3, 16, 8)
    assert part(block["mlp"]["dense_1"]["w"]) == (3, 8, 16)
    # Not even the step's arguments and results have all params in one place,
    held = sharded.compiled.memory_analysis()
    assert held.argument_size_in_bytes < size.argument_size_in_bytes / 7
    assert held.output_size_in_bytes < size.output_size_in_bytes / 7
    # and inside it there is one block of three at a time.
    gathers = " ".join(sharded.collectives()["all-gather"])
    assert "16,64]" in gathers
    assert "[3,16,64]" not in gathers
    assert sharded.collectives().keys() & {"all-reduce", "reduce-scatter"}
    assert sharded.operations() < one.operations() / 4

    rules = fn.train.tensor_parallel(embed="features")
    tensor = Trained(gpt(), batch, both, rules)
    same(one, tensor)
    assert "all-reduce" in tensor.collectives()
    for copy in (tensor.end.params, tensor.end.opt_state.m):
        block = copy["repeat_0"]["copies"]
        assert part(block["attention"]["w_v"]) == part(block["attention"]["w_k"]) == (3, 16, 4)
        assert part(block["attention"]["b_q"]) == (3, 4)
        assert part(block["attention"]["w_o"]) == (3, 4, 16)
        assert part(block["attention"]["b_o"]) == (3, 16)
        assert part(block["mlp"]["dense_0"]["w"]) == (3, 16, 16)
        assert part(block["mlp"]["dense_1"]["w"]) == (3, 16, 16)
        assert part(copy["embed_0"]["w"]) == (16, 4)


def a_batch_over_eight() -> None:
    batch = {"x": np.arange(32.0).reshape(16, 2), "y": jnp.arange(16)}
    for mesh, rows in ((jax.make_mesh((8,), ("data",)), 2), (jax.make_mesh((2, 4), ("data", "model")), 8)):
        got = fn.train.shard_batch(batch, mesh)
        jax.tree.map(np.testing.assert_array_equal, got, batch)
        assert part(got["x"]) == (rows, 2)
        assert part(got["y"]) == (rows,)
        again = jax.jit(lambda batch, mesh=mesh: fn.train.shard_batch(batch, mesh))(batch)
        assert part(again["x"]) == (rows, 2)
    assert part(fn.train.shard_batch(np.ones((8, 3)), mesh, axis="model")) == (2, 3)
    mesh = jax.make_mesh((8,), ("data",))
    for wrong in (np.ones((12, 2)), 1.0):
        for put in (
            fn.train.shard_batch,
            lambda b, m: jax.eval_shape(lambda b: fn.train.shard_batch(b, m), b),
        ):
            message = (
                r"shard_batch: got .*, wanted a multiple of 8 examples .*the mesh \{'data': 8\} has 8 parts"
            )
            raises(ValueError, message, lambda put=put, wrong=wrong: put(wrong, mesh))


def what_the_rules_give() -> None:
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    shapes = {"dense_0": {"w": (16, 32), "b": (32,)}, "w": (16, 32), "odd": (7, 9)}
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda s: isinstance(s, tuple))

    def specs(tree: Any, rules: Any, **options: Any) -> Any:
        return jax.tree.map(lambda s: tuple(s.spec), fn.train.shardings(tree, mesh, rules, **options))

    # The first rule that is found wins, functions are of shape and mesh, and the rest is replicated.
    rules = [("^w$", P("model")), ("w$", lambda shape, mesh: P(None, ("data", "model")))]
    wanted = {"dense_0": {"w": (None, ("data", "model")), "b": ()}, "w": ("model",), "odd": ()}
    assert specs(params, rules) == wanted
    # An optimizer's copies are like their params, by the longest path, with an axis in front, too.
    copies = {
        "mean": params,
        "pairs": jax.tree.map(lambda p: jnp.stack([p] * 5), params),
        "dense_0": {"w": jnp.ones(3)},
    }
    pairs = {
        "dense_0": {"w": (None, None, ("data", "model")), "b": (None,)},
        "w": (None, "model"),
        "odd": (None,),
    }
    got = specs(copies | {"key": jax.random.key(0), "rate": 0.1}, rules, params=params)
    assert got.pop("pairs") == pairs
    assert got == {"mean": wanted, "dense_0": {"w": ()}, "key": (), "rate": ()}
    net = fn.dense(32)
    for optimizer in (
        fn.optim.lookahead(fn.optim.adam(0.1), 5, 0.5),
        fn.optim.lbfgs(),
        fn.optim.adafactor(0.1),
    ):
        shaped = jax.eval_shape(
            lambda key, optimizer=optimizer: fn.train.start(net, optimizer, key, jnp.ones((1, 16))),
            jax.random.key(0),
        )
        where = fn.train.shardings(shaped, mesh, [("w", P("data", "model"))])
        for leaf, place in zip(*map(jax.tree.leaves, (shaped, where)), strict=True):
            assert ("data" in place.spec) == (leaf.shape[-2:] == (16, 32)), (leaf, place)
            place.shard_shape(leaf.shape)  # raises where it does not divide

    # The largest axis that divides, the last of equals, and none that another axis of the mesh splits.
    sharded = fn.train.fully_sharded(at_least=32, rules=[("^dense_0/w", P(None, "model"))])
    assert specs(params, sharded) == {
        "dense_0": {"w": ("data", "model"), "b": ("data",)},
        "w": (None, "data"),
        "odd": (),
    }
    assert specs(jnp.ones((8, 8)), fn.train.fully_sharded(at_least=64)) == (None, "data")
    assert specs(jnp.ones((8, 8)), fn.train.fully_sharded(at_least=65)) == ()
    taken = fn.train.fully_sharded(at_least=1, rules=[("", P("data"))])
    assert specs(jnp.ones((8, 8)), taken) == ("data",)
    tied = jax.eval_shape(
        fn.tied_embed(16, 8, fn.transformer_encoder_block(4)).init, jax.random.key(0), jnp.zeros((1, 3), int)
    )
    got = specs(tied[0], fn.train.tensor_parallel(embed="vocabulary"))
    assert got["embed"]["w"] == ("model", None)
    assert got["body"]["attention"]["w_q"] == (None, "model")
    assert got["body"]["norm_0"]["gamma"] == got["body"]["attention"]["b_o"] == ()


def wrong_rules() -> None:
    mesh = jax.make_mesh((2, 4), ("data", "model"))
    params = {"dense_0": {"w": jnp.ones((6, 8)), "b": jnp.ones(8)}}
    got = (
        r"param dense_0/w is float\d+\[6,8\], its rule 'w' gives .*, the mesh is \{'data': 2, 'model': 4\}; "
    )
    for spec, message in (
        (P("model"), "wanted axis 0, of size 6, a multiple of 4: change .*, or put a rule in front"),
        (P(("data", "model")), "wanted axis 0, of size 6, a multiple of 8"),
        (P(None, None, "model"), "wanted 2 entries at most"),
        (P("heads"), "wanted axes of the mesh, not 'heads'"),
        (P("data", "data"), "wanted each axis of the mesh once"),
    ):
        raises(ValueError, got + message, lambda spec=spec: fn.train.shardings(params, mesh, [("w", spec)]))
    raises(
        ValueError,
        "rule 'dens_0' matches no param, .* The paths: dense_0/b, dense_0/w",
        lambda: fn.train.shardings(params, mesh, [("w", P()), ("dens_0", P())]),
    )
    raises(
        ValueError,
        r"fully_sharded: axis='batch' and a mesh \{'data': 2, 'model': 4\}",
        lambda: fn.train.shardings(params, mesh, fn.train.fully_sharded("batch")),
    )
    net = fn.train.gather_params(fn.dense(8), mesh, [("nothing", P())])
    raises(
        ValueError,
        "rule 'nothing' matches no param",
        lambda: net(params["dense_0"], jnp.ones((2, 6))),
    )


def under_explicit_axes() -> None:
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        raises(
            ValueError,
            "inside jax.set_mesh of a mesh with explicit axes",
            lambda: fn.train.shard_batch(np.ones(8), mesh),
        )
    with jax.set_mesh(with_auto_axes(mesh)):
        assert part(fn.train.shard_batch(np.ones(8), mesh)) == (1,)


def raises(kind: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=message):
        call()


CASES = (
    a_convolutional_network,
    a_transformer,
    a_batch_over_eight,
    what_the_rules_give,
    wrong_rules,
    under_explicit_axes,
)


@pytest.mark.slow
def test_on_eight_devices() -> None:
    passes_on_eight_devices(__file__, CASES)


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((1,), ("data",))


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"w": P()}, "rules={'w': .*}, wanted a list of pairs"),
        ("w", "rules='w', wanted a list of pairs"),
        (["w"], "rules has 'w', wanted a list of pairs"),
        ([(0, P())], r"rules has \(0, .*\), wanted a list of pairs"),
        ([("w", "data")], r"rules has \('w', 'data'\), wanted a PartitionSpec or a function"),
        ([("w", lambda shape, mesh: None)], "its rule 'w' gives None, .*; wanted a PartitionSpec"),
    ],
)
def test_no_rules(mesh: Any, rules: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fn.train.shardings({"w": jnp.ones(3)}, mesh, rules)


def test_no_regular_expression(mesh: Any) -> None:
    with pytest.raises(ValueError, match=r"rules has '\(', which is not a regular expression: missing \)"):
        fn.train.shardings({"w": jnp.ones(3)}, mesh, [("(", P())])


def test_no_mesh(mesh: Any) -> None:
    for call in (
        lambda: fn.train.shard_batch(jnp.ones(8), 8),
        lambda: fn.train.shardings({}, None),
        lambda: fn.train.gather_params(fn.tanh, "data"),
    ):
        with pytest.raises(TypeError, match=r"mesh=.*, wanted a Mesh: jax.make_mesh"):
            call()
    with pytest.raises(
        ValueError, match=r"shard_batch: axis='batch' and a mesh \{'data': 1\}, wanted one of its axes"
    ):
        fn.train.shard_batch(jnp.ones(8), mesh, axis="batch")


def test_other_arguments() -> None:
    with pytest.raises(ValueError, match="fully_sharded: at_least=0"):
        fn.train.fully_sharded(at_least=0)
    with pytest.raises(TypeError, match="rules=5"):
        fn.train.fully_sharded(rules=5)
    with pytest.raises(
        ValueError, match="tensor_parallel: embed='rows', wanted 'vocabulary', 'features' or None"
    ):
        fn.train.tensor_parallel(embed="rows")


def test_no_params_and_no_rules(mesh: Any) -> None:
    assert fn.train.shardings({}, mesh, fn.train.fully_sharded()) == {}
    assert fn.train.shardings({"w": jnp.ones(3)}, mesh)["w"].spec == P()


def test_gather_params_is_the_layer(mesh: Any) -> None:
    """Value, state, names, forward mode and second derivatives; summary sees it."""
    layer = fn.serial(fn.batch_norm(), fn.dense(2), fn.tanh)
    around, x = fn.train.gather_params(layer, mesh), arrays.normal(4, 3)
    assert around.name == layer.name
    (params, state), again = jax.jit(lambda: [f.init(jax.random.key(0), x) for f in (layer, around)])()
    arrays.equal(again, (params, state))

    def derivatives(layer: fn.Layer) -> Any:
        def f(params: Any) -> Any:
            return layer.apply(params, state, x, train=True)[0].sum()

        slope = jax.grad(f)(params)
        return layer.apply(params, state, x, train=True), slope, jax.jvp(jax.grad(f), (params,), (slope,))

    wanted, got = jax.jit(lambda: [derivatives(f) for f in (layer, around)])()
    arrays.close(got, wanted, rtol=1e-5, atol=1e-6)
    assert "dense_0" in str(fn.summary(fn.serial(around), x))
    with pytest.raises(ValueError, match="batch_norm: input is") as caught:
        around.apply(params, state, x[:, :2])
    assert any("gather_params['serial']" in note for note in caught.value.__notes__)


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_enable_x64", True)
    found = list(failures(CASES))
    print("\n".join(found) or f"{len(CASES)} cases on {len(jax.devices())} devices")
    sys.exit(bool(found))
