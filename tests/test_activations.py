"""Activations and their derivatives against SciPy in float64; in half precision, on all of its numbers."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.special
from jax.test_util import check_grads
from scipy.special import expit, ndtr

import fnnet as fn
from tests.arrays import array, ones

# Klambauer et al. 2017, in the digits of their appendix.
SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772


def phi(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.square(x) / 2) / np.sqrt(2 * np.pi)


def relu_like(x: np.ndarray, right: Any, left: Any) -> np.ndarray:
    return np.where(np.isnan(x), x, np.where(x > 0, right, left))


def two_u(x: np.ndarray) -> np.ndarray:
    """Twice the argument of tanh in GPT-2's gelu, clipped where its sigmoid is 0 or 1 in float64."""
    x = np.clip(x, -40, 40)
    return np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)


def tanh_gelu_slope(x: np.ndarray) -> np.ndarray:
    """The second term of the derivative: x sigmoid'(2 u) d(2 u)/dx."""
    v, x = two_u(x), np.clip(x, -40, 40)
    return x * expit(v) * expit(-v) * np.sqrt(8 / np.pi) * (1 + 3 * 0.044715 * x**2)


class Case(NamedTuple):
    """What an activation must be, for NumPy arrays of float64."""

    f: Callable[..., jax.Array]
    value: Callable[[np.ndarray], Any]
    derivative: Callable[[np.ndarray], Any]
    at_infinity: tuple[float, float, float, float]  # value at -inf and inf, derivative at -inf and inf
    # What a rounding of the argument or a difference of terms adds to the errors in float32, in eps. erfc and
    # exp of a rounded argument z are wrong by z^2 eps and z eps: no formula that rounds z does better.
    value_error: Callable[[np.ndarray], Any] = lambda x: 0.0
    derivative_error: Callable[[np.ndarray], Any] = lambda x: 0.0
    half_units: float = 0.51  # of eps, in half precision: one rounding
    kink: bool = False  # at 0, where finite differences do not apply


