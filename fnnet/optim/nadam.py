"""Nadam: Adam with Nesterov's momentum (Dozat 2016)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import ScalarOrSchedule, abs_sq, at_step, check_rate, like, times


class NadamState(NamedTuple):
    """What Nadam remembers."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params


def nadam(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 0.0,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Nadam: the mean of the next step, one step ahead.

        m <- b1 m + (1 - b1) g          m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        theta <- theta - alpha m_hat / (sqrt(v_hat + eps_root) + eps)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: share of the old m that is kept, in [0, 1). It is constant, as in optax; Dozat's schedule of b1, which
            PyTorch and Keras have, is not here.
        b2: share of the old v that is kept, in [0, 1). (Dozat's v_hat has a further factor b2, which nobody keeps.)
        eps: keeps the quotient finite.
        eps_root: the same inside the root, for derivatives through the update where v is 0.
        mu_dtype: dtype in which m is kept; the params' unless given.

    Twin: `optax.nadam`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is no number or schedule; it or an eps are negative; b1 or b2 are not
            in [0, 1).

    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam", algorithm 2.

    Example:
        >>> optimizer = fn.optim.nadam(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1474', '0.1474']
    """
    check_rate("nadam", learning_rate)
    check.between("nadam", "b1", b1, 0, 1)
    check.between("nadam", "b2", b2, 0, 1)
    check.between("nadam", "eps", eps, 0)
    check.between("nadam", "eps_root", eps_root, 0)

    def init(params: optax.Params) -> NadamState:
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        v = jax.tree.map(jnp.zeros_like, params)
        return NadamState(step=jnp.zeros([], jnp.int32), m=m, v=v)

    def update(
        grads: optax.Updates, state: NadamState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NadamState]:
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)
        bias1, bias2 = 1 - b1**t, 1 - b2**t
        next_bias1 = 1 - b1 ** optax.safe_increment(t)
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        m_next = jax.tree.map(lambda m: m / next_bias1.astype(m.dtype), m)
        g_hat = jax.tree.map(lambda g: g / bias1.astype(g.dtype), grads)
        m_hat = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m_next, g_hat)
        v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
        updates = jax.tree.map(lambda m, v: times(-alpha, m / (jnp.sqrt(v + eps_root) + eps)), m_hat, v_hat)
        return like(updates, grads), NadamState(t, like(m, state.m), like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
