"""Numbers whose square overflows: outputs and gradients are those of the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import normal

EPS = 1e-5
# The axes that each layer normalizes over, for x (batch, space, channels), and whether it takes the mean off.
LAYERS = {
    "layer_norm": (fn.layer_norm(eps=EPS), (2,), True),
    "batch_norm": (fn.batch_norm(eps=EPS), (0, 1), True),
    "rms_norm": (fn.rms_norm(eps=EPS), (2,), False),
    "instance_norm": (fn.instance_norm(eps=EPS), (1,), True),
    "group_norm": (fn.group_norm(1, eps=EPS), (1, 2), True),
}
W = normal(4, 5, 6, seed=1)


def formula(x, w, axes, centred):
    """y, and the gradient of sum(w y) by x."""
    x, w = x.astype(np.float64), w.astype(np.float64)

    def mean(a):
        return a.mean(axes, keepdims=True)

    d = x - mean(x) if centred else x
    deviation = np.sqrt(mean(d * d) + EPS)
    y = d / deviation
    return y, (w - (mean(w) if centred else 0) - y * mean(w * y)) / deviation


@pytest.mark.parametrize("name", LAYERS)
def test_the_square_may_overflow(name):
    layer, axes, centred = LAYERS[name]
    x = normal(4, 5, 6)
    # 1e15: no square overflows, but var^(-3/2), which the chain rule has, would vanish.
    inputs = {f"float32 * {s:g}": (x * np.float32(s)) for s in (1e-3, 1.0, 1e10, 1e15, 1e20, 1e30, 1e36)}
    inputs["float32, shifted"] = (x + 7) * np.float32(1e20)
    inputs["bfloat16"] = (x * np.float32(1e20)).astype(jnp.bfloat16)
    inputs["float16"] = (x * np.float32(1e4)).astype(np.float16)
    params, state = layer.init(0, x)

    @jax.jit
    def all_of_them(inputs):
        def value_and_gradient(x):
            def f(x):
                y = layer.apply(params, state, x, train=True)[0]
                return jnp.sum(W * y.astype(jnp.float32)), y

            (_, y), slope = jax.value_and_grad(f, has_aux=True)(x)
            return y, slope

        return {kind: value_and_gradient(x) for kind, x in inputs.items()}

    for kind, (y, slope) in all_of_them(inputs).items():
        rtol = 2e-2 if "16" in kind else 2e-5
        wanted, wanted_slope = formula(np.asarray(inputs[kind]), W, axes, centred)
        np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=rtol, atol=rtol, err_msg=kind)
        size = np.abs(wanted_slope).max()
        if size > 1e-6 if kind == "float16" else size > 1e-35:  # what the dtype can hold
            np.testing.assert_allclose(
                np.asarray(slope, np.float64) / size, wanted_slope / size, rtol=0, atol=rtol, err_msg=kind
            )


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm"])
def test_a_single_large_number(name):
    layer, axes, _ = LAYERS[name]
    x = normal(4, 5, 6)
    x[2, 3, 4] = 1e25
    y, _ = jax.jit(lambda x: layer.apply(*layer.init(0, x), x, train=True))(x)
    wanted, _ = formula(x, W, axes, True)
    np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-5)


def test_a_running_variance_beyond_float32_is_not_silent():
    layer, x = fn.batch_norm(), normal(4, 5, 6) * np.float32(1e20)
    params, state = layer.init(0, x)
    _, state = layer.apply(params, state, x, train=True)
    assert np.isfinite(state["mean"]).all()
    assert np.isinf(state["var"]).all()
    y, after = layer.apply(params, state, x)
    assert np.isnan(y).all()
    assert after is state
    _, state = layer.apply(params, state, x, train=True)
    assert np.isinf(state["var"]).all()


def test_large_numbers_that_cancel_exactly_are_not_silent():
    """Origin and mean are 0, and do not tell that the others are large."""
    x = np.array([[0.0], [1e20], [-1e20]], np.float32)
    layer = fn.batch_norm()
    y, _ = layer.apply(*layer.init(0, x), x, train=True)
    assert np.isnan(y).all()


def test_a_sum_of_squares_beyond_float32_is_not_silent():
    x = np.array([[1.0, 2.0, 1e20, 3.0, 4.0]], np.float32)
    y = fn.local_response_norm(3)({}, x)
    np.testing.assert_array_equal(np.isnan(y), [[False, True, True, True, False]])
