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
from tests.arrays import array, cast, close, integers, normal, ones, zeros

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


def mean_of_example(x: Any, shape: Shape) -> np.ndarray:
    """The mean of what each example of a prediction of the shape has."""
    return np.asarray(x).reshape(shape[0], -1 if shape[0] else 1).mean(axis=1)


def value_and_slope(loss: Callable[..., jax.Array], y: Any, t: Any) -> Any:
    """The losses and the gradient of their sum over the batch, by prediction."""
    return jax.jit(lambda y, t: (loss(y, t), jax.grad(lambda y: loss(y, t).sum())(y)))(y, t)


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
    weighted = jax.jit(losses.class_weighted(losses.softmax_cross_entropy, weights))
    got, of_each = np.asarray(weighted(array(scores), array(labels))), weights[labels]
    want = sklearn.metrics.log_loss(
        labels, scipy.special.softmax(scores, axis=1), sample_weight=of_each, labels=[0, 1, 2]
    )
    np.testing.assert_allclose(got.sum() / of_each.sum(), want, rtol=1e-5)
    # A distribution has the mean weight of its classes; a label out of range none.
    spread = np.tile([0.25, 0.5, 0.25], (9, 1)).astype(np.float32)
    plain = np.asarray(jax.jit(losses.softmax_cross_entropy)(array(scores), spread))
    np.testing.assert_allclose(weighted(array(scores), spread), plain * 0.875, rtol=1e-6)
    assert np.isnan(jax.jit(weighted)(zeros((9, 3)), array([3] * 9))).all()
    with pytest.raises(
        ValueError, match=r"target is float32\[2,2\], wanted labels \(batch,\) or distributions"
    ):
        losses.class_weighted(lambda y, t: zeros(2), weights)(zeros((2, 2)), zeros((2, 2)))
    for bad in ([], [[1.0]], [-1.0, 2.0], [np.nan], [np.inf], [True, False], "11", None, 1.0, ["1"]):
        with pytest.raises(ValueError, match=r"class_weighted: weights=.*, wanted a vector of numbers"):
            losses.class_weighted(losses.softmax_cross_entropy, bad)


@every_case
def test_is_the_mean_over_all_axes_but_the_batch(name: str) -> None:
    """Two axes or more, one number per example where that is allowed, and no examples."""
    case = CASES[name]
    shapes = [(5, 3), (2, 3, 2, 4), (0, 2), *([(6,)] if name in ALIKE else [])]
    examples = [draw(name, shape) for shape in shapes]
    twin = case.twin or case.loss
    both = jax.jit(lambda examples: [(case.loss(y, t), twin(y, t)) for y, t in examples])
    for shape, (y, t), (got, wanted) in zip(shapes, examples, both(examples), strict=True):
        assert (got.shape, got.dtype) == (shape[:1], np.float32)
        np.testing.assert_allclose(got, mean_of_example(case.truth(y, t), shape), rtol=2e-6)
        if case.twin is not None:
            np.testing.assert_allclose(got, mean_of_example(wanted, shape), rtol=2e-5, atol=1e-6)


