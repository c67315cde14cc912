"""Optimizers, one per file. Each equals its optax twin (`TWINS`), or another baseline, step by step."""

from fnnet.optim.derivative_free.cma_es import cma_es
from fnnet.optim.derivative_free.differential_evolution import differential_evolution
from fnnet.optim.derivative_free.genetic_algorithm import genetic_algorithm
from fnnet.optim.derivative_free.nelder_mead import nelder_mead
from fnnet.optim.derivative_free.one_plus_one_es import one_plus_one_es
from fnnet.optim.derivative_free.openai_es import openai_es
from fnnet.optim.derivative_free.random_search import random_search
from fnnet.optim.derivative_free.simulated_annealing import simulated_annealing
from fnnet.optim.exponential_average import (
    exponential_average,
    exponential_average_init,
    exponential_average_update,
)
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
from fnnet.optim.first_order.gradient_descent import gradient_descent
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
from fnnet.optim.first_order.shampoo import shampoo
from fnnet.optim.first_order.soap import soap
from fnnet.optim.first_order.yogi import yogi
from fnnet.optim.line_search import Search, backtracking, wolfe
from fnnet.optim.schedules.cycle import (
    cosine_onecycle_schedule,
    cosine_restarts_schedule,
    linear_onecycle_schedule,
    sgdr_schedule,
)
from fnnet.optim.schedules.decay import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    inverse_time_schedule,
    linear_schedule,
    polynomial_schedule,
    step_decay_schedule,
)
from fnnet.optim.schedules.piecewise import (
    join_schedules,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
)
from fnnet.optim.schedules.warm_up import (
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_schedule,
)
from fnnet.optim.second_order.conjugate_gradient import conjugate_gradient
from fnnet.optim.second_order.gauss_newton import gauss_newton
from fnnet.optim.second_order.hessian_free import hessian_free
from fnnet.optim.second_order.hutchinson import hutchinson_estimator_diag_hessian
from fnnet.optim.second_order.lbfgs import lbfgs
from fnnet.optim.second_order.levenberg_marquardt import levenberg_marquardt
from fnnet.optim.second_order.natural_gradient import natural_gradient
from fnnet.optim.second_order.newton_cg import newton_cg
from fnnet.optim.second_order.sophia import sophia
from fnnet.optim.transforms.average_params import averaged_params, ema_params, mean_params
from fnnet.optim.transforms.clip import adaptive_grad_clip, clip, clip_by_global_norm, clip_by_norm
from fnnet.optim.transforms.noise import add_noise
from fnnet.optim.transforms.proximal_l1 import proximal_l1
from fnnet.optim.transforms.reduce_on_plateau import reduce_on_plateau
from fnnet.optim.transforms.weight_decay import add_decayed_weights
from fnnet.optim.twins import TWINS, Twin
from fnnet.optim.wrappers.accumulate import accumulate
from fnnet.optim.wrappers.lookahead import LookaheadParams, lookahead
from fnnet.optim.wrappers.sam import sam
from fnnet.optim.wrappers.schedule_free import schedule_free, schedule_free_eval_params

__all__ = [
    "TWINS",
    "LookaheadParams",
    "Search",
    "Twin",
    "accumulate",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "amsgrad",
    "averaged_params",
    "backtracking",
    "clip",
    "clip_by_global_norm",
    "clip_by_norm",
    "cma_es",
    "conjugate_gradient",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cosine_restarts_schedule",
    "differential_evolution",
    "ema_params",
    "exponential_average",
    "exponential_average_init",
    "exponential_average_update",
    "exponential_decay",
    "gauss_newton",
    "genetic_algorithm",
    "gradient_descent",
    "hessian_free",
    "hutchinson_estimator_diag_hessian",
    "inverse_time_schedule",
    "join_schedules",
    "lamb",
    "lars",
    "lbfgs",
    "levenberg_marquardt",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "lookahead",
    "mean_params",
    "momentum",
    "muon",
    "nadam",
    "nadamw",
    "natural_gradient",
    "nelder_mead",
    "nesterov",
    "newton_cg",
    "one_plus_one_es",
    "openai_es",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "prodigy",
    "proximal_l1",
    "radam",
    "random_search",
    "reduce_on_plateau",
    "rmsprop",
    "rprop",
    "sam",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "sgd",
    "sgdr_schedule",
    "shampoo",
    "simulated_annealing",
    "soap",
    "sophia",
    "step_decay_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_schedule",
    "wolfe",
    "yogi",
]
