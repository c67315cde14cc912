"""The mixture of experts beside NumPy: token by token, choice by choice."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fnnet as fn
from tests.arrays import array, normal, ones, params_for
from tests.oracle import agrees

KEY = jax.random.key(0)


def affine(experts, e, x):
    return x @ experts["w"][e] + experts["b"][e]


def reference(top_k, capacity, params, x):
    """The output, the balance loss and the load, in the order in which GShard fills the experts."""
    w, experts = params["w"], params["w"].shape[1]
    tokens = x.reshape(-1, x.shape[-1])
    p = np.exp(tokens @ w)
    p /= p.sum(1, keepdims=True)
    ranked = np.argsort(-p, axis=1, kind="stable")[:, :top_k]
    y = np.zeros((len(tokens), params["experts"]["w"].shape[-1]))
    count, load = np.zeros(experts), np.zeros(experts)
    for k in range(top_k):
        for n in range(len(tokens)):
            e = ranked[n, k]
            load[e] += 1 / ranked.size
            count[e] += 1
            gate = p[n, e] if top_k == 1 else p[n, e] / p[n, ranked[n]].sum()
            if capacity is None or count[e] <= math.ceil(capacity * len(tokens) * top_k / experts):
                y[n] += gate * affine(params["experts"], e, tokens[n])
    balance = experts * np.sum(load * p.mean(0)) if len(tokens) else 0.0
    return y.reshape(*x.shape[:-1], -1), balance


def draw(batch, experts, seed=0, inputs=3, features=2):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(inputs, experts))
    many = {"w": rng.normal(size=(experts, inputs, features)), "b": rng.normal(size=(experts, features))}
    return {"w": w, "experts": many}, rng.normal(size=(*batch, inputs))


def start(experts):
    return {"balance_loss": np.zeros((), np.float32), "load": np.zeros(experts, np.float32)}


@pytest.mark.slow
@settings(max_examples=8)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=2),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([None, 0.3, 1.0, 1.25]),
    st.integers(0, 9),
)
def test_by_the_equations(batch, experts, top_k, capacity, seed):
    top_k = min(top_k, experts)
    layer = fn.mixture_of_experts(fn.dense(2), experts, top_k=top_k, capacity=capacity)
    params, x = draw(batch, experts, seed)

    def f(params, x):
        y, _ = layer.apply(params, start(experts), x, train=True)
        return y

    agrees(f, lambda *args: reference(top_k, capacity, *args)[0], params, x)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("capacity", [None, 0.5])
def test_the_balance_loss_and_its_gradient(top_k, capacity):
    """The load has no gradient, the probabilities have one. What is dropped counts, too."""
    layer = fn.mixture_of_experts(fn.dense(2), 4, top_k=top_k, capacity=capacity)
    params, x = draw((3, 5), 4)

    def f(params, x):
        _, state = layer.apply(params, start(4), x, train=True)
        return state["balance_loss"]

    agrees(f, lambda *args: reference(top_k, capacity, *args)[1], params, x, tolerance=1e-6)


@partial(jax.jit, static_argnums=0, static_argnames="train")
def run(layer, params, state, x, key=None, train=False):
    return layer.apply(params, state, x, key=key, train=train)


def test_the_state():
    layer = fn.mixture_of_experts(fn.dense(2), 4, top_k=1)
    params, _ = draw((1,), 4)
    params["w"] = np.eye(3, 4) * 100
    x = np.eye(3)[[0, 0, 0, 1]]
    _, state = run(layer, params, start(4), x, train=True)
    np.testing.assert_allclose(state["load"], [0.75, 0.25, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(state["balance_loss"], 4 * (0.75**2 + 0.25**2), rtol=1e-6)
    _, again = run(layer, params, state, x[3:], train=True)
    np.testing.assert_array_equal(again["load"], [0, 1, 0, 0])  # overwritten, no average
    _, after = run(layer, params, state, x[3:])
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_router_of_zeros_is_balanced_in_probability():
    layer = fn.mixture_of_experts(fn.dense(2), 3, top_k=3, w_init=fn.initializers.zeros)
    params, state = jax.jit(layer.init)(KEY, ones((1, 3)))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    y, state = run(layer, params, state, x, train=True)
    mean = np.mean([affine(jax.tree.map(np.asarray, params["experts"]), e, x) for e in range(3)], axis=0)
    np.testing.assert_allclose(y, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["balance_loss"], 1, rtol=1e-6)


def test_a_capacity_for_all_drops_none():
    params, x = draw((40,), 4)
    exact, roomy = (fn.mixture_of_experts(fn.dense(2), 4, capacity=c) for c in (None, 2))
    wanted, _ = run(exact, params, start(4), x)
    got, _ = run(roomy, params, start(4), x)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_work_is_bounded_by_the_capacity():
    """What an expert is given, and that no token at all is not given to it."""
    seen = []

    def apply(params, state, x, *, key=None, train=False):
        seen.append(x.shape)
        return x * params["gain"], {}

    expert = fn.Layer(lambda key, x: ({"gain": jnp.ones(())}, {}), apply, "gain")
    for capacity, rows in ((None, 32), (1.25, 10), (1, 8), (0.01, 1), (1000, 32)):
        layer = fn.mixture_of_experts(expert, 8, top_k=2, capacity=capacity)
        params, state = jax.eval_shape(layer.init, KEY, ones((1, 3)))
        y, _ = jax.eval_shape(layer.apply, params, state, ones((4, 8, 3)))
        assert (seen.pop(), y.shape) == ((rows, 3), (4, 8, 3))


@pytest.mark.parametrize("capacity", [None, 1])
def test_an_expert_that_is_infinite_concerns_its_tokens_only(capacity):
    params, _ = draw((1,), 2)
    params["w"] = np.array([[50.0, -50.0], [0.0, 0.0], [0.0, 0.0]])
    params["experts"]["b"][1] = np.inf
    x = np.array([[1.0, 0, 0], [-1.0, 0, 0], [2.0, 0, 0], [np.nan, 0, 0]])
    layer = fn.mixture_of_experts(fn.dense(2), 2, top_k=1, capacity=capacity)

    @jax.jit
    def f(params, x):
        y, back = jax.vjp(lambda params: run(layer, params, start(2), x)[0], params)
        return y, back(jnp.zeros((4, 2)).at[::2].set(1.0))[0]

    y, _ = f(params, x)
    np.testing.assert_allclose(y[::2], affine(params["experts"], 0, x[::2]), rtol=1e-5)
    assert np.all(np.isinf(y[1]))
    assert capacity or np.all(np.isnan(y[3]))
    x[3] = 3 * x[0]
    _, gradient = f(params, x)
    np.testing.assert_allclose(gradient["experts"]["b"][0], [2.0, 2.0], rtol=1e-5)


@pytest.mark.slow
def test_each_expert_starts_and_draws_by_a_key_of_its_own():
    layer = fn.mixture_of_experts(fn.serial(fn.dense(64), fn.dropout(0.5)), 3, top_k=1)
    params, state = jax.jit(layer.init)(KEY, ones((1, 3)))
    assert jax.tree.map(jnp.shape, params) == {
        "w": (3, 3),
        "experts": {"dense_0": {"w": (3, 3, 64), "b": (3, 64)}},
    }
    w = np.asarray(params["experts"]["dense_0"]["w"])
    assert len({float(v) for v in w.ravel()}) == w.size
    np.testing.assert_allclose(np.std(w), np.sqrt(2 / 3), rtol=0.1)  # He's, for each by itself
    params["w"] = 100 * array(np.eye(3))
    y, _ = run(layer, params, state, array(np.eye(3)), KEY, train=True)
    masks = np.asarray(y) != 0
    assert all(16 < np.sum(masks[i] != masks[j]) < 48 for i, j in ((0, 1), (1, 2), (0, 2)))
    with pytest.raises(ValueError, match="dropout: train=True and no key") as caught:
        layer.apply(params, state, array(np.eye(3)), train=True)
    assert "in mixture_of_experts['serial'], input float32[3,3]" in caught.value.__notes__


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_router_of_half_precision_is_computed_in_single(dtype):
    """Logits of some thousands, and apart by less than half precision tells."""
    layer = fn.mixture_of_experts(fn.dense(1), 2, top_k=1)
    x, w = np.array([[4096.0, 1.0]]), np.array([[1.0, 1.0], [-0.25, 0.25]])
    params = {"w": w, "experts": {"w": np.zeros((2, 2, 1)), "b": np.array([[1.0], [2.0]])}}
    params, x = jax.tree.map(lambda a: a.astype(dtype), (params, x))
    y, _ = run(layer, params, start(2), x)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(y, float), [[2 / (1 + np.exp(-0.5))]], rtol=2 * float(jnp.finfo(dtype).eps)
    )


def test_the_balance_loss_reaches_the_loss_and_spreads_the_load():
    """The loop of the docstring: all tokens start at one expert."""
    net = fn.serial(fn.mixture_of_experts(fn.dense(2), 4, top_k=1))
    params, state = params_for(net, ones((1, 3))), {"mixture_of_experts_0": start(4)}
    x = normal(64, 3)
    x[:, 0] = 1
    params["mixture_of_experts_0"]["w"] = array([[3, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)

    def loss(params, state):
        _, state = net.apply(params, state, x, train=True)
        return 0.01 * state["mixture_of_experts_0"]["balance_loss"], state

    def step(now, _):
        params, state = now
        gradient, state = jax.grad(loss, has_aux=True)(params, state)
        return (jax.tree.map(lambda p, g: p - 20 * g, params, gradient), state), state

    _, history = jax.jit(lambda *now: jax.lax.scan(step, now, length=100))(params, state)
    load = np.asarray(history["mixture_of_experts_0"]["load"])
    assert load[0].max() > 0.9
    assert load[-20:].mean(0).max() < 0.35


@pytest.mark.parametrize("capacity", [None, 1.0])
def test_no_tokens(capacity):
    layer = fn.mixture_of_experts(fn.dense(2), 3, capacity=capacity)
    params, x = draw((2, 0), 3)
    y, state = jax.jit(layer.apply)(params, start(3), x)
    assert (y.shape, y.dtype) == ((2, 0, 2), jnp.float32)
    with pytest.raises(
        ValueError, match=r"mixture_of_experts: input is float\d\d\[2,0,3\], wanted at least one tok"
    ):
        layer.apply(params, state, x, train=True)


def test_errors():
    make, x = fn.mixture_of_experts, ones((2, 3))
    with pytest.raises(ValueError, match="mixture_of_experts: experts=0"):
        make(fn.dense(1), 0)
    with pytest.raises(TypeError, match=r"mixture_of_experts: top_k=1\.0, wanted a positive int"):
        make(fn.dense(1), 2, top_k=1.0)
    with pytest.raises(ValueError, match="mixture_of_experts: top_k=3 of 2 experts, wanted at most all"):
        make(fn.dense(1), 2, top_k=3)
    for wrong in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"mixture_of_experts: capacity={wrong!r}, wanted"):
            make(fn.dense(1), 2, capacity=wrong)
    with pytest.raises(TypeError, match=r"mixture_of_experts: capacity='2', wanted a number"):
        make(fn.dense(1), 2, capacity="2")
    with pytest.raises(TypeError, match=r"a layer is a fnnet\.Layer"):
        make(3, 2)
    expert = fn.serial(fn.dense(2), fn.batch_norm())
    with pytest.raises(ValueError, match=r"the expert, serial, has state, .*wanted an expert without"):
        make(expert, 2).init(KEY, x)
    with pytest.raises(ValueError, match="the expert, relu, has no params: all would be alike"):
        make(fn.relu, 2).init(KEY, x)

    layer = make(fn.dense(1), 2)
    params, state = params_for(layer, x), start(2)
    assert fn.check.describe(jax.eval_shape(layer.init, KEY, x)[1]) == fn.check.describe(state)
    assert fn.check.describe(state) == "{balance_loss: float32[], load: float32[2]}"
    with pytest.raises(TypeError, match=r"mixture_of_experts: input is int32\[2,3\]"):
        layer.init(KEY, x.astype(np.int32))
    with pytest.raises(ValueError, match=r"input is float32\[3\], wanted \(batch, \.\.\., features\)"):
        layer.init(KEY, x[0])
    with pytest.raises(
        ValueError, match=r"input is float32\[2,2\] and w float32\[3,2\], wanted 3 features, on"
    ):
        layer.apply(params, state, x[:, :2])
    with pytest.raises(ValueError, match=r"params has w float32\[3,2\], wanted \(3, 4\)"):
        make(fn.dense(1), 4).apply(params, state, x)
    with pytest.raises(ValueError, match=r"state has no entries, .*keep the one that apply returns"):
        layer(params, x)
    with pytest.raises(ValueError, match=r"params has \['w'\], wanted \['experts', 'w'\]"):
        layer.apply({"w": params["w"]}, state, x)
    with pytest.raises(ValueError, match="dense: input") as caught:
        layer.apply({**params, "experts": {"w": ones((2, 4, 1)), "b": ones((2, 1))}}, state, x)
    assert "in mixture_of_experts['dense'], input float32[2,3]" in caught.value.__notes__