@hypothesis.settings(max_examples=6)
@hypothesis.given(
    name=st.sampled_from(sorted(CASES)),
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_shapes(name: str, shape: list[int], seed: int) -> None:
    y, t = draw(name, tuple(shape), seed)
    wanted = mean_of_example(CASES[name].truth(y, t), y.shape)
    np.testing.assert_allclose(jax.jit(CASES[name].loss)(y, t), wanted, rtol=1e-5, atol=1e-6)


@every_case
def test_jit_vmap_numpy_and_lists_change_nothing(name: str) -> None:
    loss, (y, t) = CASES[name].loss, draw(name, (4, 3))
    want = np.asarray(loss(jnp.asarray(y), jnp.asarray(t)))
    np.testing.assert_allclose(loss(y, t), want, rtol=1e-6)
    np.testing.assert_allclose(loss(y.tolist(), t.tolist()), want, rtol=1e-6)
    # A batch of batches of one example. (Compiled without vmap, it is compared with the truth above.)
    by_example = jax.jit(jax.vmap(loss))(y[:, None], t[:, None])
    np.testing.assert_allclose(by_example, want[:, None], rtol=1e-6, atol=1e-7)


@every_case
def test_half_precision_is_computed_in_float32(name: str) -> None:
    y, t = draw(name, (3, 40))
    dtypes = (jnp.float16, jnp.bfloat16)
    rounded = [array(y, dtype) for dtype in dtypes]
    wide = cast(rounded, np.float32)
    both = jax.jit(lambda ys: [value_and_slope(CASES[name].loss, y, t) for y in ys])
    results = both([*rounded, *wide])
    for y_half, (got, slope), (_, want_slope) in zip(rounded, results[:2], results[2:], strict=True):
        want = mean_of_example(CASES[name].truth(y_half.astype(np.float64), t), y.shape)
        assert (got.dtype, slope.dtype) == (jnp.float32, y_half.dtype)
        np.testing.assert_allclose(got, want, rtol=2e-5)
        eps = float(jnp.finfo(y_half.dtype).eps)
        close(slope, want_slope, rtol=eps, atol=1e-7)


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


def derivatives(f: Callable[[jax.Array], jax.Array], x: Any) -> tuple[Any, list[tuple[Any, np.ndarray]]]:
    """f(x); and of its sum the gradient and the Hessian, each beside what central finite differences give."""
    x, h = np.asarray(x), 1e-5
    steps = h * np.eye(x.size).reshape(-1, *x.shape)
    points = np.concatenate([x[None], x + steps, x - steps])

    def total(x: jax.Array) -> jax.Array:
        return f(x).sum()

    @jax.jit
    @jax.vmap
    def at(x: jax.Array) -> Any:
        return f(x), total(x), jax.grad(total)(x), jax.hessian(total)(x)

    y, value, slope, curvature = at(points)

    def difference(y: Any) -> np.ndarray:
        above, below = np.split(np.asarray(y)[1:], 2)
        return np.moveaxis((above - below) / (2 * h), 0, -1).reshape((*y.shape[1:], *x.shape))

    y, slope, curvature = (np.asarray(a) for a in (y, slope, curvature))
    return y[0], [(slope[0], difference(value)), (curvature[0], difference(slope))]


@pytest.mark.usefixtures("float64")
@every_case
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    case, (y, t) = CASES[name], draw(name, (2, 3))
    result, pairs = derivatives(lambda y: case.loss(y, t), y)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)
    # The result itself, to float64's precision: no constant is float32's.
    np.testing.assert_allclose(result, mean_of_example(case.truth(y, t), y.shape), rtol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].target not in (bits, labels, signs)])
def test_derivatives_for_the_target_are_those_of_finite_differences(name: str) -> None:
    y, t = draw(name, (2, 3))  # distributions hold a 0
    for got, want in derivatives(lambda t: CASES[name].loss(y, t), t)[1]:
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


