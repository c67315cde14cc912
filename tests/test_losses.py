"""Losses and penalties against SciPy, scikit-learn and optax, at extreme logits, and their gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import sklearn.metrics

from fnnet import losses

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], np.ndarray]


def real(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return random.normal(0, 2, shape)


def probabilities(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return random.uniform(0, 1, shape)


def bits(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return random.uniform(0, 1, shape) < 0.5


def signs(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return random.choice([-1, 1], shape)


def labels(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return random.integers(0, shape[-1], shape[:-1])


def distributions(random: np.random.Generator, shape: Shape) -> np.ndarray:
    t = random.uniform(0, 1, shape)
    t[..., 0] = 0 if shape[-1] > 1 else 1
    return t / t.sum(-1, keepdims=True)


def logarithms(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return scipy.special.log_softmax(random.normal(0, 2, shape), axis=-1)


def entropy(log_p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """-sum_k t_k log p_k over the last axis, for a distribution or a label t."""
    if t.shape != log_p.shape:
        t = t[..., None] == np.arange(log_p.shape[-1])
    return -np.sum(t * log_p, axis=-1)


def optax_cross_entropy(z: jax.Array, t: jax.Array) -> jax.Array:
    integer = jnp.issubdtype(t.dtype, jnp.integer)
    f = optax.softmax_cross_entropy_with_integer_labels if integer else optax.softmax_cross_entropy
    return f(z, t)


class Case(NamedTuple):
    loss: Callable[..., jax.Array]
    truth: Callable[..., np.ndarray]  # in float64, one value for every pixel or word
    twin: Callable[..., jax.Array] | None  # optax's
    prediction: Draw
    target: Draw


CASES = {
    "mean_squared_error": Case(
        losses.mean_squared_error, lambda y, t: (y - t) ** 2, optax.squared_error, real, real
    ),
    "mean_absolute_error": Case(losses.mean_absolute_error, lambda y, t: np.abs(y - t), None, real, real),
    "huber": Case(losses.huber, lambda y, t: scipy.special.huber(1, y - t), optax.huber_loss, real, real),
    "huber(0.3)": Case(
        partial(losses.huber, delta=0.3),
        lambda y, t: scipy.special.huber(0.3, y - t),
        partial(optax.huber_loss, delta=0.3),
        real,
        real,
    ),
    "binary_cross_entropy(bits)": Case(
        losses.binary_cross_entropy,
        lambda z, t: np.where(t, -scipy.special.log_expit(z), -scipy.special.log_expit(-z)),
        optax.sigmoid_binary_cross_entropy,
        real,
        bits,
    ),
    "binary_cross_entropy": Case(
        losses.binary_cross_entropy,
        lambda z, t: -t * scipy.special.log_expit(z) - (1 - t) * scipy.special.log_expit(-z),
        optax.sigmoid_binary_cross_entropy,
        real,
        probabilities,
    ),
    "softmax_cross_entropy": Case(
        losses.softmax_cross_entropy,
        lambda z, t: entropy(scipy.special.log_softmax(z, axis=-1), t),
        optax_cross_entropy,
        real,
        labels,
    ),
    "softmax_cross_entropy(distribution)": Case(
        losses.softmax_cross_entropy,
        lambda z, t: entropy(scipy.special.log_softmax(z, axis=-1), t),
        optax_cross_entropy,
        real,
        distributions,
    ),
    "nll": Case(losses.nll, entropy, None, logarithms, labels),
    "nll(distribution)": Case(losses.nll, entropy, None, logarithms, distributions),
    "hinge": Case(losses.hinge, lambda y, t: np.maximum(0, 1 - t * y), optax.hinge_loss, real, signs),
}
PENALTIES = {"l1": (losses.l1, np.abs), "l2": (losses.l2, np.square)}
CLASSES = [name for name, case in CASES.items() if case.target in (labels, distributions)]
ALIKE = [name for name in CASES if name not in CLASSES]

every_case = pytest.mark.parametrize("name", CASES)
every_penalty = pytest.mark.parametrize("name", PENALTIES)


def draw(name: str, shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and target in float64, or the dtype of labels; `shape` is that of the prediction."""
    random = np.random.default_rng(seed)
    return CASES[name].prediction(random, shape), CASES[name].target(random, shape)


