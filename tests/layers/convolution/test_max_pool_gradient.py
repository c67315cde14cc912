"""The fast maximum of windows beside the plain one, `lax.reduce_window`, and a loop for ties."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnnet.layers.convolution.max_pool_gradient import window_max
from tests.arrays import array

# (space, window, strides, pads)
CASES = {
    "side by side": ((6, 4), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "side by side, a rest": ((7, 5), (2, 3), (2, 3), ((0, 0), (0, 0))),
    "overlapping, padded": ((5, 6), (3, 2), (2, 1), ((1, 1), (0, 1))),
    "gaps": ((7,), (2,), (3,), ((0, 0),)),
    "many elements, axis by axis": ((9, 7), (5, 4), (2, 4), ((2, 2), (1, 0))),
    "3 axes": ((4, 3, 4), (2, 2, 2), (2, 1, 2), ((0, 0), (1, 1), (0, 0))),
}


def plain(x, window, strides, pads):
    sizes = ((1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))
    return lax.reduce_window(x, -jnp.inf, lax.max, *sizes)


def loop(x, window, strides, pads, dy):
    """dx: each dy goes to the first of the largest elements of its window that are no padding."""
    dx = np.zeros(x.shape)
    for b, c in itertools.product(range(x.shape[0]), range(x.shape[-1])):
        for i in np.ndindex(*dy.shape[1:-1]):
            best = None
            for k in np.ndindex(*window):
                at = tuple(a * s + b - low for a, s, b, (low, _) in zip(i, strides, k, pads, strict=True))
                if all(0 <= a < n for a, n in zip(at, x.shape[1:-1], strict=True)) and (
                    best is None or x[(b, *at, c)] > x[(b, *best, c)]
                ):
                    best = at
            dx[(b, *best, c)] += dy[(b, *i, c)]
    return dx


def derivatives(f, x, dx, weights):
    def loss(x):
        return jnp.sum(jnp.sin(f(x)) * weights)

    def step(x, _):
        return x - 0.1 * jax.grad(jax.checkpoint(loss))(x), None

    return {
        "value and jvp": jax.jvp(f, (x,), (dx,)),
        "gradient": jax.grad(loss)(x),
        "Hessian product": jax.jvp(jax.grad(loss), (x,), (dx,)),
        "vmap": jax.vmap(jax.grad(loss))(jnp.stack([x, dx])),
        "scan, remat": lax.scan(step, x, length=2)[0],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_all_derivatives_are_those_of_the_plain_formula(case):
    space, *sizes = CASES[case]
    rng = np.random.default_rng(0)
    x, dx = (array(rng.normal(size=(2, *space, 2))) for _ in range(2))
    weights = array(rng.normal(size=plain(x, *sizes).shape))
    got, wanted = (
        jax.jit(lambda x, dx, f=f: derivatives(lambda x: f(x, *sizes), x, dx, weights))(x, dx)
        for f in (window_max, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), got, wanted)


@pytest.mark.parametrize("case", CASES)
def test_of_equal_elements_the_first_gets_the_gradient(case):
    space, *sizes = CASES[case]
    rng = np.random.default_rng(1)
    x = rng.choice([-np.inf, 0.0, 1.0], size=(2, *space, 2), p=[0.6, 0.2, 0.2]).astype(np.float32)
    y, back = jax.vjp(lambda x: window_max(x, *sizes), x)
    dy = rng.integers(1, 9, y.shape).astype(np.float32)
    np.testing.assert_array_equal(y, plain(x, *sizes))
    np.testing.assert_array_equal(jax.jit(back)(dy)[0], loop(x, *sizes, dy))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_and_nan(dtype):
    x = jnp.asarray(array([1.0, jnp.nan, 3.0, 2.0, 5.0, 4.0], dtype).reshape(1, 6, 1))
    y, dy = jax.jvp(lambda x: window_max(x, (2,), (2,), ((0, 0),)), (x,), (x,))
    assert y.dtype == dy.dtype == dtype
    np.testing.assert_array_equal(y.ravel().astype(float), [np.nan, 3, 5])
    np.testing.assert_array_equal(dy.ravel().astype(float), [np.nan, 3, 5])