@every_case
def test_nan_in_a_prediction_is_nan_in_its_example_alone(name: str) -> None:
    y, t = draw(name, (3, 4))
    y[1, ...] = np.nan
    got = jax.jit(CASES[name].loss)(y, t)
    np.testing.assert_array_equal(np.isnan(got), [False, True, False])


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("y_shape, t_shape", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 3), (3,)), ((4,), ())])
def test_shapes_that_would_broadcast_raise(name: str, y_shape: Shape, t_shape: Shape) -> None:
    got = r"prediction is float32\[.*\] and target float32\[.*\], wanted one shape"
    with pytest.raises(ValueError, match=name.split("(")[0] + ": " + got):
        CASES[name].loss(zeros(y_shape), zeros(t_shape))


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "nll"])
@pytest.mark.parametrize(
    "y, t, wanted",
    [
        (
            zeros((4, 3)),
            zeros((4, 3), int),
            r"target int32\[4,3\], wanted integer labels of shape \(4,\)",
        ),
        (zeros((4, 3)), zeros(3, int), r"wanted integer labels of shape \(4,\)"),
        (zeros((4, 5, 3)), zeros(4, int), r"wanted integer labels of shape \(4, 5\)"),
        (zeros((4, 3)), zeros((4, 1)), r"wanted a distribution of shape \(4, 3\)"),
        (
            zeros((4, 3)),
            zeros(4),
            r"prediction is float32\[4,3\] and target float32\[4\], wanted a dist",
        ),
        (
            zeros(()),
            zeros((), int),
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
            CASES[name].loss(zeros((2, 3)), array([True, False]))
    with pytest.raises(TypeError, match=r"hinge: target is bool\[2\], wanted numbers -1 or 1"):
        losses.hinge(zeros(2), np.array([True, False]))
    for delta in (0, -1.0, np.float32(-1), np.array(-1.0), np.nan, np.float32("nan")):
        with pytest.raises(ValueError, match=f"huber: delta={delta}, wanted more than 0"):
            losses.huber(zeros(2), zeros(2), delta)
    with pytest.raises(ValueError, match="huber: delta=inf, wanted a finite number"):
        losses.huber(zeros(2), zeros(2), np.inf)
    for delta in (True, "1", None, np.ones(2)):
        with pytest.raises(TypeError, match="huber: delta"):
            losses.huber(zeros(2), zeros(2), delta)


# Targets without a meaning, in the second of three examples, the place, and what was wanted.
MEANINGLESS = {
    "hinge with labels": (losses.hinge, [1, 0, -1], r"target\[1\]=0, wanted -1 or 1; .* 2 \* target - 1"),
    "hinge": (losses.hinge, [[1.0, 1.0], [-1.0, 0.5], [1.0, 1.0]], r"target\[1, 1\]=0.5, wanted -1 or 1"),
    "binary 2": (losses.binary_cross_entropy, [1, 2, 0], r"target\[1\]=2, wanted a probability, from 0 to 1"),
    "binary -1": (losses.binary_cross_entropy, [[1.0], [-1.0], [0.0]], r"target\[1, 0\]=-1.0, wanted a prob"),
    "binary NaN": (losses.binary_cross_entropy, [1.0, np.nan, 0.0], r"target\[1\]=nan, wanted a probability"),
    "label": (losses.softmax_cross_entropy, [1, 3, 0], r"target\[1\]=3, wanted a label from 0 to 2"),
    "label below 0": (losses.softmax_cross_entropy, [[1, 2], [0, -1], [0, 0]], r"target\[1, 1\]=-1, wanted a label"),
    "nll": (losses.nll, [1, 3, 0], r"target\[1\]=3, wanted a label from 0 to 2"),
    "negative": (
        losses.softmax_cross_entropy,
        [[1.0, 0.0, 0.0], [1.5, -0.5, 0.0], [0.0, 1.0, 0.0]],
        r"target\[1\] has the sum 1 and the smallest entry -0.5, wanted a distribution",
    ),
    "unnormalised": (
        losses.softmax_cross_entropy,
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 1.0, 0.0]],
        r"target\[1\] has the sum 1.5 and the smallest entry 0.5, wanted a distribution: numbers of at least 0 whose",
    ),
    "nll of nothing": (
        losses.nll, [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]], r"target\[1\] has the sum 0 and",
    ),
    "NaN": (
        losses.softmax_cross_entropy,
        [[1.0, 0.0, 0.0], [0.5, np.nan, 0.5], [0.0, 1.0, 0.0]],
        r"target\[1\] has the sum nan",
    ),
    "weighted label": (
        losses.class_weighted(lambda y, t: y[:, 0], [1.0, 2.0]), [1, 2, 0],
        r"class_weighted: target\[1\]=2, wanted a label from 0 to 1",
    ),
    "weighted distribution": (
        losses.class_weighted(lambda y, t: y[:, 0], [1.0, 2.0, 3.0]),
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 1.0, 0.0]],
        r"class_weighted: target\[1\] has the sum 1.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANINGLESS)
