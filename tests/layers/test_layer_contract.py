"""What every layer keeps. A line in `LAYERS` enrols one."""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn


class Case(NamedTuple):
    """A layer, the shape of its input, and what it is."""

    make: Callable[[], Any]
    shape: Any  # a tuple, or a dict of them by name
    wrong: Any = None  # a shape that params for `shape` do not fit
    integer: bool = False  # the input is indices
    draws: bool = False  # training needs a key
    but_for: tuple[str, ...] = ()  # what it is made not to keep: "half precision", "derivatives"


LAYERS = {
    "dense": Case(lambda: fn.dense(4), (5, 3), (5, 2)),
    "dense on a sequence": Case(lambda: fn.dense(4, use_bias=False), (2, 5, 3), (2, 5, 2)),
    "conv 1-D": Case(lambda: fn.conv(4, 3, strides=2), (2, 7, 3), (2, 7, 2)),
    "conv 2-D": Case(lambda: fn.conv(4, (3, 2), padding="VALID"), (2, 5, 4, 3), (2, 5, 4, 2)),
    "conv 3-D": Case(lambda: fn.conv(4, 2, groups=2, dilation=2), (2, 4, 3, 3, 2), (2, 4, 3, 2)),
    "depthwise_conv": Case(
        lambda: fn.depthwise_conv((3, 2), multiplier=2, strides=(1, 2)), (2, 3, 4, 2), (2, 3, 4, 3)
    ),
    "separable_conv": Case(lambda: fn.separable_conv(4, 3), (2, 5, 3), (2, 5, 2)),
    "conv_transpose": Case(lambda: fn.conv_transpose(4, 3, strides=2), (2, 3, 3), (2, 3, 2)),
    "max_pool": Case(lambda: fn.max_pool(2), (2, 5, 4, 3), (2, 3)),
    "avg_pool": Case(lambda: fn.avg_pool((2, 3), strides=1, padding="SAME"), (2, 5, 4, 3), (2, 3)),
    "adaptive_avg_pool": Case(lambda: fn.adaptive_avg_pool(2), (2, 3, 4, 3), (2, 3)),
    "adaptive_max_pool": Case(lambda: fn.adaptive_max_pool(2), (2, 3, 4, 3), (2, 3)),
    "upsample": Case(lambda: fn.upsample(2, method="linear"), (2, 3, 2), (2, 3)),
    "pad": Case(lambda: fn.pad(1, mode="reflect"), (2, 3, 2), (2, 3)),
    "space_to_depth": Case(lambda: fn.space_to_depth(2), (2, 4, 3), (2, 5, 3)),
    "depth_to_space": Case(lambda: fn.depth_to_space(2), (2, 3, 4), (2, 3, 3)),
    "flatten": Case(lambda: fn.flatten, (2, 5, 3), ()),
    "dropout": Case(lambda: fn.dropout(0.5), (4, 6), draws=True),
    "batch_norm": Case(lambda: fn.batch_norm(), (6, 5, 3), (6, 5, 2)),
    "layer_norm": Case(lambda: fn.layer_norm(), (6, 5, 3), (6, 5, 2)),
    "rms_norm": Case(lambda: fn.rms_norm(), (6, 5, 3), (6, 5, 2)),
    "group_norm": Case(lambda: fn.group_norm(2), (3, 2, 2, 4), (3, 2, 2, 2)),
    "instance_norm": Case(lambda: fn.instance_norm(), (3, 5, 2), (3, 5, 3)),
    "local_response_norm": Case(lambda: fn.local_response_norm(3, k=1.0, alpha=0.1), (3, 2, 5), ()),
    "weight_norm": Case(lambda: fn.weight_norm(fn.dense(4)), (5, 3), (5, 2)),
    "spectral_norm": Case(lambda: fn.spectral_norm(fn.dense(4)), (5, 3), (5, 2)),
    "spatial_dropout": Case(lambda: fn.spatial_dropout(0.5), (4, 3, 6), (4, 6), draws=True),
    "stochastic_depth": Case(lambda: fn.stochastic_depth(0.5), (6, 2), (), draws=True),
    "drop_connect": Case(lambda: fn.drop_connect(fn.dense(4), 0.5), (5, 3), (5, 2), draws=True),
    "gaussian_dropout": Case(lambda: fn.gaussian_dropout(0.5), (4, 6), draws=True),
    "gaussian_noise": Case(lambda: fn.gaussian_noise(0.5), (4, 6), draws=True),
    "maxout": Case(lambda: fn.maxout(4, 3), (5, 3), (5, 2)),
    "highway": Case(lambda: fn.highway(fn.tanh), (5, 3), (5, 2)),
    "radial_basis": Case(lambda: fn.radial_basis(4), (5, 3), (5, 2)),
    "mixture_of_experts": Case(lambda: fn.mixture_of_experts(fn.dense(4), 3), (2, 5, 3), (2, 5, 2)),
    "mixture_of_experts with a capacity": Case(
        lambda: fn.mixture_of_experts(fn.dense(4), 3, capacity=2), (2, 5, 3), (2, 5, 2)
    ),
    "embed": Case(lambda: fn.embed(7, 3), (2, 5), integer=True),
    "tied_embed": Case(lambda: fn.tied_embed(7, 3, fn.dense(3)), (2, 5), integer=True),
    "multi_head_attention": Case(
        lambda: fn.multi_head_attention(2, dropout=0.3), (2, 3, 4), (2, 3, 2), draws=True
    ),
    "multi_head_attention of a GPT": Case(
        lambda: fn.multi_head_attention(2, kv_heads=1, causal=True, rotary=True), (2, 3, 4), (2, 3, 2)
    ),
    "additive_attention": Case(
        lambda: fn.additive_attention(4),
        {"x": (2, 3, 4), "memory": (2, 5, 3)},
        {"x": (2, 3, 3), "memory": (2, 5, 3)},
    ),
    "multiplicative_attention": Case(
        lambda: fn.multiplicative_attention(),
        {"x": (2, 3, 4), "memory": (2, 5, 3)},
        {"x": (2, 3, 3), "memory": (2, 5, 3)},
    ),
    "learned_position": Case(lambda: fn.learned_position(5), (2, 3, 4), (2, 3, 2)),
    "sinusoidal_position": Case(lambda: fn.sinusoidal_position(), (2, 3, 5), (2, 3)),
    "transformer_encoder_block": Case(
        lambda: fn.transformer_encoder_block(2, norm="post", dropout=0.3), (2, 3, 4), (2, 3, 2), draws=True
    ),
    "transformer_decoder_block": Case(
        lambda: fn.transformer_decoder_block(2),
        {"x": (2, 3, 4), "memory": (2, 5, 3)},
        {"x": (2, 3, 2), "memory": (2, 5, 3)},
    ),
    "recurrent": Case(
        lambda: fn.recurrent(fn.simple_rnn_cell(4, w_h_init=fn.initializers.normal()), reverse=True),
        (2, 3, 3),
        (2, 3, 2),
    ),
    "bidirectional": Case(
        lambda: fn.bidirectional(fn.simple_rnn_cell(4, w_h_init=fn.initializers.normal())),
        (2, 3, 3),
        (2, 3, 2),
    ),
    "simple_rnn": Case(lambda: fn.simple_rnn(4, outputs="last"), (2, 3, 3), (2, 3, 2)),
    "lstm": Case(lambda: fn.lstm(4, forget_bias=0.0), (2, 3, 3), (2, 3, 2)),
    "lstm with peepholes": Case(lambda: fn.lstm(4, forget_bias=0.0, peepholes=True), (2, 3, 3), (2, 3, 2)),
    "gru": Case(lambda: fn.gru(4), (2, 3, 3), (2, 3, 2)),
    "gru reset before": Case(lambda: fn.gru(4, reset="before"), (2, 3, 3), (2, 3, 2)),
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
    "on_x": Case(
        lambda: fn.on_x(fn.dense(3), fn.dropout(0.3)), {"x": (5, 3), "mask": (5,)}, {"x": (5, 2)}, draws=True
    ),
    "repeat": Case(
        lambda: fn.repeat(fn.residual(fn.dense(3), fn.dropout(0.3)), 3), (5, 3), (5, 2), draws=True
    ),
    "cast": Case(
        lambda: fn.cast(fn.serial(fn.dense(3), fn.tanh), jnp.float32),
        *((5, 3), (5, 2)),
        but_for=("half precision", "derivatives"),
    ),
    "remat": Case(
        lambda: fn.remat(fn.serial(fn.dense(3), fn.batch_norm(), fn.dropout(0.3))), (5, 3), (5, 2), draws=True
    ),
    "freeze": Case(
        lambda: fn.freeze(fn.serial(fn.dense(3), fn.batch_norm())),
        *((5, 3), (5, 2)),
        but_for=("derivatives",),
    ),
    "a function": Case(lambda: jnp.tanh, (5, 3)),
}
KEY = jax.random.key(0)


