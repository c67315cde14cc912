"""What holds for every layer. A line in `LAYERS` enrols one."""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import at, cast, close, each, equal, integers, like, normal, stack


class Case(NamedTuple):
    """A layer, the shape of its input, and what kind of layer it is."""

    make: Callable[[], Any]
    shape: Any  # a tuple, or a dict of them by name
    wrong: Any = None  # a shape that params for `shape` do not fit
    integer: bool = False  # the input is indices
    draws: bool = False  # training needs a key
    but_for: tuple[str, ...] = ()  # what does not hold for it by design: "half precision", "derivatives"


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


def arrays(shape: Any, make: Callable[..., np.ndarray]) -> Any:
    """An array of the shape, or a dict of arrays of the shapes."""
    return jax.tree.map(lambda s: make(*s), shape, is_leaf=lambda s: isinstance(s, tuple))


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, jnp.dtype(a.dtype)), tree)


# Computed once and used by many tests: those of a layer run in one process (xdist_group).
@cache
def prepared(name: str) -> Any:
    """A layer, its params and its state, and an input. Without jit, layers share the programs of init's draws."""
    case, layer = LAYERS[name], fn.as_layer(LAYERS[name].make())
    x = integers(7, *case.shape) if case.integer else arrays(case.shape, normal)
    return case, layer, *layer.init(KEY, x), jax.device_put(x)


@cache
def rows(name: str) -> Any:
    """Two of (params, state, x, key), which differ in each."""
    _, layer, _, _, x = prepared(name)
    keys = jax.random.split(KEY, 2)
    return [
        (*layer.init(key, x), jax.tree.map(lambda a, i=i: np.roll(a, i, 0), x), key)
        for i, key in enumerate([keys[0], keys[1]])
    ]


@cache
def program(name: str) -> Any:
    """The compiled passes of a layer, each (y, state): in evaluation, in training, and in training under vmap."""
    apply = fn.as_layer(LAYERS[name].make()).apply

    def train(params: Any, state: Any, x: Any, key: Any) -> Any:
        return apply(params, state, x, key=key, train=True)

    def passes(params: Any, state: Any, x: Any, key: Any, *mapped: Any) -> Any:
        evaluated = apply(params, state, x, key=key, train=False)
        return evaluated, train(params, state, x, key), jax.vmap(train)(*mapped)

    return jax.jit(passes)


def passes(name: str, params: Any, state: Any, x: Any, key: Any = KEY) -> Any:
    """What the program returns; mapped over are both `rows`."""
    trees = [row[:3] for row in rows(name)]
    return program(name)(params, state, x, key, *stack(*trees), jax.random.split(KEY, 2))


def evaluated(name: str, *args: Any) -> Any:
    return passes(name, *args)[0]


