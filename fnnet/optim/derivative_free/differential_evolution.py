"""Differential evolution: steps are differences between members of the population (Storn & Price 1997)."""

from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_points, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, check_seed, draw_population
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import check_flags, times
from fnnet.optim.vector import as_vector


class DifferentialEvolutionState(NamedTuple):
    """The state of differential evolution."""

    step: jax.Array  # int32[], updates taken
    key: chex.PRNGKey  # for the next generations
    population: jax.Array  # float[population, n]
    values: jax.Array  # float[population], the objective there; inf before the first update
    evaluations: Evaluations  # values only


def differential_evolution(
    population: int | None = None,
    weight: chex.Numeric = 0.5,
    crossover: chex.Numeric = 0.9,
    strategy: Literal["rand/1/bin", "best/1/bin"] = "rand/1/bin",
    *,
    sigma: chex.Numeric = 1.0,
    reevaluate: bool = False,
    seed: Seed = 0,
) -> optax.GradientTransformationExtraArgs:
    """Differential evolution.

    For each member x_i of the population:

        v = x_r1 + F (x_r2 - x_r3)            rand/1/bin; r1, r2, r3 and i all differ
        v = x_best + F (x_r1 - x_r2)          best/1/bin; r1, r2 and i all differ
        u_j = v_j with probability CR, and for one random j; otherwise x_ij
        x_i <- u if L(u) <= L(x_i)

    The first population is the params and points drawn around them from N(params, sigma^2), as the paper proposes if
    a first solution is known. The first update evaluates it; each later update evaluates one generation of trials.

    The new params are the best member, up to the rounding of params + (best - params).
    `state.population[argmin(state.values)]` is that member itself, and the search continues from the population,
    whatever happens to the params. A step computes `population` values. The values of the members are kept, as in the
    paper, so with a new batch at each step, members that had a lucky batch survive. `reevaluate=True` computes them
    again on the batch of the trials, at twice the cost. The gradient is not used. A value that is not finite ranks
    last.

    Args:
        population: NP, at least 4; by default 10 n for n parameters, at least 10. (The paper: 5 n to 10 n.) All
            members are evaluated at once, by vmap.
        weight: F, the factor of the difference. (The paper suggests to start with 0.5.)
        crossover: CR, in [0, 1]. (The paper suggests to start with 0.1, and to try 0.9 or 1 for speed.)
        strategy: what the difference is added to: a random member, or the best one.
        sigma: standard deviation of the first population around the params, in units of the params. The differences
            scale with it, so the population should reach as far as the minimum.
        reevaluate: True to compute the values of the members again at each step.
        seed: an int or a JAX key.

    SciPy's differential_evolution draws a new F from [0.5, 1) for each generation, defaults to best/1/bin and CR =
    0.7, and lets a trial replace its parent before the generation ends.

    Baseline: the loop in NumPy with the same draws, equal to 1e-12 in float64; SciPy's optimum on Rastrigin.

    Raises:
        TypeError, ValueError: population is not an int, or is less than 4; F or sigma is negative; CR is not in [0,
            1]; the strategy is unknown; the params are not real; update is called without `value_fn` or the params.

    Source: Storn & Price 1997, "Differential evolution".

    Example:
        >>> optimizer = fn.optim.differential_evolution()
        >>> params = jnp.array([3.0, -2.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(40):
        ...     params, state = step(params, state)
        >>> bool(jnp.sum(params**2) < 1e-3), int(state.evaluations.values)
        (True, 800)
    """
    check_seed("differential_evolution", seed)
    check_flags("differential_evolution", reevaluate=reevaluate)
    if population is not None:
        check.is_positive("differential_evolution", "population", population)
        check.number("differential_evolution", "population", population, "[4, inf)")
    check.number("differential_evolution", "weight", weight, "[0, inf)")
    check.number("differential_evolution", "crossover", crossover, "[0, 1]")
    check.number("differential_evolution", "sigma", sigma, "[0, inf)")
    check.one_of("differential_evolution", "strategy", strategy, ("rand/1/bin", "best/1/bin"))

    def init(params: optax.Params) -> DifferentialEvolutionState:
        theta, _ = as_vector("differential_evolution", params)
        members = max(10, 10 * theta.size) if population is None else population
        key, draw = jax.random.split(as_key(seed))
        values = jnp.full((members,), jnp.inf, theta.dtype)
        return DifferentialEvolutionState(
            step=jnp.zeros([], jnp.int32),
            key=key,
            population=draw_population(draw, theta, members, sigma),
            values=values,
            evaluations=no_evaluations(),
        )

    def others(key: chex.PRNGKey, members: int) -> jax.Array:
        """int[3, members]: three others for each member, all different, every choice equally likely."""
        draws = [
            jax.random.randint(k, (members,), 0, members - 1 - i)
            for i, k in enumerate(jax.random.split(key, 3))
        ]
        # The i-th draw counts the free places only: shift it past those taken, in order.
        taken = [jnp.arange(members)]
        for r in draws:
            for place in jnp.sort(jnp.stack(taken), axis=0):
                r = r + (r >= place)
            taken.append(r)
        return jnp.stack(taken[1:])

    def update(
        grads: optax.Updates,
        state: DifferentialEvolutionState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, DifferentialEvolutionState]:
        f = require_objective("differential_evolution", params, value_fn)
        theta, unflatten = as_vector("differential_evolution", params)
        x, (members, n) = state.population, state.population.shape
        values = evaluate_points(f, unflatten, x) if reevaluate else state.values
        key, choose, gene, chance = jax.random.split(state.key, 4)

        r1, r2, r3 = others(choose, members)
        if strategy == "rand/1/bin":
            v = x[r1] + times(weight, x[r2] - x[r3])
        else:
            v = x[jnp.argmin(values)][None, :] + times(weight, x[r1] - x[r2])
        j = jax.random.randint(gene, (members, 1), 0, max(n, 1))
        crosses = (jax.random.uniform(chance, (members, n), theta.dtype) < crossover) | (
            jnp.arange(n)[None, :] == j
        )
        # In the first update the trials are the members themselves, and replace the values inf.
        u = jnp.where(crosses & (state.step > 0), v, x)
        trials = evaluate_points(f, unflatten, u)
        replace = trials <= values
        x, values = jnp.where(replace[:, None], u, x), jnp.where(replace, trials, values)
        return unflatten(x[jnp.argmin(values)] - theta), DifferentialEvolutionState(
            optax.safe_increment(state.step),
            key,
            x,
            values,
            state.evaluations.plus(values=members * (1 + int(reevaluate))),
        )

    return optax.GradientTransformationExtraArgs(init, update)
