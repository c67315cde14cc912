"""Metrics, to look at, not to minimize.

`accuracy`, `top_k` and the losses are `(prediction, target) -> one value an example`, and what is reported is
their mean. What is no mean over examples is a `Metric`: totals that grow from batch to batch, and a result
that is computed of them. Both go into `metrics={...}` of a training run and into `fn.train.evaluate`.

Every result is that of all examples at once, however they are split into batches. It is NaN where no example
was counted, and where one was counted that has no answer, such as a label that does not exist: under jit
nothing can be raised.
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