def test_a_target_without_a_meaning_raises_if_it_is_known_and_is_nan_under_jit(name: str) -> None:
    loss, target, message = MEANINGLESS[name]
    t = array(target)
    is_class = "binary" not in name and "hinge" not in name
    shape = (*t.shape, 3) if is_class and t.dtype == np.int32 else t.shape
    y = normal(*shape)
    for known in (target, np.asarray(target), t, jnp.asarray(t)):
        with pytest.raises(ValueError, match=message):
            loss(y, known)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(jax.grad(lambda y: loss(y, t).sum()), y)  # the target is known, the prediction is not

    # Under jit nothing is raised, and the other examples have the same numbers as without it, and gradients.
    ok = t.copy()
    ok[1] = t[0]
    got, slope, wanted, wanted_slope = jax.jit(
        lambda y, t, ok: (*value_and_slope(loss, y, t), *value_and_slope(loss, y, ok))
    )(y, t, ok)
    np.testing.assert_array_equal(np.isnan(got), [False, True, False])
    np.testing.assert_array_equal(np.asarray(got)[[0, 2]], np.asarray(wanted)[[0, 2]])
    np.testing.assert_array_equal(np.asarray(slope)[[0, 2]], np.asarray(wanted_slope)[[0, 2]])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_a_label_does_not_wrap_to_one_of_32_bits(dtype: Any) -> None:
    """2^32 + 1 is label 1 in int32."""
    wrong, right = np.array([0, 2**32 + 1], dtype), np.array([0, 1], dtype)
    for loss in (losses.softmax_cross_entropy, losses.nll):
        with pytest.raises(ValueError, match=r"target\[1\]=4294967297, wanted a label from 0 to 2"):
            loss(zeros((2, 3)), wrong)
        np.testing.assert_array_equal(loss(zeros((2, 3)), right), loss(zeros((2, 3)), array(right)))
    np.testing.assert_allclose(losses.mean_absolute_error(ones(2), wrong), [1, 2**32], rtol=1e-6)
    with pytest.raises(ValueError, match=r"target\[1\]=4294967297, wanted a probability"):
        losses.binary_cross_entropy(zeros(2), wrong)


def test_distributions_and_probabilities_that_are_rounded_pass() -> None:
    """Softened labels, the softmax of half precision, mixtures of labels whose shares do not add up to exactly 1."""
    random = np.random.default_rng(0)
    p = scipy.special.softmax(random.normal(0, 3, (64, 1000)), axis=-1)
    one_hot = np.eye(1000, dtype=np.float32)[random.integers(0, 1000, 64)]
    share = np.float32(0.7)
    distributions = [
        *(array(p, dtype) for dtype in (jnp.bfloat16, jnp.float16, np.float32)),
        array(array(p, jnp.bfloat16), np.float32),
        one_hot * np.float32(0.9) + np.float32(1e-4),
        share * one_hot + (1 - share + np.float32(1e-6)) * one_hot[::-1],
        np.array([[0.333, 0.333, 0.333], [-1e-6, 0.5, 0.5]]),
    ]
    loss = jax.jit(losses.softmax_cross_entropy)
    for t in distributions:
        assert np.isfinite(losses.softmax_cross_entropy(zeros(t.shape), t)).all()
        assert np.isfinite(loss(zeros(t.shape), t)).all()
    almost = array([1 + 1e-6, -1e-6, 0.95])
    assert np.isfinite(losses.binary_cross_entropy(zeros(3), almost)).all()
    assert np.isfinite(jax.jit(losses.binary_cross_entropy)(zeros(3), almost)).all()


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.nll])
def test_one_score_is_no_softmax(loss: Any) -> None:
    """Its cross-entropy would be 0, and so the gradient."""
    for shape, target in (((4, 1), zeros(4, int)), ((4, 1), zeros((4, 1))), ((4, 5, 1), zeros((4, 5), int))):
        with pytest.raises(ValueError, match=r"at least two classes, .* use binary_cross_entropy"):
            loss(zeros(shape), target)
    with pytest.raises(ValueError, match="use binary_cross_entropy"):
        jax.eval_shape(loss, zeros((4, 1)), zeros(4, int))


@every_case
def test_an_example_without_numbers_raises(name: str) -> None:
    """The mean over an empty axis is NaN."""
    loss, base = CASES[name].loss, name.split("(")[0]
    for shape in ((2, 0), (2, 3, 0), (2, 0, 3), (0, 0)):
        targets = [zeros(shape), *([zeros(shape[:-1], int)] if name in CLASSES else [])]
        for target in targets:
            with pytest.raises(ValueError, match=rf"^{base}: prediction is float32\[.*\], wanted "):
                loss(zeros(shape), target)


@every_case
def test_an_axis_of_1_too_many_or_too_few_has_a_remedy(name: str) -> None:
    loss = CASES[name].loss
    if name in CLASSES:
        with pytest.raises(ValueError, match=r"take the target's last axis away: y\[:, 0\]$"):
            loss(zeros((64, 3)), zeros((64, 1), int))
        with pytest.raises(ValueError, match=r"or labels as integers: y.astype\(int\)$"):
            loss(zeros((64, 3)), zeros(64))
    else:
        with pytest.raises(ValueError, match=r"give the target a last axis: y\[:, None\]$"):
            loss(zeros((64, 1)), zeros(64))
        with pytest.raises(ValueError, match=r"take the target's last axis away: y\[:, 0\]$"):
            loss(zeros(64), zeros((64, 1)))
        with pytest.raises(ValueError, match=r"every target$"):
            loss(zeros((64, 2)), zeros(64))