def single(x: np.ndarray) -> jax.Array:
    """As JAX would have it: float32, int32 or bool."""
    return jnp.asarray(x)


def mean_of_example(x: np.ndarray) -> np.ndarray:
    return np.mean(x.reshape(len(x), -1), axis=1)


def gradient(loss: Callable[..., jax.Array], y: Any, t: Any) -> jax.Array:
    """Of the sum over the batch."""
    return jax.jit(jax.grad(lambda y: loss(y, t).sum()))(jnp.asarray(y))


def test_every_public_function_is_in_a_table() -> None:
    public = {
        name
        for name, thing in vars(losses).items()
        if not name.startswith("_") and callable(thing) and thing.__module__ == losses.__name__
    }
    assert public == {name.split("(")[0] for name in CASES} | set(PENALTIES) | {"class_weighted"}


def test_class_weights_are_scikit_learns_sample_weights() -> None:
    random = np.random.default_rng(0)
    scores, labels, weights = random.normal(size=(9, 3)), random.integers(0, 3, 9), np.array([0.5, 0.0, 3.0])
    weighted = losses.class_weighted(losses.softmax_cross_entropy, weights)
    got = weighted(jnp.asarray(scores, jnp.float32), jnp.asarray(labels))
    of_each = weights[labels]
    want = sklearn.metrics.log_loss(
        labels, scipy.special.softmax(scores, axis=1), sample_weight=of_each, labels=[0, 1, 2]
    )
    np.testing.assert_allclose(got.sum() / of_each.sum(), want, rtol=1e-5)
    # A distribution has the mean weight of its classes; a label out of range none.
    spread = np.tile([0.25, 0.5, 0.25], (9, 1)).astype(np.float32)
    plain = losses.softmax_cross_entropy(jnp.asarray(scores, jnp.float32), jnp.asarray(spread))
    np.testing.assert_allclose(weighted(jnp.asarray(scores, jnp.float32), spread), plain * 0.875, rtol=1e-6)
    assert np.isnan(weighted(jnp.zeros((1, 3)), jnp.array([3])))
    with pytest.raises(
        ValueError, match=r"target is float32\[2,2\], wanted labels \(batch,\) or distributions"
    ):
        losses.class_weighted(lambda y, t: jnp.zeros(2), weights)(jnp.zeros((2, 2)), jnp.zeros((2, 2)))
    for bad in ([], [[1.0]], [-1.0, 2.0], [np.nan]):
        with pytest.raises(ValueError, match=r"class_weighted: weights=.*, wanted a vector of numbers"):
            losses.class_weighted(losses.softmax_cross_entropy, bad)


@every_case
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 2, 4)])
def test_is_the_mean_over_all_axes_but_the_batch(name: str, shape: Shape) -> None:
    case = CASES[name]
    y, t = draw(name, shape)
    got = jax.jit(case.loss)(single(y), single(t))
    assert (got.shape, got.dtype) == (shape[:1], jnp.float32)
    np.testing.assert_allclose(got, mean_of_example(case.truth(y, t)), rtol=2e-6)
    if case.twin is not None:
        twin = np.asarray(jax.jit(case.twin)(single(y), single(t)))
        np.testing.assert_allclose(got, mean_of_example(twin), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALIKE)
def test_one_number_an_example(name: str) -> None:
    y, t = draw(name, (6,))
    np.testing.assert_allclose(CASES[name].loss(single(y), single(t)), CASES[name].truth(y, t), rtol=2e-6)


