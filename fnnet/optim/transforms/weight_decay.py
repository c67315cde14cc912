"""Weight decay, added to the gradient (L2 penalty) or to the step (decoupled; Loshchilov & Hutter 2019)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    check_number_or_schedule,
    init_step,
    next_step,
)


class AddDecayedWeightsState(NamedTuple):
    """The state of weight decay."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule


def add_decayed_weights(
    weight_decay: ScalarOrSchedule = 0.0, mask: Any | Callable[[optax.Params], Any] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adds a fraction of the params to the incoming gradient or update.

        u <- u + lambda theta

    Before an optimizer, u is the gradient: this is the L2 penalty lambda/2 |theta|^2, whose gradient the optimizer
    scales like the rest. After an optimizer, u is the step, with its learning rate alpha and its sign: with -alpha
    lambda the decay is decoupled, since the optimizer does not scale it.

        optax.chain(add_decayed_weights(lambda), adam(alpha))               L2 penalty
        optax.chain(adam(alpha), add_decayed_weights(-alpha * lambda))      decoupled, as `adamw`

    Args:
        weight_decay: lambda, a number of either sign or a schedule of the step.
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param decays. All do by default. Biases and gains are often left out.

    Twin: `optax.add_decayed_weights`, equal bit for bit; before `sgd`, PyTorch's `weight_decay`.

    Raises:
        TypeError: lambda is neither a number nor a schedule.
        ValueError: `update` is called without params.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101.

    Example:
        >>> optimizer = optax.chain(fn.optim.add_decayed_weights(0.5), fn.optim.sgd(0.1))
        >>> params = jnp.array([2.0, -4.0])
        >>> optimizer.update(jnp.zeros(2), optimizer.init(params), params)[0]
        Array([-0.1,  0.2], dtype=float32)
    """
    check_number_or_schedule("add_decayed_weights", "weight_decay", weight_decay)

    def init(params: optax.Params) -> AddDecayedWeightsState:
        return AddDecayedWeightsState(init_step(weight_decay))

    def update(
        grads: optax.Updates, state: AddDecayedWeightsState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AddDecayedWeightsState]:
        decay = at_step(weight_decay, state.step)
        updates = add_weight_decay("add_decayed_weights", grads, params, decay, mask)
        return updates, AddDecayedWeightsState(next_step(state.step))

    return optax.GradientTransformationExtraArgs(init, update)


def add_weight_decay(
    optimizer: str, updates: optax.Updates, params: optax.Params | None, decay: Any, mask: Any
) -> optax.Updates:
    """updates + decay * params where the mask is True. The mask is a tree of booleans or a function of params.

    Raises:
        ValueError: params is None and decay is not the number 0.
    """
    if isinstance(decay, int | float) and decay == 0:
        return updates
    if params is None:
        raise ValueError(f"{optimizer}: weight decay needs the params, write update(grads, state, params)")

    def add(u: jax.Array, p: jax.Array) -> jax.Array:
        return (u + decay * p).astype(u.dtype)

    return map_masked(add, mask, updates, params)


def map_masked(
    f: Callable[..., jax.Array], mask: Any, updates: optax.Updates, params: optax.Params, *rest: Any
) -> optax.Updates:
    """f(update, param, ...) where the mask is True, or everywhere if it is None; elsewhere the update as it is."""
    if mask is None:
        return jax.tree.map(f, updates, params, *rest)
    chosen = mask(params) if callable(mask) else mask
    # A boolean may stand for a whole branch.
    return jax.tree.map(
        lambda yes, u, *others: jax.tree.map(f, u, *others) if yes else u, chosen, updates, params, *rest
    )
