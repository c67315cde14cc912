"""Reduces the steps when the loss has stopped falling."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import check_count, times


class ReduceOnPlateauState(NamedTuple):
    """The state of the plateau detection."""

    scale: jax.Array  # float[], what updates are multiplied by
    best_value: jax.Array  # float[], lowest mean loss so far
    plateau_count: jax.Array  # int32[], mean losses since then, or since the last reduction
    cooldown_count: jax.Array  # int32[], mean losses still to be ignored
    count: jax.Array  # type: ignore[assignment]  # int32[], losses in the current mean
    avg_value: jax.Array  # float[], that mean


def reduce_on_plateau(
    factor: chex.Numeric = 0.1,
    patience: chex.Numeric = 10,
    rtol: chex.Numeric = 1e-4,
    atol: chex.Numeric = 0.0,
    cooldown: chex.Numeric = 0,
    accumulation_size: chex.Numeric = 1,
    min_scale: chex.Numeric = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by a scale that falls when the loss does not. Put it last in a chain.

        u <- scale u
        scale <- max(factor scale, min_scale)
            after `patience` losses that are not below (1 - rtol) best - atol

    The loss is the argument `value` of `update`. fnnet's training functions pass the loss of the batch. To halve the
    rate whenever the validation loss has not improved, use `reduce_on_plateau(0.5, patience=1)` in your own training
    loop and pass that loss as `value`. If you evaluate every n updates, pass the latest validation loss at each
    update and set `accumulation_size=n`: the mean of n equal numbers is that number.

    Args:
        factor: in (0, 1); 0.5 halves.
        patience: number of losses without improvement before the scale falls, 1 or more. Keras counts in the same
            way. PyTorch waits for one more: its `patience=p` is p + 1 here.
        rtol: least improvement that counts, as a fraction of the lowest loss, in [0, 1].
        atol: least improvement that counts, in units of the loss. One of rtol and atol must be positive. (Keras'
            `min_delta` is atol=1e-4 with rtol=0.)
        cooldown: number of losses after a reduction during which none counts towards `patience`.
        accumulation_size: number of losses that are averaged into one, such as the steps of an epoch.
        min_scale: lower bound of the scale. (PyTorch's and Keras' `min_lr` is a learning rate.)

    Twin: `optax.contrib.reduce_on_plateau`, equal bit for bit.

    Raises:
        ValueError: an argument is out of range; `update` is called without `value`, or `value` is not a scalar.

    Example:
        >>> optimizer = optax.chain(fn.optim.sgd(1.0), fn.optim.reduce_on_plateau(0.5, patience=1))
        >>> params = jnp.ones(1)
        >>> state = optimizer.init(params)
        >>> for value in (3.0, 2.0, 2.0):
        ...     updates, state = optimizer.update(jnp.ones(1), state, params, value=value)
        ...     print(updates)
        [-1.]
        [-1.]
        [-0.5]
    """
    name = "reduce_on_plateau"
    check.number(name, "factor", factor, "(0, 1)")
    check.number(name, "rtol", rtol, "[0, 1]")
    check.number(name, "atol", atol, "[0, inf)")
    if isinstance(rtol, int | float) and isinstance(atol, int | float) and rtol == atol == 0:
        raise ValueError(f"{name}: rtol={rtol}, atol={atol}, wanted one of them positive")
    check_count(name, "patience", patience)
    check_count(name, "cooldown", cooldown, least=0)
    check_count(name, "accumulation_size", accumulation_size)
    check.number(name, "min_scale", min_scale, "[0, inf)")

    def init(params: optax.Params) -> ReduceOnPlateauState:
        # As in optax: the scale in the lowest precision among the params, the losses in the highest.
        dtypes = [jnp.finfo(p.dtype).dtype for p in jax.tree.leaves(params)] or [jnp.asarray(0.0).dtype]
        highest = jnp.result_type(*dtypes)
        lowest = min(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)
        return ReduceOnPlateauState(
            scale=jnp.ones([], lowest),
            best_value=jnp.full([], jnp.inf, highest),
            plateau_count=jnp.zeros([], jnp.int32),
            cooldown_count=jnp.zeros([], jnp.int32),
            count=jnp.zeros([], jnp.int32),
            avg_value=jnp.zeros([], highest),
        )

    def update(
        updates: optax.Updates,
        state: ReduceOnPlateauState,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, ReduceOnPlateauState]:
        if value is None:
            raise ValueError(f"{name}: needs the loss, write update(updates, state, params, value=loss)")
        if jnp.shape(value) != ():
            raise ValueError(f"{name}: value is {check.describe(value)}, wanted a scalar, the loss")
        n = optax.safe_increment(state.count)
        mean = (state.count * state.avg_value + jnp.asarray(value, state.avg_value.dtype)) / n
        mean = mean.astype(state.avg_value.dtype)

        improves = mean < (1 - rtol) * state.best_value - atol
        waited = jnp.where(improves, 0, optax.safe_increment(state.plateau_count))
        cooling = state.cooldown_count > 0
        falls = ~cooling & (waited == patience)
        scale = jnp.where(falls, state.scale * factor, state.scale)
        after = state._replace(
            scale=jnp.where(cooling, state.scale, jnp.maximum(scale, min_scale)).astype(state.scale.dtype),
            best_value=jnp.where(improves, mean, state.best_value),
            plateau_count=jnp.where(cooling | falls, 0, waited),
            cooldown_count=jnp.where(cooling, state.cooldown_count - 1, jnp.where(falls, cooldown, 0)).astype(
                jnp.int32
            ),
            count=jnp.zeros_like(state.count),
            avg_value=jnp.zeros_like(mean),
        )
        # Until the mean is complete, nothing else changes.
        before = state._replace(count=n, avg_value=mean)
        state = jax.tree.map(lambda a, b: jnp.where(n == accumulation_size, a, b), after, before)
        return jax.tree.map(lambda u: times(state.scale, u), updates), state

    return optax.GradientTransformationExtraArgs(init, update)
