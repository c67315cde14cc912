"""Convolution beside loops written from its equation, SciPy's correlate, and JAX's own derivatives."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import fnnet as fn
from tests import arrays
from tests.arrays import array, ones, params_for, zeros

# name: (shape of x, features, window, keywords)
CASES = {
    "1 axis": ((2, 6, 3), 4, 3, {}),
    "1 axis, grouped and dilated": ((2, 9, 4), 6, 2, {"groups": 2, "dilation": 3, "padding": "VALID"}),
    "1 axis, more padding than the window reaches": ((1, 3, 2), 2, 2, {"padding": ((4, 0),)}),
    "1 axis, strides beyond the window": ((2, 9, 2), 3, 2, {"strides": 4, "padding": "VALID"}),
    "2 axes, even window and strides": ((2, 5, 6, 2), 3, (2, 4), {"strides": (2, 3)}),
    "2 axes, lopsided padding": ((2, 4, 5, 3), 2, (3, 2), {"padding": ((0, 2), (3, 1)), "strides": (1, 2)}),
    "2 axes, depthwise": ((2, 4, 4, 3), 6, 3, {"groups": 3}),
    "2 axes, all of them": (
        (2, 7, 6, 4),
        6,
        (3, 2),
        {"groups": 2, "strides": (2, 1), "dilation": (1, 2), "padding": ((1, 2), (0, 1))},
    ),
    "2 axes, strides and dilation": ((1, 8, 5, 1), 1, 3, {"strides": 3, "dilation": 2}),
    "2 axes, an image of two channels": ((2, 21, 4, 2), 3, (3, 2), {"padding": ((1, 0), (2, 1))}),
    "2 axes of size 1": ((3, 1, 1, 2), 2, 3, {}),
    "3 axes": ((2, 3, 4, 3, 2), 2, (2, 3, 1), {"strides": (1, 2, 1)}),
    "3 axes, grouped": (
        (1, 3, 3, 4, 2),
        4,
        2,
        {"groups": 2, "dilation": (2, 1, 1), "padding": ((1, 0),) * 3},
    ),
}


def per_axis(value, axes):
    return (value,) * axes if isinstance(value, int) else tuple(value)


def widths(space, window, strides, padding, dilation):
    """(low, high) for each axis; SAME by TensorFlow's definition."""
    if padding == "VALID":
        return [(0, 0)] * len(space)
    if padding != "SAME":
        return list(padding)
    pads = []
    for n, k, s, d in zip(space, window, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def loops(x, w, dy=None, *, strides=1, padding="SAME", dilation=1, groups=1):
    """y by the equation, and the gradients of sum(y dy) by going through its products one by one."""
    axes = x.ndim - 2
    window, inputs, features = w.shape[:-2], w.shape[-2], w.shape[-1]
    strides, dilation = per_axis(strides, axes), per_axis(dilation, axes)
    pads = widths(x.shape[1:-1], window, strides, padding, dilation)
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    space = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:-1], window, strides, dilation, strict=True)
    ]
    y, dx, dw = np.zeros((len(x), *space, features)), np.zeros(x.shape), np.zeros(w.shape)
    dy = np.zeros(y.shape) if dy is None else dy
    for i, k, o in itertools.product(np.ndindex(*space), np.ndindex(*window), range(features)):
        at = tuple(a * s + b * d for a, b, s, d in zip(i, k, strides, dilation, strict=True))
        group = o // (features // groups)
        seen = (slice(None), *at, slice(group * inputs, (group + 1) * inputs))
        y[(slice(None), *i, o)] += x[seen] @ w[(*k, slice(None), o)]
        dx[seen] += np.outer(dy[(slice(None), *i, o)], w[(*k, slice(None), o)])
        dw[(*k, slice(None), o)] += dy[(slice(None), *i, o)] @ x[seen]
    unpad = tuple(slice(low, n - high) for (low, high), n in zip(pads, x.shape[1:-1], strict=True))
    return y, dx[(slice(None), *unpad)], dw


def jax_own(x, w, *, strides=1, padding="SAME", dilation=1, groups=1):
    axes = x.ndim - 2
    space = "DHW"[-axes:]
    return lax.conv_general_dilated(
        x,
        w,
        per_axis(strides, axes),
        padding,
        rhs_dilation=per_axis(dilation, axes),
        feature_group_count=groups,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
    )


