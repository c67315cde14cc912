"""One guarded step of `fit`, which looks at its own loss, and many of them as one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from fnnet.keys import as_key
from fnnet.train.batches import next_batch
from fnnet.train.compiler import options
from fnnet.train.step import Batch, TrainState

Step = Callable[[TrainState, Batch, chex.PRNGKey], tuple[TrainState, dict[str, jax.Array]]]
Augment = Callable[[chex.PRNGKey, Any], Any]  # (key, batch) -> batch
IsBad = Callable[[dict[str, jax.Array]], jax.Array]  # the numbers of a step -> bool[]


class LoopState(NamedTuple):
    """What one call of the compiled program hands to the next."""

    now: TrainState
    order: jax.Array  # int32[n], the order of the examples in this epoch; int32[0] for an iterable of batches
    skipped: jax.Array  # int32[], steps whose update was left out
    halted: jax.Array  # bool[], a step was bad, and no further one is taken


class Keys(NamedTuple):
    """A key for each use; the first three are the same as in `make_run`."""

    init: chex.PRNGKey
    order: chex.PRNGKey
    step: chex.PRNGKey
    augment: chex.PRNGKey


GuardedStep = Callable[[LoopState, Batch, Keys], tuple[LoopState, dict[str, jax.Array]]]


def split_keys(key: chex.PRNGKey | int) -> Keys:
    """The keys of a run, from one key or from the seed of one."""
    return jax.jit(_split, compiler_options=options())(as_key("fit", key))


def _split(key: chex.PRNGKey) -> Keys:
    init, order, step = jax.random.split(key, 3)
    return Keys(init, order, step, augment=jax.random.fold_in(key, 3))


def make_guarded_step(step: Step, is_bad: IsBad, skip: bool, augment: Augment | None) -> GuardedStep:
    """A step that looks at its own loss. `step` must have `is_bad` as its `skip_if`.

    A bad step changes nothing. With `skip` it is counted, and the next one is taken; otherwise the loop halts there.
    """

    def guarded_step(loop: LoopState, batch: Batch, keys: Keys) -> tuple[LoopState, dict[str, jax.Array]]:
        if augment is not None:
            batch = augment(jax.random.fold_in(keys.augment, loop.now.step), batch)
        now, measured = step(loop.now, batch, jax.random.fold_in(keys.step, loop.now.step))
        bad = is_bad(measured)
        if skip:
            return loop._replace(now=now, skipped=loop.skipped + bad), measured
        now = now._replace(step=jnp.where(bad, loop.now.step, now.step))
        return loop._replace(now=now, halted=bad), measured

    return guarded_step


def make_advance(
    guarded_step: GuardedStep,
    batch_size: int,
    capacity: int,
    place: Callable[[Batch], Batch] = lambda batch: batch,
) -> Callable[[LoopState, Any, Keys, jax.Array], tuple[LoopState, dict[str, jax.Array]]]:
    """Up to `capacity` steps on examples in memory, as one program.

    The number of steps is an argument of the program, so the same instructions run in every call: the results do not
    depend on how the steps are divided into calls. A scan has a fixed length, so this is a while loop.

    Returns:
        `advance(loop, examples, keys, steps) -> (loop, measured)`. The arrays in `measured` have length `capacity` and
        are filled as far as the steps went. If the loop halts, the numbers of the bad step are the last.
    """

    def advance(
        loop: LoopState, examples: Any, keys: Keys, steps: jax.Array
    ) -> tuple[LoopState, dict[str, jax.Array]]:
        def one_step(loop: LoopState) -> tuple[LoopState, dict[str, jax.Array]]:
            order, batch = next_batch(keys.order, loop.order, loop.now.step, examples, batch_size)
            return guarded_step(loop._replace(order=order), place(batch), keys)

        def continues(carry: tuple[jax.Array, LoopState, Any]) -> jax.Array:
            i, loop, _ = carry
            return (i < steps) & ~loop.halted

        def body(carry: tuple[jax.Array, LoopState, Any]) -> tuple[jax.Array, LoopState, Any]:
            i, loop, measured = carry
            loop, values = one_step(loop)
            return i + 1, loop, jax.tree.map(lambda a, value: a.at[i].set(value), measured, values)

        _, shapes = jax.eval_shape(one_step, loop)
        measured = jax.tree.map(lambda a: jnp.zeros((capacity, *a.shape), a.dtype), shapes)
        _, loop, measured = jax.lax.while_loop(continues, body, (jnp.zeros([], jnp.int32), loop, measured))
        return loop, measured

    return advance
