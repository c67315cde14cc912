"""`serial`, `parallel` and `residual`: names, trees, keys, state and the path in an error."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests import arrays
from tests.arrays import at, each, equal, like, normal, ones, params_for, stack, zeros

X = normal(5, 4)
KEY = jax.random.key(0)
close = partial(arrays.close, rtol=1e-5, atol=1e-6)


def shapes(tree):
    return jax.tree.map(lambda a: a.shape, tree)


def init(net, x=X, key=KEY):
    return jax.jit(net.init)(key, x)


def training(net, params, state, x):
    return jax.jit(partial(net.apply, train=True))(params, state, x, key=KEY)


def notes(exc):
    """The path through the network, from the inside out."""
    return [note for note in exc.value.__notes__ if note.startswith("in ")]


class TestNames:
    def test_a_counter_for_each_kind(self):
        net = fn.serial(
            *(fn.dense(3), fn.relu, fn.batch_norm(), fn.dense(3), jnp.tanh, fn.batch_norm()),
            fn.serial(fn.dense(3), fn.serial(fn.dense(2), fn.layer_norm())),
            *(fn.dropout(0.1), fn.residual(fn.dense(2)), lambda x: x, fn.parallel(fn.dense(1), fn.dense(1))),
        )
        params, state = jax.eval_shape(net.init, KEY, X)
        w, norm = (lambda i, o: {"w": (i, o), "b": (o,)}), (lambda n: {"gamma": (n,), "beta": (n,)})
        assert shapes(params) == {
            "dense_0": w(4, 3),
            "batch_norm_0": norm(3),
            "dense_1": w(3, 3),
            "batch_norm_1": norm(3),
            "serial_0": {"dense_0": w(3, 3), "serial_0": {"dense_0": w(3, 2), "layer_norm_0": norm(2)}},
            "residual_0": {"dense_0": w(2, 2)},
            "parallel_0": {"dense_0": w(2, 1), "dense_1": w(2, 1)},
        }
        assert shapes(state) == {f"batch_norm_{i}": {"mean": (3,), "var": (3,)} for i in (0, 1)}

    def test_names_of_ones_own_come_after_the_others(self):
        double = fn.as_layer(lambda x: 2 * x)
        net = fn.serial(fn.dense(3, use_bias=False), head=fn.dense(2), end=double)
        params, _ = init(net)
        assert shapes(params) == {"dense_0": {"w": (4, 3)}, "head": {"w": (3, 2), "b": (2,)}}
        close(jax.jit(net)(params, X), 2 * (X @ params["dense_0"]["w"] @ params["head"]["w"]))

    def test_functions_are_counted_by_their_names(self):
        net = fn.serial(fn.relu, partial(jnp.clip, max=1), lambda x: x, fn.relu, lambda x: x, jnp.tanh)
        with pytest.raises(ValueError) as error:
            net({"head": {}}, X)
        names = ["relu_0", "clip_0", "lambda_0", "relu_1", "lambda_1", "tanh_0"]
        assert f"params has ['head'], and the network only {names}" in str(error.value)

    def test_a_name_that_is_taken_raises(self):
        with pytest.raises(ValueError, match="serial: the name 'dense_0' is taken"):
            fn.serial(fn.dense(3), dense_0=fn.dense(2))

    def test_children_without_params_have_no_entry(self):
        assert init(fn.serial(fn.relu, fn.serial(fn.tanh), fn.dropout(0.1), fn.parallel(fn.relu))) == ({}, {})
        params, state = init(fn.parallel(fn.relu, fn.serial(fn.batch_norm(), fn.relu)))
        assert list(params) == list(state) == ["serial_0"]

    def test_one_layer_twice_has_params_twice(self):
        layer = fn.dense(4)
        params, _ = init(fn.serial(layer, layer))
        assert list(params) == ["dense_0", "dense_1"]
        assert np.all(params["dense_0"]["w"] != params["dense_1"]["w"])


class TestSerial:
    def test_a_chain(self):
        net = fn.serial(fn.dense(3), jnp.tanh, fn.serial(fn.dense(2), fn.relu))
        params, _ = init(net)
        h = np.tanh(X @ np.asarray(params["dense_0"]["w"]))
        wanted = np.maximum(h @ np.asarray(params["serial_0"]["dense_0"]["w"]), 0)
        close(jax.jit(net)(params, X), wanted)

    def test_of_nothing_is_the_identity(self):
        net = fn.serial()
        assert net.init(KEY, X) == ({}, {})
        y, state = net.apply({}, {}, X, key=KEY, train=True)
        assert y is X
        assert state == {}

    @settings(max_examples=8)
    @given(st.lists(st.integers(1, 5), max_size=4), st.integers(0, 3), st.integers(1, 4))
    def test_shapes_go_from_child_to_child(self, widths, batch, features):
        net = fn.serial(*(layer for n in widths for layer in (fn.dense(n), fn.layer_norm(), fn.relu)))
        x = jax.ShapeDtypeStruct((batch, features), jnp.float32)
        params, _ = jax.eval_shape(net.init, KEY, x)
        inputs = [features, *widths]
        got = [params[f"dense_{i}"]["w"].shape for i in range(len(widths))]
        assert got == list(zip(inputs, widths, strict=False))
        assert jax.eval_shape(net, params, x).shape == (batch, inputs[-1])

    def test_init_reads_shape_and_dtype_only(self):
        net = fn.serial(fn.dense(3), fn.batch_norm(), fn.parallel(fn.dense(2), fn.dense(2)), fn.dropout(0.5))
        inputs = (
            X,
            jax.ShapeDtypeStruct(X.shape, X.dtype),
            np.full(X.shape, np.nan, np.float32),
            zeros((1, 4)),
        )
        assert len({str(jax.make_jaxpr(partial(net.init, x=x))(KEY)) for x in inputs}) == 1
        wanted, keys = init(net), jax.random.split(KEY, 3)
        assert shapes(jax.eval_shape(net.init, KEY, X)) == shapes(wanted)
        many = jax.jit(jax.vmap(net.init, (0, None)))(keys, X)
        assert shapes(many) == jax.tree.map(lambda a: (3, *a.shape), wanted)
        close(at(many, 1), init(net, key=keys[1]))

    def test_a_raw_key_is_a_key(self):
        net = fn.serial(fn.dense(3))
        equal(init(net, key=jax.random.PRNGKey(7)), init(net, key=jax.random.key(7)))


class TestKeys:
    """What is drawn depends on a child's name, not on its neighbours."""

    @pytest.mark.slow
    def test_layers_in_between_leave_the_other_weights_as_they_were(self):
        plain = fn.serial(fn.dense(4), fn.parallel(fn.dense(4)), fn.dense(4), head=fn.dense(4))
        more = fn.serial(
            *(fn.dropout(0.5), fn.dense(4), fn.relu, fn.layer_norm()),
            fn.parallel(fn.dense(4), fn.identity),
            *(fn.dropout(0.5), fn.dense(4), fn.relu, fn.residual(fn.dense(4))),
            head=fn.dense(4),
        )
        wanted, got = init(plain)[0], init(more)[0]
        for name in wanted:
            equal(got[name], wanted[name])

    def test_layers_in_between_leave_the_other_draws_as_they_were(self):
        ones = np.ones((50, 50), np.float32)

        def train(*layers):
            return np.asarray(training(fn.serial(*layers), {}, {}, ones)[0])

        one = train(fn.dropout(0.5))
        equal(train(fn.relu, fn.dropout(0.5), fn.identity), one)
        two = train(fn.dropout(0.5), fn.dropout(0.5))
        assert set(np.unique(two)) == {0, 4}
        equal((two > 0) & (one > 0), two > 0)  # the first dropout draws what it drew alone
        equal(train(fn.dropout(0.5), fn.relu, fn.dropout(0.5)), two)

    def test_children_draw_each_with_its_own_key(self):
        ones, drop = np.ones((50, 50), np.float32), fn.dropout(0.5)
        net = fn.parallel(drop, drop, fn.serial(drop), fn.serial(drop), merge="concatenate")
        masks = np.split(np.asarray(training(net, {}, {}, ones)[0]) > 0, 4, axis=-1)
        for i in range(4):
            for j in range(i):
                assert 0.4 < np.mean(masks[i] == masks[j]) < 0.6
        params, _ = init(
            fn.parallel(fn.dense(4), fn.dense(4), fn.serial(fn.dense(4)), fn.residual(fn.dense(4)))
        )
        weights = [np.asarray(p) for p in jax.tree.leaves(params) if p.ndim == 2]
        assert len({w.tobytes() for w in weights}) == 4

    def test_no_key_is_needed_but_for_what_draws(self):
        net = fn.serial(fn.dense(3), fn.serial(fn.relu, fn.dropout(0.5)))
        params, state = init(net)
        assert jax.eval_shape(net.apply, params, state, X)[0].shape == (5, 3)
        with pytest.raises(ValueError, match="dropout: train=True and no key") as error:
            jax.eval_shape(partial(net.apply, train=True), params, state, X)
        assert notes(error) == [
            "in serial['dropout_0'], input float32[5,3]",
            "in serial['serial_0'], input float32[5,3]",
        ]
        net = fn.serial(fn.dense(3), fn.batch_norm())
        params, state = jax.eval_shape(net.init, KEY, X)
        assert jax.eval_shape(partial(net.apply, train=True), params, state, X)[0].shape == (5, 3)


