"""The compiled part of `fit`: any number of steps in one call, and one step on a batch that is handed in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from fnnet.train.batches import next_batch
from fnnet.train.step import Batch, TrainState

Step = Callable[[TrainState, Batch, chex.PRNGKey], tuple[TrainState, dict[str, jax.Array]]]
Augment = Callable[[chex.PRNGKey, Any], Any]  # (key, batch) -> batch
IsBad = Callable[[dict[str, jax.Array]], jax.Array]


class Loop(NamedTuple):
    """What one call hands to the next."""

    now: TrainState
    order: jax.Array  # int32[n], the epoch's examples in their order; int32[0] where batches are handed in
    skipped: jax.Array  # int32[], steps whose update was left out
    halted: jax.Array  # bool[], a step was not finite, and no further one is taken


class Keys(NamedTuple):
    """A key for each use; the first three are `make_run`'s."""

    init: chex.PRNGKey
    order: chex.PRNGKey
    step: chex.PRNGKey
    augment: chex.PRNGKey


Guarded = Callable[[Loop, Batch, Keys], tuple[Loop, dict[str, jax.Array]]]


def split_keys(key: chex.PRNGKey) -> Keys:
    """The keys of a run."""
    init, order, step = jax.random.split(key, 3)
    return Keys(init, order, step, augment=jax.random.fold_in(key, 3))


def make_guarded(step: Step, is_bad: IsBad, skip: bool, augment: Augment | None) -> Guarded:
    """A step that looks at its own loss. `step` must have `is_bad` as its `skip_if`.

    A bad step changes nothing. With `skip` it is counted, and the next one is taken; else the loop halts there.
    """

    def guarded(loop: Loop, batch: Batch, keys: Keys) -> tuple[Loop, dict[str, jax.Array]]:
        if augment is not None:
            batch = augment(jax.random.fold_in(keys.augment, loop.now.step), batch)
        now, seen = step(loop.now, batch, jax.random.fold_in(keys.step, loop.now.step))
        bad = is_bad(seen)
        if skip:
            return loop._replace(now=now, skipped=loop.skipped + bad), seen
        now = now._replace(step=jnp.where(bad, loop.now.step, now.step))
        return loop._replace(now=now, halted=bad), seen

    return guarded


def make_advance(
    guarded: Guarded,
    batch_size: int,
    capacity: int,
    place: Callable[[Batch], Batch] = lambda batch: batch,
) -> Callable[[Loop, Any, Keys, jax.Array], tuple[Loop, dict[str, jax.Array]]]:
    """Up to `capacity` steps on examples in memory, as one program.

    How many it takes is an argument of the program: the numbers do not depend on where it is left and entered
    again, since the same instructions run each time. It is no scan for that reason.

    Returns:
        `advance(loop, examples, keys, steps) -> (loop, seen)`, with seen's arrays of length `capacity`, filled as
        far as the steps went; a halt ends them at the step that was not finite, whose numbers are the last.
    """

    def advance(loop: Loop, examples: Any, keys: Keys, steps: jax.Array) -> tuple[Loop, dict[str, jax.Array]]:
        def one_step(loop: Loop) -> tuple[Loop, dict[str, jax.Array]]:
            order, batch = next_batch(keys.order, loop.order, loop.now.step, examples, batch_size)
            return guarded(loop._replace(order=order), place(batch), keys)

        def more(carry: tuple[jax.Array, Loop, Any]) -> jax.Array:
            i, loop, _ = carry
            return (i < steps) & ~loop.halted

        def body(carry: tuple[jax.Array, Loop, Any]) -> tuple[jax.Array, Loop, Any]:
            i, loop, seen = carry
            loop, values = one_step(loop)
            return i + 1, loop, jax.tree.map(lambda a, value: a.at[i].set(value), seen, values)

        _, shapes = jax.eval_shape(one_step, loop)
        seen = jax.tree.map(lambda a: jnp.zeros((capacity, *a.shape), a.dtype), shapes)
        _, loop, seen = jax.lax.while_loop(more, body, (jnp.zeros([], jnp.int32), loop, seen))
        return loop, seen

    return advance
