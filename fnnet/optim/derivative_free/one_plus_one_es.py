"""The (1+1) evolution strategy: one parent, one child and an adaptive step length (Rechenberg 1973)."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_steps, finite_or_inf, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, check_seed
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.vector import as_vector


class OnePlusOneEsState(NamedTuple):
    """The state of the (1+1)-ES. The parent is the params."""

    key: chex.PRNGKey  # for the next steps
    sigma: jax.Array  # float[], standard deviation of the next step
    successes: jax.Array  # int32[], children that replaced the parent
    evaluations: Evaluations  # values only


def one_plus_one_es(
    sigma: chex.Numeric = 0.1,
    damping: chex.Numeric | None = None,
    target: chex.Numeric = 0.2,
    *,
    seed: Seed = 0,
) -> optax.GradientTransformationExtraArgs:
    """The (1+1)-ES with the 1/5 success rule.

        x = theta + sigma e,  e ~ N(0, I)
        s = 1 if L(x) <= L(theta), otherwise 0
        theta <- x  if s
        sigma <- sigma exp((s - 1/5) / d)

    sigma is constant if one child in five succeeds. More successes mean that steps are too short, fewer that they are
    too long.

    The new params are the best point found, if the objective does not change. A step computes 2 values. It computes
    L(theta) again, or uses `value` if given, so that parent and child are compared on one batch. The child is exactly
    params + updates. The gradient is not used. A value that is not finite ranks last.

    Args:
        sigma: standard deviation of the first step, in units of the params.
        damping: d, how slowly sigma changes; sqrt(n + 1) for n parameters by default.
        target: the success rate at which sigma is constant; 1/5 in Rechenberg.
        seed: an int or a JAX key.

    Rechenberg and Schwefel count successes over 10 n steps, then divide or multiply sigma by 0.85. The rule here is
    that of Hansen, Arnold & Auger, which changes sigma a little at each step and has the same equilibrium.

    Baseline: the loop in NumPy with the same draws, equal to 1e-12 in float64.

    Raises:
        TypeError, ValueError: sigma or the damping is negative; the target is not in [0, 1); the params are not real;
            update is called without `value_fn` or the params.

    Source: Rechenberg 1973, "Evolutionsstrategie"; Hansen, Arnold & Auger 2015, "Evolution strategies".

    Example:
        >>> optimizer = fn.optim.one_plus_one_es(1.0)
        >>> params = jnp.array([3.0, -2.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(60):
        ...     params, state = step(params, state)
        >>> bool(jnp.sum(params**2) < 1e-2), int(state.evaluations.values)
        (True, 120)
    """
    check_seed("one_plus_one_es", seed)
    check.number("one_plus_one_es", "sigma", sigma, "[0, inf)")
    if damping is not None:
        check.number("one_plus_one_es", "damping", damping, "[0, inf)")
    check.number("one_plus_one_es", "target", target, "[0, 1)")

    def init(params: optax.Params) -> OnePlusOneEsState:
        theta, _ = as_vector("one_plus_one_es", params)
        return OnePlusOneEsState(
            as_key(seed), jnp.asarray(sigma, theta.dtype), jnp.zeros([], jnp.int32), no_evaluations()
        )

    def update(
        grads: optax.Updates,
        state: OnePlusOneEsState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        value: chex.Numeric | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, OnePlusOneEsState]:
        f = require_objective("one_plus_one_es", params, value_fn)
        theta, unflatten = as_vector("one_plus_one_es", params)
        d = math.sqrt(theta.size + 1) if damping is None else damping
        key, draw = jax.random.split(state.key)
        step = state.sigma * jax.random.normal(draw, theta.shape, theta.dtype)
        child = evaluate_steps(f, params, unflatten, step[None])[0]
        parent = finite_or_inf(f(params) if value is None else value, theta)
        s = child <= parent
        factor = jnp.exp(
            (s.astype(theta.dtype) - jnp.asarray(target, theta.dtype)) / jnp.asarray(d, theta.dtype)
        )
        return unflatten(jnp.where(s, step, 0)), OnePlusOneEsState(
            key, state.sigma * factor, state.successes + s.astype(jnp.int32), state.evaluations.plus(values=2)
        )

    return optax.GradientTransformationExtraArgs(init, update)
