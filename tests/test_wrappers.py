"""`repeat`, `cast`, `remat`, `freeze` beside the same thing written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests import arrays
from tests.arrays import at, blank, cast, equal, normal, ones, params_for, zeros

X = normal(5, 4)
KEY = jax.random.key(0)
close = partial(arrays.close, rtol=1e-5, atol=1e-6)


def block():
    return fn.serial(fn.residual(fn.dense(4), fn.tanh, fn.dropout(0.5)), fn.batch_norm())


def notes(exc):
    return [note for note in exc.value.__notes__ if note.startswith("in ")]


class TestRepeat:
    def test_it_is_the_layers_one_after_the_other(self):
        """Params, states, draws and gradients are those of a loop over the copies."""
        layer, net = block(), fn.repeat(block(), 3)
        keys = [jax.random.fold_in(KEY, i) for i in range(3)]
        params, state = jax.jit(net.init)(KEY, X)
        init = jax.jit(layer.init)
        for i, key in enumerate(keys):
            close(at((params["copies"], state), i), init(key, X))

        def loop(params, x):
            states = []
            for i, key in enumerate(keys):
                p, s = jax.tree.map(lambda a, i=i: a[i], (params["copies"], state))
                x, s = layer.apply(p, s, x, key=key, train=True)
                states.append(s)
            return jnp.sum(x**3), (x, jax.tree.map(lambda *s: jnp.stack(s), *states))

        def scanned(params, x):
            y, s = net.apply(params, state, x, key=KEY, train=True)
            return jnp.sum(y**3), (y, s)

        # The sum of squares would be the same for all params: the block ends in a normalization.
        results = [jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(params, X) for f in (scanned, loop)]
        arrays.close(*results, rtol=1e-4, atol=1e-5)

    def test_unroll_changes_nothing_but_the_program(self):
        nets = [fn.repeat(fn.residual(fn.dense(4), fn.tanh), 5, unroll=u) for u in (1, 2, 5)]
        params = params_for(nets[0], X)
        first, *others = jax.jit(lambda params: [net(params, X) for net in nets])(params)
        for other in others:
            close(other, first)

    def test_a_function_a_dict_and_shapes(self):
        close(jax.jit(fn.repeat(jnp.tanh, 3))({}, X), np.tanh(np.tanh(np.tanh(X))))
        double = fn.repeat(lambda s: {**s, "x": 2 * s["x"]}, 2)
        got = jax.jit(double)({}, {"x": X, "mask": ones(5, bool)})
        np.testing.assert_array_equal(got["x"], 4 * X)
        half = jax.ShapeDtypeStruct((1, 4), jnp.bfloat16)
        params, state = jax.eval_shape(partial(fn.repeat(fn.dense(4), 2).init, x=half), KEY)
        w = params["copies"]["w"]
        assert (w.shape, w.dtype, state) == ((2, 4, 4), jnp.bfloat16, {})
        assert jax.eval_shape(partial(fn.repeat(jnp.tanh, 2).init, x=half), KEY) == ({}, {})

    def test_input_of_numpy_in_double_precision(self):
        """As in an array of JAX, float64 counts as float32 and int64 as int32."""
        x = {"x": X[:, None].astype(np.float64), "lengths": np.ones(5, np.int64)}
        params, _ = jax.eval_shape(partial(fn.repeat(fn.gru(4), 2).init, x=x), KEY)
        assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}

    def test_keys_mark_the_copies(self):
        """Also of a repeat inside another, in a mixture of experts, and through other trees."""
        inner = fn.repeat(fn.dense(4), 3)
        experts = fn.mixture_of_experts(fn.serial(fn.dense(8), fn.relu, fn.dense(4)), 2)
        net = fn.serial(fn.dense(4), fn.repeat(inner, 2), fn.repeat(experts, 5))
        params, _ = jax.eval_shape(partial(net.init, x=X), KEY)
        one = {"b": 1, "w": 1}
        assert fn.copy_axes(params) == {
            "dense_0": {"b": 0, "w": 0},
            "repeat_0": {"copies": {"copies": {"b": 2, "w": 2}}},
            "repeat_1": {"copies": {"experts": {f"dense_{i}": {"b": 2, "w": 2} for i in range(2)}, "w": 1}},
        }
        assert fn.copy_axes([{"copies": {"w": 0.0, "b": 0.0}}, {"copies": 0.0}]) == [
            {"copies": one},
            {"copies": 0},
        ]

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
        params = params_for(fn.repeat(fn.dense(4), 3), X)
        with pytest.raises(ValueError, match=r"have float32\[3,4\], wanted 2 copies"):
            fn.repeat(fn.dense(4), 2)(params, X)
        with pytest.raises(ValueError, match=r"repeat: params has \['b', 'w'\], wanted \['copies'\]"):
            fn.repeat(fn.dense(4), 3)(params["copies"], X)
        for name in ("copies", "experts"):
            with pytest.raises(ValueError, match=f"serial: the name '{name}' marks params of stacked copies"):
                fn.serial(**{name: fn.dense(3)})
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
        params, state = jax.eval_shape(net.init, KEY, X)
        assert {p.dtype for p in jax.tree.leaves((params, state))} == {jnp.dtype(jnp.float32)}
        seen.clear()
        y, after = jax.eval_shape(partial(net.apply, train=True), params, state, X)
        assert (y.dtype, set(seen)) == (jnp.float32, {jnp.dtype(jnp.bfloat16)})
        assert {s.dtype for s in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_values_and_gradients(self, dtype):
        layer = fn.serial(fn.dense(3), fn.tanh)
        params = params_for(layer, X)

        def by_hand(params, x):
            half = jax.tree.map(lambda a: a.astype(dtype), (params, x))
            return layer(*half).astype(jnp.float32)

        @jax.jit
        def value_and_gradients(params, x):
            def of(f):
                y, back = jax.vjp(f, params, x)
                return y, back(jnp.ones_like(y))

            return of(fn.cast(layer, dtype)), of(by_hand)

        got, wanted = value_and_gradients(params, X)
        assert {g.dtype for g in jax.tree.leaves(got)} == {jnp.dtype(jnp.float32)}
        equal(got, wanted)

    def test_indices_half_precision_and_float64(self):
        def dtypes(net, x):
            params, _ = jax.eval_shape(net.init, KEY, x)
            return {p.dtype.name for p in jax.tree.leaves(params)}, jax.eval_shape(net, params, x).dtype.name

        net = fn.cast(fn.serial(fn.embed(7, 3), fn.dense(2)))
        assert dtypes(net, zeros((2, 3), int)) == ({"float32"}, "float32")
        assert dtypes(fn.cast(fn.dense(2)), cast(X, "bfloat16")) == ({"float32"}, "bfloat16")
        with jax.enable_x64(True):
            assert dtypes(fn.cast(fn.dense(2)), cast(X, np.float64)) == ({"float64"}, "float64")

    def test_errors(self):
        with pytest.raises(TypeError, match=r"cast: dtype=.*wanted floating point"):
            fn.cast(fn.dense(2), jnp.int8)


class TestRemat:
    @pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_saveable])
    def test_values_gradients_and_state_stay(self, policy):
        layer, net = block(), fn.remat(block(), policy=policy)
        params, state = jax.jit(net.init)(KEY, X)

        def run(layer, params, x):
            y, after = layer.apply(params, state, x, key=KEY, train=True)
            return jnp.sum(y**3), after

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
        params = params_for(net, X)

        @jax.jit
        def gradients(params, x):
            return [jax.grad(lambda p, x, f=f: f(p, x).sum(), (0, 1))(params, x) for f in (net, layer)]

        (slopes, dx), (_, wanted) = gradients(params, X)
        assert not any(np.any(g) for g in jax.tree.leaves(slopes))
        close(dx, wanted)

    def test_training_leaves_it_as_it_is(self):
        net = fn.freeze(block())
        params, state = jax.jit(net.init)(KEY, X)
        ways = jax.jit(lambda *args: [net.apply(*args, train=train) for train in (True, False)])
        (y, after), evaluated = ways(params, state, X)
        close((y, after), evaluated)
        close(after, state)

    def test_a_cache_goes_on_in_evaluation(self):
        layer = fn.multi_head_attention(2, causal=True, cache=3)
        net = fn.freeze(layer)
        params, state = (
            params_for(net, ones((1, 1, 4))),
            blank(jax.eval_shape(net.init, KEY, ones((1, 1, 4)))[1]),
        )
        ways = jax.jit(
            lambda *args: [net.apply(*args, train=train)[1]["position"] for train in (False, True)]
        )
        np.testing.assert_array_equal(ways(params, state, normal(1, 1, 4)), [1, 0])
