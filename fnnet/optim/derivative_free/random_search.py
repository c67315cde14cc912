"""Random search: a random step, taken if it lowers the loss (Matyas 1965)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_steps, finite_or_inf, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, check_seed
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import ScalarOrSchedule, at_step, check_number_or_schedule, times
from fnnet.optim.vector import as_vector


class RandomSearchState(NamedTuple):
    """The state of random search."""

    step: jax.Array  # int32[], updates taken
    key: chex.PRNGKey  # for the next steps
    evaluations: Evaluations  # values only


def random_search(
    sigma: ScalarOrSchedule = 0.1, population: int = 1, *, seed: Seed = 0
) -> optax.GradientTransformationExtraArgs:
    """Random search around the params: takes the best of some random candidates if it is better than the params.

        x_k = theta + sigma e_k,  e_k ~ N(0, I),  k = 1 ... population
        theta <- the best x_k, if L(x_k) < L(theta)

    The new params are the best point found, if the objective does not change. A step computes population + 1 values.
    It computes L(theta) again, or uses `value` if given, so that all points of a step are compared on one batch. The
    candidates are exactly params + updates. The gradient is not used. A value that is not finite ranks last.

    Args:
        sigma: standard deviation of the steps, in units of the params; a number or a schedule of the step.
        population: number of candidates per step. All are evaluated at once, by vmap.
        seed: an int or a JAX key.

    Baseline: the loop in NumPy with the same draws, equal to 1e-12 in float64.

    Raises:
        TypeError, ValueError: sigma is negative; population is not a positive int; the params are not real; update is
            called without `value_fn` or the params.

    Source: Matyas 1965, "Random optimization", Automation and Remote Control 26.

    Example:
        >>> optimizer = fn.optim.random_search(0.5, 20)
        >>> params = jnp.array([3.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(20):
        ...     params, state = step(params, state)
        >>> bool(abs(params[0]) < 0.1), int(state.evaluations.values)
        (True, 420)
    """
    check_seed("random_search", seed)
    check_number_or_schedule("random_search", "sigma", sigma, "[0, inf)")
    check.is_positive("random_search", "population", population)

    def init(params: optax.Params) -> RandomSearchState:
        return RandomSearchState(jnp.zeros([], jnp.int32), as_key(seed), no_evaluations())

    def update(
        grads: optax.Updates,
        state: RandomSearchState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        value: chex.Numeric | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, RandomSearchState]:
        f = require_objective("random_search", params, value_fn)
        theta, unflatten = as_vector("random_search", params)
        key, draw = jax.random.split(state.key)
        steps = times(
            at_step(sigma, state.step), jax.random.normal(draw, (population, *theta.shape), theta.dtype)
        )
        values = evaluate_steps(f, params, unflatten, steps)
        now = finite_or_inf(f(params) if value is None else value, theta)
        best = jnp.argmin(values)
        step = jnp.where(values[best] < now, steps[best], 0)
        evaluations = state.evaluations.plus(values=population + 1)
        return unflatten(step), RandomSearchState(optax.safe_increment(state.step), key, evaluations)

    return optax.GradientTransformationExtraArgs(init, update)
