"""Adadelta: Adagrad with decaying means, and steps in the units of the params (Zeiler 2012, arXiv:1212.5701)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import optax

from fnnet import check
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    cast_like,
    check_learning_rate,
    check_number_or_schedule,
    init_step,
    next_step,
    times,
    zeros_like,
)
from fnnet.optim.numerics import root, visible
from fnnet.optim.transforms.weight_decay import add_weight_decay


class AdadeltaState(NamedTuple):
    """The state of Adadelta."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule
    e_g: optax.Params  # mean of the squared gradient, like params
    e_x: optax.Params  # mean of the squared step, like params


def adadelta(
    learning_rate: ScalarOrSchedule = 1.0,
    rho: chex.Numeric = 0.9,
    eps: chex.Numeric = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adadelta.

        g <- g + lambda theta                                   where the mask is True
        E[g^2] <- rho E[g^2] + (1 - rho) g^2
        x <- sqrt(E[x^2] + eps) / sqrt(E[g^2] + eps) g
        E[x^2] <- rho E[x^2] + (1 - rho) x^2
        theta <- theta - alpha x

    Args:
        learning_rate: alpha, a number or a schedule of the step. 1 is the paper's rule and PyTorch's default. (optax
            has None, and `optax.adadelta()` in 0.2.8 leaves out the minus sign as well, so it ascends.)
        rho: fraction of the old means that is kept, in [0, 1).
        eps: gives the first steps their size, and keeps the quotient finite.
        weight_decay: lambda, a number or a schedule of the step. It is added to the gradient, as an L2 penalty.
        weight_decay_mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes
            one from params: True where a param decays. All do by default.

    Twin: `optax.adadelta(learning_rate)` with a learning rate given, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, eps or lambda is negative;
            rho is not in [0, 1); `update` is called without params while lambda is not 0.

    Source: Zeiler 2012, arXiv:1212.5701.

    Example:
        >>> optimizer = fn.optim.adadelta(rho=0.0, eps=1.0)
        >>> params = jnp.array([1.0])
        >>> updates, state = optimizer.update(jnp.array([1.0]), optimizer.init(params))
        >>> updates
        Array([-0.70710677], dtype=float32)
    """
    check_learning_rate("adadelta", learning_rate)
    check.number("adadelta", "rho", rho, "[0, 1)")
    check.number("adadelta", "eps", eps, "[0, inf)")
    check_number_or_schedule("adadelta", "weight_decay", weight_decay, "[0, inf)")

    def init(params: optax.Params) -> AdadeltaState:
        return AdadeltaState(
            step=init_step(learning_rate, weight_decay), e_g=zeros_like(params), e_x=zeros_like(params)
        )

    def update(
        grads: optax.Updates, state: AdadeltaState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdadeltaState]:
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
        g = add_weight_decay("adadelta", grads, params, decay, weight_decay_mask)
        e_g = jax.tree.map(lambda e, g: (1 - rho) * g**2 + rho * e, state.e_g, g)

        def quotient(e_x: jax.Array, e_g: jax.Array, g: jax.Array) -> jax.Array:
            eps_x, eps_g = (visible(eps, e, under_root=True) for e in (e_x, e_g))
            return root(e_x + eps_x) / root(e_g + eps_g) * g

        x = jax.tree.map(quotient, state.e_x, e_g, g)
        e_x = jax.tree.map(lambda e, x: (1 - rho) * x**2 + rho * e, state.e_x, x)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        step = next_step(state.step)
        return cast_like(updates, grads), AdadeltaState(
            step, cast_like(e_g, state.e_g), cast_like(e_x, state.e_x)
        )

    return optax.GradientTransformationExtraArgs(init, update)