class TestState:
    def test_it_goes_through_every_combinator(self):
        norm = fn.batch_norm(momentum=0)
        net = fn.serial(
            norm, lambda x: x + 3, fn.parallel(norm, fn.serial(lambda x: 2 * x, norm)), fn.residual(norm)
        )
        params, state = init(net)
        _, after = training(net, params, state, X)
        means = {
            "batch_norm_0": {"mean": X.mean(0)},
            "parallel_0": {
                "batch_norm_0": {"mean": np.full(4, 3)},
                "serial_0": {"batch_norm_0": {"mean": np.full(4, 6)}},
            },
            "residual_0": {"batch_norm_0": {"mean": np.zeros(4)}},
        }

        def mean(tree):
            return {k: v if k == "mean" else mean(v) for k, v in tree.items() if k != "var"}

        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), mean(after), means)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        _, same = jax.jit(net.apply)(params, after, X)
        equal(same, after)

    def test_it_is_the_carry_of_a_scan(self):
        net = fn.serial(fn.dense(3), fn.parallel(fn.batch_norm(), fn.relu), fn.residual(fn.batch_norm()))
        params, state = init(net)

        def step(state, x):
            y, state = net.apply(params, state, x, train=True)
            return state, y

        @jax.jit
        def both(state, xs):
            return jax.lax.scan(step, state, xs)[0], step(step(state, xs[0])[0], xs[1])[0]

        close(*both(state, stack(X, 2 * X)))

    def test_a_call_without_it_raises(self):
        net = fn.serial(fn.dense(3), fn.residual(fn.batch_norm(), fn.relu))
        params, _ = init(net)
        with pytest.raises(
            ValueError, match=r"batch_norm: state has no entries, wanted .*'mean', 'var'"
        ) as error:
            net(params, X)
        assert notes(error)[-1] == "in serial['residual_0'], input float32[5,3]"