def ours(features, window, keywords):
    layer = fn.conv(features, window, use_bias=False, **keywords)
    return lambda x, w: layer({"w": w}, x)


def draw(shape, features, window, keywords, seed=0):
    rng = np.random.default_rng(seed)
    w_shape = (*per_axis(window, len(shape) - 2), shape[-1] // keywords.get("groups", 1), features)
    return rng.normal(size=shape), rng.normal(size=w_shape), rng


@partial(jax.jit, static_argnums=0)
def value_and_gradients(f, x, w, dy):
    y, back = jax.vjp(f, x, w)
    return y, *back(dy)


def close(got, wanted, tolerance=1e-10):
    arrays.close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_the_loops(case):
    _, features, window, keywords = CASES[case]
    x, w, rng = draw(*CASES[case])
    dy = rng.normal(size=loops(x, w, **keywords)[0].shape)
    got = value_and_gradients(ours(features, window, keywords), x, w, dy)
    assert {a.dtype for a in got} == {jnp.dtype(jnp.float64)}
    close(got, loops(x, w, dy, **keywords))


@st.composite
def one_axis(draw):
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    window, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    low, high = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    short = max((window - 1) * dilation + 1 - low - high, 1)
    shape = (draw(st.integers(1, 3)), draw(st.integers(short, short + 6)), groups * per_group)
    keywords = {"strides": draw(st.integers(1, 4)), "dilation": dilation, "groups": groups}
    keywords["padding"] = draw(st.sampled_from(["SAME", ((low, high),)]))
    return shape, groups * draw(st.integers(1, 2)), window, keywords


@pytest.mark.slow
@settings(max_examples=12)
@given(one_axis(), st.integers(0, 9))
def test_any_arguments_give_what_the_loops_give(case, seed):
    _, features, window, keywords = case
    x, w, rng = draw(*case, seed)
    dy = rng.normal(size=loops(x, w, **keywords)[0].shape)
    with jax.enable_x64(True):
        got = value_and_gradients(ours(features, window, keywords), x, w, dy)
        close(got, loops(x, w, dy, **keywords))


@pytest.mark.usefixtures("float64")
def test_it_is_a_cross_correlation():
    x, w, _ = draw((1, 7, 6, 2), 3, (3, 4), {})
    for padding, mode in (("VALID", "valid"), (((2, 2), (3, 3)), "full")):
        wanted = np.stack(
            [
                sum(scipy.signal.correlate(x[0, ..., c], w[..., c, o], mode=mode) for c in range(2))
                for o in range(3)
            ],
            axis=-1,
        )
        close(ours(3, (3, 4), {"padding": padding})(array(x), array(w))[0], wanted)


def derivatives(f, x, w, dx, dw):
    """Whatever JAX can do to a function of x and w."""

    def loss(x, w):
        return jnp.sum(jnp.sin(f(x, w)))

    def norm(x, w):
        return sum(jnp.sum(jnp.square(g)) for g in grad(x, w))

    def descend(w, _):
        w = w - 0.1 * jax.grad(jax.checkpoint(loss), 1)(x, w)
        return w, loss(x, w)

    grad = jax.grad(loss, (0, 1))
    many = jnp.stack([x, dx]), jnp.stack([w, dw])
    return {
        "gradient of x alone": jax.grad(loss, 0)(x, w),
        "gradient of w alone": jax.grad(loss, 1)(x, w),
        "jvp": jax.jvp(f, (x, w), (dx, dw)),
        "jvp of x alone": jax.jvp(lambda x: f(x, w), (x,), (dx,)),
        "jvp of w alone": jax.jvp(lambda w: f(x, w), (w,), (dw,)),
        "Hessian product": jax.jvp(grad, (x, w), (dx, dw)),
        "Hessian product, backward": jax.grad(norm, (0, 1))(x, w),
        "vmap over x": jax.vmap(grad, (0, None))(many[0], w),
        "vmap over w": jax.vmap(grad, (None, 0))(x, many[1]),
        "vmap over both": jax.vmap(grad)(*many),
        "scan, remat": lax.scan(descend, w, None, length=3),
    }


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "case",
    [
        "1 axis, grouped and dilated",
        "2 axes, all of them",
        "2 axes, an image of two channels",
        "3 axes",
    ],
)
def test_derivatives_are_those_of_jax(case):
    _, features, window, keywords = CASES[case]
    x, w, rng = draw(*CASES[case])
    arguments = (x, w, rng.normal(size=x.shape), rng.normal(size=w.shape))
    got = jax.jit(partial(derivatives, ours(features, window, keywords)))(*arguments)
    wanted = jax.jit(partial(derivatives, partial(jax_own, **keywords)))(*arguments)
    for name in wanted:
        assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(wanted[name])), name
        close(got[name], wanted[name])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    case = (2, 5, 5, 4), 3, 3, {"strides": 2}
    x, w, rng = draw(*case)
    x, w = array(x, dtype), array(w, dtype)
    dy = array(rng.normal(size=(2, 3, 3, 3)), dtype)
    got = value_and_gradients(ours(*case[1:]), x, w, dy)
    wanted = loops(*(np.asarray(a, np.float64) for a in (x, w, dy)), **case[3])
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == dtype
        assert np.abs(np.asarray(a, np.float64) - b).max() <= 2 * jnp.finfo(dtype).eps * np.abs(b).max()


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.tuples(*[st.integers(0, 6)] * 2),
)
def test_sizes(space, window, stride, dilation, pads):
    x = jax.ShapeDtypeStruct((2, space, 1), jnp.float32)

    def size(padding):
        layer = fn.conv(1, window, strides=stride, dilation=dilation, padding=padding)
        params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
        return jax.eval_shape(layer, params, x).shape[1]

    assert size("SAME") == -(-space // stride)
    for padding, (low, high) in (("VALID", (0, 0)), ((pads,), pads)):
        if space + low + high < (window - 1) * dilation + 1:
            with pytest.raises(ValueError, match=r"conv: input is float32\[2,.*window reaches over"):
                size(padding)
        else:
            assert size(padding) == (space + low + high - (window - 1) * dilation - 1) // stride + 1


def test_params():
    def shapes(layer, shape):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.tree.map(lambda p: p.shape, jax.eval_shape(layer.init, jax.random.key(0), x)[0])

    assert shapes(fn.conv(4, 3), (1, 8, 2)) == {"w": (3, 2, 4), "b": (4,)}
    assert shapes(fn.conv(4, (3, 5), use_bias=False), (1, 8, 8, 2)) == {"w": (3, 5, 2, 4)}
    assert shapes(fn.conv(4, 3, groups=2), (1, 8, 8, 8, 6)) == {"w": (3, 3, 3, 3, 4), "b": (4,)}


def test_bias():
    layer = fn.conv(
        2, 3, w_init=fn.initializers.zeros, b_init=lambda key, shape, dtype: jnp.array([1.0, -2.0], dtype)
    )
    x = ones((3, 4, 1))
    params, _ = jax.jit(layer.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(layer(params, x), np.tile([1.0, -2.0], (3, 4, 1)))
    grads = jax.grad(lambda p: layer(p, x).sum())(params)
    np.testing.assert_array_equal(grads["b"], [12.0, 12.0])


def test_what_the_strides_pass_over_has_no_gradient():
    layer = fn.conv(1, 2, strides=3, padding="VALID", w_init=fn.initializers.ones)
    x = ones((1, 8, 1))
    params, _ = jax.jit(layer.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(
        jax.grad(lambda x: layer(params, x).sum())(x).ravel(), [1, 1, 0, 1, 1, 0, 1, 1]
    )


@pytest.mark.parametrize(
    "features, window, keywords",
    [
        (np.int64(3), np.int64(3), {"groups": np.int32(3)}),
        (3, [3, 3], {"padding": [[1, 1], [1, 1]], "strides": [1, 1]}),
        (3, (np.int64(3), 3), {"padding": ((np.int64(1), 1), [1, 1])}),
    ],
)
def test_sizes_of_numpy_and_lists_are_as_good(features, window, keywords):
    groups = int(keywords.get("groups", 1))
    x, w, rng = draw((2, 4, 4, 3), 3, 3, {"groups": groups})
    dy = rng.normal(size=x.shape)
    layer = fn.conv(features, window, **keywords)
    params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
    assert params["w"].shape == w.shape
    got = value_and_gradients(ours(features, window, keywords), *map(jnp.float32, (x, w, dy)))
    close(got, loops(x, w, dy, groups=groups), 1e-4)


@pytest.mark.parametrize(
    "arguments, keywords, error, message",
    [
        ((0, 3), {}, ValueError, "conv: features=0, wanted at least 1"),
        ((2.0, 3), {}, TypeError, "conv: features=2.0, wanted a positive int"),
        ((True, 3), {}, TypeError, "conv: features=True"),
        ((3, 0), {}, ValueError, "conv: window=0"),
        ((3, (3, -1)), {}, ValueError, "conv: window=-1"),
        ((3, 3.0), {}, TypeError, "conv: window=3.0, wanted a positive int"),
        ((3, "33"), {}, TypeError, "conv: window='3'"),
        ((3, None), {}, TypeError, "conv: window=None"),
        ((3, 3), {"strides": None}, TypeError, "conv: strides=None"),
        ((3, 3), {"dilation": 0}, ValueError, "conv: dilation=0"),
        ((3, 3), {"groups": 2}, ValueError, "conv: 3 features in 2 groups"),
        ((3, 3), {"padding": "same"}, ValueError, "conv: padding='same', wanted 'SAME', 'VALID' or"),
        ((3, 3), {"padding": 1}, ValueError, "conv: padding=1, wanted"),
        ((3, 3), {"padding": (1, 1)}, ValueError, r"conv: padding=\(1, 1\), wanted"),
        ((3, 3), {"padding": ((1, -1),)}, ValueError, r"conv: padding=\(\(1, -1\),\), wanted"),
        ((3, 3), {"padding": ((1.0, 1),)}, ValueError, r"conv: padding=\(\(1.0, 1\),\), wanted"),
        ((3, 3), {"padding": ((1, 1, 1),)}, ValueError, r"conv: padding="),
        ((3, 3), {"padding": (("a", "b"),)}, ValueError, r"conv: padding="),
    ],
)
def test_wrong_arguments_raise_when_the_layer_is_made(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        fn.conv(*arguments, **keywords)


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (
            fn.conv(2, 3),
            (4, 3),
            r"conv: input is float32\[4,3\], wanted \(batch, 1 to 3 spatial axes, channels\)",
        ),
        (fn.conv(2, 1), (1, 1, 1, 1, 1, 3), "conv: input is float32"),
        (fn.conv(2, (3, 3)), (1, 8, 3), r"conv: window=\(3, 3\) and 1 spatial axes"),
        (fn.conv(2, 3, strides=(1, 1)), (1, 8, 3), r"conv: strides=\(1, 1\) and 1 spatial axes"),
        (fn.conv(2, 3, padding=((1, 1),)), (1, 8, 8, 3), r"conv: padding=\(\(1, 1\),\) and 2 spatial axes"),
        (fn.conv(2, 3, groups=2), (1, 8, 3), "conv: input is .*wanted channels that 2 groups divide"),
        (fn.conv(2, 9, padding="VALID"), (1, 8, 3), r"conv: .*window reaches over \(9,\)"),
    ],
)
def test_wrong_inputs_raise_before_anything_is_computed(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(fn.serial(layer).init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_params_of_another_input_raise():
    layer = fn.conv(2, 3)
    params = params_for(layer, zeros((1, 8, 3)))
    for shape in ((1, 8, 2), (1, 8, 8, 3)):
        with pytest.raises(
            ValueError, match=r"conv: .* and w float32\[3,3,2\], wanted .* 1 spatial axes and 3 channels"
        ):
            layer(params, zeros(shape))
    with pytest.raises(TypeError, match=r"conv: input is int32\[1,8,3\], wanted floating point"):
        layer(params, zeros((1, 8, 3), jnp.int32))


def test_no_examples():
    layer = fn.conv(2, 3)
    params = params_for(layer, zeros((1, 8, 3)))
    x = zeros((0, 8, 3))
    assert layer(params, x).shape == (0, 8, 2)
    grads = jax.grad(lambda p: layer(p, x).sum())(params)
    assert not np.any(grads["w"])
    assert not np.any(grads["b"])


def test_dtypes():
    x = np.random.default_rng(0).normal(size=(1, 5, 2))
    layer = fn.conv(2, 3)
    params, _ = layer.init(jax.random.key(0), x)  # float64 of NumPy is float32 to JAX
    assert params["w"].dtype == layer(params, x).dtype == jnp.float32
    # float32 params and half an input: JAX's promotion
    assert layer(params, array(x, jnp.bfloat16)).dtype == jnp.float32
