"""One run, watched at each step: where it is, and what its steps are like."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.comparison.ladder import evaluations_of, make_advance, make_start
from experiments.comparison.methods import Method
from experiments.comparison.problems import Problem
from fnnet.train.batches import next_batch

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Watched(NamedTuple):
    """A run of one seed. A step that would exceed the budget is not taken, and its entries are NaN."""

    used: Any  # int32[steps], evaluations after each step
    rms: Any  # float[steps], root of the mean square of the update u over all parameters
    cosine: Any  # float[steps], of the angle between u and the negative gradient of the batch
    effective: Any  # float[steps, 5], quantiles over the parameters of |u| / |g|
    way: Any  # float[steps + 1, 2], the params of a surface, the start first; of other problems [0]


class _Anatomy(NamedTuple):
    inner: Any  # the optimizer's state
    seen: Any  # of the last update: rms, cosine, effective


def observed(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, whose state holds what its last update was like."""

    def init(params: optax.Params) -> _Anatomy:
        return _Anatomy(optimizer.init(params), (jnp.zeros([]), jnp.zeros([]), jnp.zeros(len(QUANTILES))))

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, _Anatomy]:
        updates, inner = optimizer.update(grads, state.inner, params, **extra)
        return updates, _Anatomy(inner, anatomy(updates, grads))

    return optax.GradientTransformationExtraArgs(init, update)


def anatomy(updates: Any, grads: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(rms of the update u, cosine of u and -g, quantiles of |u| / |g| where g is not 0)."""
    u, g = ravel_pytree(updates)[0], ravel_pytree(grads)[0]
    size = jnp.linalg.norm(u) * jnp.linalg.norm(g)
    cosine = jnp.where(size > 0, -u @ g / size, jnp.nan)
    ratio = jnp.where(g != 0, jnp.abs(u) / jnp.abs(jnp.where(g == 0, 1, g)), jnp.nan)
    return jnp.sqrt(jnp.mean(jnp.square(u))), cosine, jnp.nanquantile(ratio, jnp.array(QUANTILES))


def watch(problem: Problem, method: Method, value: float, budget: int, seed: int = 0) -> Watched:
    """The run of `ladder.make_program` with this value and seed."""

    def make(value: Any, key: Any) -> optax.GradientTransformationExtraArgs:
        return observed(method.optimizer(value, key))

    start, advance = make_start(problem, make), make_advance(problem, make, budget)
    train = problem.data.train

    def run(value: jax.Array) -> Watched:
        start_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)

        def step(carry: Any, i: jax.Array) -> Any:
            order, now, done = carry
            order, batch = next_batch(order_key, order, i, train, problem.batch_size)
            now, done = advance(now, done, batch, jax.random.fold_in(step_key, i), value)
            used = evaluations_of(now.opt_state, now.step).sum()
            place = now.params["theta"] if problem.surface else jnp.zeros(0)
            seen = jax.tree.map(lambda a: jnp.where(done, jnp.nan, a), now.opt_state.seen)
            return (order, now, done), (used, *seen, place)

        now = start(start_key, value)
        first = now.params["theta"] if problem.surface else jnp.zeros(0)
        carry = (jnp.zeros(len(train["y"]), jnp.int32), now, jnp.zeros([], bool))
        _, (used, rms, cosine, effective, way) = jax.lax.scan(step, carry, jnp.arange(budget // 2))
        return Watched(used, rms, cosine, effective, jnp.concatenate([first[None], way]))

    return jax.tree.map(np.asarray, jax.jit(run)(jnp.float32(value)))
