"""Adamax: Adam under the infinity norm (Kingma & Ba 2015, arXiv:1412.6980, section 7.1)."""

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
    times,
    zeros_like,
)
from fnnet.optim.numerics import visible


class AdamaxState(NamedTuple):
    """The state of Adamax."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    u: optax.Params  # decaying maximum of |gradient|, like params


def adamax(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    *,
    eps_in_max: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Adamax. A step is at most about alpha, whatever the size of the gradients.

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        u <- max(b2 u, |g| + eps)
        theta <- theta - alpha m_hat / u

    Args:
        learning_rate: alpha, a number or a schedule of the step. The paper's and PyTorch's is 0.002.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old u that is kept, in [0, 1).
        eps: keeps the quotient finite. The paper has no eps: where all gradients so far are 0, eps=0 gives 0 / 0 =
            NaN.
        eps_in_max: True as above, as in PyTorch. False for u <- max(b2 u, |g|) and m_hat / (u + eps), as in Keras
            (with 1e-7).

    Twin: `optax.adamax`, equal bit for bit. PyTorch uses the same rule.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or eps is negative; b1 or b2
            is not in [0, 1).

    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 2.

    Example:
        >>> optimizer = fn.optim.adamax(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1000', '0.1000']
    """
    check_flags("adamax", eps_in_max=eps_in_max)
    check_learning_rate("adamax", learning_rate)
    check.number("adamax", "b1", b1, "[0, 1)")
    check.number("adamax", "b2", b2, "[0, 1)")
    check.number("adamax", "eps", eps, "[0, inf)")

    def init(params: optax.Params) -> AdamaxState:
        return AdamaxState(step=jnp.zeros([], jnp.int32), m=zeros_like(params), u=zeros_like(params))

    def update(
        grads: optax.Updates, state: AdamaxState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdamaxState]:
        alpha = at_step(learning_rate, state.step)
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
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        return cast_like(updates, grads), AdamaxState(t, cast_like(m, state.m), cast_like(u, state.u))

    return optax.GradientTransformationExtraArgs(init, update)