CASES = {
    "identity": Case(fn.identity, lambda x: x, np.ones_like, (-np.inf, np.inf, 1, 1)),
    "hardlim": Case(fn.hardlim, lambda x: np.heaviside(x, 1), np.zeros_like, (0, 1, 0, 0), kink=True),
    "hardlims": Case(
        fn.hardlims, lambda x: 2 * np.heaviside(x, 1) - 1, np.zeros_like, (-1, 1, 0, 0), kink=True
    ),
    "sigmoid": Case(fn.sigmoid, expit, lambda x: expit(x) * expit(-x), (0, 1, 0, 0)),
    "tanh": Case(fn.tanh, np.tanh, lambda x: 4 * expit(2 * x) * expit(-2 * x), (-1, 1, 0, 0)),
    "bipolar_sigmoid": Case(
        fn.bipolar_sigmoid,
        lambda x: np.tanh(x / 2),
        lambda x: 2 * expit(x) * expit(-x),
        (-1, 1, 0, 0),
        half_units=1,  # the derivative of x / 2 is a second factor
    ),
    "softsign": Case(
        fn.softsign,
        lambda x: x / (1 + np.abs(x)),
        lambda x: (1 + np.abs(x)) ** -2,
        (-1, 1, 0, 0),
        kink=True,  # of the derivative
    ),
    "softplus": Case(fn.softplus, lambda x: np.logaddexp(0, x), expit, (0, np.inf, 0, 1)),
    "relu": Case(
        fn.relu, lambda x: relu_like(x, x, 0), lambda x: relu_like(x, 1, 0), (0, np.inf, 0, 1), kink=True
    ),
    "leaky_relu": Case(
        fn.leaky_relu,
        lambda x: relu_like(x, x, 0.01 * x),
        lambda x: relu_like(x, 1, 0.01),
        (-np.inf, np.inf, 0.01, 1),
        half_units=1,  # the slope is rounded, too
        kink=True,
    ),
    "leaky_relu(0.25)": Case(
        partial(fn.leaky_relu, negative_slope=0.25),
        lambda x: relu_like(x, x, 0.25 * x),
        lambda x: relu_like(x, 1, 0.25),
        (-np.inf, np.inf, 0.25, 1),
        kink=True,
    ),
    "elu": Case(
        fn.elu,
        lambda x: relu_like(x, x, np.expm1(np.minimum(x, 0))),
        lambda x: relu_like(x, 1, np.exp(np.minimum(x, 0))),
        (-1, np.inf, 0, 1),
        kink=True,
    ),
    "elu(2)": Case(
        partial(fn.elu, alpha=2.0),
        lambda x: relu_like(x, x, 2 * np.expm1(np.minimum(x, 0))),
        lambda x: relu_like(x, 1, 2 * np.exp(np.minimum(x, 0))),
        (-2, np.inf, 0, 1),
        half_units=1,
        kink=True,
    ),
    "selu": Case(
        fn.selu,
        lambda x: SCALE * relu_like(x, x, ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: SCALE * relu_like(x, 1, ALPHA * np.exp(np.minimum(x, 0))),
        (-SCALE * ALPHA, np.inf, 0, SCALE),
        half_units=2,  # two constants and two products
        kink=True,
    ),
    "gelu": Case(
        fn.gelu,
        lambda x: x * ndtr(x),
        lambda x: ndtr(x) + x * phi(x),
        (0, np.inf, 0, 1),
        value_error=lambda x: x**2 * np.abs(x * ndtr(x)),
        derivative_error=lambda x: (1 + x**2) * (ndtr(x) + np.abs(x * phi(x))) * (x < 0),
    ),
    "gelu(tanh)": Case(
        partial(fn.gelu, approximate=True),
        lambda x: x * expit(two_u(x)),
        lambda x: expit(two_u(x)) + tanh_gelu_slope(x),
        (0, np.inf, 0, 1),
        value_error=lambda x: np.abs(two_u(x) * x * expit(two_u(x))) * (x < 0),
        derivative_error=lambda x: (1 + np.abs(two_u(x))) * (expit(two_u(x)) + np.abs(tanh_gelu_slope(x))),
    ),
    "silu": Case(
        fn.silu,
        lambda x: x * expit(x),
        lambda x: expit(x) * (1 + x * expit(-x)),
        (0, np.inf, 0, 1),
        derivative_error=lambda x: expit(x) + np.abs(x * expit(x) * expit(-x)),
    ),
}
VECTOR = {
    "softmax": (fn.softmax, scipy.special.softmax, jax.nn.softmax),
    "log_softmax": (fn.log_softmax, scipy.special.log_softmax, jax.nn.log_softmax),
}

every_case = pytest.mark.parametrize("name", CASES)
every_vector = pytest.mark.parametrize("name", VECTOR)


def public(module: ModuleType) -> set[str]:
    return {
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and callable(thing) and thing.__module__ == module.__name__
    }


def value_and_derivative(f: Callable[..., jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y, pullback = jax.vjp(f, x)
    return y, pullback(jnp.ones_like(y))[0]


def assert_within(got: Any, want: np.ndarray, bound: np.ndarray, x: np.ndarray, largest: float) -> None:
    """|got - want| <= bound; where the truth comes within its bound of overflow, infinity is right, too."""
    got = np.asarray(got).astype(np.float64)
    near = np.abs(got - want) <= bound
    overflow = (np.abs(want) + bound >= largest) & np.isinf(got) & (np.sign(got) == np.sign(want))
    wrong = ~(near | overflow)
    assert not wrong.any(), (
        f"{wrong.sum()} of {x.size} wrong, at x = {x[wrong][:4]}: got {got[wrong][:4]}, wanted "
        f"{want[wrong][:4]}"
    )


def assert_right(case: Case, x_given: np.ndarray, units: float, floor: float, terms: bool) -> None:
    """Value and derivative within `units` eps and `floor` of the truth, and the limits at infinity."""
    info, x = ml_dtypes.finfo(x_given.dtype), x_given.astype(np.float64)
    assert {float(info.max), float(info.min), 0.0} <= set(x)
    assert np.signbit(x[x == 0]).any()
    everything = np.concatenate([x_given, np.array([-np.inf, np.inf, np.nan], x_given.dtype)])
    y, slope = jax.jit(partial(value_and_derivative, case.f))(jnp.asarray(everything))
    assert y.dtype == slope.dtype == x_given.dtype
    for got, f, error in ((y, case.value, case.value_error), (slope, case.derivative, case.derivative_error)):
        want, got64 = np.asarray(f(x), np.float64), np.asarray(got[:-3]).astype(np.float64)
        if x_given.dtype != np.float16:
            # XLA on a CPU takes the subnormal numbers of float32, which are bfloat16's, for 0.
            zero = np.asarray(f(np.where(np.abs(x) < float(info.tiny), 0.0, x)), np.float64)
            want = np.where(np.abs(got64 - zero) < np.abs(got64 - want), zero, want)
        bound = units * float(info.eps) * (np.abs(want) + terms * error(x)) + floor
        assert_within(got64, want, bound, x, float(info.max))
    limits = np.concatenate([y[-3:-1], slope[-3:-1]]).astype(np.float64)
    np.testing.assert_allclose(limits, case.at_infinity, rtol=2 * float(info.eps))
    assert np.isnan(y[-1])


def test_every_public_function_is_in_a_table() -> None:
    assert public(fn.activations) == {name.split("(")[0] for name in CASES} | set(VECTOR)
    assert all(getattr(fn, name) is getattr(fn.activations, name) for name in public(fn.activations))


@every_case
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_on_every_number_of_the_type(name: str, dtype: Any) -> None:
    bits, largest = np.arange(2**16, dtype=np.uint16), np.array(ml_dtypes.finfo(dtype).max, dtype)
    finite = bits[(bits & 0x7FFF) <= largest.view(np.uint16)].view(dtype)
    assert finite.size > 60_000  # of 65,536
    # Float16 is rounded among its subnormal numbers, too. What is lost of bfloat16's may have been multiplied
    # by x and a slope.
    units = CASES[name].half_units
    floor = units * float(ml_dtypes.finfo(dtype).smallest_subnormal) if dtype == jnp.float16 else 1e-35
    assert_right(CASES[name], finite, units, floor, terms=False)


@every_case
def test_float32_far_out_and_near_0(name: str) -> None:
    magnitudes = [np.logspace(-44, 38.5, 2000), np.linspace(0, 120, 3001), [np.finfo(np.float32).max]]
    x = np.concatenate([*magnitudes, *(-np.asarray(m) for m in magnitudes)]).astype(np.float32)
    assert_right(CASES[name], x, units=3, floor=1e-35, terms=True)


def test_derivative_at_0() -> None:
    wanted = {
        "identity": 1,
        "hardlim": 0,
        "hardlims": 0,
        "sigmoid": 0.25,
        "tanh": 1,
        "bipolar_sigmoid": 0.5,
        "softsign": 1,
        "softplus": 0.5,
        "relu": 0,
        "leaky_relu": 0.01,
        "leaky_relu(0.25)": 0.25,
        "elu": 1,
        "elu(2)": 2,
        "selu": SCALE * ALPHA,
        "gelu": 0.5,
        "gelu(tanh)": 0.5,
        "silu": 0.5,
    }
    forward = jax.jit(lambda x: {name: jax.jvp(case.f, (x,), (1.0,))[1] for name, case in CASES.items()})
    reverse = jax.jit(lambda x: {name: jax.grad(case.f)(x) for name, case in CASES.items()})
    for derivatives in (forward, reverse):
        for zero in (0.0, -0.0):
            assert derivatives(zero) == pytest.approx(wanted, rel=1e-6)


def test_third_derivative_at_0() -> None:
    wanted = {
        "sigmoid": -1 / 8,
        "tanh": -2,
        "bipolar_sigmoid": -1 / 4,
        "softplus": 0,
        "silu": 0,
        "gelu": 0,
        "gelu(tanh)": 0,
    }
    third = jax.jit(lambda x: {name: jax.grad(jax.grad(jax.grad(CASES[name].f)))(x) for name in wanted})
    assert third(0.0) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.usefixtures("float64")
@every_case
def test_derivatives_in_every_mode_are_those_of_central_finite_differences(name: str) -> None:
    case, h = CASES[name], 1e-5
    x = np.concatenate([np.linspace(-30, 30, 241), [-1.2784645, -0.7517916, 1e-3, -1e-3]])
    x = x[np.abs(x) > 1e-4] if case.kink else x
    forward, reverse = jax.jacfwd, jax.jacrev
    modes = [(forward, forward), (forward, reverse), (reverse, forward), (reverse, reverse)]

    @jax.jit
    def derivatives(x: jax.Array) -> Any:
        second = [jax.vmap(outer(inner(case.f)))(x) for outer, inner in modes]
        return case.f(x), [jax.vmap(mode(case.f))(x) for mode in (forward, reverse)], second

    here, above, below = (derivatives(x + step) for step in (0, h, -h))
    assert {leaf.dtype for leaf in jax.tree.leaves(here)} == {np.dtype(np.float64)}
    np.testing.assert_allclose(here[0], case.value(x), atol=1e-14, rtol=1e-12)
    for slope in here[1]:
        np.testing.assert_allclose(slope, case.derivative(x), atol=1e-14, rtol=1e-12)
        np.testing.assert_allclose(slope, (above[0] - below[0]) / (2 * h), atol=2e-9, rtol=2e-9)
    for second in here[2]:
        np.testing.assert_allclose(second, (above[1][0] - below[1][0]) / (2 * h), atol=2e-9, rtol=2e-9)


@every_case
def test_second_derivative_is_0_at_the_largest_numbers(name: str) -> None:
    largest = float(np.finfo(np.float32).max)
    x = array([-largest, -1e30, -1e19, -1e3, 1e3, 1e19, 1e30, largest])
    second = jax.jit(jax.vmap(jax.grad(jax.grad(CASES[name].f))))(x)
    np.testing.assert_allclose(second, np.zeros_like(x), atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("f", [fn.leaky_relu, fn.elu])
def test_parameter_of_the_left_half_has_a_derivative(f: Callable[..., jax.Array]) -> None:
    x = array(np.linspace(-3, 3, 13))
    check_grads(jax.jit(lambda a: f(x, a)), (0.3,), order=2, modes=("fwd", "rev"))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [*CASES, *VECTOR])
def test_shape_and_dtype_are_kept_and_known_without_computing(name: str) -> None:
    f = CASES[name].f if name in CASES else VECTOR[name][0]
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        x = jax.ShapeDtypeStruct((2, 3), dtype)
        y, slope = jax.eval_shape(partial(value_and_derivative, f), x)
        assert (y.shape, y.dtype) == (slope.shape, slope.dtype) == ((2, 3), dtype)
        assert not y.weak_type
    assert jax.eval_shape(f, jax.ShapeDtypeStruct((0, 3), jnp.float32)).shape == (0, 3)


@every_case
def test_plain_jit_and_vmap_agree_and_numpy_numbers_and_integers_are_accepted(name: str) -> None:
    case, x = CASES[name], np.array([-2.0, 0.0, 3.0])
    value, derivative = case.value(x), case.derivative(x)
    for given in (x, x.astype(np.float32), x.astype(np.int32)):
        np.testing.assert_allclose(case.f(given), value, rtol=1e-6)
    np.testing.assert_allclose(value_and_derivative(case.f, jnp.asarray(x)), [value, derivative], rtol=1e-6)
    mapped = jax.jit(jax.vmap(partial(value_and_derivative, case.f)))(x)
    np.testing.assert_allclose(mapped, [value, derivative], rtol=1e-6)
    np.testing.assert_allclose(case.f(-2.0), value[0], rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(case.f, (-2.0,), (3.0,))[1], 3 * derivative[0], rtol=1e-6)


@pytest.mark.parametrize(
    "name, twin",
    [
        *[("sigmoid", jax.nn.sigmoid), ("tanh", jnp.tanh), ("softsign", jax.nn.soft_sign)],
        *[("softplus", jax.nn.softplus), ("relu", jax.nn.relu), ("leaky_relu", jax.nn.leaky_relu)],
        *[("elu", jax.nn.elu), ("selu", jax.nn.selu), ("silu", jax.nn.silu)],
        *[("gelu", partial(jax.nn.gelu, approximate=False)), ("gelu(tanh)", jax.nn.gelu)],
    ],
)
def test_agrees_with_jax_nn(name: str, twin: Callable[[jax.Array], jax.Array]) -> None:
    x = array(np.linspace(-6, 6, 48))
    got, want = (jax.jit(partial(value_and_derivative, f))(x) for f in (CASES[name].f, twin))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=5e-6)  # JAX's gelu cancels far to the left


@pytest.mark.slow
@every_vector
@hypothesis.settings(max_examples=4)
@hypothesis.given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data())
def test_softmax_of_any_shape_and_axis(name: str, shape: list[int], data: Any) -> None:
    f, truth, twin = VECTOR[name]
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = np.random.default_rng(sum(shape)).normal(0, 5, shape).astype(np.float32)
    got = f(x, axis)
    np.testing.assert_allclose(got, truth(x.astype(np.float64), axis=axis), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(got, twin(x, axis=axis), rtol=2e-6, atol=1e-6)


@every_vector
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_softmax_rounds_once(name: str, dtype: Any) -> None:
    # 5,000 terms: a sum in bfloat16 would stop growing at 256.
    f, truth, _ = VECTOR[name]
    x = array(np.random.default_rng(0).normal(0, 4, (3, 5000)), dtype)
    want = truth(np.asarray(x).astype(np.float64), axis=-1)
    info = ml_dtypes.finfo(dtype)
    tolerance = 0.51 if dtype != jnp.float32 else 20
    bound = tolerance * float(info.eps) * np.abs(want) + 0.51 * float(info.smallest_subnormal)
    for got in (f(x), jax.jit(f)(x)):
        assert got.dtype == dtype
        assert_within(got, want, bound, np.asarray(x).astype(np.float64), float(info.max))


@every_vector
def test_softmax_at_extreme_logits(name: str) -> None:
    f, truth, _ = VECTOR[name]
    x = np.array([[1e30, 1e30, -1e30], [-1e30, -1e30, -1e30], [88.0, -88.0, 0.0], [-np.inf, 0.0, 1.0]])
    with np.errstate(divide="ignore"):  # log 0
        want = truth(x, axis=-1)
    got = f(array(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-37)
    # Adding a number to all changes nothing.
    np.testing.assert_allclose(f(array([3.0, 5.0]) + 1024), f(array([3.0, 5.0])), rtol=1e-6)
    half = f(array([65504, 65504, -65504], jnp.float16))
    np.testing.assert_allclose(half, truth(np.array([0.0, 0.0, -np.inf])), rtol=1e-3)


@every_vector
def test_softmax_gradient_where_logits_are_extreme_or_infinite(name: str) -> None:
    x = array([[-jnp.inf, 0.0, 1.0], [1e30, 0.0, -1e30], [0.0, 0.0, 0.0]])
    row = jax.nn.one_hot(array([2, 0, 1]), 3)
    got = jax.grad(lambda x: jnp.sum(VECTOR[name][0](x) * jnp.where(row == 1, 1, 0), where=row == 1))(x)
    p = scipy.special.softmax(np.asarray(x).astype(np.float64), axis=-1)
    want = (
        np.asarray(row) - p if name == "log_softmax" else (p * np.asarray(row)).sum(-1)[:, None] * (row - p)
    )
    np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.usefixtures("float64")
@every_vector
def test_softmax_derivatives_are_those_of_finite_differences(name: str) -> None:
    f, x = VECTOR[name][0], array(np.random.default_rng(1).normal(0, 3, (2, 3)))
    check_grads(jax.jit(partial(f, axis=0)), (x,), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@every_vector
def test_softmax_without_a_limit_is_nan(name: str) -> None:
    f = VECTOR[name][0]
    assert np.isnan(f(array(np.full(3, -jnp.inf)))).all()
    assert np.isnan(f(array([jnp.nan, 0.0]))).all()
    rows = f(array([[jnp.nan, 0.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(np.isnan(rows), [[True, True], [False, False]])


@every_vector
def test_softmax_takes_arrays_of_numpy_and_integers_and_refuses_a_missing_axis(name: str) -> None:
    f, truth, _ = VECTOR[name]
    for x in ([1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0]), jnp.array([1, 2, 3]), np.array([1, 2, 3])):
        got = f(x)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, truth([1.0, 2.0, 3.0]), rtol=1e-6)
    for x, axis in ((ones(3), 1), (ones((2, 3)), -3), (ones(()), -1)):
        with pytest.raises(ValueError, match=rf"softmax: axis={axis}, wanted in"):
            f(x, axis)


@every_vector
def test_softmax_under_vmap_and_jit(name: str) -> None:
    f, x = VECTOR[name][0], array(np.random.default_rng(2).normal(0, 3, (4, 5)), jnp.float32)
    np.testing.assert_allclose(jax.vmap(f)(x), f(x), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(f)(x), f(x), rtol=1e-6)
    np.testing.assert_allclose(np.stack([f(row) for row in x]), f(x), rtol=1e-6)
