"""Initializers: variance and distribution, for dense and convolution shapes, against SciPy and jax.nn."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from fnnet import activations, initializers
from fnnet.initializers import (
    constant,
    fans,
    gain,
    glorot_normal,
    glorot_uniform,
    identity,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    orthogonal,
    sparse,
    truncated_normal,
    uniform,
    zeros,
)
from tests.arrays import array

Shape = tuple[int, ...]
Init = Callable[..., jax.Array]
jnn = jax.nn.initializers

DENSE: Shape = (300, 200)
CONV_2D: Shape = (3, 3, 32, 64)
CONV_1D: Shape = (5, 40, 60)
CONV_3D: Shape = (3, 2, 3, 24, 32)
# (fan_in, fan_out): the window times what goes in, the window times what comes out.
FANS = {DENSE: (300, 200), CONV_2D: (288, 576), CONV_1D: (200, 300), CONV_3D: (432, 576)}


class Case(NamedTuple):
    init: Init
    distribution: Callable[[int, int], Any]  # of an entry, from fan_in and fan_out: SciPy's
    twin: Init | None  # of jax.nn, where the distribution is the same


def symmetric(b: float) -> Any:
    return scipy.stats.uniform(-b, 2 * b)


def scaling(scale: float, mode: str, distribution: str) -> Init:
    return jnn.variance_scaling(scale, mode, distribution)


CASES = {
    "normal": Case(normal(), lambda i, o: scipy.stats.norm(0, 0.01), jnn.normal()),
    "normal(2)": Case(normal(2.0), lambda i, o: scipy.stats.norm(0, 2), jnn.normal(2.0)),
    "truncated_normal": Case(
        truncated_normal(), lambda i, o: scipy.stats.truncnorm(-2, 2, 0, 0.01), jnn.truncated_normal()
    ),
    "truncated_normal(2, -1, 3)": Case(
        truncated_normal(2.0, -1.0, 3.0),
        lambda i, o: scipy.stats.truncnorm(-1, 3, 0, 2),
        jnn.truncated_normal(2.0, lower=-1.0, upper=3.0),
    ),
    "uniform": Case(uniform(), lambda i, o: scipy.stats.uniform(0, 0.01), jnn.uniform()),
    "uniform(3, low=-1)": Case(uniform(3.0, low=-1.0), lambda i, o: scipy.stats.uniform(-1, 4), None),
    "glorot_uniform": Case(
        glorot_uniform(), lambda i, o: symmetric(math.sqrt(6 / (i + o))), jnn.glorot_uniform()
    ),
    "glorot_normal": Case(
        glorot_normal(),
        lambda i, o: scipy.stats.norm(0, math.sqrt(2 / (i + o))),
        scaling(1.0, "fan_avg", "normal"),
    ),
    "kaiming_uniform": Case(kaiming_uniform(), lambda i, o: symmetric(math.sqrt(6 / i)), jnn.he_uniform()),
    "kaiming_uniform(fan_out)": Case(
        kaiming_uniform(mode="fan_out"),
        lambda i, o: symmetric(math.sqrt(6 / o)),
        scaling(2.0, "fan_out", "uniform"),
    ),
    "kaiming_uniform(leaky_relu, 0.2)": Case(
        kaiming_uniform("leaky_relu", negative_slope=0.2),
        lambda i, o: symmetric(math.sqrt(6 / 1.04 / i)),
        scaling(2 / 1.04, "fan_in", "uniform"),
    ),
    "kaiming_normal": Case(
        kaiming_normal(), lambda i, o: scipy.stats.norm(0, math.sqrt(2 / i)), scaling(2.0, "fan_in", "normal")
    ),
    "kaiming_normal(fan_avg)": Case(
        kaiming_normal(mode="fan_avg"),
        lambda i, o: scipy.stats.norm(0, math.sqrt(4 / (i + o))),
        scaling(2.0, "fan_avg", "normal"),
    ),
    "kaiming_normal(tanh, fan_out)": Case(
        kaiming_normal("tanh", mode="fan_out"),
        lambda i, o: scipy.stats.norm(0, 5 / 3 / math.sqrt(o)),
        scaling(25 / 9, "fan_out", "normal"),
    ),
    "lecun_uniform": Case(lecun_uniform(), lambda i, o: symmetric(math.sqrt(3 / i)), jnn.lecun_uniform()),
    "lecun_normal": Case(
        lecun_normal(), lambda i, o: scipy.stats.norm(0, math.sqrt(1 / i)), scaling(1.0, "fan_in", "normal")
    ),
}
# What is no distribution of independent entries has tests of its own.
OTHERS: dict[str, Init] = {
    "zeros": zeros,
    "ones": ones,
    "constant": constant(0.5),
    "orthogonal": orthogonal(),
    "identity": identity(),
    "sparse": sparse(2),
}
EVERY = {**{name: case.init for name, case in CASES.items()}, **OTHERS}

FREE = ("zeros", "ones", "constant", "normal", "truncated_normal", "uniform")  # they need no fans

every_case = pytest.mark.parametrize("name", CASES)
every_initializer = pytest.mark.parametrize("name", EVERY)


def flat(w: jax.Array) -> np.ndarray:
    return np.asarray(w).astype(np.float64).ravel()


def test_every_public_function_is_in_a_table() -> None:
    public = {
        name
        for name, thing in vars(initializers).items()
        if not name.startswith("_")
        and callable(thing)
        and getattr(thing, "__module__", "") == initializers.__name__
    }
    assert public == {name.split("(")[0] for name in EVERY} | {"gain", "fans"}


@pytest.mark.parametrize(
    "name, shape",
    [(name, shape) for name in CASES for shape in FANS if name.split("(")[0] not in FREE or shape == DENSE],
)
def test_distribution(name: str, shape: Shape) -> None:
    truth = CASES[name].distribution(*FANS[shape])
    w = CASES[name].init(jax.random.key(7), shape)
    assert (w.shape, w.dtype) == (shape, jnp.float32)
    x = flat(w)
    # Five standard errors of the mean and of the variance, whose own variance is mu_4 - sigma^4.
    mean, variance, excess = (float(moment) for moment in truth.stats("mvk"))
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / x.size)
    assert abs(x.var() - variance) < 5 * variance * math.sqrt((excess + 2) / x.size)
    assert truth.support()[0] * (1 + 1e-6) <= x.min() <= x.max() <= truth.support()[1] * (1 + 1e-6)
    assert scipy.stats.kstest(x, truth.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.twin is not None])
@pytest.mark.parametrize("shape", [DENSE, CONV_2D])
def test_distribution_is_that_of_jax_nn(name: str, shape: Shape) -> None:
    twin = CASES[name].twin
    assert twin is not None
    ours = flat(CASES[name].init(jax.random.key(1), shape))
    theirs = flat(twin(jax.random.key(2), shape))
    np.testing.assert_allclose(ours.var(), theirs.var(), rtol=0.03)
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-4


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (glorot_normal(), jnn.glorot_normal()),
        (kaiming_normal(), jnn.he_normal()),
        (lecun_normal(), jnn.lecun_normal()),
    ],
)
@pytest.mark.parametrize("shape", [DENSE, CONV_2D])
def test_variance_is_that_of_jax_nn_where_it_truncates(ours: Init, theirs: Init, shape: Shape) -> None:
    got, want = flat(ours(jax.random.key(1), shape)), flat(theirs(jax.random.key(2), shape))
    np.testing.assert_allclose(got.var(), want.var(), rtol=0.03)


@every_case
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_has_the_same_distribution(name: str, dtype: Any) -> None:
    # Drawn in bfloat16 itself, a uniform number lies on a grid of 128 points, each rounded down: a mean of
    # 1.3% of a standard deviation below that of the distribution, where chance makes 0.3%.
    truth = CASES[name].distribution(*FANS[DENSE])
    x = CASES[name].init(jax.random.key(7), DENSE, dtype)
    assert x.dtype == dtype
    mean, variance, excess = (float(moment) for moment in truth.stats("mvk"))
    eps = float(ml_dtypes.finfo(dtype).eps)
    assert abs(flat(x).mean() - mean) < 3 * math.sqrt(variance / x.size)
    assert abs(flat(x).var() - variance) < variance * (5 * math.sqrt((excess + 2) / x.size) + 0.1 * eps)
    rounded_once = flat(CASES[name].init(jax.random.key(7), DENSE).astype(dtype))
    np.testing.assert_allclose(flat(x), rounded_once, rtol=2 * eps)


@pytest.mark.usefixtures("float64")
@every_initializer
def test_shape_and_dtype(name: str) -> None:
    init, key = EVERY[name], jax.random.key(0)
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        w = jax.eval_shape(partial(init, shape=(2, 3, 4), dtype=dtype), key)
        assert (w.shape, w.dtype) == ((2, 3, 4), dtype)
    w = jax.eval_shape(partial(init, shape=[3, 4]), key)
    assert (w.shape, w.dtype) == ((3, 4), jnp.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["normal", "uniform", "orthogonal"])
def test_float64_has_more_than_the_digits_of_float32(name: str) -> None:
    w = np.asarray(EVERY[name](jax.random.key(0), (4, 3), jnp.float64))
    assert w.dtype == np.float64
    assert (w != w.astype(np.float32)).mean() > 0.9


# All but these scale or shift a draw as glorot_uniform does.
@pytest.mark.parametrize("name", [*OTHERS, "normal", "glorot_uniform"])
def test_jit_and_vmap_over_keys(name: str) -> None:
    keys = jax.random.split(jax.random.key(5), 3)
    init = partial(EVERY[name], shape=(4, 3), dtype=jnp.float32)
    many = jax.jit(jax.vmap(init))(keys)
    np.testing.assert_allclose(many[0], init(keys[0]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(many[2], init(keys[2]), rtol=1e-5, atol=1e-6)
    if name not in ("zeros", "ones", "constant", "identity"):
        assert not np.array_equal(many[0], many[2])


def test_hyperparameters_may_be_tracers() -> None:
    key, scale = jax.random.key(0), array([1.0, 2.0])
    for make in (normal, uniform, constant, orthogonal, identity):
        w = jax.jit(jax.vmap(lambda s, make=make: make(s)(key, (3, 3))))(scale)
        np.testing.assert_allclose(w[1], 2 * w[0], rtol=1e-5)
    w = jax.jit(jax.vmap(lambda s: sparse(2, stddev=s)(key, (3, 3))))(scale)
    np.testing.assert_allclose(w[1], 2 * w[0], rtol=1e-5)


def test_constants() -> None:
    key = jax.random.key(0)
    np.testing.assert_array_equal(zeros(key, (2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(ones(key, (2, 3)), np.ones((2, 3)))
    np.testing.assert_array_equal(constant(-0.25)(key, (2, 3)), np.full((2, 3), -0.25))
    for init in (zeros, ones, constant(3), normal(), uniform(), truncated_normal()):
        assert init(key, ()).shape == ()  # no fan is asked for
        assert init(key, (5,)).shape == (5,)


@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (3, 3, 2, 16)])
def test_orthogonal(shape: Shape) -> None:
    w = flat(orthogonal(1.5)(jax.random.key(3), shape)).reshape(-1, shape[-1])
    rows, columns = w.shape
    product = w.T @ w if rows >= columns else w @ w.T
    np.testing.assert_allclose(product, 1.5**2 * np.eye(min(rows, columns)), atol=3e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_orthogonal_in_half_precision(dtype: Any) -> None:
    w = orthogonal()(jax.random.key(3), (40, 20), dtype)
    assert w.dtype == dtype
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(flat(w).reshape(40, 20).T @ flat(w).reshape(40, 20), np.eye(20), atol=eps)


def test_orthogonal_is_uniform_over_the_orthogonal_matrices() -> None:
    # Householder's signs alone would give every 2 by 2 matrix the determinant -1.
    draws = jax.jit(jax.vmap(lambda key: orthogonal()(key, (2, 2))))(
        jax.random.split(jax.random.key(0), 4000)
    )
    w = np.asarray(draws).astype(np.float64)
    turned = np.linalg.det(w) > 0
    assert abs(turned.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(w))
    for part in (turned, ~turned):
        angle = np.arctan2(w[part, 1, 0], w[part, 0, 0])
        assert scipy.stats.kstest(angle, scipy.stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-4


@pytest.mark.parametrize("window", [(4,), (3, 3), (1, 2), (3, 2, 4)])
@pytest.mark.parametrize("channels", [(2, 4), (4, 2)])
def test_identity_hands_the_input_through_a_convolution(window: Shape, channels: tuple[int, int]) -> None:
    inputs, outputs = channels
    x = np.random.default_rng(0).normal(size=(2, *(5 for _ in window), inputs)).astype(np.float32)
    layout = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
    w = identity(2.0)(jax.random.key(0), (*window, inputs, outputs))
    strides = (1,) * len(window)
    y = jax.lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=layout[len(window)])
    wanted = np.zeros((*x.shape[:-1], outputs), np.float32)
    wanted[..., : min(channels)] = 2 * x[..., : min(channels)]
    np.testing.assert_allclose(y, wanted, rtol=1e-6)


def test_identity_of_a_dense_layer() -> None:
    for shape in ((3, 3), (2, 4), (4, 2)):
        np.testing.assert_array_equal(identity(0.5)(jax.random.key(0), shape), 0.5 * np.eye(*shape))


@pytest.mark.parametrize(
    "shape, dtype",
    [
        ((100, 400), jnp.float16),
        ((100, 400), jnp.bfloat16),
        ((5, 5, 4, 400), jnp.float32),
    ],
)
def test_sparse_has_just_so_many_connections(shape: Shape, dtype: Any) -> None:
    # A normal number drawn in float16 would be 0 once in 2,000 times.
    w = sparse(7, stddev=3.0)(jax.random.key(2), shape, dtype)
    assert w.dtype == dtype
    matrix = flat(w).reshape(-1, shape[-1])
    np.testing.assert_array_equal((matrix != 0).sum(axis=0), np.full(shape[-1], 7))


def test_sparse_draws_values_and_places_at_random() -> None:
    w = flat(sparse(15, stddev=3.0)(jax.random.key(2), (50, 4000))).reshape(50, 4000)
    values = w[w != 0]
    assert scipy.stats.kstest(values, scipy.stats.norm(0, 3).cdf).pvalue > 1e-4
    # Each input is as likely as another, and so is each pair of inputs.
    connected = (w != 0).astype(float)
    share, standard_error = 15 / 50, math.sqrt(0.3 * 0.7 / 4000)
    assert abs(connected.mean(axis=1) - share).max() < 5 * standard_error
    pairs = (connected @ connected.T / 4000)[~np.eye(50, dtype=bool)]
    share = 15 / 50 * 14 / 49
    assert abs(pairs - share).max() < 5.5 * math.sqrt(share * (1 - share) / 4000)


def test_sparse_with_fewer_inputs_than_connections_is_dense() -> None:
    for connections in (4, 15):
        assert sparse(connections)(jax.random.key(0), (4, 3)).all()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_gain_keeps_the_second_moment(activation: str) -> None:
    # gain^2 E[f(z)^2] = 1 for z ~ N(0, 1): He et al. 2015, eq. 7 to 15.
    f = {
        "relu": lambda z: max(z, 0.0),
        "leaky_relu": lambda z: z if z > 0 else 0.3 * z,
        "identity": lambda z: z,
    }[activation]
    moment = scipy.integrate.quad(lambda z: f(z) ** 2 * scipy.stats.norm.pdf(z), -12, 12, points=[0])[0]
    np.testing.assert_allclose(gain(activation, negative_slope=0.3), 1 / math.sqrt(moment), rtol=1e-6)


def test_gains_of_pytorch() -> None:
    # torch.nn.init.calculate_gain, torch 2.9
    wanted = {"sigmoid": 1, "tanh": 1.6666666666666667, "selu": 0.75, "leaky_relu": 1.4141428569978354}
    assert {name: gain(name) for name in wanted} == pytest.approx(wanted, rel=1e-12)
    assert gain("hardlim") == gain("softmax") == 1


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_kaiming_keeps_a_signal_through_ten_layers(mode: str) -> None:
    # Forward by fan_in, backward by fan_out: relu halves what the gain of sqrt(2) doubles.
    keys = jax.random.split(jax.random.key(0), 10)
    w = np.stack([kaiming_normal(mode=mode)(key, (400, 400)) for key in keys])

    def network(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (activations.relu(x) @ w, None), x, w)[0]

    x = jax.random.normal(jax.random.key(1), (200, 400))
    y, pullback = jax.vjp(network, x)
    (slope,) = pullback(jax.random.normal(jax.random.key(2), y.shape))
    signal = y if mode == "fan_in" else slope
    assert 0.7 < float(signal.var()) < 1.4


@pytest.mark.parametrize("shape, wanted", FANS.items())
def test_fans(shape: Shape, wanted: tuple[int, int]) -> None:
    assert fans(shape) == wanted
    assert fans(list(shape)) == wanted


def test_shape_without_weights() -> None:
    for init in (glorot_uniform(), kaiming_normal(), orthogonal(), identity(), sparse(2)):
        assert init(jax.random.key(0), (0, 3)).shape == (0, 3)


@pytest.mark.parametrize("name", [name for name in EVERY if name.split("(")[0] not in FREE])
def test_shape_with_one_axis_raises(name: str) -> None:
    for shape in ((5,), ()):
        with pytest.raises(ValueError, match=r"shape \(.*\), wanted at least two axes, \(..., in, out\)"):
            EVERY[name](jax.random.key(0), shape)


def test_wrong_arguments_raise() -> None:
    with pytest.raises(
        ValueError, match="kaiming_uniform: mode='fan', wanted one of 'fan_in', 'fan_out', 'fan_avg'"
    ):
        kaiming_uniform(mode="fan")  # type: ignore[arg-type]
    for function in (gain, kaiming_normal, kaiming_uniform):
        with pytest.raises(
            ValueError, match=rf"{function.__name__}: activation='swish', wanted one of 'identity',"
        ):
            function("swish")
    with pytest.raises(ValueError, match="sparse: connections=0, wanted at least 1"):
        sparse(0)
    with pytest.raises(TypeError, match=r"sparse: connections=0\.5, wanted a positive int"):
        sparse(0.5)  # type: ignore[arg-type]
    for init in (normal(), truncated_normal(), uniform(), glorot_uniform(), orthogonal(), sparse(2)):
        with pytest.raises(TypeError, match="dtype int32, wanted floating point"):
            init(jax.random.key(0), (3, 4), jnp.int32)