def arrays(shape: Any, make: Callable[[tuple[int, ...]], jax.Array]) -> Any:
    """An array of the shape, or a dict of arrays of the shapes."""
    return jax.tree.map(make, shape, is_leaf=lambda s: isinstance(s, tuple))


def example(case: Case, dtype: Any = jnp.float32) -> Any:
    if case.integer:
        return jax.random.randint(KEY, case.shape, 0, 7)
    return arrays(case.shape, lambda shape: jax.random.normal(KEY, shape, dtype))


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, jnp.dtype(a.dtype)), tree)


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(dtype), tree)


# Compiled once and used by many tests: those of a layer run in one process (xdist_group).
@cache
def initial(name: str, dtype: Any) -> Any:
    """The compiled init of a layer, from the shapes of an example: key -> (params, state)."""
    case = LAYERS[name]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), example(case, dtype))
    return jax.jit(lambda key: fn.as_layer(case.make()).init(key, shapes))


@cache
def prepared(name: str, dtype: Any) -> Any:
    case = LAYERS[name]
    return case, fn.as_layer(case.make()), *initial(name, dtype)(KEY), example(case, dtype)


@cache
def program(name: str, train: bool) -> Any:
    """The compiled pass of a layer: (params, state, x, key) -> (y, state)."""
    apply = fn.as_layer(LAYERS[name].make()).apply
    return jax.jit(lambda p, s, x, key: apply(p, s, x, key=key, train=train))