def trained(name: str, *args: Any) -> Any:
    return passes(name, *args)[1]


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
        _, layer, params, state, x = prepared(name)
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

        _, _, params, state, _ = prepared(name)
        assert isinstance(params, dict)
        assert isinstance(state, dict)
        check(params)
        check(state)

    def test_keys_of_init_matter_only_where_something_is_drawn(self, name: str) -> None:
        _, layer, params, _, x = prepared(name)
        params, (other, _) = jax.device_get((params, layer.init(jax.random.key(1), x)))
        weights = [leaf for leaf in jax.tree.leaves(params) if np.std(leaf) > 0]
        others = [leaf for leaf in jax.tree.leaves(other) if np.std(leaf) > 0]
        assert all(not np.array_equal(a, b) for a, b in zip(weights, others, strict=True))

    def test_eval_is_deterministic_and_leaves_the_state(self, name: str) -> None:
        _, layer, params, state, x = prepared(name)
        y, after = evaluated(name, params, state, x)
        again, _ = evaluated(name, params, state, x, jax.random.key(7))
        equal(y, again)
        equal(after, state)
        assert avals(jax.eval_shape(layer.apply, params, state, x)) == avals((y, state))

    def test_state_tree_is_the_same_in_training(self, name: str) -> None:
        _, _, params, state, x = prepared(name)
        y, _ = evaluated(name, params, state, x)
        train_y, after = trained(name, params, state, x)
        assert avals(after) == avals(state)
        assert avals(train_y) == avals(y)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))

    def test_call_is_the_deterministic_pass_of_a_layer_without_state(self, name: str) -> None:
        _, layer, params, state, x = prepared(name)
        if state:
            with pytest.raises(ValueError, match=r"state has .*, wanted"):
                jax.eval_shape(layer, params, x)
        else:
            assert avals(jax.eval_shape(layer, params, x)) == avals(evaluated(name, params, {}, x)[0])

    @pytest.mark.slow
    def test_jit_equals_no_jit(self, name: str) -> None:
        _, layer, params, state, x = prepared(name)
        plain = layer.apply(params, state, x, key=KEY, train=True)
        close(plain, trained(name, params, state, x), rtol=1e-5, atol=1e-6)

    def test_vmap_over_params_and_inputs(self, name: str) -> None:
        _, layer, _, _, x = prepared(name)
        params, state, *_ = stack(*(row[:3] for row in rows(name)))
        shapes = jax.eval_shape(jax.vmap(layer.init, in_axes=(0, None)), jax.random.split(KEY, 2), x)
        assert avals(shapes) == avals((params, state))
        for i, row in enumerate(rows(name)):
            _, one, mapped = passes(name, *row)
            close(at(mapped, i), one, rtol=1e-4, atol=1e-5)

    def test_the_rows_of_a_batch_do_not_meet_in_eval(self, name: str) -> None:
        _, _, params, state, x = prepared(name)
        whole, _ = evaluated(name, params, state, x)
        others = each(lambda a: np.concatenate([a[:1], np.repeat(a[-1:], len(a) - 1, 0)]), x)
        first, _ = evaluated(name, params, state, others)
        close(*(each(lambda a: a[:1], y) for y in (whole, first)), rtol=1e-6)

    def test_half_precision(self, name: str) -> None:
        """bfloat16 and float16, in one program."""
        case, layer, params, state, x = prepared(name)
        if case.integer or "half precision" in case.but_for:
            return
        halves = {dtype: cast((params, x), dtype) for dtype in ("bfloat16", "float16")}

        @jax.jit
        def train(halves: Any, state: Any) -> Any:
            return {
                dtype: layer.apply(params, state, x, key=KEY, train=True)
                for dtype, (params, x) in halves.items()
            }

        for dtype, (y, after) in train(halves, state).items():
            half = jax.eval_shape(layer.init, KEY, halves[dtype][1])[0]
            assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((half, y)))
            assert avals(after) == avals(state)
            params, x = cast(halves[dtype], np.float32)
            exact, _ = trained(name, params, state, x)
            # The masks of dropout are drawn alike. A few roundings in sums of tens of terms.
            tolerance = 16 * float(jnp.finfo(dtype).eps)
            close(y, exact, rtol=tolerance, atol=tolerance)

    def test_a_missing_key_raises(self, name: str) -> None:
        case, layer, params, state, x = prepared(name)
        train = partial(layer.apply, train=True)
        if case.draws:
            with pytest.raises(ValueError, match=r": train=True and no key"):
                jax.eval_shape(train, params, state, x)
        else:
            jax.eval_shape(train, params, state, x)

    def test_a_misspelt_argument_raises(self, name: str) -> None:
        _, layer, params, state, x = prepared(name)
        with pytest.raises(TypeError, match="training"):
            layer.apply(params, state, x, training=True)

    def test_a_wrong_shape_names_the_layer(self, name: str) -> None:
        case, layer, params, state, _ = prepared(name)
        if case.wrong is None:
            return
        x = arrays(case.wrong, normal)
        with pytest.raises(ValueError, match="wanted") as caught:
            jax.eval_shape(layer.apply, params, state, x)
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
        case, layer, params, state, x = prepared(name)
        if name in ("flatten", "a function"):
            return
        dtype = np.float32 if case.integer else np.int32
        with pytest.raises(TypeError, match=r"wanted (floating|integer)"):
            jax.eval_shape(layer.apply, params, state, each(lambda a: a.astype(dtype), x))

    def test_params_of_another_network_raise(self, name: str) -> None:
        _, layer, params, state, x = prepared(name)
        if params:
            for wrong in ({}, {"nobody": np.ones(3)}, {**params, "nobody": np.ones(3)}):
                with pytest.raises(ValueError, match="params has "):
                    jax.eval_shape(layer.apply, wrong, state, x)

    @pytest.mark.usefixtures("float64")
    def test_derivatives_against_finite_differences(self, name: str) -> None:
        """In forward and reverse mode, and the second, along a random direction, in evaluation and in training."""
        case, layer, params, state, x = prepared(name)
        if "derivatives" in case.but_for:
            return
        # Without a key or a state, evaluation is the same as training.
        ways = [False, True] if case.draws or state else [True]
        if name == "spectral_norm":
            ways = [False]  # by definition no gradient goes through the power iteration; its own tests say so
        params, x = cast((params, x), np.float64)
        wide = jax.eval_shape(layer.init, KEY, x)[0]
        assert case.integer or all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(wide))
        place = {"params": params} if case.integer else {"params": params, "x": x}

        def f(train: bool, place: Any) -> Any:
            return layer.apply(place["params"], state, place.get("x", x), key=KEY, train=train)[0]

        direction = like(place, seed=1, dtype=np.float64)
        weights = like(jax.eval_shape(partial(f, True), place), seed=2, dtype=np.float64)

        def derivatives(train: bool, place: Any) -> Any:
            gradient = jax.grad(lambda place: inner(weights, f(train, place)))
            y, dy = jax.jvp(partial(f, train), (place,), (direction,))
            return y, dy, *jax.jvp(gradient, (place,), (direction,))

        @jax.jit
        def all_derivatives(place: Any) -> Any:
            return [derivatives(train, place) for train in ways]

        def moved(step: float) -> Any:
            return jax.tree.map(lambda a, d: a + step * d, place, direction)

        def by_differences(after: Any, before: Any) -> Any:
            return each(lambda a, b: (a - b) / (2 * step), after, before)

        step = 1e-6
        runs = (jax.device_get(all_derivatives(a)) for a in (place, moved(step), moved(-step)))
        for (y, dy, slope, bend), after, before in zip(*runs, strict=True):
            assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves((y, slope)))
            scale = 1 + float(inner(each(abs, slope), each(abs, direction)))
            close(dy, by_differences(after[0], before[0]), rtol=1e-6, atol=1e-6)
            both = inner(slope, direction), inner(weights, dy)
            np.testing.assert_allclose(*both, rtol=0, atol=1e-10 * scale)
            close(bend, by_differences(after[2], before[2]), rtol=1e-5, atol=1e-6 * scale)


def inner(a: Any, b: Any) -> Any:
    """The sum of the products of all elements."""
    return sum((a * b).sum() for a, b in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