@hypothesis.settings(max_examples=6)
@hypothesis.given(
    name=st.sampled_from(sorted(CASES)),
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_shapes(name: str, shape: list[int], seed: int) -> None:
    y, t = draw(name, tuple(shape), seed)
    wanted = mean_of_example(CASES[name].truth(y, t))
    np.testing.assert_allclose(CASES[name].loss(single(y), single(t)), wanted, rtol=1e-5, atol=1e-6)


@every_case
def test_jit_vmap_numpy_and_lists_change_nothing(name: str) -> None:
    loss, (y, t) = CASES[name].loss, draw(name, (4, 3))
    want = loss(single(y), single(t))
    np.testing.assert_allclose(loss(y, t), want, rtol=1e-6)
    np.testing.assert_allclose(loss(y.tolist(), t.tolist()), want, rtol=1e-6)
    # A batch of batches of one example. (Compiled without vmap, it is compared with the truth above.)
    by_example = jax.jit(jax.vmap(loss))(single(y)[:, None], single(t)[:, None])
    np.testing.assert_allclose(by_example, want[:, None], rtol=1e-6, atol=1e-7)


@every_case
def test_half_precision_is_computed_in_float32(name: str) -> None:
    y, t = draw(name, (3, 40))
    dtypes = (jnp.float16, jnp.bfloat16)
    rounded = [jnp.asarray(y, dtype) for dtype in dtypes]
    wide = [y.astype(jnp.float32) for y in rounded]
    both = jax.jit(lambda ys: [(CASES[name].loss(y, t), gradient(CASES[name].loss, y, t)) for y in ys])
    results = both([*rounded, *wide])
    for y_half, (got, slope), (_, want_slope) in zip(rounded, results[:2], results[2:], strict=True):
        want = mean_of_example(CASES[name].truth(np.asarray(y_half).astype(np.float64), t))
        assert (got.dtype, slope.dtype) == (jnp.float32, y_half.dtype)
        np.testing.assert_allclose(got, want, rtol=2e-5)
        eps = float(jnp.finfo(y_half.dtype).eps)
        np.testing.assert_allclose(slope.astype(jnp.float32), want_slope, rtol=eps, atol=1e-7)


@pytest.mark.usefixtures("float64")
@every_case
def test_shapes_and_dtypes_are_known_without_computing(name: str) -> None:
    y, t = draw(name, (2, 3))
    wanted = {jnp.bfloat16: jnp.float32, jnp.float32: jnp.float32, jnp.float64: jnp.float64}
    for given, result in wanted.items():
        y_shape, t_shape = jax.ShapeDtypeStruct(y.shape, given), jax.ShapeDtypeStruct(t.shape, t.dtype)
        if jnp.issubdtype(t.dtype, jnp.floating):
            t_shape = jax.ShapeDtypeStruct(t.shape, given)
        out = jax.eval_shape(CASES[name].loss, y_shape, t_shape)
        assert (out.shape, out.dtype) == ((2,), result)
        slope = jax.eval_shape(jax.grad(lambda y, t: CASES[name].loss(y, t).sum()), y_shape, t_shape)
        assert (slope.shape, slope.dtype) == ((2, 3), given)


def derivatives(f: Callable[[jax.Array], jax.Array], x: Any) -> list[tuple[jax.Array, np.ndarray]]:
    """Gradient and Hessian of a scalar f, each beside what central finite differences give."""
    x, h = np.asarray(x), 1e-5
    steps = h * np.eye(x.size).reshape(-1, *x.shape)
    points = np.concatenate([x[None], x + steps, x - steps])
    value, slope, curvature = jax.jit(jax.vmap(lambda x: (f(x), jax.grad(f)(x), jax.hessian(f)(x))))(points)

    def difference(y: jax.Array) -> np.ndarray:
        above, below = np.split(np.asarray(y)[1:], 2)
        return np.moveaxis((above - below) / (2 * h), 0, -1).reshape((*y.shape[1:], *x.shape))

    return [(slope[0], difference(value)), (curvature[0], difference(slope))]


@pytest.mark.usefixtures("float64")
@every_case
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    case, (y, t) = CASES[name], draw(name, (2, 3))
    for got, want in derivatives(lambda y: case.loss(y, t).sum(), y):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)
    # The result itself, to float64's precision: no constant is float32's.
    np.testing.assert_allclose(jax.jit(case.loss)(y, t), mean_of_example(case.truth(y, t)), rtol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].target not in (bits, labels, signs)])
