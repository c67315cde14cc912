"""Simulated annealing: a random walk that goes uphill less and less often (Kirkpatrick, Gelatt & Vecchi 1983)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet.optim.derivative_free.objective import ValueFn, evaluate_steps, finite_or_inf, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, check_seed
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import ScalarOrSchedule, at_step, check_number_or_schedule, copy_tree, times
from fnnet.optim.vector import as_vector


class SimulatedAnnealingState(NamedTuple):
    """The state of simulated annealing. The params are the current point of the walk."""

    step: jax.Array  # int32[], updates taken
    key: chex.PRNGKey  # for the next steps
    best: optax.Params  # the best point of the walk so far, like params
    best_value: jax.Array  # float[], its value; inf before the first step
    accepted: jax.Array  # int32[], steps accepted
    evaluations: Evaluations  # values only


def simulated_annealing(
    temperature: ScalarOrSchedule, sigma: ScalarOrSchedule = 0.1, *, seed: Seed = 0
) -> optax.GradientTransformationExtraArgs:
    """Simulated annealing with Gaussian steps and the Metropolis rule.

        x = theta + sigma e,  e ~ N(0, I)
        theta <- x  with probability min(1, exp(-(L(x) - L(theta)) / T))

    The rule is computed as L(x) <= L(theta) + T E, where E = -log(uniform) has the exponential distribution. It is
    equivalent, and covers T = 0, which accepts no step uphill.

    The new params are the current point of the walk. The best point so far, with its value, is in the state. A step
    computes 2 values. It computes L(theta) again, or uses `value` if given, so that both are from one batch. With a
    new batch at each step, best_value belongs to the batch of its step, and the lowest one may just be lucky. The
    candidate is exactly params + updates. The gradient is not used. A value that is not finite ranks last.

    Args:
        temperature: T, in units of the loss; a schedule of the step, such as `optax.exponential_decay(1.0, 1, 0.99)`,
            the T <- 0.99 T of most texts. A number gives a Metropolis walk at that temperature.
        sigma: standard deviation of the steps, in units of the params; a number or a schedule of the step.
        seed: an int or a JAX key.

    Baseline: the loop in NumPy with the same draws, equal to 1e-12 in float64.

    Raises:
        TypeError, ValueError: the temperature or sigma is negative; the params are not real; update is called without
            `value_fn` or the params.

    Source: Kirkpatrick, Gelatt & Vecchi 1983, "Optimization by simulated annealing"; Metropolis et al. 1953.

    Example:
        >>> optimizer = fn.optim.simulated_annealing(optax.exponential_decay(1.0, 1, 0.9), 0.3)
        >>> params = jnp.array([3.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(60):
        ...     params, state = step(params, state)
        >>> bool(abs(state.best[0]) < 0.3), int(state.evaluations.values)
        (True, 120)
    """
    check_seed("simulated_annealing", seed)
    check_number_or_schedule("simulated_annealing", "temperature", temperature, "[0, inf)")
    check_number_or_schedule("simulated_annealing", "sigma", sigma, "[0, inf)")

    def init(params: optax.Params) -> SimulatedAnnealingState:
        theta, _ = as_vector("simulated_annealing", params)
        best_value = jnp.asarray(jnp.inf, theta.dtype)
        return SimulatedAnnealingState(
            step=jnp.zeros([], jnp.int32),
            key=as_key(seed),
            best=copy_tree(params),
            best_value=best_value,
            accepted=jnp.zeros([], jnp.int32),
            evaluations=no_evaluations(),
        )

    def update(
        grads: optax.Updates,
        state: SimulatedAnnealingState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        value: chex.Numeric | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SimulatedAnnealingState]:
        f = require_objective("simulated_annealing", params, value_fn)
        theta, unflatten = as_vector("simulated_annealing", params)
        key, draw, chance = jax.random.split(state.key, 3)
        step = times(at_step(sigma, state.step), jax.random.normal(draw, theta.shape, theta.dtype))
        there = evaluate_steps(f, params, unflatten, step[None])[0]
        here = finite_or_inf(f(params) if value is None else value, theta)
        climb = times(at_step(temperature, state.step), jax.random.exponential(chance, dtype=theta.dtype))
        accept = there <= here + climb
        updates = unflatten(jnp.where(accept, step, 0))

        # The params can be the best point, too: at the first step, or if they were changed from outside.
        reached = jnp.where(accept, there, here)
        new = optax.apply_updates(params, updates)
        x, x_value = _better(params, here, new, reached)
        best, best_value = _better(state.best, state.best_value, x, x_value)
        return updates, SimulatedAnnealingState(
            optax.safe_increment(state.step),
            key,
            best,
            best_value,
            state.accepted + accept.astype(jnp.int32),
            state.evaluations.plus(values=2),
        )

    def _better(x: Any, x_value: jax.Array, y: Any, y_value: jax.Array) -> tuple[Any, jax.Array]:
        return jax.tree.map(lambda a, b: jnp.where(y_value < x_value, b, a), x, y), jnp.minimum(
            x_value, y_value
        )

    return optax.GradientTransformationExtraArgs(init, update)
