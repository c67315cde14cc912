"""The recurrent cells beside their equations, gate by gate, in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import array, like, normal, zeros
from tests.oracle import agrees

KEY = jax.random.key(0)
CONSTANT = {name: fn.initializers.constant(0.5) for name in ("w_init", "w_h_init", "b_init")}


def params_for(cell, features=3, dtype=np.float64):
    """Params in the shapes of init, drawn in NumPy: no gate or bias is like another."""
    shapes = jax.eval_shape(cell.init, KEY, jax.ShapeDtypeStruct((1, features), np.float32))
    return like(shapes, dtype=dtype)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def gates(params, count):
    """Weights and bias of each gate by itself."""
    n = params["w_h"].shape[0]
    cuts = [slice(k * n, (k + 1) * n) for k in range(count)]
    return [(params["w_x"][:, cut], params["w_h"][:, cut], params["b"][cut]) for cut in cuts]


def simple_rnn(params, h, x, activation=np.tanh):
    h = activation(x @ params["w_x"] + h @ params["w_h"] + params["b"])
    return h, h


def lstm(params, carry, x):
    c, h = carry
    p_i, p_f, p_o = params.get("p", np.zeros((3, 1)))
    z_i, z_f, z_g, z_o = (x @ w_x + h @ w_h + b for w_x, w_h, b in gates(params, 4))
    c = sigmoid(z_f + p_f * c) * c + sigmoid(z_i + p_i * c) * np.tanh(z_g)
    h = sigmoid(z_o + p_o * c) * np.tanh(c)
    return (c, h), h


def gru(params, h, x, reset="after"):
    (w_xr, w_hr, b_r), (w_xz, w_hz, b_z), (w_xn, w_hn, b_n) = gates(params, 3)
    r = sigmoid(x @ w_xr + h @ w_hr + b_r)
    z = sigmoid(x @ w_xz + h @ w_hz + b_z)
    from_h = r * (h @ w_hn + params["b_h"]) if reset == "after" else (r * h) @ w_hn
    h = (1 - z) * np.tanh(x @ w_xn + b_n + from_h) + z * h
    return h, h


def walk(step, params, carry, x):
    y = []
    for t in range(x.shape[1]):
        carry, y_t = step(params, carry, x[:, t])
        y.append(y_t)
    return carry, np.stack(y, axis=1)


CELLS = {
    "simple_rnn": (fn.simple_rnn_cell, simple_rnn),
    "simple_rnn relu": (
        partial(fn.simple_rnn_cell, activation=fn.relu),
        partial(simple_rnn, activation=lambda z: np.maximum(z, 0)),
    ),
    "lstm": (fn.lstm_cell, lstm),
    "lstm peepholes": (partial(fn.lstm_cell, peepholes=True), lstm),
    "gru": (fn.gru_cell, gru),
    "gru before": (partial(fn.gru_cell, reset="before"), partial(gru, reset="before")),
}


@pytest.mark.parametrize("name", CELLS)
def test_equation(name):
    """Along three steps, from a carry that is given: outputs, last carry, and all gradients of both."""
    make, step = CELLS[name]
    cell = make(2)
    carry = (normal(2, 2, seed=5), normal(2, 2, seed=6)) if name.startswith("lstm") else normal(2, 2, seed=5)

    def f(params, carry, x):
        return fn.unroll(cell, params, x, carry=carry)

    agrees(f, partial(walk, step), params_for(cell), carry, normal(2, 3, 3))


@pytest.mark.parametrize("name", CELLS)
def test_params_and_initial_carry(name):
    make, _ = CELLS[name]
    cell = make(2)
    x = jax.ShapeDtypeStruct((5, 3), jnp.bfloat16)
    params = jax.eval_shape(cell.init, KEY, x)
    count = {"simple_rnn": 1, "lstm": 4, "gru": 3}[name.split()[0]]
    shapes = {"w_x": (3, 2 * count), "w_h": (2, 2 * count), "b": (2 * count,)}
    shapes |= {"p": (3, 2)} if "peepholes" in name else {"b_h": (2,)} if name == "gru" else {}
    assert jax.tree.map(jnp.shape, params) == shapes
    assert all(p.dtype == jnp.bfloat16 for p in params.values())
    # NumPy's float64 becomes float32, as in any function of JAX, without a warning.
    for x, dtype in ((np.zeros((5, 3)), jnp.float32), (zeros((5, 3), jnp.bfloat16), jnp.bfloat16)):
        carry = cell.initial_carry({k: zeros(s, dtype) for k, s in shapes.items()}, x)
        for part in carry if name.startswith("lstm") else (carry,):
            assert (part.shape, part.dtype) == ((5, 2), dtype)
            assert not part.any()


def test_what_params_start_at():
    x = jax.ShapeDtypeStruct((1, 3, 3), jnp.float32)
    layers = [fn.lstm(20, peepholes=True, forget_bias=3.0), fn.gru(20)]
    drawn = jax.jit(lambda key: [layer.init(key, x)[0] for layer in layers])(KEY)
    for layer, p in zip(layers, drawn, strict=True):
        bound = np.sqrt(6 / (3 + p["b"].size))
        assert 0.9 * bound < np.abs(p["w_x"]).max() <= bound
        np.testing.assert_allclose(p["w_h"] @ p["w_h"].T, np.eye(20), atol=1e-5)
        b = np.zeros(p["b"].size)
        b[20:40] = 3 if layer.name == "lstm" else 0
        np.testing.assert_array_equal(p["b"], b)
        assert not any(p[name].any() for name in ("p", "b_h") if name in p)


def test_initializers_are_used():
    makers = (fn.simple_rnn_cell, fn.lstm_cell, fn.gru_cell)
    inits = jax.jit(lambda: [make(2, **CONSTANT).init(KEY, jnp.zeros((1, 3))) for make in makers])
    for params, make in zip(inits(), makers, strict=True):
        if make is fn.lstm_cell:
            np.testing.assert_array_equal(params.pop("b"), [0.5, 0.5, 1.5, 1.5, 0.5, 0.5, 0.5, 0.5])
        assert all(np.all(p == 0.5) for p in params.values())


def test_forget_bias_may_be_mapped_over():
    """A float32 tracer beside bfloat16 params."""
    x = zeros((1, 3), jnp.bfloat16)
    b = jax.jit(jax.vmap(lambda bias: fn.lstm_cell(1, forget_bias=bias, **CONSTANT).init(KEY, x)["b"]))
    got = b(array([0.0, 2.0]))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(jnp.float32), [[0.5] * 4, [0.5, 2.5, 0.5, 0.5]])


LAYERS = {
    "simple_rnn": (
        partial(fn.simple_rnn, 2, activation=fn.relu),
        fn.simple_rnn_cell(2),
        partial(simple_rnn, activation=lambda z: np.maximum(z, 0)),
    ),
    "lstm": (partial(fn.lstm, 2, peepholes=True), fn.lstm_cell(2, peepholes=True), lstm),
    "gru": (partial(fn.gru, 2, reset="before"), fn.gru_cell(2, reset="before"), partial(gru, reset="before")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_hand_their_arguments_on(name):
    """Each along a sequence backward, all outputs and the last."""
    make, cell, step = LAYERS[name]
    params, x = params_for(cell, dtype=np.float32), normal(2, 3, 3).astype(np.float32)
    zeros = np.zeros((2, 2))
    _, wanted = walk(step, params, (zeros, zeros) if name == "lstm" else zeros, x[:, ::-1])
    both = jax.jit(lambda p, x: [make(reverse=True, outputs=outputs)(p, x) for outputs in ("all", "last")])
    y, last = both(params, x)
    np.testing.assert_allclose(y, wanted[:, ::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, wanted[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_dtypes_that_differ(name):
    """They are promoted as in any product, and the carry with them: a scan needs one dtype throughout."""
    cell = CELLS[name][0](2)
    params = params_for(cell, dtype=np.float32)
    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), params)
    x = jax.ShapeDtypeStruct((2, 3, 3), jnp.float32)
    for p, dtype in ((params, jnp.bfloat16), (params, jnp.float16), (half, jnp.float32)):
        carry, y = jax.eval_shape(partial(fn.unroll, cell), p, jax.ShapeDtypeStruct(x.shape, dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves((carry, y))} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_large_inputs_saturate(name):
    """Gates go to 0 or 1 and tanh to -1 or 1, without NaN in values or gradients."""
    cell = CELLS[name][0](2)
    params, x = params_for(cell, dtype=np.float32), 1e30 * np.sign(normal(2, 3, 3)).astype(np.float32)

    @jax.jit
    def f(params, x):
        y, back = jax.vjp(lambda params, x: fn.unroll(cell, params, x)[1], params, x)
        return y, back(jnp.ones_like(y))

    y, gradients = f(params, x)
    assert np.all(np.abs(y) <= 1)
    assert np.any(np.abs(y) > 0.5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", CELLS)
def test_errors(name):
    cell, kind = CELLS[name][0](2), name.split()[0]
    params = params_for(cell, dtype=np.float32)
    carry, x = cell.initial_carry(params, zeros((5, 3))), zeros((5, 3))
    with pytest.raises(ValueError, match=f"{kind}: input is float32\\[3\\], wanted \\(batch, features\\)"):
        cell.init(KEY, x[0])
    with pytest.raises(TypeError, match=f"{kind}: input is int32.*, wanted floating point"):
        cell.init(KEY, x.astype(np.int32))
    with pytest.raises(TypeError, match=f"{kind}: features=2.0, wanted a positive int"):
        CELLS[name][0](2.0)
    with pytest.raises(ValueError, match=f"{kind}: features=0, wanted at least 1"):
        CELLS[name][0](0)
    for use in (lambda params, x: cell.step(params, carry, x), cell.initial_carry):
        with pytest.raises(TypeError, match=f"{kind}: input is int32.*, wanted floating point"):
            use(params, x.astype(np.int32))
        with pytest.raises(ValueError, match=f"{kind}: input is float32\\[\\], wanted \\(batch, features\\)"):
            use(params, x[0, 0])
        with pytest.raises(
            ValueError, match=f"{kind}: input of a step is float32\\[5,4\\] and w_x .*, wanted 3 f"
        ):
            use(params, zeros((5, 4)))
        with pytest.raises(ValueError, match=f"{kind}: params has .*'q'.*, wanted \\['b'.*'w_h', 'w_x'\\]"):
            use({**params, "q": x}, x)
        with pytest.raises(TypeError, match=f"{kind}: params is None, wanted the dict that init returned"):
            use(None, x)
    with pytest.raises(
        ValueError, match=f"{kind}: params has w_x float32\\[3,.*, wanted \\(3, .*\\); pass the params"
    ):
        CELLS[name][0](4).initial_carry(params, x)


def test_an_unknown_reset():
    for make in (fn.gru_cell, fn.gru):
        with pytest.raises(ValueError, match="gru: reset='never', wanted one of 'after', 'before'"):
            make(2, reset="never")
