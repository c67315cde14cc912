"""The calibration error against scikit-learn's reliability curve; perplexity against its cross-entropy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.calibration
import sklearn.metrics

from fnnet import losses, metrics
from tests.arrays import array, zeros


@functools.partial(jax.jit, static_argnums=0)
def of(metric: metrics.Metric, *batch: Any) -> jax.Array:
    return metric.result(metric.update(metric.init(), *batch))


@pytest.mark.parametrize("bins", [1, 15])
def test_the_error_is_the_gap_of_the_reliability_curve(bins: int) -> None:
    random = np.random.default_rng(0)
    logits, labels = 2 * random.normal(size=(500, 4)), random.integers(0, 4, 500)
    confidence = scipy.special.softmax(logits, axis=-1).max(-1)
    right = logits.argmax(-1) == labels
    share, mean = sklearn.calibration.calibration_curve(right, confidence, n_bins=bins)
    # The curve leaves out empty bins and does not tell how many are in the others.
    sizes = np.histogram(confidence, bins=bins, range=(0, 1))[0]
    want = np.sum(sizes[sizes > 0] * np.abs(share - mean)) / 500
    got = of(metrics.calibration_error(bins), logits, labels)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # Each position of a sequence counts; a distribution is the class of its largest entry.
    batch = logits.reshape(50, 10, 4), np.eye(4, dtype=np.float32)[labels].reshape(50, 10, 4)
    np.testing.assert_allclose(of(metrics.calibration_error(bins), *batch), want, rtol=1e-5)


def test_a_confidence_at_an_edge_belongs_to_the_bin_below() -> None:
    """1/2, right, and 3/4, wrong: apart, the gaps are 1/2 and 3/4; in one bin they partly cancel."""
    logits = np.log(array([[0.5, 0.5], [0.25, 0.75]]))
    labels = array([0, 0])
    np.testing.assert_allclose(
        of(metrics.calibration_error(4), logits, labels), (1 / 2 + 3 / 4) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(of(metrics.calibration_error(1), logits, labels), 1 / 8, rtol=1e-6)
    assert of(metrics.calibration_error(), 1e9 * array(np.eye(2)), array([0, 1])) == 0
    assert of(metrics.calibration_error(), 1e9 * array(np.eye(2)), array([1, 0])) == 1
    assert np.isnan(of(metrics.calibration_error(), array(np.full((1, 2), jnp.inf)), array([0])))


def test_one_logit_has_the_confidence_of_its_sigmoid() -> None:
    random = np.random.default_rng(1)
    z, labels = 3 * random.normal(size=200).astype(np.float32), random.integers(0, 2, 200)
    p = scipy.special.expit(z.astype(np.float64))
    confidence, right = np.maximum(p, 1 - p), (z > 0) == labels
    inside = [(confidence > b / 10) & (confidence <= (b + 1) / 10) for b in range(10)]
    want = sum(abs(np.sum(right[i]) - np.sum(confidence[i])) for i in inside) / 200
    for prediction, target in (
        (z, labels),
        (z[:, None], labels[:, None].astype(np.float32)),
        (z, labels > 0),
    ):
        np.testing.assert_allclose(of(metrics.calibration_error(10), prediction, target), want, rtol=1e-5)


def test_perplexity_of_one_score_raises() -> None:
    with pytest.raises(ValueError, match=r"softmax_cross_entropy: .* use binary_cross_entropy"):
        of(metrics.perplexity(), zeros((3, 1)), zeros(3, int))
    with pytest.raises(TypeError, match="perplexity: got 'nll', wanted a function"):
        metrics.perplexity("nll")


def test_perplexity_of_another_loss_and_of_sequences() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(6, 5, 4)), random.integers(0, 4, (6, 5))
    p = scipy.special.softmax(logits.reshape(30, 4), axis=-1)
    want = np.exp(sklearn.metrics.log_loss(labels.ravel(), p, labels=range(4)))
    np.testing.assert_allclose(of(metrics.perplexity(), logits, labels), want, rtol=1e-6)
    np.testing.assert_allclose(of(metrics.perplexity(losses.nll), np.log(p), labels.ravel()), want, rtol=1e-6)


def test_wrong_arguments_and_shapes_raise() -> None:
    with pytest.raises(ValueError, match="calibration_error: bins=0, wanted at least 1"):
        metrics.calibration_error(0)
    with pytest.raises(
        ValueError, match=r"calibration_error: prediction is float32\[3\], wanted \(batch, ..."
    ):
        of(metrics.calibration_error(), zeros(3), zeros([], int))
    with pytest.raises(ValueError, match=r"calibration_error: .* target int32\[3\], wanted integer labels"):
        of(metrics.calibration_error(), zeros((2, 3)), zeros(3, int))
    with pytest.raises(ValueError, match=r"perplexity is float32\[\], wanted one value for each of the 2"):
        of(metrics.perplexity(lambda z, t: jnp.mean(z)), zeros((2, 3)), zeros(2, int))
