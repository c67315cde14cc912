"""Differential evolution: steps are differences of members of the population (Storn & Price 1997)."""

from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_points, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, draw_population
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import times
from fnnet.optim.vector import as_vector


class DifferentialEvolutionState(NamedTuple):
    """What differential evolution remembers."""

    step: jax.Array  # int32[], updates taken
    key: chex.PRNGKey  # for the generations to come
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

        v = x_r1 + F (x_r2 - x_r3)            rand/1/bin; r1, r2, r3 and i differ
        v = x_best + F (x_r1 - x_r2)          best/1/bin; r1, r2 and i differ
        u_j = v_j with probability CR, and for one j drawn at random; else x_ij
        x_i <- u if L(u) <= L(x_i)

    The first population is the params and points around them, N(params, sigma^2), as the paper proposes where
    a first solution is known; the first update evaluates it, and each later one a generation of trials.

    The new params are the best member, to the rounding of params + (best - params);
    `state.population[argmin(state.values)]` is that point itself, and the search goes on from the population,
    whatever the params have become. A step costs `population` values. Those of the members are kept, as in
    the paper: where each step has another batch, members with a lucky one stay. `reevaluate=True` takes them
    anew, on the batch of the trials, and costs twice as much. The gradient is not read. A value that is not
    finite ranks last.

    Args:
        population: NP, at least 4; 10 n for n parameters unless given, and at least 10. (The paper: 5 n to 10
            n.) All are evaluated at once, by vmap.
        weight: F, the factor of the difference. (The paper: 0.5 at first.)
        crossover: CR, in [0, 1]. (The paper: 0.1 at first, 0.9 or 1 to see if it is faster.)
        strategy: where the difference is added: to a member drawn at random, or to the best.
        sigma: standard deviation of the first population around the params, in units of the params. The
            differences scale with it, so it should reach the minimum that is sought.
        reevaluate: the members' values anew at each step.
        seed: an int, or a key of jax.

    SciPy's differential_evolution draws F anew each generation from [0.5, 1), has best/1/bin and CR = 0.7 by
    default, and lets a trial replace its parent before the generation ends.

    Baseline: the loop in NumPy with the same draws, equal to 1e-12 in float64; SciPy's optimum on Rastrigin.

    Raises:
        TypeError, ValueError: population is no int or less than 4; F or sigma is negative; CR is not in [0,
            1]; the strategy is another; the params are not real; update is called without `value_fn` or the
            params.

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
    if population is not None:
        check.is_positive("differential_evolution", "population", population)
        check.between("differential_evolution", "population", population, 4)
    check.between("differential_evolution", "weight", weight, 0)
    check.probability("differential_evolution", "crossover", crossover)
    check.between("differential_evolution", "sigma", sigma, 0)
    if strategy not in ("rand/1/bin", "best/1/bin"):
        raise ValueError(
            f'differential_evolution: strategy={strategy!r}, wanted "rand/1/bin" or "best/1/bin"'
        )

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
        """int[3, members]: for each member three others, all different, each choice as likely as any."""
        draws = [
            jax.random.randint(k, (members,), 0, members - 1 - i)
            for i, k in enumerate(jax.random.split(key, 3))
        ]
        # The i-th draw counts the places that are still free: step over those taken, in their order.
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
        # The first update evaluates the population: its members are their own trials, and inf gives way.
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
