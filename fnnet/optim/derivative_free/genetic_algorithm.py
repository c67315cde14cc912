"""A genetic algorithm: selection, crossover and mutation of a population (Holland 1975)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_points, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, check_seed, draw_population
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    check_count,
    check_number_or_schedule,
    times,
)
from fnnet.optim.vector import as_vector


class GeneticAlgorithmState(NamedTuple):
    """The state of the genetic algorithm."""

    step: jax.Array  # int32[], updates taken
    key: chex.PRNGKey  # for the next generations
    population: jax.Array  # float[population, n], not yet evaluated; the last elite comes first
    evaluations: Evaluations  # values only


def genetic_algorithm(
    sigma: ScalarOrSchedule = 0.1,
    population: int = 50,
    *,
    spread: chex.Numeric | None = None,
    tournament: int = 3,
    elite: int = 1,
    crossover: chex.Numeric = 0.9,
    mutation: chex.Numeric = 0.1,
    seed: Seed = 0,
) -> optax.GradientTransformationExtraArgs:
    """A genetic algorithm over real numbers.

        sort the population by L
        next <- the `elite` best, unchanged; then for each other place:
            a, b = the winners of two tournaments,
                each the best of `tournament` members drawn with replacement
            with probability `crossover`, child_j = a_j or b_j, with equal chances for each j;
                otherwise child = a
            with probability `mutation` for each j, child_j <- child_j + sigma N(0, 1)

    The first generation is the params and random points around them. The new params are the best member of the
    generation evaluated by the step, up to the rounding of params + (best - params). With elite >= 1,
    `state.population[0]` is that member itself. The search continues from the population, whatever happens to the
    params. A step computes `population` values: it evaluates the whole generation, elite included, on the batch of
    that step. The gradient is not used. A value that is not finite ranks last.

    Args:
        sigma: standard deviation of a mutation, in units of the params; a number or a schedule of the step.
        population: number of points in a generation. All are evaluated at once, by vmap.
        spread: standard deviation of the first generation around the params; the first value of sigma by default.
        tournament: number of members that compete to be a parent. With 1, only the elite is selected.
        elite: number of members that survive unchanged. With 0, the best can be lost.
        crossover: probability of two parents instead of one, in [0, 1].
        mutation: probability that a parameter is mutated, in [0, 1]. 1, with crossover=0 and elite=1, is close to
            Such et al.
        seed: an int or a JAX key.

    Baseline: the loop in NumPy with the same draws, equal to 1e-12 in float64.

    Raises:
        TypeError, ValueError: sigma or the spread is negative; population or tournament is not a positive int; elite
            is not in 0 ... population - 1; a probability is not in [0, 1]; the params are not real; update is called
            without `value_fn` or the params.

    Source: Holland 1975, "Adaptation in natural and artificial systems"; tournaments, Goldberg & Deb 1991; uniform
    crossover, Syswerda 1989; for networks, Such et al. 2017, arXiv:1712.06567.

    Example:
        >>> optimizer = fn.optim.genetic_algorithm(0.3, mutation=0.5)
        >>> params = jnp.array([3.0, -2.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(40):
        ...     params, state = step(params, state)
        >>> bool(jnp.sum(params**2) < 0.1), int(state.evaluations.values)
        (True, 2000)
    """
    check_seed("genetic_algorithm", seed)
    for name, size in (("population", population), ("tournament", tournament)):
        check.is_positive("genetic_algorithm", name, size)
    check_count("genetic_algorithm", "elite", elite, least=0)
    if elite >= population:
        raise ValueError(
            f"genetic_algorithm: elite={elite}, wanted 0 to {population - 1}, fewer than the population"
        )
    check_number_or_schedule("genetic_algorithm", "sigma", sigma, "[0, inf)")
    if spread is not None:
        check.number("genetic_algorithm", "spread", spread, "[0, inf)")
    for name, number in (("crossover", crossover), ("mutation", mutation)):
        check.number("genetic_algorithm", name, number, "[0, 1]")

    def init(params: optax.Params) -> GeneticAlgorithmState:
        theta, _ = as_vector("genetic_algorithm", params)
        step = jnp.zeros([], jnp.int32)
        key, draw = jax.random.split(as_key(seed))
        width = at_step(sigma, step) if spread is None else spread
        return GeneticAlgorithmState(
            step, key, draw_population(draw, theta, population, width), no_evaluations()
        )

    def update(
        grads: optax.Updates,
        state: GeneticAlgorithmState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GeneticAlgorithmState]:
        f = require_objective("genetic_algorithm", params, value_fn)
        theta, unflatten = as_vector("genetic_algorithm", params)
        children, n = population - elite, theta.size
        key, select, pair, gene, mutate, noise = jax.random.split(state.key, 6)
        ranked = state.population[jnp.argsort(evaluate_points(f, unflatten, state.population))]

        # The population is sorted, so the winner of a tournament is the member with the lowest index.
        a, b = jnp.min(jax.random.randint(select, (2, children, tournament), 0, population), axis=2)
        crossed = jax.random.uniform(pair, (children, 1), theta.dtype) < crossover
        from_b = crossed & jax.random.bernoulli(gene, 0.5, (children, n))
        child = jnp.where(from_b, ranked[b], ranked[a])
        mutated = jax.random.uniform(mutate, (children, n), theta.dtype) < mutation
        change = times(at_step(sigma, state.step), jax.random.normal(noise, (children, n), theta.dtype))
        following = jnp.concatenate([ranked[:elite], child + jnp.where(mutated, change, 0)])
        return unflatten(ranked[0] - theta), GeneticAlgorithmState(
            optax.safe_increment(state.step), key, following, state.evaluations.plus(values=population)
        )

    return optax.GradientTransformationExtraArgs(init, update)