def test_every_public_layer_is_enrolled() -> None:
    """Whatever `fnnet` names and a file of layers or combinators defines, if it makes a layer."""
    modules = ("fnnet.layers.", "fnnet.combinators", "fnnet.wrappers")
    public = {
        name
        for name, f in vars(fn).items()
        if inspect.isfunction(f)
        and f.__module__.startswith(modules)
        and f.__annotations__.get("return") is fn.Layer
    }
    assert public
    assert {name for name in public if not any(case.split()[0] == name for case in LAYERS)} == set()


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in LAYERS])
class TestContract:
    def test_form(self, name: str) -> None:
        layer = fn.as_layer(LAYERS[name].make())
        assert isinstance(layer, fn.Layer)
        assert layer.name == ("tanh" if name == "a function" else name.split()[0])
        apply = inspect.signature(layer.apply).parameters
        assert list(apply) == ["params", "state", "x", "key", "train"]
        assert (apply["key"].default, apply["train"].default) == (None, False)
        assert apply["key"].kind is apply["train"].kind is inspect.Parameter.KEYWORD_ONLY

    def test_init_reads_shape_and_dtype_only(self, name: str) -> None:
        _, layer, params, state, x = prepared(name, jnp.float32)
        traced = jax.make_jaxpr(layer.init)(KEY, x).jaxpr
        used = {id(v) for equation in traced.eqns for v in equation.invars} | {id(v) for v in traced.outvars}
        assert not any(id(v) in used for v in traced.invars[1:])
        assert avals(jax.eval_shape(layer.init, KEY, x)) == avals((params, state))

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

        _, _, params, state, _ = prepared(name, jnp.float32)
        assert isinstance(params, dict)
        assert isinstance(state, dict)
        check(params)
        check(state)

    def test_keys_of_init_matter_only_where_something_is_drawn(self, name: str) -> None:
        _, _, params, _, _ = prepared(name, jnp.float32)
        other, _ = initial(name, jnp.float32)(jax.random.key(1))
        weights = [leaf for leaf in jax.tree.leaves(params) if np.std(leaf) > 0]
        others = [leaf for leaf in jax.tree.leaves(other) if np.std(leaf) > 0]
        assert all(not np.array_equal(a, b) for a, b in zip(weights, others, strict=True))

    def test_eval_is_deterministic_and_leaves_the_state(self, name: str) -> None:
        _, layer, params, state, x = prepared(name, jnp.float32)
        y, after = program(name, False)(params, state, x, KEY)
        again, _ = program(name, False)(params, state, x, jax.random.key(7))
        chex.assert_trees_all_equal(y, again)
        chex.assert_trees_all_equal(after, state)
        assert avals(jax.eval_shape(layer.apply, params, state, x)) == avals((y, state))

    def test_state_tree_is_the_same_in_training(self, name: str) -> None:
        _, _, params, state, x = prepared(name, jnp.float32)
        y, _ = program(name, False)(params, state, x, KEY)
        train_y, after = program(name, True)(params, state, x, KEY)
        assert avals(after) == avals(state)
        assert avals(train_y) == avals(y)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))

    def test_call_is_the_deterministic_pass_of_a_layer_without_state(self, name: str) -> None:
        _, layer, params, state, x = prepared(name, jnp.float32)
        if state:
            with pytest.raises(ValueError, match=r"state has .*, wanted"):
                layer(params, x)
        else:
            assert avals(jax.eval_shape(layer, params, x)) == avals(
                program(name, False)(params, {}, x, KEY)[0]
            )

    def test_jit_equals_no_jit(self, name: str) -> None:
        _, layer, params, state, x = prepared(name, jnp.float32)
        plain = layer.apply(params, state, x, key=KEY, train=True)
        chex.assert_trees_all_close(plain, program(name, True)(params, state, x, KEY), rtol=1e-5, atol=1e-6)

    def test_vmap_over_params_and_inputs(self, name: str) -> None:
        _, layer, _, _, x = prepared(name, jnp.float32)
        keys = jax.random.split(KEY, 2)
        each = [
            (*initial(name, jnp.float32)(key), jax.tree.map(lambda a, i=i: jnp.roll(a, i, 0), x), key)
            for i, key in enumerate(keys)
        ]
        params, state, xs, _ = jax.tree.map(lambda a, b: jnp.stack([a, b]), *each)
        assert avals(jax.eval_shape(jax.vmap(layer.init, in_axes=(0, None)), keys, x)) == avals(
            (params, state)
        )
        mapped = jax.jit(jax.vmap(program(name, True)))(params, state, xs, keys)
        for i in range(2):
            one = program(name, True)(*each[i])
            chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], mapped), one, rtol=1e-4, atol=1e-5)

    def test_the_rows_of_a_batch_do_not_meet_in_eval(self, name: str) -> None:
        _, _, params, state, x = prepared(name, jnp.float32)
        whole, _ = program(name, False)(params, state, x, KEY)
        others = jax.tree.map(lambda a: jnp.concatenate([a[:1], jnp.flip(a, 0)[:1].repeat(len(a) - 1, 0)]), x)
        first, _ = program(name, False)(params, state, others, KEY)
        chex.assert_trees_all_close(*(jax.tree.map(lambda a: a[:1], y) for y in (whole, first)))

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_half_precision(self, name: str, dtype: Any) -> None:
        case, layer, params, state, x = prepared(name, jnp.float32)
        if case.integer or "half precision" in case.but_for:
            return
        half = jax.eval_shape(layer.init, KEY, cast(x, dtype))[0]
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(half))
        params, x = cast(params, dtype), cast(x, dtype)
        y, after = program(name, True)(params, state, x, KEY)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(y))
        assert avals(after) == avals(state)
        exact, _ = program(name, True)(cast(params, jnp.float32), state, cast(x, jnp.float32), KEY)
        # The masks of dropout are drawn alike. A few roundings in sums of tens of terms.
        tolerance = 16 * float(jnp.finfo(dtype).eps)
        chex.assert_trees_all_close(cast(y, jnp.float32), exact, rtol=tolerance, atol=tolerance)

    def test_a_missing_key_raises(self, name: str) -> None:
        case, layer, params, state, x = prepared(name, jnp.float32)
        train = partial(layer.apply, train=True)
        if case.draws:
            with pytest.raises(ValueError, match=r": train=True and no key"):
                jax.eval_shape(train, params, state, x)
        else:
            jax.eval_shape(train, params, state, x)

    def test_a_misspelt_argument_raises(self, name: str) -> None:
        _, layer, params, state, x = prepared(name, jnp.float32)
        with pytest.raises(TypeError, match="training"):
            layer.apply(params, state, x, training=True)

    def test_a_wrong_shape_names_the_layer(self, name: str) -> None:
        case, layer, params, state, _ = prepared(name, jnp.float32)
        if case.wrong is None:
            return
        x = arrays(case.wrong, jnp.zeros)
        with pytest.raises(ValueError, match="wanted") as caught:
            layer.apply(params, state, x)
        said = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
        named = {
            "serial": "in serial['conv_0'], input float32[3,4,4,2]",
            "parallel": "in parallel['dense_0']",
            "residual": "in residual['dense_0']",
            "on_x": "in on_x['dense_0']",
        }
        assert named.get(layer.name, layer.name) in said
        assert any(f"float32[{','.join(map(str, leaf.shape))}]" in said for leaf in jax.tree.leaves(x))

    def test_a_wrong_dtype_names_the_layer(self, name: str) -> None:
        case, layer, params, state, x = prepared(name, jnp.float32)
        if name in ("flatten", "a function"):
            return
        with pytest.raises(TypeError, match=r"wanted (floating|integer)"):
            layer.apply(params, state, cast(x, jnp.float32 if case.integer else jnp.int32))

    def test_params_of_another_network_raise(self, name: str) -> None:
        _, layer, params, state, x = prepared(name, jnp.float32)
        if params:
            for wrong in ({}, {"nobody": jnp.ones(3)}, {**params, "nobody": jnp.ones(3)}):
                with pytest.raises(ValueError, match="params has "):
                    layer.apply(wrong, state, x)

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("train", [False, True])
    def test_derivatives_against_finite_differences(self, name: str, train: bool) -> None:
        """The first in forward and reverse mode, and the second, along a direction drawn at random."""
        if train and name == "spectral_norm":
            return  # by definition no gradient goes through the power iteration; its own tests say so
        case, layer, params, state, x = prepared(name, jnp.float64)
        if "derivatives" in case.but_for or not (train or case.draws or state):
            return  # without a key or a state, evaluation is what training is
        at = (params,) if case.integer else (params, x)

        def f(at: Any) -> Any:
            y, _ = layer.apply(*(*at, x)[:1], state, (*at, x)[1], key=KEY, train=train)
            return y

        def like(tree: Any, seed: int) -> Any:
            leaves, structure = jax.tree.flatten(tree)
            rng = np.random.default_rng(seed)
            return structure.unflatten([rng.normal(size=leaf.shape) for leaf in leaves])

        direction, weights = like(at, 1), like(jax.eval_shape(f, at), 2)

        def gradient(at: Any) -> Any:
            return jax.grad(lambda at: inner(weights, f(at)))(at)

        @jax.jit
        def derivatives(at: Any) -> Any:
            y, dy = jax.jvp(f, (at,), (direction,))
            return y, dy, *jax.jvp(gradient, (at,), (direction,))

        def moved(step: float) -> Any:
            return derivatives(jax.tree.map(lambda a, d: a + step * d, at, direction))

        def by_differences(after: Any, before: Any) -> Any:
            return jax.tree.map(lambda a, b: (a - b) / (2 * step), after, before)

        step = 1e-6
        (y, dy, slope, bend), after, before = derivatives(at), moved(step), moved(-step)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves((y, slope)))
        scale = 1 + float(inner(jax.tree.map(abs, slope), jax.tree.map(abs, direction)))
        chex.assert_trees_all_close(dy, by_differences(after[0], before[0]), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(inner(slope, direction), inner(weights, dy), rtol=0, atol=1e-10 * scale)
        chex.assert_trees_all_close(bend, by_differences(after[2], before[2]), rtol=1e-5, atol=1e-6 * scale)


def inner(a: Any, b: Any) -> jax.Array:
    """The sum of the products of all elements."""
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)), jnp.zeros(()))
