"""Each optimizer and its twin: the same rule in optax, with the same arguments."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import optax

from fnnet.optim.first_order.adabelief import adabelief
from fnnet.optim.first_order.adadelta import adadelta
from fnnet.optim.first_order.adafactor import adafactor
from fnnet.optim.first_order.adagrad import adagrad
from fnnet.optim.first_order.adam import adam
from fnnet.optim.first_order.adamax import adamax
from fnnet.optim.first_order.adamaxw import adamaxw
from fnnet.optim.first_order.adamw import adamw
from fnnet.optim.first_order.adan import adan
from fnnet.optim.first_order.amsgrad import amsgrad
from fnnet.optim.first_order.lamb import lamb
from fnnet.optim.first_order.lars import lars
from fnnet.optim.first_order.lion import lion
from fnnet.optim.first_order.momentum import momentum
from fnnet.optim.first_order.muon import muon
from fnnet.optim.first_order.nadam import nadam
from fnnet.optim.first_order.nadamw import nadamw
from fnnet.optim.first_order.nesterov import nesterov
from fnnet.optim.first_order.prodigy import prodigy
from fnnet.optim.first_order.radam import radam
from fnnet.optim.first_order.rmsprop import rmsprop
from fnnet.optim.first_order.rprop import rprop
from fnnet.optim.first_order.schedule_free_adamw import schedule_free_adamw
from fnnet.optim.first_order.schedule_free_sgd import schedule_free_sgd
from fnnet.optim.first_order.sgd import sgd
from fnnet.optim.first_order.yogi import yogi

MakeOptimizer = Callable[..., optax.GradientTransformationExtraArgs]


class Twin(NamedTuple):
    """Two functions that make the same optimizer. Both take the same arguments, `learning_rate` among them."""

    ours: MakeOptimizer
    baseline: MakeOptimizer


TWINS: dict[str, Twin] = {
    "sgd": Twin(sgd, optax.sgd),
    "momentum": Twin(momentum, partial(optax.sgd, momentum=0.9)),
    "nesterov": Twin(nesterov, partial(optax.sgd, momentum=0.9, nesterov=True)),
    "adagrad": Twin(adagrad, optax.adagrad),
    "adadelta": Twin(adadelta, partial(optax.adadelta, learning_rate=1.0)),  # with None, optax 0.2.8 ascends
    "rmsprop": Twin(rmsprop, optax.rmsprop),
    "rmsprop_centered": Twin(partial(rmsprop, centered=True), partial(optax.rmsprop, centered=True)),
    "rmsprop_momentum": Twin(partial(rmsprop, momentum=0.9), partial(optax.rmsprop, momentum=0.9)),
    "adam": Twin(adam, optax.adam),
    "adamw": Twin(adamw, optax.adamw),
    "nadam": Twin(nadam, optax.nadam),
    "nadamw": Twin(nadamw, optax.nadamw),
    "adamax": Twin(adamax, optax.adamax),
    "adamaxw": Twin(adamaxw, optax.adamaxw),
    "amsgrad": Twin(amsgrad, optax.amsgrad),
    "radam": Twin(radam, optax.radam),
    "adabelief": Twin(adabelief, optax.adabelief),
    "yogi": Twin(yogi, optax.yogi),
    "adan": Twin(adan, optax.adan),
    "lion": Twin(lion, optax.lion),
    "rprop": Twin(partial(rprop, one_step_late=True), optax.rprop),  # optax 0.2.8 is one step late by mistake
    "lars": Twin(lars, optax.lars),
    "lamb": Twin(lamb, optax.lamb),
    "adafactor": Twin(partial(adafactor, b2_in_float32=True), optax.adafactor),  # where 1 - b2 cancels
    # Params in half precision do not move if it starts from the default, 1e-6.
    "prodigy": Twin(partial(prodigy, estim_lr0=0.1), partial(optax.contrib.prodigy, estim_lr0=0.1)),
    "schedule_free_sgd": Twin(schedule_free_sgd, optax.contrib.schedule_free_sgd),
    "schedule_free_adamw": Twin(schedule_free_adamw, optax.contrib.schedule_free_adamw),
    "muon": Twin(muon, optax.contrib.muon),
}
