"""Optimizers written by hand, one a file, each equal to its optax twin (`TWINS`), step by step."""

from fnnet.optim.adadelta import adadelta
from fnnet.optim.adagrad import adagrad
from fnnet.optim.adam import adam
from fnnet.optim.adamw import adamw
from fnnet.optim.momentum import momentum
from fnnet.optim.nadam import nadam
from fnnet.optim.nesterov import nesterov
from fnnet.optim.rmsprop import rmsprop
from fnnet.optim.sgd import sgd
from fnnet.optim.twins import TWINS, Twin

__all__ = [
    "TWINS",
    "Twin",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "momentum",
    "nadam",
    "nesterov",
    "rmsprop",
    "sgd",
]
