"""For each optimizer, the hyperparameter that is searched for, its range, and the largest problem it is used on."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import optax

import fnnet as fn
from fnnet.optim.wrappers.schedule_free import ScheduleFreeState


class TunableOptimizer(NamedTuple):
    """An optimizer with one hyperparameter to tune."""

    make: Callable[..., optax.GradientTransformationExtraArgs]
    argument: str | None  # the hyperparameter that is searched for; None if there is none
    default: float  # its value in trial 1
    low: float  # the other trials draw it log-uniformly between low and high
    high: float
    max_params: int = 1_000_000  # the most parameters for which it needs reasonable memory and time

    def optimizer(self, value: chex.Numeric, key: chex.PRNGKey) -> optax.GradientTransformationExtraArgs:
        """The optimizer with this value of the hyperparameter. If it draws random numbers, it uses this key."""
        given: dict[str, Any] = {} if self.argument is None else {self.argument: value}
        if "seed" in inspect.signature(self.make).parameters:
            given["seed"] = key
        return self.make(**given)


# name: (argument, default, low, high, largest number of parameters). If the signature has no default learning rate,
# the default is that of the paper or, for SGD and its variants, 0.01, as in Keras.
SEARCH_SPACES: dict[str, tuple[str | None, float, float, float, int]] = {
    **dict.fromkeys(
        ("sgd", "momentum", "nesterov", "adagrad"), ("learning_rate", 0.01, 1e-4, 10.0, 1_000_000)
    ),
    "adadelta": ("learning_rate", 1.0, 1e-2, 100.0, 1_000_000),
    "lion": ("learning_rate", 1e-4, 1e-6, 0.1, 1_000_000),
    "lars": ("learning_rate", 0.1, 1e-3, 100.0, 1_000_000),
    "prodigy": ("learning_rate", 1.0, 1e-2, 100.0, 1_000_000),
    "schedule_free_sgd": ("learning_rate", 1.0, 1e-3, 100.0, 1_000_000),
    "schedule_free_adamw": ("learning_rate", 0.0025, 1e-5, 1.0, 1_000_000),
    "muon": ("learning_rate", 0.02, 1e-4, 10.0, 1_000_000),
    "shampoo": ("learning_rate", 0.1, 1e-3, 10.0, 1_000_000),
    "soap": ("learning_rate", 3e-3, 1e-5, 1.0, 1_000_000),
    "gradient_descent": ("first_step", 1.0, 1e-3, 100.0, 1_000_000),
    "conjugate_gradient": (None, 0.0, 0.0, 0.0, 1_000_000),
    "lbfgs": (None, 1.0, 1.0, 1.0, 1_000_000),
    "newton_cg": ("eta_max", 0.5, 1e-3, 0.9, 1_000_000),
    "gauss_newton": ("damping", 1e-3, 1e-8, 10.0, 1_000),
    "levenberg_marquardt": ("damping", 1e-3, 1e-8, 10.0, 1_000),
    "natural_gradient": ("damping", 1e-3, 1e-8, 10.0, 1_000),
    "hessian_free": ("damping", 1.0, 1e-4, 100.0, 1_000_000),
    "sophia": ("learning_rate", 1e-3, 1e-5, 1.0, 1_000_000),
    "random_search": ("sigma", 0.1, 1e-3, 10.0, 1_000_000),
    "nelder_mead": ("zero_edge", 0.1, 1e-3, 10.0, 200),
    "simulated_annealing": ("temperature", 0.01, 1e-5, 10.0, 1_000_000),
    "one_plus_one_es": ("sigma", 0.1, 1e-3, 10.0, 1_000_000),
    "cma_es": ("sigma", 0.5, 1e-3, 10.0, 200),
    "openai_es": ("learning_rate", 0.01, 1e-4, 10.0, 1_000_000),
    "genetic_algorithm": ("sigma", 0.1, 1e-3, 10.0, 1_000_000),
    "differential_evolution": ("sigma", 1.0, 1e-2, 10.0, 200),
}
USUAL_SPACE = ("learning_rate", 1e-3, 1e-5, 1.0, 1_000_000)  # Adam and its variants


def tunable_optimizers() -> dict[str, TunableOptimizer]:
    """Every optimizer of fnnet by name, those with a twin in optax first."""
    makers: dict[str, Any] = {name: twin.ours for name, twin in fn.optim.TWINS.items()}
    makers |= {name: getattr(fn.optim, name) for name in SEARCH_SPACES if name not in makers}
    # As in their papers, without the arguments that make them equal to their twins.
    makers |= {"rprop": fn.optim.rprop, "prodigy": fn.optim.prodigy}
    return {
        name: TunableOptimizer(make, *SEARCH_SPACES.get(name, USUAL_SPACE)) for name, make in makers.items()
    }


def evaluation_params(state: Any, params: Any) -> Any:
    """The params to evaluate: the average for schedule-free methods, the params themselves for all others."""
    if isinstance(state, ScheduleFreeState):
        return fn.optim.schedule_free_eval_params(state, params)
    return params