def test_class_weights_may_be_swept_and_differentiated() -> None:
    scores, labels = normal(6, 3), integers(3, 6)
    spread = np.tile(np.float32([0.25, 0.5, 0.25]), (6, 1))
    weights = np.float32([[1, 2, 3], [0.5, 0, 4]])

    def loss(w: Any, t: Any) -> jax.Array:
        return losses.class_weighted(losses.softmax_cross_entropy, w)(scores, t)

    for t, share in ((labels, np.eye(3)[labels]), (spread, spread)):
        eager = np.stack([loss(w, t) for w in weights])
        plain = np.asarray(losses.softmax_cross_entropy(scores, t))
        np.testing.assert_allclose(eager, weights @ share.T * plain, rtol=1e-6)
        swept, slope = jax.jit(
            lambda w, t: (jax.vmap(loss, (0, None))(w, t), jax.grad(lambda w: loss(w, t).sum())(w[0]))
        )(weights, t)
        np.testing.assert_allclose(swept, eager, rtol=1e-6)
        np.testing.assert_allclose(slope, plain @ share, rtol=1e-5)
    # A list of them, of which one is swept; a negative one.
    by_one = jax.jit(jax.vmap(lambda w: loss([1.0, w, 3.0], labels)))(np.float32([2.0, -2.0, np.nan]))
    np.testing.assert_allclose(by_one[0], loss(weights[0], labels), rtol=1e-6)
    assert (np.isnan(by_one[1:]) == (labels == 1)).all()
    for wrong in (zeros((3, 1)), zeros(()), zeros(0)):
        with pytest.raises(ValueError, match=r"class_weighted: weights=float32\[.*\], wanted a vector"):
            jax.eval_shape(lambda w: loss(w, labels), wrong)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "nll"])
