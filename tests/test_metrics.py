"""Metrics against scikit-learn."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from fnnet import metrics


def test_every_public_function_is_tested_here() -> None:
    public = {
        name
        for name, thing in vars(metrics).items()
        if not name.startswith("_") and callable(thing) and thing.__module__ == metrics.__name__
    }
    assert public == {"Metric", "accuracy", "mean", "per_example"}


@hypothesis.settings(max_examples=4)
@hypothesis.given(
    batch=st.integers(1, 9), between=st.lists(st.integers(1, 3), max_size=2), classes=st.integers(1, 4)
)
def test_accuracy_of_any_shape_is_that_of_scikit_learn(batch: int, between: list[int], classes: int) -> None:
    random = np.random.default_rng(batch + classes)
    scores = random.normal(size=(batch, *between, classes))
    labels = random.integers(0, classes, (batch, *between))
    got = metrics.accuracy(scores, labels)
    assert (got.shape, got.dtype) == ((batch,), jnp.float32)
    for i in range(batch):
        want = sklearn.metrics.accuracy_score(labels[i].ravel(), scores[i].argmax(-1).ravel())
        np.testing.assert_allclose(got[i], want, rtol=1e-6)
    # A distribution whose largest entry is the label's.
    softened = np.eye(classes, dtype=np.float32)[labels] * 0.6 + 0.1
    np.testing.assert_array_equal(metrics.accuracy(scores, softened), got)


def test_accuracy_by_hand() -> None:
    scores = jnp.array([[[0.1, 0.9], [0.8, 0.2]], [[0.1, 0.9], [0.2, 0.8]]])
    np.testing.assert_array_equal(metrics.accuracy(scores, jnp.array([[1, 0], [0, 0]])), [1, 0])
    np.testing.assert_array_equal(metrics.accuracy(scores, jnp.array([[1, 1], [0, 1]])), [0.5, 0.5])
    np.testing.assert_array_equal(metrics.accuracy(scores[0], jnp.array([True, True])), [1, 0])
    # The first of two equal scores counts; a label that does not exist is never right.
    np.testing.assert_array_equal(metrics.accuracy(jnp.zeros((4, 2)), jnp.array([0, 1, 2, -1])), [1, 0, 0, 0])
    np.testing.assert_array_equal(metrics.accuracy([[1.0, -jnp.inf], [-jnp.inf, jnp.inf]], [0, 1]), [1, 1])
    assert metrics.accuracy(jnp.zeros((0, 3)), jnp.zeros(0, int)).shape == (0,)


def test_nan_among_the_scores_is_nan_and_not_class_0() -> None:
    scores = jnp.array([[jnp.nan] * 3, [0.0, jnp.nan, 1.0], [0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(metrics.accuracy(scores, jnp.array([0, 1, 1])), [np.nan, np.nan, 1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_jit_vmap_and_dtype(dtype: jnp.dtype) -> None:
    scores = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (6, 4)), dtype)
    labels = jnp.array([0, 1, 2, 3, 0, 1])
    want = np.asarray(scores).argmax(-1) == labels
    for f in (metrics.accuracy, jax.jit(metrics.accuracy), jax.vmap(metrics.accuracy)):
        got = f(scores, labels)
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, want)
    assert jax.eval_shape(metrics.accuracy, scores, labels).shape == (6,)


@pytest.mark.parametrize(
    "prediction, target, wanted",
    [
        (
            jnp.zeros((4, 3)),
            jnp.zeros((4, 3), int),
            r"target int32\[4,3\], wanted integer labels of shape \(4,\)",
        ),
        (jnp.zeros((4, 3)), jnp.zeros((4, 1), int), r"or a distribution of shape \(4, 3\)"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 2)), r"prediction is float32\[4,3\] and target float32\[4,2\]"),
        (jnp.zeros((4, 3)), jnp.zeros(4), r"target float32\[4\], wanted integer labels"),
        (jnp.zeros((4, 2, 3)), jnp.zeros(4, int), r"wanted integer labels of shape \(4, 2\)"),
        (jnp.zeros(4), jnp.zeros(4, int), r"prediction is float32\[4\] and target int32\[4\]"),
        (jnp.zeros(()), jnp.zeros((), int), r"prediction is float32\[\], wanted \(batch, ..., classes\)"),
    ],
)
def test_targets_that_do_not_fit_raise(prediction: jax.Array, target: jax.Array, wanted: str) -> None:
    with pytest.raises(ValueError, match="accuracy: .*" + wanted):
        metrics.accuracy(prediction, target)


def test_a_mean_counts_what_the_mask_leaves() -> None:
    accuracy = metrics.mean(metrics.accuracy)
    assert np.isnan(accuracy.result(accuracy.init()))
    scores, labels = jnp.array([[0.1, 0.9], [0.8, 0.2], [jnp.nan, 0.0]]), jnp.array([1, 1, 0])
    totals = accuracy.update(accuracy.init(), scores, labels, jnp.array([True, True, False]))
    assert accuracy.result(totals) == 0.5
    assert metrics.mean(accuracy) is accuracy