class TestParallel:
    def test_sum(self):
        net = fn.parallel(fn.dense(4), jnp.tanh, fn.identity)
        params, _ = init(net)
        wanted = X @ np.asarray(params["dense_0"]["w"]) + np.tanh(X) + X
        close(jax.jit(net)(params, X), wanted)
        equal(jax.jit(fn.parallel(fn.relu))({}, X), np.maximum(X, 0))

    def test_concatenation_is_in_the_order_of_the_branches(self):
        net = fn.parallel(fn.identity, fn.dense(3), jnp.tanh, merge="concatenate")
        params, _ = init(net)
        wanted = [X, X @ np.asarray(params["dense_0"]["w"]), np.tanh(X)]
        close(jax.jit(net)(params, X), np.concatenate(wanted, 1))

    @pytest.mark.parametrize(
        "branches, merge, message",
        [
            (
                (fn.dense(3), fn.identity),
                "sum",
                r"parallel: the branches gave dense_0: float32\[5,3\], identity_0: float32\[5,4\]; to merge "
                "by sum they must have one shape",
            ),
            ((fn.dense(1), fn.identity), "sum", r"(?m)must have one shape$"),  # no broadcasting by accident
            ((jnp.ravel, fn.identity), "sum", r"(?m)must have one shape$"),
            ((jnp.transpose, fn.identity), "concatenate", "one shape except for the last axis"),
            ((jnp.ravel, fn.identity), "concatenate", "one shape except for the last axis"),
        ],
    )
    def test_shapes_that_do_not_fit_together_raise(self, branches, merge, message):
        net = fn.serial(fn.parallel(*branches, merge=merge))
        with pytest.raises(ValueError, match=message) as error:
            jax.eval_shape(net.init, KEY, X)
        assert notes(error) == ["in serial['parallel_0'], input float32[5,4]"]

    def test_they_raise_in_apply_too(self):
        net = fn.parallel(jnp.ravel, fn.identity)
        assert net({}, X[0]).shape == (4,)
        with pytest.raises(ValueError, match=r"ravel_0: float32\[20\], identity_0: float32\[5,4\]"):
            net({}, X)

    def test_arguments(self):
        with pytest.raises(ValueError, match="parallel: merge='mean', wanted one of 'sum', 'concatenate'"):
            fn.parallel(fn.relu, merge="mean")
        with pytest.raises(ValueError, match="parallel: no branches"):
            fn.parallel()


