"""Accuracy and top-k accuracy against scikit-learn."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

import fnnet as fn
from fnnet import losses, metrics
from tests.arrays import array, zeros

accuracy = jax.jit(metrics.accuracy)


@hypothesis.settings(max_examples=4)
@hypothesis.given(
    batch=st.integers(1, 9), between=st.lists(st.integers(1, 3), max_size=2), classes=st.integers(2, 4)
)
def test_accuracy_of_any_shape_is_that_of_scikit_learn(batch: int, between: list[int], classes: int) -> None:
    random = np.random.default_rng(batch + classes)
    scores = random.normal(size=(batch, *between, classes))
    labels = random.integers(0, classes, (batch, *between))
    got = accuracy(scores, labels)
    assert (got.shape, got.dtype) == ((batch,), jnp.float32)
    for i in range(batch):
        want = sklearn.metrics.accuracy_score(labels[i].ravel(), scores[i].argmax(-1).ravel())
        np.testing.assert_allclose(got[i], want, rtol=1e-6)
    # A distribution whose largest entry is the label's.
    softened = np.eye(classes, dtype=np.float32)[labels] * 0.6 + 0.4 / classes
    np.testing.assert_array_equal(accuracy(scores, softened), got)


def test_accuracy_by_hand() -> None:
    scores = array([[[0.1, 0.9], [0.8, 0.2]], [[0.1, 0.9], [0.2, 0.8]]])
    np.testing.assert_array_equal(accuracy(scores, array([[1, 0], [0, 0]])), [1, 0])
    np.testing.assert_array_equal(accuracy(scores, array([[1, 1], [0, 1]])), [0.5, 0.5])
    np.testing.assert_array_equal(accuracy(scores[0], array([True, True])), [1, 0])
    # The first of two equal scores counts; a label that does not exist has no answer.
    np.testing.assert_array_equal(accuracy(zeros((4, 2)), array([0, 1, 2, -1])), [1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(metrics.accuracy([[1.0, -jnp.inf], [-jnp.inf, jnp.inf]], [0, 1]), [1, 1])
    assert accuracy(zeros((0, 3)), zeros(0, int)).shape == (0,)


def test_nan_among_the_scores_is_nan_and_not_class_0() -> None:
    scores = array([[jnp.nan] * 3, [0.0, jnp.nan, 1.0], [0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(accuracy(scores, array([0, 1, 1])), [np.nan, np.nan, 1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_jit_vmap_and_dtype(dtype: jnp.dtype) -> None:
    scores = array(np.random.default_rng(0).integers(-9, 9, (6, 4)), dtype)
    labels = array([0, 1, 2, 3, 0, 1])
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
            zeros((4, 3)),
            zeros((4, 3), int),
            r"target int32\[4,3\], wanted integer labels of shape \(4,\)",
        ),
        (zeros((4, 3)), zeros((4, 1), int), r"or a distribution of shape \(4, 3\)"),
        (zeros((4, 3)), zeros((4, 2)), r"prediction is float32\[4,3\] and target float32\[4,2\]"),
        (zeros((4, 3)), zeros(4), r"target float32\[4\], wanted integer labels"),
        (zeros((4, 2, 3)), zeros(4, int), r"wanted integer labels of shape \(4, 2\)"),
        (zeros((4, 3)), zeros((4, 1), int), r"; take the target's last axis away: y\[:, 0\]"),
        (
            zeros(4),
            zeros(3, int),
            r"prediction is float32\[4\] and target int32\[3\], wanted 0 or 1 for each",
        ),
        (zeros((4, 1)), zeros((4, 2)), r"wanted 0 or 1 for each score, of shape \(4,\) or \(4, 1\)"),
        (
            zeros((4, 0)),
            zeros(4, int),
            r"prediction is float32\[4,0\], wanted \(batch, ..., classes\), no axis",
        ),
        (
            zeros((4, 0, 3)),
            zeros((4, 0), int),
            r"prediction is float32\[4,0,3\], wanted .*, no axis but the batch",
        ),
        (zeros(()), zeros((), int), r"prediction is float32\[\], wanted \(batch, ..., classes\)"),
    ],
)
def test_targets_that_do_not_fit_raise(prediction: jax.Array, target: jax.Array, wanted: str) -> None:
    with pytest.raises(ValueError, match="accuracy: .*" + wanted):
        metrics.accuracy(prediction, target)


@pytest.mark.parametrize("between", [(), (2,)])
def test_top_k_is_that_of_scikit_learn(between: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(9, *between, 4)).astype(np.float32)
    labels = random.integers(0, 4, (9, *between))
    softened = np.eye(4, dtype=np.float32)[labels] * 0.6 + 0.1
    every = jax.jit(lambda *batch: [metrics.top_k(k)(*batch) for k in (1, 2, 3)])
    for k, got in enumerate(every(scores, labels), 1):
        assert (got.shape, got.dtype) == ((9,), jnp.float32)
        for i in range(9):
            want = sklearn.metrics.top_k_accuracy_score(
                labels[i].ravel(), scores[i].reshape(-1, 4), k=k, labels=range(4)
            )
            np.testing.assert_allclose(got[i], want, rtol=1e-6)
    np.testing.assert_array_equal(every(scores, softened), every(scores, labels))


def test_of_equal_scores_top_k_takes_the_lower_class_as_accuracy_does() -> None:
    labels = array(np.arange(4))
    tied = np.broadcast_to(array([1.0, 2.0, 1.0, 1.0]), (4, 4))
    for k, right in ((1, [0, 1, 0, 0]), (2, [1, 1, 0, 0]), (3, [1, 1, 1, 0]), (4, [1, 1, 1, 1])):
        np.testing.assert_array_equal(jax.jit(metrics.top_k(k))(tied, labels), right)
    scores = array(np.random.default_rng(0).integers(0, 3, (60, 4)), jnp.bfloat16)
    labels = array(np.random.default_rng(1).integers(0, 4, 60), jnp.int8)
    np.testing.assert_array_equal(jax.jit(metrics.top_k(1))(scores, labels), accuracy(scores, labels))


def test_top_k_of_what_has_no_answer() -> None:
    scores = array([[jnp.nan, 1.0, 0.0], [jnp.inf, -jnp.inf, 0.0], [jnp.inf, -jnp.inf, 0.0]])
    np.testing.assert_array_equal(jax.jit(metrics.top_k(2))(scores, array([1, 1, 2])), [np.nan, 0, 1])
    # Nor has a label that does not exist, not even among all the classes.
    assert np.isnan(jax.jit(metrics.top_k(3))(scores[1:], array([3, -1]))).all()
    assert jax.jit(metrics.top_k(3))(zeros((0, 3)), zeros(0, int)).shape == (0,)
    unclear = array([[0.0, jnp.nan, 0.0]])
    assert np.isnan(accuracy(scores[1:2], unclear))
    assert np.isnan(jax.jit(metrics.top_k(3))(scores[1:2], unclear))


def test_top_k_under_jit_and_vmap() -> None:
    scores, labels = array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), array([1, 0])
    for f in (jax.jit(metrics.top_k(2)), jax.vmap(metrics.top_k(2))):
        np.testing.assert_array_equal(f(scores, labels), [1, 0])


def test_labels_in_few_bits_reach_all_of_their_classes() -> None:
    """int8 has no 200, bool no 2."""
    scores = zeros((3, 200))
    scores[:, 100] = 1
    labels = array([100, 1, -100], jnp.int8)
    for f in (accuracy, jax.jit(metrics.top_k(2))):
        np.testing.assert_array_equal(f(scores, labels), [1, 0, np.nan])
        np.testing.assert_array_equal(f(scores, labels.astype(jnp.uint32)), [1, 0, np.nan])
    np.testing.assert_array_equal(jax.jit(metrics.top_k(1))(scores[:, 99:101], array([True] * 3)), [1, 1, 1])


# One logit per answer, as for binary_cross_entropy.
LOGITS, ANSWERS = np.float32([-9, 9, 0.5, 0, -0.5]), np.array([1, 0, 1, 0, 1])
RIGHT = [0, 0, 1, 1, 0]


@pytest.mark.parametrize("name", ["accuracy", "top_k"])
def test_one_logit_is_decided_at_0(name: str) -> None:
    """In every form of predictions (batch,) or (batch, 1), and of targets with or without the axis, of every dtype."""
    f = metrics.accuracy if name == "accuracy" else metrics.top_k(1)
    jitted = jax.jit(f)
    for z in (LOGITS, LOGITS[:, None], array(LOGITS, jnp.bfloat16)[:, None]):
        for t in (ANSWERS, ANSWERS[:, None]):
            for dtype in (bool, np.int32, np.uint8, np.float32, jnp.bfloat16):
                np.testing.assert_array_equal(f(z, array(t, dtype)), RIGHT)
            np.testing.assert_array_equal(jitted(z, array(t)), RIGHT)
    assert np.isnan(f([[np.nan]], [1])).all()
    np.testing.assert_array_equal(f([[-9.0], [9.0]], [[1.0], [0.0]]), [0, 0])
    # Several answers per example: an axis for the one logit of each.
    several = f(LOGITS.reshape(1, 5, 1), ANSWERS.reshape(1, 5))
    np.testing.assert_allclose(several, [np.mean(RIGHT)], rtol=1e-6)


def test_one_logit_has_two_classes() -> None:
    np.testing.assert_array_equal(metrics.top_k(2)(LOGITS[:, None], ANSWERS), np.ones(5))
    with pytest.raises(
        ValueError, match=r"top_k: k=3, wanted at most 2, the number of classes in float32\[5,1\]"
    ):
        metrics.top_k(3)(LOGITS[:, None], ANSWERS)


@pytest.mark.parametrize(
    "target", [[0, 2, 1, 0, 0], [0, -1, 0, 0, 0], [0, 0.9, 0, 0, 0], [0, np.nan, 1, 0, 0]]
)
def test_a_target_of_one_logit_is_0_or_1(target: list[float]) -> None:
    for name, f in {"accuracy": metrics.accuracy, "top_k": metrics.top_k(1)}.items():
        for shape in ((5,), (5, 1)):
            with pytest.raises(
                ValueError, match=rf"{name}: target\[1\]=.*, wanted 0 or 1, since the prediction"
            ):
                f(LOGITS.reshape(shape), np.reshape(target, shape))
        got = jax.jit(f)(LOGITS, array(target))
        np.testing.assert_array_equal(np.isnan(got), [False, True, False, False, False])


@pytest.mark.parametrize(
    "target, wanted",
    [
        (np.array([0, 2**32 + 1, 2]), r"target\[1\]=4294967297, wanted a label from 0 to 2"),
        ([0, -1, 2], r"target\[1\]=-1, wanted a label from 0 to 2"),
        (
            [[1.0, 0, 0], [1.0, 1.0, 0], [0, 0, 1.0]],
            r"target\[1\] has the sum 2 and the smallest entry 0, wanted a",
        ),
        ([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.0]], r"target\[1\] has the sum 0"),
    ],
)
def test_a_target_without_a_meaning_raises_if_it_is_known_and_is_nan_under_jit(
    target: Any, wanted: str
) -> None:
    for name, f in {"accuracy": metrics.accuracy, "top_k": metrics.top_k(2)}.items():
        with pytest.raises(ValueError, match=f"{name}: {wanted}"):
            f(array(np.eye(3)), target)
        if np.ndim(target) > 1 or np.max(target) < 9:
            np.testing.assert_array_equal(jax.jit(f)(array(np.eye(3)), array(target)), [1, np.nan, 1])


def test_an_untrained_network_of_one_logit_is_not_always_right() -> None:
    """All answers are the opposite of what the network says; in fit and in evaluate."""
    x = array([[-9.0], [9.0]])
    data = {"x": x, "y": array([[1.0], [0.0]])}
    measures = {"accuracy": metrics.accuracy, "top": metrics.top_k(1), "error": metrics.calibration_error(2)}
    got = fn.train.evaluate(fn.as_layer(fn.identity), measures, {}, {}, data)
    np.testing.assert_allclose([got[name] for name in measures], [0, 0, 1], atol=2e-4)
    fitted = fn.train.fit(
        fn.dense(1), losses.binary_cross_entropy, fn.optim.sgd(0.0), data, valid=data, steps=1, batch_size=2,
        initial=({"w": np.ones((1, 1), np.float32), "b": np.zeros(1, np.float32)}, {}), metrics=measures,
        progress=False,
    )  # fmt: skip
    assert fitted.history["valid_accuracy"] == fitted.history["train_accuracy"] == 0


def test_a_wrong_k_raises() -> None:
    with pytest.raises(TypeError, match=r"top_k: k=2\.0, wanted a positive int"):
        metrics.top_k(2.0)
    with pytest.raises(ValueError, match="top_k: k=0, wanted at least 1"):
        metrics.top_k(0)
    with pytest.raises(
        ValueError, match=r"top_k: k=4, wanted at most 3, the number of classes in float32\[2,3\]"
    ):
        metrics.top_k(4)(zeros((2, 3)), zeros(2, int))
    with pytest.raises(
        ValueError, match=r"top_k: prediction is float32\[2,3\] and target int32\[3\], wanted"
    ):
        metrics.top_k(2)(zeros((2, 3)), zeros(3, int))
