"""Optimizers without a twin in optax, by name. A line here adds one to test_method_contract.py.

Each is compared with another baseline (SciPy, optimistix, cma, its equation in NumPy) in a test file of its own.
"""

from collections.abc import Callable
from typing import Any

import optax

import fnnet as fn

Make = Callable[..., optax.GradientTransformationExtraArgs]

# name: (maker, keywords for the contract's problem, a bowl of 6 parameters)
OTHERS: dict[str, tuple[Make, dict[str, Any]]] = {
    "random_search": (fn.optim.random_search, {"sigma": 0.3, "population": 10}),
    "nelder_mead": (fn.optim.nelder_mead, {"relative_edge": 0.5, "zero_edge": 0.5}),
    "simulated_annealing": (fn.optim.simulated_annealing, {"temperature": 0.1, "sigma": 0.3}),
    "one_plus_one_es": (fn.optim.one_plus_one_es, {"sigma": 0.5}),
    "cma_es": (fn.optim.cma_es, {"sigma": 0.5}),
    "openai_es": (fn.optim.openai_es, {"learning_rate": 0.05}),
    "genetic_algorithm": (fn.optim.genetic_algorithm, {"sigma": 0.3, "mutation": 0.5}),
    "differential_evolution": (fn.optim.differential_evolution, {}),
    "gradient_descent": (fn.optim.gradient_descent, {}),
    "gradient_descent(wolfe)": (fn.optim.gradient_descent, {"line_search": fn.optim.wolfe}),
    "conjugate_gradient": (fn.optim.conjugate_gradient, {}),
    "lbfgs": (fn.optim.lbfgs, {}),
    "newton_cg": (fn.optim.newton_cg, {}),
    "sophia": (fn.optim.sophia, {"learning_rate": 0.05}),
    "gauss_newton": (fn.optim.gauss_newton, {}),
    "levenberg_marquardt": (fn.optim.levenberg_marquardt, {}),
    "levenberg_marquardt(marquardt)": (
        fn.optim.levenberg_marquardt,
        {"scaling": "diagonal", "rule": "marquardt"},
    ),
    "hessian_free": (fn.optim.hessian_free, {"max_iterations": 10}),
    "natural_gradient": (fn.optim.natural_gradient, {}),
    "natural_gradient(empirical)": (fn.optim.natural_gradient, {"fisher": "empirical", "damping": 0.5}),
    "shampoo": (fn.optim.shampoo, {"learning_rate": 0.5}),
    # The batch does not change: with a small eps, entries of g' that are only rounding errors would be scaled up to 1.
    "soap": (fn.optim.soap, {"learning_rate": 0.1, "eps": 1e-3}),
}

# Functions of fn.optim that are not optimizers by themselves: wrappers, parts of chains, schedules, averages. Each has
# its own tests.
PARTS: set[str] = {
    "accumulate",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "averaged_params",
    "backtracking",
    "clip",
    "clip_by_global_norm",
    "clip_by_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cosine_restarts_schedule",
    "ema_params",
    "exponential_average",
    "exponential_average_init",
    "exponential_average_update",
    "exponential_decay",
    "hutchinson_estimator_diag_hessian",
    "inverse_time_schedule",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lookahead",
    "mean_params",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "proximal_l1",
    "reduce_on_plateau",
    "sam",
    "schedule_free",
    "schedule_free_eval_params",
    "sgdr_schedule",
    "step_decay_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_schedule",
    "wolfe",
}
