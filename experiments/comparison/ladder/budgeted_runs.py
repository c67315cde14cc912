"""Runs of one optimizer on one problem until a budget of evaluations is spent: many runs in one compiled program.

An evaluation is a value, a gradient, or a product of a Hessian or Jacobian with a vector. Each counts as 1. An
optimizer whose state has no `Evaluations` uses one value and one gradient per step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnnet as fn
from experiments.comparison.ladder.problems import Problem
from experiments.comparison.ladder.search_spaces import TunableOptimizer, evaluation_params
from fnnet.optim.evaluations import Evaluations
from fnnet.train.batches import next_batch
from fnnet.train.evaluate import evaluate
from fnnet.train.step import TrainState

MakeOptimizer = Callable[[chex.Numeric, chex.PRNGKey], optax.GradientTransformationExtraArgs]
Program = Callable[[chex.PRNGKey, jax.Array], "Curves"]


class Curves(NamedTuple):
    """What is recorded of the runs. Axes: seeds, values of the hyperparameter, points of `record_points`."""

    used: Any  # int32[..., 3], values, gradients and products so far
    train_loss: Any  # over the whole training part
    valid_loss: Any
    test_loss: Any
    valid_score: Any
    test_score: Any


def record_points(budget: int, count: int = 10) -> np.ndarray:
    """The numbers of evaluations at which losses are recorded: 0, then `count` as evenly spaced as possible."""
    return np.unique(np.linspace(0, budget, count + 1).astype(np.int32))


def evaluations_of(opt_state: Any, step: jax.Array) -> jax.Array:
    """int32[3], values, gradients and products so far: as the state counts them, or one value and gradient per step."""
    counts = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=_is_count) if _is_count(leaf)]
    if not counts:
        return jnp.stack([step, step, jnp.zeros_like(step)])
    return sum((jnp.stack(count) for count in counts), jnp.zeros(3, jnp.int32))


def counts_evaluations(now: TrainState) -> bool:
    """Whether the optimizer's state counts its evaluations."""
    return any(map(_is_count, jax.tree.leaves(now.opt_state, is_leaf=_is_count)))


def _is_count(x: Any) -> bool:
    return isinstance(x, Evaluations)


def make_start(
    problem: Problem, make_optimizer: MakeOptimizer
) -> Callable[[chex.PRNGKey, chex.Numeric], TrainState]:
    """`start(key, value)`. The weights, and the optimizer's random numbers, depend only on the key."""

    def start(key: chex.PRNGKey, value: chex.Numeric) -> TrainState:
        init_key, optimizer_key = jax.random.split(key)
        optimizer = make_optimizer(value, optimizer_key)
        return fn.train.start(problem.net, optimizer, init_key, problem.data.train["x"])

    return start


def make_advance(
    problem: Problem, make_optimizer: MakeOptimizer, budget: int
) -> Callable[..., tuple[TrainState, Any]]:
    """`advance(now, done, batch, key, value)`: one step. If it would exceed the budget, the run is done instead."""

    def advance(now: TrainState, done: Any, batch: Any, key: chex.PRNGKey, value: chex.Numeric) -> Any:
        # The optimizer got its own key in `start` and keeps it in its state: it does not read this one.
        step = fn.train.make_step(problem.net, problem.loss, make_optimizer(value, key))
        new, _ = step(now, batch, key)
        if not counts_evaluations(now):
            return new, done  # the caller knows how many steps the budget allows
        done = done | (evaluations_of(new.opt_state, new.step).sum() > budget)
        return jax.tree.map(lambda a, b: jnp.where(done, a, b), now, new), done

    return advance


def make_program(problem: Problem, tunable: TunableOptimizer, budget: int) -> Program:
    """`program(keys[seeds], values[values]) -> Curves`. Runs with the same seed have the same weights and batches.

    All runs are vmapped, also those of networks with convolutions: 50 runs of 5 steps of `small_cnn` took 1.6 s, and
    3.1 s one after the other with jax.lax.map (jax 0.10.1, two busy cores).
    """
    start, advance = make_start(problem, tunable.optimizer), make_advance(problem, tunable.optimizer, budget)
    train = problem.data.train

    def record(now: TrainState) -> Curves:
        params = evaluation_params(now.opt_state, now.params)

        def means(part: Any) -> dict[str, jax.Array]:
            measures = {"loss": problem.loss, "score": problem.score}
            return evaluate(problem.net, measures, params, now.state, part, len(part["y"]))

        t, v, e = (means(part) for part in problem.data)
        used = evaluations_of(now.opt_state, now.step)
        return Curves(used, t["loss"], v["loss"], e["loss"], v["score"], e["score"])

    def program(keys: chex.PRNGKey, values: jax.Array) -> Curves:
        start_keys, order_keys, step_keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        now = jax.vmap(lambda key: jax.vmap(lambda value: start(key, value))(values))(start_keys)
        counted = counts_evaluations(now)
        done = jnp.zeros((len(keys), len(values)), bool)
        orders = jnp.zeros((len(keys), len(train["y"])), jnp.int32)

        def one_step(carry: Any) -> Any:
            i, orders, now, done = carry
            orders, batches = jax.vmap(
                lambda key, order: next_batch(key, order, i, train, problem.batch_size)
            )(order_keys, orders)
            keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(step_keys)

            def of_seed(now: Any, done: Any, batch: Any, key: chex.PRNGKey) -> Any:
                return jax.vmap(lambda now, done, value: advance(now, done, batch, key, value))(
                    now, done, values
                )

            now, done = jax.vmap(of_seed)(now, done, batches, keys)
            return i + 1, orders, now, done

        def until(carry: Any, point: jax.Array) -> Any:
            def is_before_point(carry: Any) -> jax.Array:
                i, _, now, done = carry
                if not counted:
                    return 2 * (i + 1) <= point
                used = jax.vmap(jax.vmap(lambda now: evaluations_of(now.opt_state, now.step).sum()))(now)
                return jnp.any(~done & (used < point)) & (
                    i < budget
                )  # every step costs at least one evaluation

            carry = jax.lax.while_loop(is_before_point, one_step, carry)
            return carry, jax.vmap(jax.vmap(record))(carry[2])

        carry = (jnp.zeros([], jnp.int32), orders, now, done)
        _, curves = jax.lax.scan(until, carry, jnp.array(record_points(budget)))
        return Curves(*(jnp.moveaxis(a, 0, 2) for a in curves))

    return program