class TestResidual:
    def test_sum_with_the_input(self):
        net = fn.residual(fn.dense(4), jnp.tanh)
        params, _ = init(net)
        wanted = X + np.tanh(X @ np.asarray(params["dense_0"]["w"]))
        close(jax.jit(net)(params, X), wanted)
        equal(params, init(fn.serial(fn.dense(4), jnp.tanh))[0])

    @pytest.mark.parametrize("features", [1, 3])
    def test_another_shape_raises(self, features):
        net = fn.serial(fn.residual(fn.dense(features)))
        with pytest.raises(
            ValueError, match=rf"residual: x is float32\[5,4\] and f\(x\) is float32\[5,{features}\]"
        ) as e:
            jax.eval_shape(net.init, KEY, X)
        assert notes(e) == ["in serial['residual_0'], input float32[5,4]"]
        with pytest.raises(ValueError, match="residual: x is"):
            fn.residual(lambda x: x[:, :features])({}, X)


class TestErrors:
    def test_apply_names_the_path(self):
        net = fn.serial(fn.dense(3), body=fn.parallel(fn.relu, fn.serial(fn.tanh, fn.dense(3))))
        params, _ = init(net)
        params["body"]["serial_0"]["dense_0"]["w"] = ones((2, 3))
        path = [
            "in serial['dense_0'], input float32[5,3]",
            "in parallel['serial_0'], input float32[5,3]",
            "in serial['body'], input float32[5,3]",
        ]
        for f in (net, jax.jit(net), jax.vmap(net, (None, 0))):
            x = X[None] if f is not net and not hasattr(f, "lower") else X
            with pytest.raises(
                ValueError, match=r"dense: input is float32\[5,3\] and w float32\[2,3\]"
            ) as error:
                f(params, x)
            assert notes(error) == path

    def test_init_names_the_path(self):
        net = fn.serial(fn.dense(3), fn.residual(fn.relu, fn.conv(3, 3)))
        with pytest.raises(ValueError, match=r"conv: input is float32\[5,3\]") as error:
            net.init(KEY, X)
        assert notes(error) == [
            "in residual['conv_0'], input float32[5,3]",
            "in serial['residual_0'], input float32[5,3]",
        ]

    def test_errors_of_functions_have_it_too(self):
        def fail(x):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine") as error:
            fn.serial(fn.serial(fail))({}, {"image": X})
        assert notes(error) == [
            f"in serial['{n}_0'], input {{image: float32[5,4]}}" for n in ("fail", "serial")
        ]

    @pytest.mark.parametrize("combine", [fn.serial, fn.parallel])
    def test_params_of_another_network(self, combine):
        net = combine(fn.dense(4), fn.serial(fn.dense(4)))
        kind = net.name
        params, _ = init(net)
        with pytest.raises(
            ValueError,
            match=rf"{kind}: params has \['conv_0'\], and the network only \['dense_0', 'serial_0'\]",
        ):
            net(params | {"conv_0": {}}, X)
        with pytest.raises(ValueError, match=rf"{kind}: state has \['batch_norm_0'\]"):
            net.apply(params, {"batch_norm_0": {}}, X)
        with pytest.raises(ValueError, match=r"serial: params has .*'w'.*and the network only") as error:
            net(params | {"serial_0": params["dense_0"]}, X)
        assert notes(error) == [f"in {kind}['serial_0'], input float32[5,4]"]
        for missing in ("dense_0", "serial_0"):
            with pytest.raises(ValueError, match="dense: params has no entries") as error:
                net({name: p for name, p in params.items() if name != missing}, X)
            assert notes(error)[-1] == f"in {kind}['{missing}'], input float32[5,4]"
        for wrong in (None, params["dense_0"]["w"], list(params.values())):
            with pytest.raises(TypeError, match=rf"{kind}: params is .*, wanted the dict that init returned"):
                net(wrong, X)
        with pytest.raises(TypeError, match=rf"{kind}: state is None"):
            net.apply(params, None, X)

    def test_misspelt_arguments_raise(self):
        net = fn.serial(fn.relu)
        with pytest.raises(TypeError, match="training"):
            net.apply({}, {}, X, training=True)


