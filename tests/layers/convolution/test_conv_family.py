"""Depthwise, separable and transposed convolution beside loops written from their equations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import fnnet as fn
from tests.arrays import array, ones, params_for, zeros
from tests.oracle import agrees


def per_axis(value, axes):
    return (value,) * axes if isinstance(value, int) else tuple(value)


def depthwise_loops(x, w, strides=1, padding="SAME", dilation=1):
    axes, channels = x.ndim - 2, x.shape[-1]
    window, multiplier = w.shape[:-2], w.shape[-1] // channels
    strides, dilation = per_axis(strides, axes), per_axis(dilation, axes)
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    if padding == "SAME":
        totals = [
            max((-(-n // s) - 1) * s + r - n, 0)
            for n, s, r in zip(x.shape[1:-1], strides, reach, strict=True)
        ]
        padding = [(total // 2, total - total // 2) for total in totals]
    x = np.pad(x, [(0, 0), *(padding if padding != "VALID" else [(0, 0)] * axes), (0, 0)])
    space = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    y = np.zeros((len(x), *space, w.shape[-1]))
    for i in np.ndindex(*space):
        for k in np.ndindex(*window):
            at = tuple(a * s + b * d for a, b, s, d in zip(i, k, strides, dilation, strict=True))
            for c in range(channels):
                for m in range(multiplier):
                    o = c * multiplier + m
                    y[(slice(None), *i, o)] += w[(*k, 0, o)] * x[(slice(None), *at, c)]
    return y


def transpose_loops(x, w, strides=1, padding="SAME", dilation=1, groups=1):
    """Every x[i] w[k] put where the equation has it, on an endless grid; then what padding keeps of it."""
    axes = x.ndim - 2
    window, inputs, features = w.shape[:-2], w.shape[-2], w.shape[-1] // groups
    strides, dilation = per_axis(strides, axes), per_axis(dilation, axes)
    low, size = [], []
    for a, (n, k, s, d) in enumerate(zip(x.shape[1:-1], window, strides, dilation, strict=True)):
        reach = (k - 1) * d + 1
        if padding == "SAME":
            low.append(max(reach - s, 0) // 2)
            size.append(n * s)
        else:
            cut = (0, 0) if padding == "VALID" else padding[a]
            low.append(cut[0])
            size.append((n - 1) * s + reach - sum(cut))
    y = np.zeros((len(x), *size, features * groups))
    for i in np.ndindex(*x.shape[1:-1]):
        for k in np.ndindex(*window):
            at = [a * s + b * d - c for a, b, s, d, c in zip(i, k, strides, dilation, low, strict=True)]
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                for g in range(groups):
                    ins, outs = slice(g * inputs, (g + 1) * inputs), slice(g * features, (g + 1) * features)
                    y[(slice(None), *at, outs)] += x[(slice(None), *i, ins)] @ w[(*k, slice(None), outs)]
    return y


def ours(layer):
    return lambda x, w: layer({"w": w}, x)


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


# shape of x, window, multiplier, keywords
DEPTHWISE = {
    "1 axis": ((2, 6, 3), 3, 1, {}),
    "1 axis, all of them": ((9, 11, 2), 2, 3, {"strides": 2, "dilation": 3, "padding": ((4, 1),)}),
    "1 axis, one channel": ((2, 5, 1), 3, 2, {"padding": "VALID"}),
    "1 axis, a window too large for a sum of shifts": ((1, 66, 2), 65, 1, {"padding": "VALID"}),
    "2 axes": ((1, 4, 10, 2), (3, 2), 2, {"strides": (1, 3)}),
    "2 axes of size 1": ((2, 1, 1, 3), 3, 1, {}),
    "3 axes": ((2, 3, 2, 3, 2), (2, 1, 2), 1, {"dilation": (2, 1, 1), "strides": (1, 2, 1)}),
}


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_conv_is_that_of_the_loops(case):
    shape, window, multiplier, keywords = DEPTHWISE[case]
    x, w = draw(shape, (*per_axis(window, len(shape) - 2), 1, shape[-1] * multiplier))
    layer = fn.depthwise_conv(window, multiplier=multiplier, use_bias=False, **keywords)
    agrees(ours(layer), partial(depthwise_loops, **keywords), x, w)


def test_separable_conv_is_that_of_the_loops():
    keywords = {"strides": (2, 1), "padding": ((1, 0), (2, 2)), "dilation": (1, 2)}

    def reference(x, depthwise, pointwise, b):
        return depthwise_loops(x, depthwise, **keywords) @ pointwise[0, 0] + b

    layer = fn.separable_conv(4, (3, 2), multiplier=2, **keywords)
    arguments = draw((2, 5, 4, 3), (3, 2, 1, 6), (1, 1, 6, 4), (4,))
    agrees(
        lambda x, *params: layer(dict(zip(("depthwise", "pointwise", "b"), params, strict=True)), x),
        reference,
        *arguments,
    )


# shape of x, features, window, keywords
TRANSPOSE = {
    "1 axis": ((2, 4, 3), 2, 3, {}),
    "1 axis, strides": ((2, 4, 3), 2, 4, {"strides": 2}),
    "1 axis, strides beyond the window": ((2, 3, 1), 2, 2, {"strides": 4}),
    "1 axis, strides beyond the window, VALID": ((2, 3, 1), 2, 2, {"strides": 4, "padding": "VALID"}),
    "1 axis, grouped and dilated": ((2, 5, 4), 6, 2, {"groups": 2, "dilation": 3, "padding": "VALID"}),
    "1 axis, no strides, cut beyond the window": ((1, 7, 2), 1, 2, {"padding": ((3, 2),)}),
    "1 axis, no strides, added to": ((1, 3, 2), 1, 2, {"padding": ((-2, -1),)}),
    "1 axis, depthwise, no strides, added to": ((1, 4, 2), 2, 3, {"padding": ((-1, 3),), "groups": 2}),
    "1 axis, cut beyond the window and added to": (
        (1, 5, 2),
        1,
        3,
        {"strides": 3, "padding": ((5, -2),)},
    ),
    "1 axis, depthwise": ((2, 4, 2), 4, 3, {"groups": 2, "strides": 2}),
    "2 axes, all of them": (
        (2, 3, 2, 4),
        6,
        (2, 3),
        {"groups": 2, "strides": (1, 2), "dilation": (2, 1), "padding": ((1, 0), (0, 2))},
    ),
    "2 axes of size 1": ((3, 1, 1, 2), 2, 3, {"strides": 2}),
    "3 axes": ((1, 2, 3, 2, 2), 2, (2, 1, 3), {"strides": (2, 2, 1)}),
}


@pytest.mark.parametrize("case", TRANSPOSE)
def test_conv_transpose_is_that_of_the_loops(case):
    shape, features, window, keywords = TRANSPOSE[case]
    channels = shape[-1] // keywords.get("groups", 1)
    x, w = draw(shape, (*per_axis(window, len(shape) - 2), channels, features))
    layer = fn.conv_transpose(features, window, use_bias=False, **keywords)
    agrees(ours(layer), partial(transpose_loops, **keywords), x, w)


@settings(max_examples=8)
@given(st.data())
def test_any_arguments_of_a_transpose_give_what_the_loops_give(data):
    window, strides, dilation = (data.draw(st.integers(1, n)) for n in (4, 3, 3))
    n = data.draw(st.integers(1, 5))
    full = (n - 1) * strides + (window - 1) * dilation + 1
    low = data.draw(st.integers(-2, full - 1))
    high = data.draw(st.integers(-2, full - 1 - low))
    padding = data.draw(st.sampled_from(["SAME", "VALID", ((low, high),)]))
    keywords = {"strides": strides, "dilation": dilation, "padding": padding}
    x, w = draw((2, n, 2), (window, 2, 1), seed=data.draw(st.integers(0, 9)))
    agrees(
        ours(fn.conv_transpose(1, window, use_bias=False, **keywords)),
        partial(transpose_loops, **keywords),
        x,
        w,
    )


@given(*[st.integers(1, 5)] * 4, st.tuples(*[st.integers(0, 3)] * 2))
def test_conv_with_the_same_arguments_brings_the_size_back(n, window, strides, dilation, pads):
    reach = (window - 1) * dilation + 1
    sizes = {
        "SAME": n * strides,
        "VALID": (n - 1) * strides + reach,
        (pads,): (n - 1) * strides + reach - sum(pads),
    }
    for padding, wanted in sizes.items():
        if wanted < 1:
            continue
        keywords = {"strides": strides, "dilation": dilation, "padding": padding}
        x = jax.ShapeDtypeStruct((2, n, 1), jnp.float32)
        w = {"w": jax.ShapeDtypeStruct((window, 1, 1), jnp.float32)}
        y = jax.eval_shape(fn.conv_transpose(1, window, use_bias=False, **keywords), w, x)
        assert y.shape == (2, wanted, 1)
        assert jax.eval_shape(fn.conv(1, window, use_bias=False, **keywords), w, y).shape == x.shape


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padding", ["SAME", ((1, 2),)])
def test_conv_transpose_is_the_gradient_of_conv(padding):
    keywords = {"strides": 2, "padding": padding, "use_bias": False}
    x, w = draw((2, 4, 3), (3, 3, 5))
    y = fn.conv_transpose(5, 3, **keywords)({"w": w}, x)
    conv = fn.conv(3, 3, **keywords)
    _, back = jax.vjp(lambda z: conv({"w": w.swapaxes(-1, -2)}, z), np.zeros_like(y))
    np.testing.assert_allclose(back(array(x))[0], y, rtol=1e-10, atol=1e-10)


FORMS = {
    "depthwise": (fn.depthwise_conv(3, multiplier=2, strides=2, use_bias=False), (2, 5, 3), (3, 1, 6)),
    "grouped": (fn.conv(4, 3, groups=2, use_bias=False), (2, 5, 4), (3, 2, 4)),
    "transpose": (fn.conv_transpose(4, 3, strides=2, use_bias=False), (2, 3, 2), (3, 2, 4)),
    "depthwise transpose": (
        fn.conv_transpose(4, 3, strides=2, groups=4, use_bias=False),
        (2, 3, 4),
        (3, 1, 4),
    ),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("form", FORMS)
def test_the_form_for_cpus_is_the_plain_convolution(form, monkeypatch):
    """Mapped over x and w, in a scan, and differentiated in it, which stacks what the backward pass needs."""
    layer, *shapes = FORMS[form]
    x, w = draw(*((2, *shape) for shape in shapes))

    def both(x, w):
        def total(x, w):
            def step(x, _):
                return 0.9 * jnp.sin(x), jnp.sum(jax.vmap(ours(layer))(x, w) ** 2)

            return jnp.sum(lax.scan(step, x, None, length=2)[1])

        return jax.value_and_grad(total, (0, 1))(x, w)

    fast = jax.jit(both)(x, w)
    asked = []
    monkeypatch.setattr(lax, "platform_dependent", lambda *a, cpu, default: asked.append(1) or default(*a))
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), jax.jit(lambda *a: both(*a))(x, w), fast
    )
    assert asked


def test_the_backward_pass_of_a_depthwise_convolution_keeps_its_arguments_only():
    layer = fn.depthwise_conv(5, use_bias=False)
    x, w = ones((2, 8, 8, 3)), ones((5, 5, 1, 3))
    kept = jax.eval_shape(lambda x, w: jax.vjp(ours(layer), x, w)[1], x, w)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) <= x.size + w.size


@pytest.mark.parametrize("form", ["depthwise", "depthwise transpose"])
def test_half_precision_is_rounded_once(form):
    dtype = jnp.bfloat16
    layer, *shapes = FORMS[form]
    x, w = (array(a, dtype) for a in draw(*shapes))

    @jax.jit
    def both(x, w):
        y, back = jax.vjp(ours(layer), x, w)
        return y, *back(jnp.ones_like(y))

    for got, wanted in zip(both(x, w), both(x.astype(jnp.float32), w.astype(jnp.float32)), strict=True):
        assert got.dtype == dtype
        error = np.abs(got.astype(jnp.float32) - wanted).max()
        assert error <= 2 * jnp.finfo(dtype).eps * np.abs(wanted).max()


def test_a_window_of_1_is_a_product_of_matrices():
    layer = fn.conv(4, 1, use_bias=False)
    agrees(ours(layer), lambda x, w: x @ w[0, 0], *draw((2, 3, 2, 5), (1, 1, 5, 4)))
    jaxpr = str(jax.make_jaxpr(ours(layer))(ones((2, 3, 2, 5)), ones((1, 1, 5, 4))))
    assert "dot_general" in jaxpr
    assert "conv_general_dilated" not in jaxpr


def test_params_and_bias():
    def params(layer, shape):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.tree.map(lambda p: p.shape, jax.eval_shape(layer.init, jax.random.key(0), x)[0])

    assert params(fn.depthwise_conv((3, 2), multiplier=2), (1, 8, 8, 3)) == {"w": (3, 2, 1, 6), "b": (6,)}
    assert params(fn.depthwise_conv(3, use_bias=False), (1, 8, 3)) == {"w": (3, 1, 3)}
    assert params(fn.separable_conv(4, 3, multiplier=2), (1, 8, 8, 8, 3)) == {
        "depthwise": (3, 3, 3, 1, 6),
        "pointwise": (1, 1, 1, 6, 4),
        "b": (4,),
    }
    assert set(params(fn.separable_conv(4, 3, use_bias=False), (1, 8, 3))) == {"depthwise", "pointwise"}
    assert params(fn.conv_transpose(4, 3, groups=2), (1, 8, 6)) == {"w": (3, 3, 4), "b": (4,)}
    assert params(fn.conv_transpose(4, 3, use_bias=False), (1, 8, 6)) == {"w": (3, 6, 4)}

    zeros, bias = fn.initializers.zeros, lambda key, shape, dtype: jnp.arange(1.0, shape[0] + 1, dtype=dtype)
    x = ones((2, 3, 2))
    for layer in (
        fn.depthwise_conv(3, w_init=zeros, b_init=bias),
        fn.separable_conv(2, 3, depthwise_init=zeros, b_init=bias),
        fn.separable_conv(2, 3, pointwise_init=zeros, b_init=bias),
        fn.conv_transpose(2, 3, w_init=zeros, b_init=bias),
    ):
        np.testing.assert_array_equal(
            jax.jit(lambda x, layer=layer: layer(layer.init(jax.random.key(0), x)[0], x))(x),
            np.tile([1.0, 2.0], (2, 3, 1)),
        )


@pytest.mark.parametrize(
    "layer, size",
    [
        (fn.depthwise_conv(3), 5),
        (fn.separable_conv(2, 3), 5),
        (fn.conv_transpose(2, 3, strides=2), 10),
        (fn.conv_transpose(2, 3), 5),
    ],
)
def test_no_examples(layer, size):
    x = zeros((0, 5, 2))

    @jax.jit
    def gradients():
        params, _ = layer.init(jax.random.key(0), x)
        return jax.value_and_grad(lambda p: jnp.sum(layer(p, x)))(params)

    assert jax.eval_shape(lambda: layer(layer.init(jax.random.key(0), x)[0], x)).shape == (0, size, 2)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients()))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fn.depthwise_conv(0), "depthwise_conv: window=0, wanted at least 1"),
        (lambda: fn.depthwise_conv(3, multiplier=0), "depthwise_conv: multiplier=0"),
        (lambda: fn.depthwise_conv(3, padding=((1, -1),)), "depthwise_conv: padding=.*not negative"),
        (lambda: fn.separable_conv(0, 3), "separable_conv: features=0"),
        (lambda: fn.separable_conv(3, 3, multiplier=0), "separable_conv: multiplier=0"),
        (lambda: fn.separable_conv(3, 3, strides=0), "separable_conv: strides=0"),
        (lambda: fn.conv_transpose(0, 3), "conv_transpose: features=0"),
        (lambda: fn.conv_transpose(3, 3, groups=0), "conv_transpose: groups=0"),
        (lambda: fn.conv_transpose(3, 3, groups=2), "conv_transpose: 3 features in 2 groups"),
        (lambda: fn.conv_transpose(3, 3, padding="FULL"), "conv_transpose: padding='FULL', wanted"),
        (
            lambda: fn.conv_transpose(3, 3, padding=((1.0, 1),)),
            r"conv_transpose: padding=.*wanted .* a pair of ints for each axis$",
        ),
    ],
)
def test_wrong_arguments_raise_when_the_layer_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (fn.depthwise_conv(3), (4, 3), r"depthwise_conv: input is float32\[4,3\], wanted \(batch, 1 to 3"),
        (fn.depthwise_conv((3, 3)), (1, 8, 3), r"depthwise_conv: window=\(3, 3\) and 1 spatial axes"),
        (fn.depthwise_conv(9, padding="VALID"), (1, 8, 3), r"depthwise_conv: .*window reaches over \(9,\)"),
        (fn.depthwise_conv(3), (1, 8, 0), "depthwise_conv: channels=0, wanted at least 1"),
        (fn.separable_conv(2, 3), (1, 8, 0), "separable_conv: channels=0, wanted at least 1"),
        (fn.separable_conv(2, 3), (4, 3), "separable_conv: input is .*wanted"),
        (fn.separable_conv(2, 9, padding="VALID"), (1, 8, 3), "separable_conv: .*window reaches over"),
        (fn.conv_transpose(2, 3), (4, 3), "conv_transpose: input is .*wanted"),
        (fn.conv_transpose(2, 3, groups=2), (1, 8, 3), "conv_transpose: .*channels that 2 groups divide"),
        (fn.conv_transpose(2, 3, strides=(1, 1)), (1, 8, 3), r"conv_transpose: strides=\(1, 1\) and 1"),
        (
            fn.conv_transpose(2, 3, padding=((1, 1),)),
            (1, 8, 8, 3),
            "conv_transpose: padding=.* and 2 spatial",
        ),
        (fn.conv_transpose(2, 3, padding=((2, 3),)), (1, 3, 3), "conv_transpose: .*to be left of the output"),
        (fn.conv_transpose(2, 3), (1, 0, 3), "conv_transpose: .*to be left of the output"),
    ],
)
def test_wrong_inputs_raise_before_anything_is_computed(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(fn.serial(layer, fn.identity).init, jax.random.key(0), zeros(shape))


@pytest.mark.parametrize("layer", [fn.depthwise_conv(3), fn.separable_conv(2, 3), fn.conv_transpose(2, 3)])
def test_params_of_another_input_raise(layer):
    params = params_for(layer, zeros((1, 8, 3)))
    for shape in ((1, 8, 2), (1, 8, 8, 3)):
        with pytest.raises(ValueError, match=r": .* and .*, wanted .* 1 spatial axes and 3 channels"):
            layer(params, zeros(shape))
