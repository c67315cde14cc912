"""Nadam: Adam with Nesterov momentum (Dozat 2016)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    abs_sq,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    times,
)
from fnnet.optim.numerics import root, visible


class NadamState(NamedTuple):
    """The state of Nadam."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params
    product: jax.Array | None  # float[], mu_1 ... mu_t; None without momentum_decay


def nadam(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 0.0,
    mu_dtype: Any = None,
    *,
    momentum_decay: chex.Numeric | None = None,
    schedule_in_mean: bool = False,
    eps_before_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Nadam: Adam with m_hat looking one step ahead.

        m <- b1 m + (1 - b1) g          m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        theta <- theta - alpha m_hat / (sqrt(v_hat + eps_root) + eps)

    With a momentum_decay psi, the momentum in m_hat grows from about b1 / 2 to b1:

        mu_t = b1 (1 - 0.5 * 0.96^(t psi))
        m_hat = mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old v that is kept, in [0, 1). (Dozat's v_hat has another factor b2, which no
            implementation uses.)
        eps: keeps the quotient finite.
        eps_root: added inside the square root. (optax needs it for derivatives through the update where v is 0. Here
            they are finite without it.)
        mu_dtype: dtype of m; the params' dtype by default.
        momentum_decay: psi. None for a constant b1, as in optax. Dozat, PyTorch and Keras 2 use 0.004; Keras 3 uses
            1.
        schedule_in_mean: with a psi, True for m <- mu_t m + (1 - mu_t) g, as in Dozat. False as above, as in PyTorch
            and Keras, which keep b1 there.
        eps_before_correction: True adds eps to sqrt(v) before the bias correction, see `adam`.

    Twin: `optax.nadam`, equal bit for bit. PyTorch uses the rule with momentum_decay=0.004.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, an eps or psi is negative; b1
            or b2 is not in [0, 1).

    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam", algorithm 2.

    Example:
        >>> optimizer = fn.optim.nadam(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1474', '0.1474']
    """
    check_flags("nadam", schedule_in_mean=schedule_in_mean, eps_before_correction=eps_before_correction)
    check_learning_rate("nadam", learning_rate)
    check.number("nadam", "b1", b1, "[0, 1)")
    check.number("nadam", "b2", b2, "[0, 1)")
    check.number("nadam", "eps", eps, "[0, inf)")
    check.number("nadam", "eps_root", eps_root, "[0, inf)")
    if momentum_decay is not None:
        check.number("nadam", "momentum_decay", momentum_decay, "[0, inf)")

    def init(params: optax.Params) -> NadamState:
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        v = jax.tree.map(jnp.zeros_like, params)
        product = None if momentum_decay is None else jnp.ones([])
        return NadamState(step=jnp.zeros([], jnp.int32), m=m, v=v, product=product)

    def update(
        grads: optax.Updates, state: NadamState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NadamState]:
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)
        t_next = optax.safe_increment(t)
        bias1, next_bias1, bias2 = 1 - b1**t, 1 - b1**t_next, 1 - b2**t
        eps_t = eps / jnp.sqrt(bias2) if eps_before_correction else eps
        kept, mu, mu_next, product = b1, b1, b1, state.product
        if momentum_decay is not None:
            mu, mu_next = (b1 * (1 - 0.5 * 0.96 ** (momentum_decay * s)) for s in (t, t_next))
            product = state.product * mu
            bias1, next_bias1 = 1 - product, 1 - product * mu_next
            kept = mu if schedule_in_mean else b1
        m = jax.tree.map(lambda m, g: (1 - kept) * g + kept * m, state.m, grads)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        m_next = jax.tree.map(lambda m: m / next_bias1.astype(m.dtype), m)
        g_hat = jax.tree.map(lambda g: g / bias1.astype(g.dtype), grads)
        m_hat = jax.tree.map(lambda m, g: mu_next * m + (1 - mu) * g, m_next, g_hat)
        v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
        updates = jax.tree.map(
            lambda m, v: times(-alpha, m / (root(v + eps_root) + visible(eps_t, v))), m_hat, v_hat
        )
        state = NadamState(t, cast_like(m, state.m), cast_like(v, state.v), cast_like(product, state.product))
        return cast_like(updates, grads), state

    return optax.GradientTransformationExtraArgs(init, update)
