"""What every layer keeps. A line in `LAYERS` enrols one."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import fnnet as fn


class Case(NamedTuple):
    """A layer, the shape of its input, and what it is."""

    make: Callable[[], Any]
    shape: tuple[int, ...]
    wrong: tuple[int, ...] | None = None  # a shape that params for `shape` do not fit
    integer: bool = False  # the input is indices
    draws: bool = False  # training needs a key


LAYERS = {
    "dense": Case(lambda: fn.dense(4), (5, 3), (5, 2)),
    "dense on a sequence": Case(lambda: fn.dense(4, use_bias=False), (2, 5, 3), (2, 5, 2)),
    "conv 1-D": Case(lambda: fn.conv(4, 3, strides=2), (2, 7, 3), (2, 7, 2)),
    "conv 2-D": Case(lambda: fn.conv(4, (3, 2), padding="VALID"), (2, 5, 4, 3), (2, 5, 4, 2)),
    "conv 3-D": Case(lambda: fn.conv(4, 2, groups=2, dilation=2), (2, 4, 3, 3, 2), (2, 4, 3, 2)),
    "max_pool": Case(lambda: fn.max_pool(2), (2, 5, 4, 3), (2, 3)),
    "avg_pool": Case(lambda: fn.avg_pool((2, 3), strides=1, padding="SAME"), (2, 5, 4, 3), (2, 3)),
    "flatten": Case(lambda: fn.flatten, (2, 5, 3), ()),
    "dropout": Case(lambda: fn.dropout(0.5), (4, 6), draws=True),
    "batch_norm": Case(lambda: fn.batch_norm(), (6, 5, 3), (6, 5, 2)),
    "layer_norm": Case(lambda: fn.layer_norm(), (6, 5, 3), (6, 5, 2)),
    "embed": Case(lambda: fn.embed(7, 3), (2, 5), integer=True),
    "serial": Case(
        lambda: fn.serial(
            *(fn.conv(4, 3), fn.batch_norm(), fn.relu, fn.max_pool(2)),
            *(fn.flatten, fn.dropout(0.3), fn.dense(2)),
        ),
        (3, 4, 4, 1),
        (3, 4, 4, 2),
        draws=True,
    ),
    "parallel": Case(
        lambda: fn.parallel(fn.dense(4), fn.serial(fn.dropout(0.3), fn.dense(2)), merge="concatenate"),
        (5, 3),
        (5, 2),
        draws=True,
    ),
    "residual": Case(lambda: fn.residual(fn.dense(3), fn.tanh, fn.batch_norm()), (5, 3), (5, 2)),
    "a function": Case(lambda: jnp.tanh, (5, 3)),
}
KEY = jax.random.key(0)


def example(case: Case, dtype: Any = jnp.float32) -> jax.Array:
    if case.integer:
        return jax.random.randint(KEY, case.shape, 0, 7)
    return jax.random.normal(KEY, case.shape, dtype)


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, jnp.dtype(a.dtype)), tree)


def test_every_public_layer_is_enrolled() -> None:
    """Whatever `fnnet` names and a file of layers or combinators defines."""
    modules = ("fnnet.layers.", "fnnet.combine")
    public = {
        name for name, f in vars(fn).items() if inspect.isfunction(f) and f.__module__.startswith(modules)
    }
    assert public
    assert {name for name in public if not any(case.split()[0] == name for case in LAYERS)} == set()


@pytest.mark.parametrize("name", LAYERS)
class TestContract:
    def setup(self, name: str, dtype: Any = jnp.float32) -> Any:
        case = LAYERS[name]
        layer, x = fn.as_layer(case.make()), example(case, dtype)
        params, state = layer.init(KEY, x)
        return case, layer, params, state, x

    def test_form(self, name: str) -> None:
        layer = fn.as_layer(LAYERS[name].make())
        assert isinstance(layer, fn.Layer)
        assert layer.name == ("tanh" if name == "a function" else name.split()[0])
        apply = inspect.signature(layer.apply).parameters
        assert list(apply) == ["params", "state", "x", "key", "train"]
        assert (apply["key"].default, apply["train"].default) == (None, False)
        assert apply["key"].kind is apply["train"].kind is inspect.Parameter.KEYWORD_ONLY

    def test_init_reads_shape_and_dtype_only(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        again = layer.init(KEY, jax.ShapeDtypeStruct(x.shape, x.dtype))
        chex.assert_trees_all_equal(again, (params, state))
        shapes = jax.eval_shape(layer.init, KEY, jax.ShapeDtypeStruct(x.shape, x.dtype))
        assert avals(shapes) == avals((params, state))

    def test_params_and_state_are_nested_dicts_of_arrays(self, name: str) -> None:
        def check(tree: Any) -> None:
            assert isinstance(tree, dict | jax.Array)
            if isinstance(tree, dict):
                for key, child in tree.items():
                    assert isinstance(key, str)
                    assert not isinstance(child, dict) or child, (
                        f"{key}: a child without entries has no entry"
                    )
                    check(child)

        _, _, params, state, _ = self.setup(name)
        assert isinstance(params, dict)
        assert isinstance(state, dict)
        check(params)
        check(state)

    def test_keys_of_init_matter_only_where_something_is_drawn(self, name: str) -> None:
        _, layer, params, _, x = self.setup(name)
        other, _ = layer.init(jax.random.key(1), x)
        weights = [leaf for leaf in jax.tree.leaves(params) if np.std(leaf) > 0]
        others = [leaf for leaf in jax.tree.leaves(other) if np.std(leaf) > 0]
        assert all(not np.array_equal(a, b) for a, b in zip(weights, others, strict=True))

    def test_eval_is_deterministic_and_leaves_the_state(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        y, after = layer.apply(params, state, x)
        again, _ = layer.apply(params, state, x, key=jax.random.key(7), train=False)
        chex.assert_trees_all_equal(y, again)
        chex.assert_trees_all_equal(after, state)

    def test_state_tree_is_the_same_in_training(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        y, _ = layer.apply(params, state, x)
        train_y, after = layer.apply(params, state, x, key=KEY, train=True)
        assert avals(after) == avals(state)
        assert avals(train_y) == avals(y)
        jax.lax.scan(lambda s, _: (layer.apply(params, s, x, key=KEY, train=True)[1], 0), state, length=2)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))

    def test_call_is_the_deterministic_pass_of_a_layer_without_state(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        if state:
            with pytest.raises(ValueError, match=r"state has .*, wanted"):
                layer(params, x)
        else:
            chex.assert_trees_all_equal(layer(params, x), layer.apply(params, {}, x)[0])

    @pytest.mark.parametrize("train", [False, True])
    def test_jit_equals_no_jit(self, name: str, train: bool) -> None:
        _, layer, params, state, x = self.setup(name)
        apply = partial(layer.apply, train=train)
        plain, jitted = (f(params, state, x, key=KEY) for f in (apply, jax.jit(apply)))
        chex.assert_trees_all_close(plain, jitted, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(layer.init(KEY, x), jax.jit(layer.init)(KEY, x), rtol=1e-5, atol=1e-6)

    def test_shapes_and_dtypes_go_through_eval_shape(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        assert avals(jax.eval_shape(layer.apply, params, state, x)) == avals(layer.apply(params, state, x))

    def test_vmap_over_params_and_inputs(self, name: str) -> None:
        _, layer, _, _, x = self.setup(name)
        keys, xs = jax.random.split(KEY, 3), jnp.stack([x, jnp.flip(x, 0), jnp.roll(x, 1, 0)])
        params, state = jax.vmap(layer.init, in_axes=(0, None))(keys, x)

        def apply(p: Any, s: Any, x: jax.Array, k: Any) -> Any:
            return layer.apply(p, s, x, key=k, train=True)

        mapped = jax.vmap(apply)(params, state, xs, keys)
        for i in range(3):
            one = apply(*jax.tree.map(lambda a, i=i: a[i], (params, state, xs)), keys[i])
            chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], mapped), one, rtol=1e-4, atol=1e-5)

    def test_the_rows_of_a_batch_do_not_meet_in_eval(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        whole, _ = layer.apply(params, state, x)
        first, _ = layer.apply(params, state, x[:1])
        chex.assert_trees_all_close(whole[:1], first, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision(self, name: str, dtype: Any) -> None:
        case, layer, params, state, x = self.setup(name)
        if case.integer:
            return
        half = layer.init(KEY, x.astype(dtype))[0]
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(half))
        rounded = jax.tree.map(lambda p: p.astype(dtype), params)
        y, after = layer.apply(rounded, state, x.astype(dtype), key=KEY, train=True)
        assert y.dtype == dtype
        assert avals(after) == avals(state)
        exact, _ = layer.apply(
            jax.tree.map(lambda p: p.astype(jnp.float32), rounded),
            state,
            x.astype(dtype).astype(jnp.float32),
            key=KEY,
            train=True,
        )
        # The masks of dropout are drawn alike. A few roundings in sums of tens of terms.
        tolerance = 16 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=tolerance, atol=tolerance)

    def test_a_missing_key_raises(self, name: str) -> None:
        case, layer, params, state, x = self.setup(name)
        if case.draws:
            with pytest.raises(ValueError, match="dropout: train=True and no key"):
                layer.apply(params, state, x, train=True)
        else:
            layer.apply(params, state, x, train=True)

    def test_a_misspelt_argument_raises(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        with pytest.raises(TypeError, match="training"):
            layer.apply(params, state, x, training=True)

    def test_a_wrong_shape_names_the_layer(self, name: str) -> None:
        case, layer, params, state, _ = self.setup(name)
        if case.wrong is None:
            return
        x = jnp.zeros(case.wrong)
        with pytest.raises(ValueError, match="wanted") as caught:
            layer.apply(params, state, x)
        said = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
        named = {
            "serial": "in serial['conv_0'], input float32[3,4,4,2]",
            "parallel": "in parallel['dense_0']",
        }
        assert (
            named.get(layer.name, layer.name if layer.name != "residual" else "in serial['dense_0']") in said
        )
        assert f"float32[{','.join(map(str, case.wrong))}]" in said

    def test_a_wrong_dtype_names_the_layer(self, name: str) -> None:
        case, layer, params, state, x = self.setup(name)
        if name in ("flatten", "a function"):
            return
        wrong = x.astype(jnp.float32) if case.integer else jnp.ones(x.shape, jnp.int32)
        with pytest.raises(TypeError, match=r"wanted (floating|integer)"):
            layer.apply(params, state, wrong)

    def test_params_of_another_network_raise(self, name: str) -> None:
        _, layer, params, state, x = self.setup(name)
        if params:
            for wrong in ({}, {"nobody": jnp.ones(3)}, {**params, "nobody": jnp.ones(3)}):
                with pytest.raises(ValueError, match="params has "):
                    layer.apply(wrong, state, x)

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("train", [False, True])
    def test_gradients_against_finite_differences(self, name: str, train: bool) -> None:
        case, layer, params, state, x = self.setup(name, jnp.float64)

        def f(params: Any, x: Any) -> jax.Array:
            y, _ = layer.apply(params, state, x, key=KEY, train=train)
            return y

        assert f(params, x).dtype == jnp.float64
        if case.integer:
            check_grads(
                lambda p: f(p, x), (params,), order=1, modes=("fwd", "rev"), eps=1e-6, rtol=1e-6, atol=1e-6
            )
        else:
            check_grads(f, (params, x), order=1, modes=("fwd", "rev"), eps=1e-6, rtol=1e-6, atol=1e-6)