@pytest.mark.parametrize(
    "dtype, classes", [(np.int8, 200), (np.uint8, 256), (np.int16, 3), (np.uint32, 3), (np.int32, 2)]
)
def test_label_out_of_range_is_nan_in_every_integer_type(name: str, dtype: Any, classes: int) -> None:
    info = np.iinfo(dtype)
    outside = {info.min, -1, -100, classes, classes + 1, info.max} - set(range(classes))
    outside = [label for label in sorted(outside) if info.min <= label <= info.max]
    inside = [0, min(classes - 1, info.max)]
    y, t = np.zeros((len(outside) + 2, classes)), np.array([*outside, *inside], dtype)
    got = jax.jit(CASES[name].loss)(y, t)
    assert np.isnan(got[:-2]).all()
    want = np.log(classes) if name == "softmax_cross_entropy" else 0
    np.testing.assert_allclose(got[-2:], want, rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_label_beyond_int32_is_nan() -> None:
    got = jax.jit(losses.softmax_cross_entropy)(zeros((2, 3)), np.array([2**32, 2**32 - 1]))
    assert np.isnan(got).all()


def test_binary_cross_entropy_at_extreme_logits() -> None:
    z = array([1e30, 1e30, -1e30, -1e30, jnp.inf, jnp.inf, -jnp.inf, -jnp.inf, 80.0, -80.0])
    t = np.array([True, False] * 5)
    got, slopes = value_and_slope(losses.binary_cross_entropy, z, t)
    inf = np.inf
    e = np.exp(-80.0)
    np.testing.assert_allclose(got, [0, 1e30, 1e30, 0, 0, inf, inf, 0, e, e], rtol=1e-5)
    np.testing.assert_allclose(slopes, [0, 1, -1, 0, 0, 1, -1, 0, -e, e], rtol=1e-5)
    # Soft targets: sigmoid(z) - t.
    _, slopes = value_and_slope(losses.binary_cross_entropy, z[:4:2], array([0.25, 0.25]))
    np.testing.assert_allclose(slopes, [0.75, -0.25])


@pytest.mark.parametrize("label", ["integer", "distribution"])
def test_softmax_cross_entropy_at_extreme_logits(label: str) -> None:
    z = array([[1e30, -1e30, 0.0], [1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [3e38, -3e38, 3e38]])
    t = array([0, 2, 1, 0])
    one_hot = array(np.eye(3))[t]
    got, slopes = value_and_slope(losses.softmax_cross_entropy, z, t if label == "integer" else one_hot)
    np.testing.assert_allclose(got, [0, 1e30, np.log(3), np.log(2)], rtol=1e-6)
    # softmax(z) - t
    p = np.array([[1, 0, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0, 0.5]])
    np.testing.assert_allclose(slopes, p - one_hot, atol=1e-7)


@pytest.mark.parametrize("label", ["integer", "distribution"])
def test_class_that_is_masked_by_minus_infinity(label: str) -> None:
    z = array([[-jnp.inf, 0.0, 0.0], [-jnp.inf, 0.0, 0.0]])
    t = array([1, 0])
    one_hot = array(np.eye(3))[t]
    target = t if label == "integer" else one_hot
    got, slopes = value_and_slope(losses.softmax_cross_entropy, z, target)
    np.testing.assert_allclose(got, [np.log(2), np.inf], rtol=1e-6)
    np.testing.assert_allclose(slopes, [[0, -0.5, 0.5], [-1, 0.5, 0.5]], atol=1e-7)
    got, slopes = value_and_slope(losses.nll, z, target)
    np.testing.assert_allclose(got, [0, np.inf])
    np.testing.assert_allclose(slopes, -one_hot)


def test_regression_losses_far_from_the_target() -> None:
    y, t, signs = array([1e30, -1e30, 1e19]), zeros(3), array([1, 1, -1])
    wanted = [
        (losses.huber, t, [1e30, 1e30, 1e19], [1, -1, 1]),
        (losses.mean_absolute_error, t, [1e30, 1e30, 1e19], [1, -1, 1]),
        # 1e60 is not a float32; the gradient is.
        (losses.mean_squared_error, t, [np.inf, np.inf, 1e38], [2e30, -2e30, 2e19]),
        (losses.hinge, signs, [0, 1e30, 1e19], [0, -1, 1]),
    ]
    for loss, target, value, slope in wanted:
        got = value_and_slope(loss, y, target)
        np.testing.assert_allclose(got, [value, slope], rtol=1e-6)
    # The squares of float16's largest numbers are not float16.
    half = array([60_000, 60_000], jnp.float16)
    np.testing.assert_allclose(jax.jit(losses.mean_squared_error)(half, -half), [1.44e10] * 2, rtol=1e-2)


def test_infinite_predictions() -> None:
    y, t, inf = array([jnp.inf, -jnp.inf]), ones(2), np.inf
    for loss, value, slope in (
        (losses.mean_squared_error, [inf, inf], None),
        (losses.mean_absolute_error, [inf, inf], [1, -1]),
        (losses.huber, [inf, inf], None),
        (losses.hinge, [0, inf], [0, -1]),
    ):
        got, slopes = value_and_slope(loss, y, t)
        np.testing.assert_array_equal(got, value)
        if slope is not None:
            np.testing.assert_array_equal(slopes, slope)


def test_derivative_where_two_pieces_meet() -> None:
    """In reverse and in forward mode."""
    cases = [
        (losses.mean_squared_error, 0.5, 0.5, 0),
        (losses.mean_absolute_error, 0.5, 0.5, 0),
        (losses.huber, 0.5, 0.5, 0),
        (losses.huber, 1.5, 0.5, 1),  # at |y - t| = delta the two halves meet
        (losses.huber, -0.5, 0.5, -1),
        (losses.hinge, 1.0, 1, 0),
        (losses.hinge, 0.5, 1, -1),
        (losses.binary_cross_entropy, 0.0, 1, -0.5),
    ]

    @jax.jit
    def slopes(ys: Any) -> Any:
        return [
            [d(loss)(y, t) for d in (jax.grad, jax.jacfwd)]
            for y, (loss, _, t, _) in zip(ys, cases, strict=True)
        ]

    got = slopes([y for _, y, _, _ in cases])
    np.testing.assert_allclose(got, [[slope, slope] for *_, slope in cases], atol=1e-7)


def test_huber_has_the_curvature_of_a_square_at_the_target() -> None:
    curvature = jax.jit(jax.vmap(jax.grad(jax.grad(losses.huber))))(array([0.0, 0.9, -0.9, 1.1]), zeros(4))
    np.testing.assert_array_equal(curvature, [1, 1, 1, 0])


@pytest.mark.usefixtures("float64")
def test_huber_takes_delta_as_a_tracer() -> None:
    y, t = draw("huber", (6,))
    deltas = np.array([0.1, 1.0, 5.0])
    got = jax.jit(jax.vmap(losses.huber, in_axes=(None, None, 0)))(y, t, deltas)
    np.testing.assert_allclose(got, [scipy.special.huber(delta, y - t) for delta in deltas], rtol=1e-12)

    for got, want in derivatives(lambda delta: losses.huber(y, t, delta), 0.7)[1]:
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


def test_scikit_learn_agrees() -> None:
    random = np.random.default_rng(3)
    y, t = random.normal(size=(50, 3)), random.normal(size=(50, 3))
    label, yes = random.integers(0, 3, 50), y[:, 0] + t[:, 0] > 0
    p, sides = scipy.special.softmax(y, axis=-1), 2 * yes - 1
    entropy_wanted = sklearn.metrics.log_loss(label, p, labels=[0, 1, 2])
    logistic_wanted = sklearn.metrics.log_loss(yes, scipy.special.expit(y[:, 0]))
    pairs = [
        (losses.mean_squared_error, y, t, sklearn.metrics.mean_squared_error(t, y)),
        (losses.mean_absolute_error, y, t, sklearn.metrics.mean_absolute_error(t, y)),
        (losses.softmax_cross_entropy, y, label, entropy_wanted),
        (losses.nll, np.log(p), label, entropy_wanted),
        (losses.binary_cross_entropy, y[:, 0], yes, logistic_wanted),
        (losses.hinge, y[:, 0], sides, sklearn.metrics.hinge_loss(sides, y[:, 0])),
    ]
    for loss, prediction, target, want in pairs:
        np.testing.assert_allclose(np.mean(jax.jit(loss)(prediction, target)), want, rtol=1e-6)


PARAMS = {
    "conv_0": {"w": array([[1.0, -2.0], [0.0, 3.0]]), "b": array([10.0, -10.0])},
    "dense_0": {"w": array([-0.5]), "b": array([100.0])},
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

    @jax.jit
    def chosen(params: Any) -> Any:
        filters = (lambda path: path.endswith("w"), lambda path: "dense" in path)
        return [penalty(params), *(penalty(params, keep) for keep in filters)]

    np.testing.assert_allclose(chosen(PARAMS), [total, weights, f(-0.5) + f(100.0)])


@every_penalty
def test_penalty_filter_that_nothing_passes_raises(name: str) -> None:
    wanted = rf"{name}: no params pass the filter, wanted at least one of \['conv_0/b', 'conv_0/w',"
    with pytest.raises(ValueError, match=wanted):
        PENALTIES[name][0](PARAMS, lambda path: path.endswith("kernel"))
    with pytest.raises(ValueError, match=r"wanted at least one of \[\]"):
        PENALTIES[name][0]({})


@every_penalty
def test_penalty_counts_two_leaves_whose_paths_read_alike(name: str) -> None:
    params = {"a": {"b": array([2.0])}, "a/b": array([3.0])}
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
        params = {"w": array(np.full(1000, value, dtype))}
        got, slope = jax.value_and_grad(penalty)(params)
        assert (got.shape, got.dtype, slope["w"].dtype) == ((), jnp.float32, dtype)
        np.testing.assert_allclose(got, 1000 * f(value), rtol=1e-6)
    mixed = {"b": ones(2, jnp.bfloat16), "w": ones(3)}
    assert jax.eval_shape(penalty, mixed).dtype == jnp.float32


def test_penalty_gradients() -> None:
    w = array([-3.0, -0.0, 0.0, 2.0])
    np.testing.assert_array_equal(jax.grad(losses.l1)(w), [-1, 0, 0, 1])
    np.testing.assert_array_equal(jax.grad(losses.l2)(w), [-6, 0, 0, 4])
    spared = jax.grad(losses.l1)(PARAMS, lambda path: path.endswith("w"))
    assert not spared["conv_0"]["b"].any()


@pytest.mark.usefixtures("float64")
@every_penalty
def test_penalty_gradient_is_that_of_finite_differences(name: str) -> None:
    params, penalty = array([[-3.0, 0.3], [1e-3, 2.0]]), PENALTIES[name][0]
    for got, want in derivatives(penalty, params)[1]:
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)
    assert jax.eval_shape(penalty, params).dtype == jnp.float64
