"""What every metric must do: one result under jit, scan, vmap and masks, for any split into batches.

A line in METRICS enrols one; a test fails while it is missing.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

import fnnet as fn
from fnnet import metrics
from tests.arrays import array

N, CLASSES, BATCHES = 12, 3, 4
close = np.testing.assert_allclose
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


class Case(NamedTuple):
    metric: fn.metrics.Metric
    draw: Draw  # of so many examples: predictions and targets
    oracle: Callable[[np.ndarray, np.ndarray], Any]  # NaN where it has no answer


def classes(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores in steps of 1/2, so that many are equal and all are exact in half precision."""
    return random.integers(-4, 5, (n, CLASSES)) / 2, random.integers(0, CLASSES, n)


def repeated_rows(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that come more than once: what is equal is so before the softmax, not by how it is rounded."""
    rows = np.asarray(jnp.asarray(random.normal(size=(6, CLASSES)), jnp.bfloat16), np.float64)
    return rows[random.integers(0, 6, n)], random.integers(0, CLASSES, n)


def binary(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return random.integers(-4, 5, n) / 2, random.integers(0, 2, n)


def numbers(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return random.integers(-8, 9, (n, 2)) / 4, random.integers(-8, 9, (n, 2)) / 4


def by_scikit_learn(column: int, average: str | None) -> Callable[..., Any]:
    def oracle(scores: np.ndarray, labels: np.ndarray) -> Any:
        return sklearn.metrics.precision_recall_fscore_support(
            labels, scores.argmax(-1), labels=range(CLASSES), average=average, zero_division=0
        )[column]

    return oracle


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    if len(np.unique(labels)) < (scores.shape[1] if scores.ndim > 1 else 2):
        return np.nan
    if scores.ndim == 1:
        return sklearn.metrics.roc_auc_score(labels, scores)
    return sklearn.metrics.roc_auc_score(labels, scipy.special.softmax(scores, -1), multi_class="ovr")


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    p = scipy.special.softmax(logits, -1)
    confidence, right = p.max(-1), logits.argmax(-1) == labels
    gaps = 0.0
    for b in range(1, 6):
        member = (confidence > (b - 1) / 5) & (confidence <= b / 5)
        if member.any():
            gaps += member.mean() * abs(right[member].mean() - confidence[member].mean())
    return gaps


def r2_score(prediction: np.ndarray, target: np.ndarray) -> float:
    return np.nan if len(target) < 2 else sklearn.metrics.r2_score(target, prediction)


METRICS: dict[str, Case] = {
    "mean": Case(
        metrics.mean(metrics.accuracy),
        classes,
        lambda p, t: sklearn.metrics.accuracy_score(t, p.argmax(-1)),
    ),
    "confusion_matrix": Case(
        metrics.confusion_matrix(CLASSES),
        classes,
        lambda p, t: sklearn.metrics.confusion_matrix(t, p.argmax(-1), labels=range(CLASSES)),
    ),
    "precision": Case(metrics.precision(CLASSES), classes, by_scikit_learn(0, "macro")),
    "recall(weighted)": Case(metrics.recall(CLASSES, "weighted"), classes, by_scikit_learn(1, "weighted")),
    "f1(None)": Case(metrics.f1(CLASSES, None), classes, by_scikit_learn(2, None)),
    "roc_auc": Case(metrics.roc_auc(N + 3), binary, auc),
    "roc_auc(three classes)": Case(metrics.roc_auc(N, CLASSES), repeated_rows, auc),
    "calibration_error": Case(metrics.calibration_error(5), classes, expected_calibration_error),
    "perplexity": Case(
        metrics.perplexity(),
        classes,
        lambda p, t: np.exp(sklearn.metrics.log_loss(t, scipy.special.softmax(p, -1), labels=range(CLASSES))),
    ),
    "r2(two outputs)": Case(metrics.r2(2), numbers, r2_score),
}
every = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in METRICS.items()])


def test_every_metric_is_enrolled() -> None:
    makers = {name for name in metrics.__all__ if callable(getattr(metrics, name))} - {"PerExample", "Metric"}
    assert makers - {"accuracy", "top_k", "per_example"} == {name.split("(")[0] for name in METRICS}


def rubbish(like: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What stands in rows that do not count: NaN, and labels that do not exist."""
    return np.full(shape + like.shape[1:], np.nan if like.dtype.kind == "f" else 99, like.dtype)


def in_batches(
    prediction: np.ndarray, target: np.ndarray, sizes: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The examples in batches of these sizes, each filled up to N rows by some that do not count."""
    predictions, targets = (rubbish(a, (BATCHES, N)) for a in (prediction, target))
    mask = np.zeros((BATCHES, N), bool)
    begin = 0
    for b, size in enumerate(sizes):
        rows = np.arange(size) if b % 2 else np.arange(N - size, N)
        predictions[b, rows], targets[b, rows] = (
            prediction[begin : begin + size],
            target[begin : begin + size],
        )
        mask[b, rows] = True
        begin += size
    return predictions, targets, mask


def stream(metric: fn.metrics.Metric, predictions: Any, targets: Any, mask: Any) -> jax.Array:
    """The result of batches, by a scan: its totals must keep their shapes and dtypes."""

    def add(totals: Any, batch: Any) -> tuple[Any, None]:
        return metric.update(totals, *batch), None

    return metric.result(jax.lax.scan(add, metric.init(), (predictions, targets, mask))[0])


@functools.cache
def streams(metric: fn.metrics.Metric) -> Callable[..., jax.Array]:
    """Two streams at once, by vmap: compiled once for all tests."""
    return jax.jit(jax.vmap(lambda *batches: stream(metric, *batches)))


@every
def test_any_split_into_batches_gives_the_oracle(case: Case) -> None:
    """Two streams of the same examples, split in two ways."""

    @hypothesis.settings(max_examples=12)
    @hypothesis.given(
        seed=st.integers(0, 2**16),
        n=st.integers(1, N),
        cuts=st.lists(
            st.lists(st.integers(0, N), min_size=BATCHES - 1, max_size=BATCHES - 1), min_size=2, max_size=2
        ),
    )
    def check(seed: int, n: int, cuts: list[list[int]]) -> None:
        prediction, target = case.draw(np.random.default_rng(seed), n)
        split = [
            in_batches(prediction, target, np.diff([0, *sorted(min(c, n) for c in cut), n]).tolist())
            for cut in cuts
        ]
        for one in streams(case.metric)(*(np.stack(parts) for parts in zip(*split, strict=True))):
            close(one, case.oracle(prediction, target), rtol=2e-5, atol=2e-6)

    check()


@every
@pytest.mark.usefixtures("float64")
def test_double_precision_keeps_its_digits_and_half_precision_costs_none(case: Case) -> None:
    """The latter without a mask, with a short last batch and one without examples."""

    @jax.jit
    def results(prediction: jax.Array, target: jax.Array, *batches: jax.Array) -> tuple[jax.Array, jax.Array]:
        half, totals = prediction.astype(jnp.bfloat16), case.metric.init()
        for begin, end in ((0, 7), (7, 12), (12, 12)):
            totals = case.metric.update(totals, half[begin:end], target[begin:end])
        return stream(case.metric, *batches), case.metric.result(totals)

    prediction, target = case.draw(np.random.default_rng(3), N)
    double, half = results(prediction, target, *in_batches(prediction, target, [5, 0, 4, 3]))
    want = case.oracle(prediction, target)
    assert double.dtype == half.dtype == (jnp.int32 if double.ndim == 2 else jnp.float64)
    close(double, want, rtol=1e-12)
    close(half, want, rtol=1e-6)


@every
def test_nothing_counted_is_nan(case: Case) -> None:
    """And a confusion matrix of zeros. Rows that do not count are rubbish."""
    nothing = in_batches(*case.draw(np.random.default_rng(0), N), [0])
    for got in streams(case.metric)(*(np.stack([a, a]) for a in nothing)):
        assert np.all(got == 0) if got.ndim == 2 else np.all(np.isnan(got))


@every
def test_what_has_no_answer_does_not_pass_for_one(case: Case) -> None:
    """NaN among predictions, and labels that do not exist: no class is guessed for them."""
    prediction, target = case.draw(np.random.default_rng(5), N)
    with_nan, below, above = prediction.copy(), target.copy(), target.copy()
    with_nan.reshape(N, -1)[4, -1] = np.nan
    below[4], above[4] = (np.nan, np.nan) if target.dtype.kind == "f" else (-1, CLASSES)
    for p, t in [(with_nan, target), (prediction, below), (prediction, above)]:
        batches = in_batches(p, t, [6, 3, 3])
        for got in streams(case.metric)(*(np.stack([a, a]) for a in batches)):
            assert np.all(got == -1) if got.ndim == 2 else np.all(np.isnan(got))


@every
def test_a_label_that_is_known_not_to_exist_raises_unless_the_mask_leaves_it_out(case: Case) -> None:
    if case.draw is numbers:
        return  # has no labels
    prediction, target = case.draw(np.random.default_rng(5), 4)
    mask = np.array([True, True, False, True])
    want = case.metric.result(case.metric.update(case.metric.init(), prediction[mask], target[mask]))
    for label in (CLASSES, 2**32 + 1):
        wrong = target.copy()
        wrong[2] = label
        with pytest.raises(ValueError, match=rf"target\[2\]={label}, wanted "):
            case.metric.update(case.metric.init(), prediction, wrong)
        got = case.metric.result(case.metric.update(case.metric.init(), prediction, wrong, mask))
        close(got, want, rtol=1e-6)


@every
def test_totals_may_be_donated(case: Case) -> None:
    """No array of the first totals is another one, too."""
    where = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(case.metric.init())]
    assert len(set(where)) == len(where)


@every
def test_a_mask_that_does_not_fit_raises(case: Case) -> None:
    prediction, target = case.draw(np.random.default_rng(0), 4)
    for mask, got in ((np.ones(1, bool), r"bool\[1\]"), (np.ones(4, int), r"int32\[4\]")):
        with pytest.raises(ValueError, match=rf"mask is {got}, wanted bool\[4\], one for each example"):
            case.metric.update(case.metric.init(), prediction, target, mask)


# The mean, as training and evaluation use it.
def test_a_mean_counts_what_the_mask_leaves() -> None:
    accuracy = metrics.mean(metrics.accuracy)
    assert np.isnan(accuracy.result(accuracy.init()))
    scores, labels = array([[0.1, 0.9], [0.8, 0.2], [jnp.nan, 0.0]]), array([1, 1, 0])
    totals = accuracy.update(accuracy.init(), scores, labels, array([True, True, False]))
    assert accuracy.result(totals) == 0.5
    assert metrics.mean(accuracy) is accuracy


def test_evaluation_with_a_short_last_batch() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(23, 4)).astype(np.float32), random.integers(0, 4, 23)
    measures = {
        "loss": fn.losses.softmax_cross_entropy,
        "top_3": metrics.top_k(3),
        "f1": metrics.f1(4),
        "confusion": metrics.confusion_matrix(4),
        "auc": metrics.roc_auc(23, 4),
        "small": metrics.roc_auc(22, 4),
        "perplexity": metrics.perplexity(),
    }
    identity = fn.as_layer(fn.identity)
    got = jax.jit(lambda: fn.train.evaluate(identity, measures, {}, {}, {"x": x, "y": y}, batch_size=9))()
    guess = x.argmax(-1)
    close(
        got["f1"],
        sklearn.metrics.f1_score(y, guess, average="macro", labels=range(4), zero_division=0),
        1e-6,
    )
    close(got["confusion"], sklearn.metrics.confusion_matrix(y, guess, labels=range(4)))
    close(got["top_3"], sklearn.metrics.top_k_accuracy_score(y, x, k=3, labels=range(4)), 1e-6)
    close(got["auc"], sklearn.metrics.roc_auc_score(y, scipy.special.softmax(x, -1), multi_class="ovr"), 1e-6)
    assert np.isnan(got["small"])
    close(got["perplexity"], np.exp(got["loss"]), 1e-6)


@pytest.mark.slow
def test_in_a_run_under_vmap_the_last_evaluation_is_that_of_the_params() -> None:
    data = fn.data.split(fn.data.blobs(jax.random.key(0), 60, classes=3), test=0.0)
    net = fn.dense(3)
    run = fn.train.make_run(
        net,
        fn.losses.softmax_cross_entropy,
        fn.optim.sgd,
        steps=4,
        batch_size=16,
        eval_every=2,
        eval_batch_size=5,
        metrics={"f1": metrics.f1(3), "auc": metrics.roc_auc(48, 3)},
    )
    rates = {"learning_rate": array([0.1, 1.0])}
    trained = jax.jit(jax.vmap(lambda h: run(jax.random.key(1), data, h)))(rates)
    params, history = trained.params, trained.history
    assert (history["train_f1"].shape, history["valid_f1"].shape) == ((2, 4), (2, 2))
    x, y = (np.asarray(data.valid[name]) for name in ("x", "y"))
    for i in range(2):
        logits = x @ np.asarray(params["w"][i]) + np.asarray(params["b"][i])
        close(history["valid_f1"][i, -1], by_scikit_learn(2, "macro")(logits, y), 1e-5)
        close(history["valid_auc"][i, -1], auc(logits, y), 1e-5)
    assert np.all(np.isfinite(history["train_auc"]))
