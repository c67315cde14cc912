"""The (1+1) evolution strategy: one parent, one child, and a step length that learns (Rechenberg 1973)."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_steps, finite_or_inf, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.vector import as_vector


class OnePlusOneEsState(NamedTuple):
    """What the (1+1)-ES remembers. The parent is the params."""

    key: chex.PRNGKey  # for the steps to come
    sigma: jax.Array  # float[], standard deviation of the next step
    successes: jax.Array  # int32[], children that took the parent's place
    evaluations: Evaluations  # values only


def one_plus_one_es(
    sigma: chex.Numeric = 0.1,
    damping: chex.Numeric | None = None,
    target: chex.Numeric = 0.2,
    *,
    seed: Seed = 0,
) -> optax.GradientTransformationExtraArgs:
    """The (1+1)-ES with the 1/5 rule.

        x = theta + sigma e,  e ~ N(0, I)
        s = 1 if L(x) <= L(theta), else 0
        theta <- x  if s
        sigma <- sigma exp((s - 1/5) / d)

    sigma stands still where one child in five succeeds: more successes say that steps are short, fewer that
    they are long.

    The new params are the best point found, for an objective that stays the same. A step costs 2 values:
    L(theta) is taken anew each step (`value`, where training hands it in), so that parent and child are
    compared on one batch. The child is params + updates to the last digit. The gradient is not read. A value
    that is not finite ranks last.

    Args:
        sigma: standard deviation of the first step, in units of the params.
        damping: d, how slowly sigma changes; sqrt(n + 1) for n parameters unless given.
        target: the share of successes at which sigma stands still, Rechenberg's 1/5.
        seed: an int, or a key of jax.

    Rechenberg and Schwefel count the successes of 10 n steps, and then divide or multiply sigma by 0.85; the
    rule here is the one of Hansen, Arnold & Auger, which does a little at each step and has the same
    equilibrium.

    Baseline: the loop in NumPy with the same draws, equal to 1e-12 in float64.

    Raises:
        TypeError, ValueError: sigma or the damping is negative; the target is not in [0, 1); the params are
            not real; update is called without `value_fn` or the params.

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
    check.between("one_plus_one_es", "sigma", sigma, 0)
    check.between("one_plus_one_es", "damping", damping, 0)
    check.between("one_plus_one_es", "target", target, 0, 1)

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