def test_derivatives_for_the_target_are_those_of_finite_differences(name: str) -> None:
    y, t = draw(name, (2, 3))  # distributions hold a 0
    for got, want in derivatives(lambda t: CASES[name].loss(y, t).sum(), t):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


@every_case
def test_an_empty_batch_has_no_losses(name: str) -> None:
    y, t = draw(name, (3, 2))
    got = CASES[name].loss(single(y)[:0], single(t)[:0])
    assert (got.shape, got.dtype) == ((0,), jnp.float32)


@every_case
def test_nan_in_a_prediction_is_nan_in_its_example_alone(name: str) -> None:
    y, t = draw(name, (3, 4))
    y[1, ...] = np.nan
    got = jax.jit(CASES[name].loss)(single(y), single(t))
    np.testing.assert_array_equal(np.isnan(got), [False, True, False])


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("y_shape, t_shape", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 3), (3,)), ((4,), ())])
def test_shapes_that_would_broadcast_raise(name: str, y_shape: Shape, t_shape: Shape) -> None:
    got = r"prediction is float32\[.*\] and target float32\[.*\], wanted one shape"
    with pytest.raises(ValueError, match=name.split("(")[0] + ": " + got):
        CASES[name].loss(jnp.zeros(y_shape), jnp.zeros(t_shape))


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "nll"])
@pytest.mark.parametrize(
    "y, t, wanted",
    [
        (
            jnp.zeros((4, 3)),
            jnp.zeros((4, 3), int),
            r"target int32\[4,3\], wanted integer labels of shape \(4,\)",
        ),
        (jnp.zeros((4, 3)), jnp.zeros(3, int), r"wanted integer labels of shape \(4,\)"),
        (jnp.zeros((4, 5, 3)), jnp.zeros(4, int), r"wanted integer labels of shape \(4, 5\)"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 1)), r"wanted a distribution of shape \(4, 3\)"),
        (
            jnp.zeros((4, 3)),
            jnp.zeros(4),
            r"prediction is float32\[4,3\] and target float32\[4\], wanted a dist",
        ),
        (
            jnp.zeros(()),
            jnp.zeros((), int),
            r"prediction is float32\[\], wanted shape \(batch, ..., classes\)",
        ),
    ],
)
def test_targets_that_do_not_fit_raise(name: str, y: jax.Array, t: jax.Array, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .*{wanted}"):
        CASES[name].loss(y, t)
    with pytest.raises(ValueError, match=wanted):
        jax.eval_shape(CASES[name].loss, y, t)


def test_targets_of_a_wrong_kind_raise() -> None:
    for name in ("softmax_cross_entropy", "nll"):
        with pytest.raises(
            TypeError, match=r"target bool\[2\], wanted integer labels or a floating-point dist"
        ):
            CASES[name].loss(jnp.zeros((2, 3)), jnp.array([True, False]))
    with pytest.raises(TypeError, match=r"hinge: target is bool\[2\], wanted numbers -1 or 1"):
        losses.hinge(jnp.zeros(2), np.array([True, False]))
    for delta in (0, -1.0):
        with pytest.raises(ValueError, match=f"huber: delta={delta}, wanted more than 0"):
            losses.huber(jnp.zeros(2), jnp.zeros(2), delta)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "nll"])
