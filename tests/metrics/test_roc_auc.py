"""The area under the ROC curve against scikit-learn's, to 1e-6 in single precision."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from fnnet import metrics
from tests.arrays import array, ones, zeros


@functools.partial(jax.jit, static_argnums=0)
def of(metric: metrics.Metric, *batch: Any) -> jax.Array:
    return metric.result(metric.update(metric.init(), *batch))


@pytest.mark.slow
def test_a_hundred_thousand_examples() -> None:
    """The pairs, 2.5e9, are more than int32 or float32 count; without ties, with many, with few negatives."""
    n = 100_000
    random = np.random.default_rng(0)
    auc = jax.jit(lambda *batch: of(metrics.roc_auc(n), *batch))
    for share, digits in ((0.5, 7), (0.5, 1), (0.999, 1)):
        labels = random.uniform(size=n) < share
        scores = random.normal(size=n).round(digits).astype(np.float32) + labels
        want = sklearn.metrics.roc_auc_score(labels, scores)
        np.testing.assert_allclose(auc(scores, labels), want, rtol=3e-7)


@pytest.mark.parametrize("n, capacity", [(1, 2), (1000, 1023), (1000, 2**17)])
def test_any_capacity(n: int, capacity: int) -> None:
    """The sum is cut into parts by the capacity."""
    random = np.random.default_rng(1)
    labels = np.arange(n + 1) % 2
    scores = random.normal(size=n + 1).astype(np.float32) + labels
    want = sklearn.metrics.roc_auc_score(labels, scores)
    np.testing.assert_allclose(of(metrics.roc_auc(capacity), scores, labels), want, rtol=3e-7)


@pytest.mark.slow
def test_the_forms_of_predictions_and_targets_are_one() -> None:
    scores, labels = array([0.5, -jnp.inf, 0.0, -0.0, jnp.inf, 2.0]), array([1, 0, 1, 0, 1, 0])
    # By hand: of 9 pairs 6 are right (0.5 and 0 over -inf, 0.5 over -0, inf over all); 0 and -0 are a tie.
    auc = metrics.roc_auc(6)
    logits = np.stack([array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), array(np.arange(1, 7)) + scores], axis=-1)
    for prediction, target in (
        (scores, labels),
        (scores[:, None], labels[:, None].astype(jnp.float32)),
        (scores, labels.astype(bool)[:, None]),
        (scores.astype(jnp.bfloat16)[:, None], labels.astype(jnp.uint8)),
        (logits, labels),
        (logits, jax.nn.one_hot(labels, 2)),
    ):
        np.testing.assert_allclose(of(auc, prediction, target), 6.5 / 9, rtol=1e-6)


def test_an_area_without_both_classes_is_nan() -> None:
    auc = metrics.roc_auc(4)
    assert np.isnan(of(auc, array(np.arange(4.0)), ones(4, int)))
    assert np.isnan(of(auc, array(np.arange(4.0)), zeros(4, int)))
    assert np.isnan(of(metrics.roc_auc(4, 3), array(np.eye(4, 3)), array([0, 1, 1, 0])))
    # One of each is enough.
    assert of(auc, array(np.arange(2.0)), array([0, 1])) == 1
    assert of(auc, array(np.arange(2.0)), array([1, 0])) == 0
    assert of(auc, zeros(2), array([1, 0])) == 0.5


def test_a_target_between_the_classes_has_no_answer() -> None:
    for strange in (0.5, jnp.nan, 2.0, -1.0):
        assert np.isnan(of(metrics.roc_auc(3), array(np.arange(3.0)), array([0.0, 1.0, strange])))


def test_what_finds_no_room_makes_it_nan_for_good() -> None:
    auc = metrics.roc_auc(4)
    update, result = jax.jit(auc.update), jax.jit(auc.result)
    scores, labels = array(np.arange(4.0)), array([0, 0, 1, 1])
    totals = update(auc.init(), scores, labels, np.ones(4, bool))
    assert result(totals) == 1
    # What does not count needs no room.
    assert result(update(totals, scores, labels, np.zeros(4, bool))) == 1
    for _ in range(2):
        totals = update(totals, scores, labels, np.array([False, True, False, False]))
        assert np.isnan(result(totals))
    assert totals.n == 5  # it does not grow until it overflows


@pytest.mark.parametrize(
    "classes, prediction, target, wanted",
    [
        (
            2,
            (4, 3),
            (4,),
            r"prediction is float32\[4,3\], wanted \(batch,\), \(batch, 1\) or \(batch, 2\) for",
        ),
        (2, (), (), r"prediction is float32\[\], wanted \(batch,\), \(batch, 1\) or"),
        (2, (4,), (1,), r"target int32\[1\], wanted 0 or 1 for each score, of shape \(4,\)"),
        (2, (4, 1), (4, 2), r"prediction is float32\[4,1\] and target int32\[4,2\], wanted 0 or 1"),
        (2, (4, 2), (4, 1), r"target int32\[4,1\], wanted integer labels of shape \(4,\)"),
        (3, (4,), (4,), r"prediction is float32\[4\], wanted \(batch, 3\) for classes=3"),
        (3, (4, 5, 3), (4, 5), r"prediction is float32\[4,5,3\], wanted \(batch, 3\) for classes=3"),
        (3, (4, 3), (3,), r"target int32\[3\], wanted integer labels of shape \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit_raise(
    classes: int, prediction: tuple[int, ...], target: tuple[int, ...], wanted: str
) -> None:
    with pytest.raises(ValueError, match=f"roc_auc: .*{wanted}"):
        of(metrics.roc_auc(9, classes), np.zeros(prediction, np.float32), np.zeros(target, np.int32))


def test_wrong_arguments_raise() -> None:
    with pytest.raises(TypeError, match=r"roc_auc: capacity=100000\.0, wanted a positive int"):
        metrics.roc_auc(1e5)
    with pytest.raises(ValueError, match=r"roc_auc: capacity=1073741824, wanted in \[1, 1073741824\)"):
        metrics.roc_auc(2**30)
    with pytest.raises(ValueError, match="roc_auc: classes=1, wanted at least 2"):
        metrics.roc_auc(10, 1)
