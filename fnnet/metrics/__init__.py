"""Metrics: numbers to report, not to minimize.

`accuracy`, `top_k` and the losses are `(prediction, target) -> one value per example`, and their mean is reported. A
metric that is not a mean over examples is a `Metric`: totals that are updated batch by batch, and a result computed
from them. Both can be given as `metrics={...}` to a training run and to `fn.train.evaluate`.

A result is that of all examples at once, however they are split into batches. It is NaN if no example was counted,
or if one was counted that has no answer, such as NaN among the scores. A target without a meaning, such as a label
that does not exist, raises where its values are known. Under jit nothing can be raised, and it has no answer.

A prediction of one logit per answer, (batch, 1) or (batch,), as for `fn.losses.binary_cross_entropy`, has two classes:
yes where the logit is more than 0, with targets 0 or 1.
"""

from fnnet.metrics.accuracy import accuracy, top_k
from fnnet.metrics.calibration import calibration_error
from fnnet.metrics.confusion import confusion_matrix
from fnnet.metrics.metric import Metric, PerExample, mean, per_example
from fnnet.metrics.perplexity import perplexity
from fnnet.metrics.precision_recall import f1, precision, recall
from fnnet.metrics.r2 import r2
from fnnet.metrics.roc_auc import roc_auc

__all__ = [
    "Metric",
    "PerExample",
    "accuracy",
    "calibration_error",
    "confusion_matrix",
    "f1",
    "mean",
    "per_example",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "roc_auc",
    "top_k",
]