@pytest.mark.parametrize(
    "dtype, classes", [(np.int8, 200), (np.uint8, 256), (np.int16, 3), (np.uint32, 3), (np.int32, 1)]
)
def test_label_out_of_range_is_nan_in_every_integer_type(name: str, dtype: Any, classes: int) -> None:
    info = np.iinfo(dtype)
    outside = {info.min, -1, -100, classes, classes + 1, info.max} - set(range(classes))
    outside = [label for label in sorted(outside) if info.min <= label <= info.max]
    inside = [0, min(classes - 1, info.max)]
    y, t = np.zeros((len(outside) + 2, classes)), np.array([*outside, *inside], dtype)
    got = jax.jit(CASES[name].loss)(single(y), single(t))
    assert np.isnan(got[:-2]).all()
    want = np.log(classes) if name == "softmax_cross_entropy" else 0
    np.testing.assert_allclose(got[-2:], want, rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_label_beyond_int32_is_nan() -> None:
    got = losses.softmax_cross_entropy(jnp.zeros((2, 3)), jnp.array([2**32, 2**32 - 1]))
    assert np.isnan(got).all()


def test_binary_cross_entropy_at_extreme_logits() -> None:
    z = jnp.array([1e30, 1e30, -1e30, -1e30, jnp.inf, jnp.inf, -jnp.inf, -jnp.inf, 80.0, -80.0])
    t = jnp.array([True, False] * 5)
    got = losses.binary_cross_entropy(z, t)
    inf = np.inf
    e = np.exp(-80.0)
    np.testing.assert_allclose(got, [0, 1e30, 1e30, 0, 0, inf, inf, 0, e, e], rtol=1e-5)
    slopes = gradient(losses.binary_cross_entropy, z, t)
    np.testing.assert_allclose(slopes, [0, 1, -1, 0, 0, 1, -1, 0, -e, e], rtol=1e-5)
    # Soft targets: sigmoid(z) - t.
    np.testing.assert_allclose(
        gradient(losses.binary_cross_entropy, z[:4:2], jnp.full(2, 0.25)), [0.75, -0.25]
    )


@pytest.mark.parametrize("label", ["integer", "distribution"])
def test_softmax_cross_entropy_at_extreme_logits(label: str) -> None:
    z = jnp.array([[1e30, -1e30, 0.0], [1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [3e38, -3e38, 3e38]])
    t = jnp.array([0, 2, 1, 0])
    target = t if label == "integer" else jax.nn.one_hot(t, 3)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(z, target), [0, 1e30, np.log(3), np.log(2)], rtol=1e-6
    )
    # softmax(z) - t
    p = np.array([[1, 0, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0.5]])
    slopes = gradient(losses.softmax_cross_entropy, z, target)
    np.testing.assert_allclose(slopes, p - jax.nn.one_hot(t, 3), atol=1e-7)


@pytest.mark.parametrize("label", ["integer", "distribution"])
def test_class_that_is_masked_by_minus_infinity(label: str) -> None:
    z = jnp.array([[-jnp.inf, 0.0, 0.0], [-jnp.inf, 0.0, 0.0]])
    t = jnp.array([1, 0])
    target = t if label == "integer" else jax.nn.one_hot(t, 3)
    np.testing.assert_allclose(losses.softmax_cross_entropy(z, target), [np.log(2), np.inf], rtol=1e-6)
    slopes = gradient(losses.softmax_cross_entropy, z, target)
    np.testing.assert_allclose(slopes, [[0, -0.5, 0.5], [-1, 0.5, 0.5]], atol=1e-7)
    np.testing.assert_allclose(losses.nll(z, target), [0, np.inf])
    np.testing.assert_allclose(gradient(losses.nll, z, target), -jax.nn.one_hot(t, 3))


def test_regression_losses_far_from_the_target() -> None:
    y, t = jnp.array([1e30, -1e30, 1e19]), jnp.zeros(3)
    np.testing.assert_allclose(losses.huber(y, t), [1e30, 1e30, 1e19], rtol=1e-6)
    np.testing.assert_array_equal(gradient(losses.huber, y, t), [1, -1, 1])
    np.testing.assert_allclose(losses.mean_absolute_error(y, t), [1e30, 1e30, 1e19], rtol=1e-6)
    np.testing.assert_array_equal(gradient(losses.mean_absolute_error, y, t), [1, -1, 1])
    # 1e60 is no float32; the gradient is.
    np.testing.assert_allclose(losses.mean_squared_error(y, t), [np.inf, np.inf, 1e38], rtol=1e-6)
    np.testing.assert_allclose(gradient(losses.mean_squared_error, y, t), [2e30, -2e30, 2e19], rtol=1e-6)
    np.testing.assert_allclose(losses.hinge(y, jnp.array([1, 1, -1])), [0, 1e30, 1e19], rtol=1e-6)
    np.testing.assert_array_equal(gradient(losses.hinge, y, jnp.array([1, 1, -1])), [0, -1, 1])
    # float16's largest squares are no float16.
    half = jnp.full(2, 60_000, jnp.float16)
    np.testing.assert_allclose(losses.mean_squared_error(half, -half), [1.44e10] * 2, rtol=1e-2)


def test_infinite_predictions() -> None:
    y, t = jnp.array([jnp.inf, -jnp.inf]), jnp.ones(2)
    for loss in (losses.mean_squared_error, losses.mean_absolute_error, losses.huber):
        np.testing.assert_array_equal(loss(y, t), [np.inf, np.inf])
    np.testing.assert_array_equal(losses.hinge(y, t), [0, np.inf])
    np.testing.assert_array_equal(gradient(losses.mean_absolute_error, y, t), [1, -1])
    np.testing.assert_array_equal(gradient(losses.hinge, y, t), [0, -1])


@pytest.mark.parametrize(
    "loss, y, t, slope",
    [
        (losses.mean_squared_error, 0.5, 0.5, 0),
        (losses.mean_absolute_error, 0.5, 0.5, 0),
        (losses.huber, 0.5, 0.5, 0),
        (losses.huber, 1.5, 0.5, 1),  # at |y - t| = delta the two halves meet
        (losses.huber, -0.5, 0.5, -1),
        (losses.hinge, 1.0, 1, 0),
        (losses.hinge, 0.5, 1, -1),
        (losses.binary_cross_entropy, 0.0, 1, -0.5),
    ],
)
def test_derivative_where_two_pieces_meet(
    loss: Callable[..., jax.Array], y: float, t: float, slope: float
) -> None:
    reverse, forward = jax.jit(lambda y: (jax.grad(loss)(y, t), jax.jacfwd(loss)(y, t)))(y)
    np.testing.assert_allclose([reverse, forward], slope, atol=1e-7)


def test_huber_has_the_curvature_of_a_square_at_the_target() -> None:
    curvature = jax.vmap(jax.grad(jax.grad(losses.huber)))(jnp.array([0.0, 0.9, -0.9, 1.1]), jnp.zeros(4))
    np.testing.assert_array_equal(curvature, [1, 1, 1, 0])


@pytest.mark.usefixtures("float64")
def test_huber_takes_delta_as_a_tracer() -> None:
    y, t = draw("huber", (6,))
    deltas = np.array([0.1, 1.0, 5.0])
    got = jax.jit(jax.vmap(losses.huber, in_axes=(None, None, 0)))(y, t, deltas)
    np.testing.assert_allclose(got, [scipy.special.huber(delta, y - t) for delta in deltas], rtol=1e-12)

    for got, want in derivatives(lambda delta: losses.huber(y, t, delta).sum(), 0.7):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


def test_scikit_learn_agrees() -> None:
    random = np.random.default_rng(3)
    y, t = random.normal(size=(50, 3)), random.normal(size=(50, 3))
    for loss, twin in (
        (losses.mean_squared_error, sklearn.metrics.mean_squared_error),
        (losses.mean_absolute_error, sklearn.metrics.mean_absolute_error),
    ):
        np.testing.assert_allclose(loss(y, t).mean(), twin(t, y), rtol=1e-6)
    label = random.integers(0, 3, 50)
    p = scipy.special.softmax(y, axis=-1)
    want = sklearn.metrics.log_loss(label, p, labels=[0, 1, 2])
    np.testing.assert_allclose(losses.softmax_cross_entropy(y, label).mean(), want, rtol=1e-6)
    np.testing.assert_allclose(losses.nll(np.log(p), label).mean(), want, rtol=1e-6)
    yes = y[:, 0] + t[:, 0] > 0
    np.testing.assert_allclose(
        losses.binary_cross_entropy(y[:, 0], yes).mean(),
        sklearn.metrics.log_loss(yes, scipy.special.expit(y[:, 0])),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        losses.hinge(y[:, 0], 2 * yes - 1).mean(), sklearn.metrics.hinge_loss(2 * yes - 1, y[:, 0]), rtol=1e-6
    )


PARAMS = {
    "conv_0": {"w": jnp.array([[1.0, -2.0], [0.0, 3.0]]), "b": jnp.array([10.0, -10.0])},
    "dense_0": {"w": jnp.array([-0.5]), "b": jnp.array([100.0])},
}


@every_penalty
def test_penalty_chooses_by_path(name: str) -> None:
    penalty, f = PENALTIES[name]
    paths = []
    penalty(PARAMS, lambda path: paths.append(path) is None)
    assert paths == ["conv_0/b", "conv_0/w", "dense_0/b", "dense_0/w"]
    total = sum(f(np.asarray(leaf)).sum() for layer in PARAMS.values() for leaf in layer.values())
    weights = sum(f(np.asarray(layer["w"])).sum() for layer in PARAMS.values())
    np.testing.assert_allclose(penalty(PARAMS), total)
    np.testing.assert_allclose(penalty(PARAMS, lambda path: path.endswith("w")), weights)
    np.testing.assert_allclose(penalty(PARAMS, lambda path: "dense" in path), f(-0.5) + f(100.0))
    np.testing.assert_allclose(jax.jit(penalty)(PARAMS), total)


@every_penalty
def test_penalty_filter_that_nothing_passes_raises(name: str) -> None:
    wanted = rf"{name}: no params pass the filter, wanted at least one of \['conv_0/b', 'conv_0/w',"
    with pytest.raises(ValueError, match=wanted):
        PENALTIES[name][0](PARAMS, lambda path: path.endswith("kernel"))
    with pytest.raises(ValueError, match=r"wanted at least one of \[\]"):
        PENALTIES[name][0]({})


@every_penalty
def test_penalty_counts_two_leaves_whose_paths_read_alike(name: str) -> None:
    params = {"a": {"b": jnp.array([2.0])}, "a/b": jnp.array([3.0])}
    penalty, f = PENALTIES[name]
    np.testing.assert_allclose(penalty(params), f(2.0) + f(3.0))


@every_penalty
def test_penalty_takes_any_tree(name: str) -> None:
    penalty, f = PENALTIES[name]
    w = np.array([1.0, -2.0])
    np.testing.assert_allclose(penalty(w), f(w).sum())
    np.testing.assert_allclose(penalty([w, (w, None)]), 2 * f(w).sum())


@every_penalty
def test_penalty_of_half_precision_is_summed_in_float32(name: str) -> None:
    # A sum of ones in bfloat16 stops at 256; 300^2 is no float16.
    penalty, f = PENALTIES[name]
    for dtype, value in ((jnp.bfloat16, 1.0), (jnp.float16, 300.0)):
        params = {"w": jnp.full(1000, value, dtype)}
        got, slope = jax.value_and_grad(penalty)(params)
        assert (got.shape, got.dtype, slope["w"].dtype) == ((), jnp.float32, dtype)
        np.testing.assert_allclose(got, 1000 * f(value), rtol=1e-6)
    mixed = {"b": jnp.ones(2, jnp.bfloat16), "w": jnp.ones(3)}
    assert jax.eval_shape(penalty, mixed).dtype == jnp.float32


def test_penalty_gradients() -> None:
    w = jnp.array([-3.0, -0.0, 0.0, 2.0])
    np.testing.assert_array_equal(jax.grad(losses.l1)(w), [-1, 0, 0, 1])
    np.testing.assert_array_equal(jax.grad(losses.l2)(w), [-6, 0, 0, 4])
    spared = jax.grad(losses.l1)(PARAMS, lambda path: path.endswith("w"))
    assert not spared["conv_0"]["b"].any()


@pytest.mark.usefixtures("float64")
@every_penalty
def test_penalty_gradient_is_that_of_finite_differences(name: str) -> None:
    params, penalty = jnp.array([[-3.0, 0.3], [1e-3, 2.0]]), PENALTIES[name][0]
    for got, want in derivatives(penalty, params):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)
    assert jax.eval_shape(penalty, params).dtype == jnp.float64
