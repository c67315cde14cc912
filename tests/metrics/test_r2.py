"""R2 against scikit-learn's in double precision."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
import sklearn.metrics

from fnnet import metrics
from tests.arrays import array, ones, zeros


@functools.partial(jax.jit, static_argnums=0)
def of(metric: metrics.Metric, *batch: Any) -> jax.Array:
    return metric.result(metric.update(metric.init(), *batch))


def test_a_mean_far_larger_than_the_spread_costs_no_digits() -> None:
    """In batches of 1, of 64 and all at once; in order, the first target is far from the mean of all."""
    metric = metrics.r2()

    @jax.jit
    def results(prediction: jax.Array, target: jax.Array) -> list[jax.Array]:
        of_sizes = []
        for size in (1, 64, 4096):
            batches = prediction.reshape(-1, size), target.reshape(-1, size)
            totals, _ = jax.lax.scan(lambda t, b: (metric.update(t, *b), None), metric.init(), batches)
            of_sizes.append(metric.result(totals))
        return of_sizes

    random = np.random.default_rng(0)
    for mean in (0.0, 1e4, -1e6):
        for order in (np.asarray, np.sort):
            target = order(random.normal(mean, 1, 4096)).astype(np.float32)
            prediction = (target + random.normal(0, 0.3, 4096)).astype(np.float32)
            want = sklearn.metrics.r2_score(target.astype(np.float64), prediction.astype(np.float64))
            np.testing.assert_allclose(results(prediction, target), want, rtol=2e-6)


def test_the_first_target_may_be_the_odd_one_out() -> None:
    target = np.concatenate([[1e4], np.random.default_rng(1).normal(size=999)]).astype(np.float32)
    prediction = target + np.float32(0.5)
    prediction[0] = 0.0
    want = sklearn.metrics.r2_score(target.astype(np.float64), prediction.astype(np.float64))
    np.testing.assert_allclose(of(metrics.r2(), prediction, target), want, atol=1e-6)


@pytest.mark.slow
def test_constant_targets_are_as_in_scikit_learn() -> None:
    """1 where the predictions are right, else 0, in each output; 0.1 is no number of binary digits."""
    target = np.full((3, 2), 0.1, np.float32)
    right, half, wrong = target, target + np.array([0, 1], np.float32), target + 1
    for prediction, want in ((right, 1.0), (half, 0.5), (wrong, 0.0)):
        assert sklearn.metrics.r2_score(target, prediction) == want
        metric = metrics.r2(2)
        totals = metric.update(metric.init(), prediction[:2], target[:2])
        assert metric.result(metric.update(totals, prediction[2:], target[2:])) == want
    assert np.isnan(of(metrics.r2(2), np.where(np.eye(3, 2) > 0, np.nan, right), target))


def test_fewer_than_two_examples_have_none() -> None:
    assert np.isnan(of(metrics.r2(), ones(1), ones(1)))
    assert np.isnan(of(metrics.r2(), ones(2), ones(2), array([False, True])))
    assert of(metrics.r2(), ones(2), ones(2)) == 1


def test_one_output_with_an_axis_or_without_and_whole_numbers() -> None:
    prediction, target = np.array([1, 2, 3, 5]), np.array([1, 3, 3, 4])
    want = sklearn.metrics.r2_score(target, prediction)
    np.testing.assert_allclose(of(metrics.r2(), prediction, target), want, rtol=1e-6)
    np.testing.assert_allclose(of(metrics.r2(), prediction[:, None], target[:, None]), want, rtol=1e-6)


@pytest.mark.parametrize(
    "outputs, prediction, target, wanted",
    [
        (
            1,
            (4, 1),
            (4,),
            r"target float32\[4\], wanted both \(batch, 1\) or both \(batch,\) for outputs=1; give .*y\[:, None\]",
        ),
        (1, (4, 2), (4, 2), r"prediction is float32\[4,2\] .*wanted both \(batch, 1\) or both \(batch,\)"),
        (2, (4,), (4,), r"wanted both \(batch, 2\) for outputs=2"),
        (2, (4, 2), (3, 2), r"target float32\[3,2\], wanted both"),
        (1, (), (), r"prediction is float32\[\]"),
    ],
)
def test_shapes_that_do_not_fit_raise(
    outputs: int, prediction: tuple[int, ...], target: tuple[int, ...], wanted: str
) -> None:
    with pytest.raises(ValueError, match=f"r2: .*{wanted}"):
        of(metrics.r2(outputs), zeros(prediction), zeros(target))
    with pytest.raises(TypeError, match="r2: outputs=None, wanted a positive int"):
        metrics.r2(None)
