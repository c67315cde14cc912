"""Each optimizer beside its twin: the same rule in optax, with the same arguments."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import optax

from fnnet.optim.adadelta import adadelta
from fnnet.optim.adagrad import adagrad
from fnnet.optim.adam import adam
from fnnet.optim.adamw import adamw
from fnnet.optim.momentum import momentum
from fnnet.optim.nadam import nadam
from fnnet.optim.nesterov import nesterov
from fnnet.optim.rmsprop import rmsprop
from fnnet.optim.sgd import sgd

MakeOptimizer = Callable[..., optax.GradientTransformationExtraArgs]


class Twin(NamedTuple):
    """Two makers of one rule: both take `learning_rate` and the other arguments by the same names."""

    ours: MakeOptimizer
    baseline: MakeOptimizer


TWINS: dict[str, Twin] = {
    "sgd": Twin(sgd, optax.sgd),
    "momentum": Twin(momentum, partial(optax.sgd, momentum=0.9)),
    "nesterov": Twin(nesterov, partial(optax.sgd, momentum=0.9, nesterov=True)),
    "adagrad": Twin(adagrad, optax.adagrad),
    "adadelta": Twin(adadelta, partial(optax.adadelta, learning_rate=1.0)),  # None ascends in optax 0.2.8
    "rmsprop": Twin(rmsprop, optax.rmsprop),
    "rmsprop_centered": Twin(partial(rmsprop, centered=True), partial(optax.rmsprop, centered=True)),
    "rmsprop_momentum": Twin(partial(rmsprop, momentum=0.9), partial(optax.rmsprop, momentum=0.9)),
    "adam": Twin(adam, optax.adam),
    "adamw": Twin(adamw, optax.adamw),
    "nadam": Twin(nadam, optax.nadam),
}
