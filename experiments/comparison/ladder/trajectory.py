"""One run recorded at each step: where the params are, and the size and direction of each update."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.comparison.ladder.budgeted_runs import evaluations_of, make_advance, make_start
from experiments.comparison.ladder.problems import Problem
from experiments.comparison.ladder.search_spaces import TunableOptimizer
from fnnet.train.batches import next_batch

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Trajectory(NamedTuple):
    """One run with one seed. A step that would exceed the budget is not taken; its entries are NaN."""

    used: Any  # int32[steps], evaluations after each step
    rms: Any  # float[steps], root mean square of the update u over all parameters
    cosine: Any  # float[steps], of the angle between u and the negative gradient of the batch
    step_sizes: Any  # float[steps, 5], quantiles over the parameters of |u| / |g|
    path: Any  # float[steps + 1, 2], the params on a surface, the start first; float[steps + 1, 0] on other problems


class _RecordedState(NamedTuple):
    inner: Any  # the optimizer's state
    update: Any  # rms, cosine and step_sizes of the last update


def recorded(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, with a state that also holds `update_statistics` of its last update."""

    def init(params: optax.Params) -> _RecordedState:
        nothing = (jnp.zeros([]), jnp.zeros([]), jnp.zeros(len(QUANTILES)))
        return _RecordedState(optimizer.init(params), nothing)

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, _RecordedState]:
        updates, inner = optimizer.update(grads, state.inner, params, **extra)
        return updates, _RecordedState(inner, update_statistics(updates, grads))

    return optax.GradientTransformationExtraArgs(init, update)


def update_statistics(updates: Any, grads: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(root mean square of the update u, cosine of u and -g, quantiles of |u| / |g| where g is not 0)."""
    u, g = ravel_pytree(updates)[0], ravel_pytree(grads)[0]
    size = jnp.linalg.norm(u) * jnp.linalg.norm(g)
    cosine = jnp.where(size > 0, -u @ g / size, jnp.nan)
    ratio = jnp.where(g != 0, jnp.abs(u) / jnp.abs(jnp.where(g == 0, 1, g)), jnp.nan)
    return jnp.sqrt(jnp.mean(jnp.square(u))), cosine, jnp.nanquantile(ratio, jnp.array(QUANTILES))


def record_trajectory(
    problem: Problem, tunable: TunableOptimizer, value: float, budget: int, seed: int = 0
) -> Trajectory:
    """The run that `make_program` makes with this value and seed, recorded at each step."""

    def make(value: Any, key: Any) -> optax.GradientTransformationExtraArgs:
        return recorded(tunable.optimizer(value, key))

    start, advance = make_start(problem, make), make_advance(problem, make, budget)
    train = problem.data.train

    def run(value: jax.Array) -> Trajectory:
        start_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)

        def step(carry: Any, i: jax.Array) -> Any:
            order, now, done = carry
            order, batch = next_batch(order_key, order, i, train, problem.batch_size)
            now, done = advance(now, done, batch, jax.random.fold_in(step_key, i), value)
            used = evaluations_of(now.opt_state, now.step).sum()
            point = now.params["theta"] if problem.surface else jnp.zeros(0)
            update = jax.tree.map(lambda a: jnp.where(done, jnp.nan, a), now.opt_state.update)
            return (order, now, done), (used, *update, point)

        now = start(start_key, value)
        first = now.params["theta"] if problem.surface else jnp.zeros(0)
        carry = (jnp.zeros(len(train["y"]), jnp.int32), now, jnp.zeros([], bool))
        _, (used, rms, cosine, step_sizes, path) = jax.lax.scan(step, carry, jnp.arange(budget // 2))
        return Trajectory(used, rms, cosine, step_sizes, jnp.concatenate([first[None], path]))

    return jax.tree.map(np.asarray, jax.jit(run)(np.float32(value)))
