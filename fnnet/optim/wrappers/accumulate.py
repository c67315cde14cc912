"""Gradient accumulation: one update from the mean gradient of several batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import at_step, cast_like, check_count, check_flags


class AccumulateState(NamedTuple):
    """The state of the accumulation."""

    batch: jax.Array  # int32[], gradients in the mean so far, fewer than `every`
    step: jax.Array  # int32[], updates taken
    mean: optax.Updates  # mean (or sum) of those gradients, like params, in accumulator_dtype
    inner: optax.OptState  # state of the optimizer


def accumulate(
    optimizer: optax.GradientTransformation,
    every: int | jax.Array | Callable[[jax.Array], Any],
    use_grad_mean: bool = True,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Updates once every k gradients: large batches on a small device.

        m <- m + (g - m) / n            for the n-th gradient, n = 1 ... k
        theta <- theta + update(m)      after the k-th; then m = 0, n = 1

    If the batches have equal sizes and the loss is a mean, m is the gradient of the k batches taken as one. In
    between, the update is 0 and the optimizer does not run: its step, schedules and evaluations count updates, not
    batches.

    Args:
        optimizer: an optimizer from `fnnet.optim` or optax. It receives the extra arguments, such as `value`, of the
            k-th batch.
        every: k, an int, or a function that gives k from the number of updates taken.
        use_grad_mean: False for the sum, as when PyTorch's `backward` is called k times.
        accumulator_dtype: dtype of m. By default that of the params, float32 at least. (optax: always float32.)

    Twin: `optax.MultiSteps(optimizer, every)` with m of the same dtype, equal up to rounding: optax runs the
    optimizer at each batch and discards the result, which the compiler fuses differently. `should_skip_update_fn` is
    not supported.

    Raises:
        TypeError, ValueError: k is neither a positive int nor a function.

    Example:
        >>> optimizer = fn.optim.accumulate(fn.optim.sgd(0.1), 2)
        >>> params = jnp.array([1.0])
        >>> state = optimizer.init(params)
        >>> first, state = optimizer.update(jnp.array([1.0]), state, params)
        >>> second, state = optimizer.update(jnp.array([3.0]), state, params)
        >>> first, second
        (Array([0.], dtype=float32), Array([-0.2], dtype=float32))
    """
    check_flags("accumulate", use_grad_mean=use_grad_mean)
    if isinstance(every, jax.Array):
        check_count("accumulate", "every", every)
    elif not callable(every):
        check.is_positive("accumulate", "every", every)
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> AccumulateState:
        def zeros(p: jax.Array) -> jax.Array:
            return jnp.zeros_like(p, accumulator_dtype or jnp.promote_types(p.dtype, jnp.float32))

        zero = jnp.zeros([], jnp.int32)
        return AccumulateState(zero, zero, jax.tree.map(zeros, params), optimizer.init(params))

    def update(
        grads: optax.Updates, state: AccumulateState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AccumulateState]:
        n, k = state.batch + 1, jnp.asarray(at_step(every, state.step), jnp.int32)

        def add(m: jax.Array, g: jax.Array) -> jax.Array:
            return m + (g - m) / n if use_grad_mean else g + m

        total = jax.tree.map(add, state.mean, grads)

        def step(total: optax.Updates, state: AccumulateState) -> tuple[optax.Updates, AccumulateState]:
            updates, inner = optimizer.update(cast_like(total, grads), state.inner, params, **extra)
            zeros = jax.tree.map(jnp.zeros_like, state.mean)
            steps = optax.safe_increment(state.step)
            return cast_like(updates, grads), AccumulateState(jnp.zeros_like(n), steps, zeros, inner)

        def wait(total: optax.Updates, state: AccumulateState) -> tuple[optax.Updates, AccumulateState]:
            return jax.tree.map(jnp.zeros_like, grads), state._replace(
                batch=n, mean=cast_like(total, state.mean)
            )

        return jax.lax.cond(n >= k, step, wait, total, state)

    return optax.GradientTransformationExtraArgs(init, update)
