"""One run that trains an optimizer and its optax twin together, and the distance between their params at each step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnnet as fn
from experiments.comparison.surfaces import SURFACES
from fnnet.optim.twins import MakeOptimizer, Twin
from fnnet.train.batches import next_batch
from fnnet.train.evaluate import evaluate


class TwinRun(NamedTuple):
    """The curves of both. Axes: learning rates, seeds, then steps or evaluations."""

    ours: dict[str, Any]  # train_loss at each step; valid_loss, valid_accuracy, test_loss, test_accuracy
    baseline: dict[str, Any]  # the same for optax
    eval_step: Any  # steps taken before each evaluation
    distance: Any  # at each step, |ours - optax| / |optax|, Euclidean norms over all params
    ulp: Any  # at each step, the largest |ours - optax| of a parameter, in units in the last place


class SurfacePaths(NamedTuple):
    """The paths of an optimizer and its twin on a function of two numbers."""

    rate: float  # the learning rate whose path ends lowest
    ours: np.ndarray  # [steps + 1, 2]
    baseline: np.ndarray  # [steps + 1, 2]


def make_twin_run(
    net: fn.Layer, loss: Callable[..., jax.Array], twin: Twin, *, steps: int, batch_size: int, eval_every: int
) -> Callable[[chex.PRNGKey, Any, chex.Numeric], TwinRun]:
    """A pure function `run(key, data, learning_rate) -> TwinRun`: `fnnet.train.make_run` with two optimizers."""
    measures = {"loss": loss, "accuracy": fn.metrics.accuracy}

    def run(key: chex.PRNGKey, data: Any, learning_rate: chex.Numeric) -> TwinRun:
        optimizers = [make(learning_rate=learning_rate) for make in twin]
        step_of = [fn.train.make_step(net, loss, optimizer) for optimizer in optimizers]
        init_key, order_key, step_key = jax.random.split(key, 3)

        def one_step(carry: Any, _: None) -> tuple[Any, Any]:
            both, order = carry
            i = both[0].step
            order, batch = next_batch(order_key, order, i, data.train, batch_size)
            both, logs = zip(
                *(
                    step(now, batch, jax.random.fold_in(step_key, i))
                    for step, now in zip(step_of, both, strict=True)
                ),
                strict=True,
            )
            distance, ulp = difference(both[0].params, both[1].params)
            return (both, order), ([log["loss"] for log in logs], distance, ulp)

        def until_evaluation(carry: Any, _: None) -> tuple[Any, Any]:
            carry, of_steps = jax.lax.scan(one_step, carry, length=eval_every)
            scores = [
                {
                    f"{name}_{measure}": value
                    for name, part in (("valid", data.valid), ("test", data.test))
                    for measure, value in evaluate(net, measures, now.params, now.state, part, 500).items()
                }
                for now in carry[0]
            ]
            return carry, (of_steps, scores, carry[0][0].step)

        both = tuple(fn.train.start(net, optimizer, init_key, data.train["x"]) for optimizer in optimizers)
        order = jnp.zeros(len(data.train["y"]), jnp.int32)
        _, (of_steps, scores, eval_step) = jax.lax.scan(
            until_evaluation, (both, order), length=steps // eval_every
        )
        losses, distance, ulp = jax.tree.map(lambda a: a.reshape(-1), of_steps)
        ours, baseline = ({"train_loss": loss, **score} for loss, score in zip(losses, scores, strict=True))
        return TwinRun(ours, baseline, eval_step, distance, ulp)

    return run


def difference(ours: Any, baseline: Any) -> tuple[jax.Array, jax.Array]:
    """(relative Euclidean distance, largest difference in ulp) of two trees. NaN equals NaN."""

    def differ(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        same = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
        gap = jnp.where(same, 0, jnp.abs(a - b))
        size = jnp.where(same, 1, jnp.maximum(jnp.abs(a), jnp.abs(b)))
        ulp = jnp.nextafter(size, jnp.full_like(size, jnp.inf)) - size
        return jnp.sum(jnp.square(gap)), jnp.max(gap / ulp, initial=0)

    pairs = [differ(a, b) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(baseline), strict=True)]
    gaps, ulps = (jnp.stack(column) for column in zip(*pairs, strict=True))
    gap = jnp.sqrt(jnp.sum(gaps))
    return jnp.where(gap == 0, 0, gap / optax.tree.norm(baseline)), jnp.max(ulps)


BANANA = SURFACES["banana"]
rosenbrock = BANANA.f


def surface_paths(twin: Twin, rates: np.ndarray, *, steps: int) -> SurfacePaths:
    """Both twins on the banana function from its usual start, at the rate whose path ends lowest for ours."""

    def path_of(make: MakeOptimizer, rate: jax.Array) -> jax.Array:
        optimizer = make(learning_rate=rate)
        theta = jnp.array(BANANA.start)

        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            theta, state = carry
            updates, state = optimizer.update(jax.grad(rosenbrock)(theta), state, theta)
            theta = optax.apply_updates(theta, updates)
            return (theta, state), theta

        _, path = jax.lax.scan(step, (theta, optimizer.init(theta)), length=steps)
        return jnp.concatenate([theta[None], path])

    @jax.jit
    def paths_of(rates: jax.Array) -> Any:
        ours, baseline = (jax.vmap(lambda rate, make=make: path_of(make, rate))(rates) for make in twin)
        return ours, baseline, jax.vmap(rosenbrock)(ours[:, -1])

    ours, baseline, ends = map(np.asarray, paths_of(rates))
    best = int(np.argmin(np.where(np.isfinite(ends), ends, np.inf)))
    return SurfacePaths(float(rates[best]), ours[best], baseline[best])
