"""`repeat`, `cast`, `remat`, `freeze` beside the same thing written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import array, ones, zeros

X = array(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
KEY = jax.random.key(0)


def close(got, wanted):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, wanted)


def block():
    return fn.serial(fn.residual(fn.dense(4), fn.tanh, fn.dropout(0.5)), fn.batch_norm())


def one(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


def notes(exc):
    return [note for note in exc.value.__notes__ if note.startswith("in ")]


class TestRepeat:
    def test_it_is_the_layers_one_after_the_other(self):
        """Params, states, draws and gradients are those of a loop over the copies."""
        layer, net = block(), fn.repeat(block(), 3)
        keys = [jax.random.fold_in(KEY, i) for i in range(3)]
        params, state = jax.jit(net.init)(KEY, X)
        for i, key in enumerate(keys):
            close(one((params, state), i), jax.jit(layer.init)(key, X))

        def loop(params, x):
            states = []
            for i, key in enumerate(keys):
                x, s = layer.apply(one(params, i), one(state, i), x, key=key, train=True)
                states.append(s)
            return jnp.sum(jnp.square(x)), (x, jax.tree.map(lambda *s: jnp.stack(s), *states))

        def scanned(params, x):
            y, s = net.apply(params, state, x, key=KEY, train=True)
            return jnp.sum(jnp.square(y)), (y, s)

        close(*(jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(params, X) for f in (scanned, loop)))

    def test_unroll_changes_nothing_but_the_program(self):
        nets = [fn.repeat(fn.residual(fn.dense(4), fn.tanh), 5, unroll=u) for u in (1, 2, 5)]
        params, _ = nets[0].init(KEY, X)
        for net in nets[1:]:
            close(net(params, X), nets[0](params, X))

    def test_a_function_a_dict_and_shapes(self):
        close(fn.repeat(jnp.tanh, 3)({}, X), jnp.tanh(jnp.tanh(jnp.tanh(X))))
        double = fn.repeat(lambda s: {**s, "x": 2 * s["x"]}, 2)
        got = double({}, {"x": X, "mask": ones(5, bool)})
        np.testing.assert_array_equal(got["x"], 4 * X)
        params, state = fn.repeat(fn.dense(4), 2).init(KEY, jax.ShapeDtypeStruct((1, 4), jnp.bfloat16))
        assert (params["w"].shape, params["w"].dtype, state) == ((2, 4, 4), jnp.bfloat16, {})

    def test_the_program_does_not_grow_with_the_depth(self):
        def size(times):
            net = fn.repeat(block(), times)

            def gradient(params, state):
                return jax.grad(lambda p: net.apply(p, state, X)[0].sum())(params)

            return len(jax.jit(gradient).lower(*jax.eval_shape(net.init, KEY, X)).as_text().split("\n"))

        assert size(2) == size(48)

    def test_errors(self):
        for times, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
            with pytest.raises(error, match="repeat: times"):
                fn.repeat(fn.tanh, times)
        with pytest.raises(ValueError, match="repeat: unroll=0"):
            fn.repeat(fn.tanh, 2, unroll=0)
        with pytest.raises(
            ValueError, match=r"a block maps float32\[5,4\] to float32\[5,3\], wanted one shape"
        ):
            fn.repeat(fn.dense(3), 2).init(KEY, X)
        with pytest.raises(ValueError, match="wanted one shape and dtype"):
            fn.repeat(lambda x: x.astype(jnp.bfloat16), 2)({}, X)
        params, _ = fn.repeat(fn.dense(4), 3).init(KEY, X)
        with pytest.raises(ValueError, match=r"have float32\[3,4\], wanted 2 copies"):
            fn.repeat(fn.dense(4), 2)(params, X)
        with pytest.raises(ValueError, match=r"dense: input is float32\[5,3\]") as caught:
            fn.repeat(fn.dense(4), 3)(params, X[:, :3])
        assert notes(caught) == ["in repeat['dense'], input float32[5,3]"]


class TestCast:
    def test_the_layer_sees_half_precision_and_nobody_else(self):
        seen = []

        def look(x):
            seen.append(x.dtype)
            return x

        net = fn.cast(fn.serial(fn.dense(3), look, fn.batch_norm()))
        params, state = net.init(KEY, X)
        assert {p.dtype for p in jax.tree.leaves((params, state))} == {jnp.dtype(jnp.float32)}
        seen.clear()
        y, after = net.apply(params, state, X, train=True)
        assert (y.dtype, set(seen)) == (jnp.float32, {jnp.dtype(jnp.bfloat16)})
        assert {s.dtype for s in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_values_and_gradients(self, dtype):
        layer = fn.serial(fn.dense(3), fn.tanh)
        params, _ = layer.init(KEY, X)

        def by_hand(params, x):
            half = jax.tree.map(lambda a: a.astype(dtype), (params, x))
            return layer(*half).astype(jnp.float32)

        for f in (fn.cast(layer, dtype), by_hand):
            assert f(params, X).dtype == jnp.float32
        got, wanted = (
            jax.grad(lambda p, x, f=f: f(p, x).sum(), (0, 1))(params, X)
            for f in (fn.cast(layer, dtype), by_hand)
        )
        assert {g.dtype for g in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}
        jax.tree.map(np.testing.assert_array_equal, got, wanted)

    def test_indices_half_precision_and_float64(self):
        net = fn.cast(fn.serial(fn.embed(7, 3), fn.dense(2)))
        params, _ = net.init(KEY, zeros((2, 3), int))
        assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
        assert net(params, zeros((2, 3), int)).dtype == jnp.float32
        half = X.astype(jnp.bfloat16)
        params, _ = fn.cast(fn.dense(2)).init(KEY, half)
        assert (params["w"].dtype, fn.cast(fn.dense(2))(params, half).dtype) == (jnp.float32, jnp.bfloat16)
        with jax.enable_x64(True):
            double = array(np.asarray(X), jnp.float64)
            params, _ = fn.cast(fn.dense(2)).init(KEY, double)
            assert (params["w"].dtype, fn.cast(fn.dense(2))(params, double).dtype) == (
                jnp.float64,
                jnp.float64,
            )

    def test_errors(self):
        with pytest.raises(TypeError, match=r"cast: dtype=.*wanted floating point"):
            fn.cast(fn.dense(2), jnp.int8)


class TestRemat:
    @pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_saveable])
    def test_values_gradients_and_state_stay(self, policy):
        layer, net = block(), fn.remat(block(), policy=policy)
        params, state = net.init(KEY, X)

        def run(layer, params, x):
            y, after = layer.apply(params, state, x, key=KEY, train=True)
            return jnp.sum(jnp.square(y)), after

        close(
            *(
                jax.jit(jax.value_and_grad(partial(run, f), (0, 1), has_aux=True))(params, X)
                for f in (net, layer)
            )
        )

    def test_it_saves_memory(self):
        def temporary(wrap):
            layer = fn.residual(fn.dense(256), fn.tanh, fn.dense(256), fn.tanh, fn.dense(64))
            net = fn.repeat(wrap(layer), 20)
            x = jax.ShapeDtypeStruct((128, 64), jnp.float32)
            params, _ = jax.eval_shape(net.init, KEY, x)
            step = jax.jit(jax.grad(lambda p, x: net(p, x).sum()))
            return step.lower(params, x).compile().memory_analysis().temp_size_in_bytes

        assert temporary(fn.remat) < 0.5 * temporary(lambda layer: layer)


class TestFreeze:
    def test_params_get_no_gradient_and_the_input_does(self):
        layer, net = fn.serial(fn.dense(4), fn.tanh), fn.freeze(fn.serial(fn.dense(4), fn.tanh))
        params, _ = net.init(KEY, X)
        slopes, dx = jax.grad(lambda p, x: net(p, x).sum(), (0, 1))(params, X)
        assert all(np.all(g == 0) for g in jax.tree.leaves(slopes))
        close(dx, jax.grad(lambda x: layer(params, x).sum())(X))

    def test_training_leaves_it_as_it_is(self):
        net = fn.freeze(block())
        params, state = net.init(KEY, X)
        (y, after), evaluated = net.apply(params, state, X, train=True), net.apply(params, state, X)
        close((y, after), evaluated)
        close(after, state)

    def test_a_cache_goes_on_in_evaluation(self):
        layer = fn.multi_head_attention(2, causal=True, cache=3)
        net = fn.freeze(layer)
        params, state = net.init(KEY, ones((1, 1, 4)))
        x = array(np.random.default_rng(1).normal(size=(1, 1, 4)), jnp.float32)
        assert int(net.apply(params, state, x)[1]["position"]) == 1
        assert int(net.apply(params, state, x, train=True)[1]["position"]) == 0
