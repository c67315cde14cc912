"""The evolution strategy of Salimans et al. (2017): a gradient estimated from the values of random points."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_points, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, check_seed
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    check_flags,
    check_learning_rate,
    check_number_or_schedule,
    times,
)
from fnnet.optim.vector import as_vector


class OpenaiEsState(NamedTuple):
    """The state of the strategy. The points are drawn around the params."""

    step: jax.Array  # int32[], updates taken
    key: chex.PRNGKey  # for the next points
    evaluations: Evaluations  # values only


def openai_es(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule = 0.1,
    population: int = 50,
    *,
    ranks: bool = True,
    seed: Seed = 0,
) -> optax.GradientTransformationExtraArgs:
    """The evolution strategy of Salimans et al., with mirrored samples and centred ranks.

        e_i ~ N(0, I),  i = 1 ... k,  k = population / 2
        u_i+, u_i- = ranks of L(theta + sigma e_i), L(theta - sigma e_i) among all 2k,
                     from -1/2 (best) to 1/2
        g = 1 / (2 k sigma) sum_i (u_i+ - u_i-) e_i
        theta <- theta - alpha g

    With ranks=False the values replace u, and g is an unbiased estimate of the gradient of the smoothed loss
    E[L(theta + sigma e)]. For a quadratic L that is the gradient of L.

    The next points are drawn around the new params, whose value is not computed. A step computes `population` values
    on the batch of that step. The gradient is not used. A value that is not finite ranks last; with ranks=False its
    pair is left out.

    To pass g to another optimizer, as the authors do with Adam: `optax.chain(openai_es(1.0), optax.scale(-1.0),
    adam(1e-2))`.

    Args:
        learning_rate: alpha, a number or a schedule of the step. With ranks, g does not depend on the scale of the
            loss.
        sigma: standard deviation of the points, in units of the params; a number or a schedule of the step.
        population: number of points per step, even. All are evaluated at once, by vmap.
        ranks: True to use ranks instead of values, so that only the order of the values matters.
        seed: an int or a JAX key.

    The authors' program leaves out the factor 1 / sigma of the paper: its alpha is ours divided by sigma.

    Baseline: the sum in NumPy with the same draws, equal to 1e-12 in float64; the gradient of a quadratic.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or sigma is negative;
            population is not a positive even int; the params are not real; update is called without `value_fn` or the
            params.

    Source: Salimans, Ho, Chen, Sidor & Sutskever 2017, arXiv:1703.03864, algorithm 1 and section 2.1.

    Example:
        >>> optimizer = fn.optim.openai_es(0.05)
        >>> params = jnp.array([3.0, -2.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(60):
        ...     params, state = step(params, state)
        >>> bool(jnp.sum(params**2) < 0.1), int(state.evaluations.values)
        (True, 3000)
    """
    check_seed("openai_es", seed)
    check_flags("openai_es", ranks=ranks)
    check_learning_rate("openai_es", learning_rate)
    check_number_or_schedule("openai_es", "sigma", sigma, "[0, inf)")
    check.is_positive("openai_es", "population", population)
    if population % 2:
        raise ValueError(
            f"openai_es: population={population}, wanted an even number: samples come in mirrored pairs"
        )

    def init(params: optax.Params) -> OpenaiEsState:
        return OpenaiEsState(jnp.zeros([], jnp.int32), as_key(seed), no_evaluations())

    def update(
        grads: optax.Updates,
        state: OpenaiEsState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, OpenaiEsState]:
        f = require_objective("openai_es", params, value_fn)
        theta, unflatten = as_vector("openai_es", params)
        k = population // 2
        key, draw = jax.random.split(state.key)
        e = jax.random.normal(draw, (k, theta.size), theta.dtype)
        width = jnp.asarray(at_step(sigma, state.step), theta.dtype)
        values = evaluate_points(f, unflatten, theta[None, :] + width * jnp.concatenate([e, -e]))
        if ranks:
            values = jnp.argsort(jnp.argsort(values)).astype(theta.dtype) / (population - 1) - 0.5
        plus, minus = values[:k], values[k:]
        difference = jnp.where(jnp.isfinite(plus) & jnp.isfinite(minus), plus - minus, 0)
        g = difference @ e / (population * width)
        updates = unflatten(times(-at_step(learning_rate, state.step), g))
        evaluations = state.evaluations.plus(values=population)
        return updates, OpenaiEsState(optax.safe_increment(state.step), key, evaluations)

    return optax.GradientTransformationExtraArgs(init, update)
