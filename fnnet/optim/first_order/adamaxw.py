"""AdamaxW: Adamax with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    check_number_or_schedule,
    times,
    zeros_like,
)
from fnnet.optim.numerics import visible
from fnnet.optim.transforms.weight_decay import add_weight_decay


class AdamaxwState(NamedTuple):
    """The state of AdamaxW."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    u: optax.Params  # decaying maximum of |gradient|, like params


def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    eps_in_max: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """AdamaxW.

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        u <- max(b2 u, |g| + eps)
        theta <- theta - alpha (m_hat / u + lambda theta)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old u that is kept, in [0, 1).
        eps: keeps the quotient finite.
        weight_decay: lambda, a number or a schedule of the step. (The `weight_decay` of PyTorch's Adamax is added to
            the gradient instead: put `add_decayed_weights` before `adamax`.)
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param decays. All do by default.
        eps_in_max: True as above; False for u <- max(b2 u, |g|) and m_hat / (u + eps), as in Keras.

    Twin: `optax.adamaxw`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, eps or lambda is negative; b1
            or b2 is not in [0, 1); `update` is called without params.

    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 2; Loshchilov & Hutter 2019, arXiv:1711.05101.

    Example:
        >>> optimizer = fn.optim.adamaxw(0.1, weight_decay=0.01)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, 0.0]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1010', '-0.0010']
    """
    check_flags("adamaxw", eps_in_max=eps_in_max)
    check_learning_rate("adamaxw", learning_rate)
    check.number("adamaxw", "b1", b1, "[0, 1)")
    check.number("adamaxw", "b2", b2, "[0, 1)")
    check.number("adamaxw", "eps", eps, "[0, inf)")
    check_number_or_schedule("adamaxw", "weight_decay", weight_decay, "[0, inf)")

    def init(params: optax.Params) -> AdamaxwState:
        return AdamaxwState(step=jnp.zeros([], jnp.int32), m=zeros_like(params), u=zeros_like(params))

    def update(
        grads: optax.Updates, state: AdamaxwState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdamaxwState]:
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
        t = optax.safe_increment(state.step)
        bias1 = 1 - b1**t
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
        if eps_in_max:
            u = jax.tree.map(lambda u, g: jnp.maximum(jnp.abs(g) + visible(eps, u), b2 * u), state.u, grads)
            x = jax.tree.map(lambda m, u: m / u, m_hat, u)
        else:
            u = jax.tree.map(lambda u, g: jnp.maximum(jnp.abs(g), b2 * u), state.u, grads)
            x = jax.tree.map(lambda m, u: m / (u + visible(eps, u)), m_hat, u)
        x = add_weight_decay("adamaxw", x, params, decay, mask)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        return cast_like(updates, grads), AdamaxwState(t, cast_like(m, state.m), cast_like(u, state.u))

    return optax.GradientTransformationExtraArgs(init, update)
