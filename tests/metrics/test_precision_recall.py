"""The confusion matrix, precision, recall and F1 against scikit-learn, with every average."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from fnnet import metrics
from tests.arrays import array, zeros

MAKERS = {"precision": metrics.precision, "recall": metrics.recall, "f1": metrics.f1}
AVERAGES = ("macro", "micro", "weighted", None)


@functools.partial(jax.jit, static_argnums=0)
def of(metric: metrics.Metric, *batch: Any) -> jax.Array:
    return metric.result(metric.update(metric.init(), *batch))


@pytest.mark.parametrize("zero_division", [0.0, 1.0])
def test_every_average_is_that_of_scikit_learn(zero_division: float) -> None:
    """Of five classes one occurs and is never guessed, one is guessed and never occurs, one does neither."""
    random = np.random.default_rng(0)
    labels, guess = random.choice([0, 1, 2], 40), random.choice([0, 1, 3], 40)
    scores = np.eye(5)[guess] + random.uniform(0, 0.9, (40, 5))
    every = {
        f"{name} {average}": make(5, average, zero_division=zero_division)
        for name, make in MAKERS.items()
        for average in AVERAGES
    }
    got = jax.jit(lambda *batch: {name: of(metric, *batch) for name, metric in every.items()})(scores, labels)
    for average in AVERAGES:
        want = sklearn.metrics.precision_recall_fscore_support(
            labels, guess, labels=range(5), average=average, zero_division=zero_division
        )
        for name, value in zip(MAKERS, want[:3], strict=True):
            np.testing.assert_allclose(got[f"{name} {average}"], value, rtol=1e-6)


@pytest.mark.parametrize("positive", [0, 1])
def test_two_classes_and_the_one_that_is_positive(positive: int) -> None:
    labels, guess = np.array([0, 0, 1, 1, 1, 0, 1]), np.array([0, 1, 1, 0, 1, 0, 0])
    got = [
        of(make(2, "binary", positive=positive), np.eye(2)[guess], labels.astype(bool))
        for make in MAKERS.values()
    ]
    want = sklearn.metrics.precision_recall_fscore_support(
        labels, guess, average="binary", pos_label=positive, zero_division=0
    )
    np.testing.assert_allclose(got, want[:3], rtol=1e-6)


def test_each_position_of_a_sequence_counts_and_a_mask_leaves_out_whole_sequences() -> None:
    random = np.random.default_rng(1)
    scores, labels = random.normal(size=(4, 5, 3)).astype(np.float32), random.integers(0, 3, (4, 5))
    mask = np.array([True, False, True, True])
    scores[1], labels[1] = np.nan, 7
    want = sklearn.metrics.confusion_matrix(labels[mask].ravel(), scores[mask].argmax(-1).ravel())
    got = of(metrics.confusion_matrix(3), scores, labels, mask)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, want)
    # A distribution is the class of its largest entry.
    softened = np.where(mask[:, None, None], np.eye(3)[np.minimum(labels, 2)] * 0.7 + 0.1, np.nan)
    np.testing.assert_array_equal(of(metrics.confusion_matrix(3), scores, softened, mask), want)
    one_value = of(metrics.f1(3, "micro"), scores, labels, mask)
    np.testing.assert_allclose(one_value, np.trace(want) / want.sum(), rtol=1e-6)


def test_a_distribution_with_nan_has_no_answer() -> None:
    batch = array(np.eye(2)), array([[1.0, 0.0], [jnp.nan, 0.0]])
    assert np.all(of(metrics.confusion_matrix(2), *batch) == -1)
    assert np.all(np.isnan(of(metrics.recall(2, None), *batch)))


def test_counts_beyond_what_float32_holds() -> None:
    """One more than 2^24 is lost in float32."""
    many = 2**24
    confusion, precision = metrics.confusion_matrix(2), metrics.precision(2, None)
    batch = array(np.eye(2)), array([0, 1])
    matrix, _ = jax.jit(confusion.update)((array(np.full((2, 2), many)), zeros([], jnp.int32)), *batch)
    np.testing.assert_array_equal(matrix, [[many + 1, many], [many, many + 1]])
    counts, unknown = jax.jit(precision.update)((array(np.full((3, 2), many)), zeros([], jnp.int32)), *batch)
    np.testing.assert_array_equal(counts, np.full((3, 2), many + 1))
    # The sums over classes and the doubled counts of F1 pass 2^31.
    large = array(np.full((3, 2), 2**30 - 1))
    np.testing.assert_allclose(metrics.f1(2, "micro").result((large, unknown)), 1, rtol=1e-6)
    np.testing.assert_allclose(metrics.f1(2, "weighted").result((large, unknown)), 1, rtol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_wrong_arguments_raise(name: str) -> None:
    make = MAKERS[name]
    with pytest.raises(TypeError, match=rf"{name}: classes=2\.0, wanted a positive int"):
        make(2.0)
    with pytest.raises(ValueError, match=rf"{name}: average='samples', wanted one of 'macro', .*None"):
        make(2, "samples")
    with pytest.raises(ValueError, match=f"{name}: average='binary' with classes=3, wanted 2, or another"):
        make(3, "binary")
    with pytest.raises(ValueError, match=rf"{name}: positive=2, wanted in \[0, 1\]"):
        make(2, "binary", positive=2)
    with pytest.raises(ValueError, match=rf"{name}: zero_division=nan, wanted in \[0, 1\]"):
        make(2, zero_division=np.nan)


@pytest.mark.parametrize(
    "prediction, target, wanted",
    [
        (zeros((4, 2)), zeros(4, int), r"prediction is float32\[4,2\], wanted \(batch, ..., 3\)"),
        (zeros(3), zeros([], int), r"prediction is float32\[3\], wanted \(batch, ..., 3\)"),
        (zeros((4, 3)), zeros(3, int), r"target int32\[3\], wanted integer labels of shape \(4,\)"),
        (zeros([]), zeros([], int), r"prediction is float32\[\], wanted \(batch, ..., 3\)"),
        (zeros((4, 1)), zeros((4, 1)), r"prediction is float32\[4,1\], wanted \(batch, ..., 3\)"),
    ],
)
def test_shapes_that_do_not_fit_raise(prediction: jax.Array, target: jax.Array, wanted: str) -> None:
    for name, make in {"confusion_matrix": metrics.confusion_matrix, "f1": metrics.f1}.items():
        with pytest.raises(ValueError, match=f"{name}: .*{wanted}"):
            of(make(3), prediction, target)
    with pytest.raises(ValueError, match="confusion_matrix: classes=0, wanted at least 1"):
        metrics.confusion_matrix(0)
    with pytest.raises(ValueError, match="confusion_matrix: classes=1, wanted at least 2"):
        metrics.confusion_matrix(1)


def test_one_logit_has_two_classes() -> None:
    z, labels = np.float32([-1, 2, 3, -4, 5]), np.array([0, 1, 0, 1, 1])
    want = sklearn.metrics.confusion_matrix(labels, z > 0)
    confusion = metrics.confusion_matrix(2)
    for prediction in (z, z[:, None]):
        for target in (labels, labels[:, None].astype(np.float32), labels.astype(bool)):
            np.testing.assert_array_equal(of(confusion, prediction, target), want)
    np.testing.assert_array_equal(of(confusion, z.reshape(1, 5, 1), labels[None]), want)
    f1 = of(metrics.f1(2, "binary"), z[:, None], labels)
    np.testing.assert_allclose(f1, sklearn.metrics.f1_score(labels, z > 0), rtol=1e-6)