@pytest.mark.usefixtures("float64")
def test_the_gradient_of_a_network_by_differences():
    net = fn.serial(
        fn.parallel(fn.dense(3), fn.serial(fn.layer_norm(), fn.dense(2)), merge="concatenate"),
        fn.residual(fn.dense(5), jnp.tanh),
        head=fn.dense(1),
    )
    x = X.astype(np.float64)
    params = params_for(net, x, np.float64)
    direction = like(params, seed=1, dtype=np.float64)

    @jax.jit
    def loss_and_slope(params):
        return jax.jvp(lambda params: jnp.sum(net(params, x) ** 2), (params,), (direction,))

    up, down = (
        loss_and_slope(each(lambda p, d, h=h: p + h * d, params, direction))[0] for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(loss_and_slope(params)[1], (up - down) / 2e-5, rtol=1e-7)


class TestOnX:
    def test_the_sequence_is_mapped_and_the_rest_handed_on(self):
        net, f = fn.on_x(fn.dense(3), fn.tanh), fn.serial(fn.dense(3), fn.tanh)
        x = {"x": X, "lengths": np.arange(5, dtype=np.int32)}
        params, state = init(net, x)
        equal((params, state), init(f))
        y, alone, wanted = jax.jit(lambda x: (net(params, x), net(params, x["x"]), f(params, x["x"])))(x)
        close(y, {"x": wanted, "lengths": x["lengths"]})
        close(alone, wanted)

    def test_errors(self):
        with pytest.raises(
            ValueError, match=r"on_x: input is \{y: float32\[5,4\]\}, wanted a dict with an entry 'x'"
        ):
            fn.on_x(fn.tanh)({}, {"y": X})
        with pytest.raises(
            TypeError, match=r"residual: input is \{x: .*, wanted one array; on_x\(layer\) takes it"
        ):
            fn.residual(lambda s: s)({}, {"x": X})
        with pytest.raises(TypeError, match=r"parallel: the branches gave .*, wanted one array from each"):
            fn.parallel(lambda s: {"x": s}, fn.tanh)({}, X)
