"""RMSProp: gradients divided by their root mean square (Tieleman & Hinton 2012)."""

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
    init_step,
    next_step,
    times,
)
from fnnet.optim.numerics import reciprocal_root, root, visible


class RmspropState(NamedTuple):
    """The state of RMSProp. A field that the variant does not use is None."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule or bias_correction
    s: optax.Params  # mean of the squared gradient, like params
    m: optax.Params | None  # mean of the gradient, like params, if centered
    v: optax.Params | None  # velocity, like params, with momentum


def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: chex.Numeric = 0.9,
    eps: chex.Numeric = 1e-8,
    initial_scale: chex.Numeric = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: chex.Numeric | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    rate_in_velocity: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp: plain, centered, with momentum.

        s <- rho s + (1 - rho) g^2                              s = initial_scale at the start
        m <- rho m + (1 - rho) g                                if centered, otherwise m = 0
        x <- alpha g / sqrt(s - m^2 + eps)
        theta <- theta - x                                      plain
        v <- mu v + x,  theta <- theta - v                      with momentum
        v <- mu v + x,  theta <- theta - (mu v + x)             with Nesterov momentum

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        decay: rho, fraction of the old means that is kept, in [0, 1). (PyTorch calls it alpha and uses 0.99.)
        eps: keeps the quotient finite.
        initial_scale: s at the start. TensorFlow uses 1.
        eps_in_sqrt: True as above, as in Hinton's lecture and TensorFlow; False for g / (sqrt(s - m^2) + eps), as in
            PyTorch.
        centered: True to divide by the standard deviation, as in Graves.
        momentum: mu, in [0, 1); None for no momentum.
        nesterov: True for Nesterov momentum.
        bias_correction: True to divide s and m by 1 - rho^t, as in Adam.
        rate_in_velocity: True as above and in TensorFlow: v holds steps. False for v <- mu v + x / alpha, theta <-
            theta - alpha v, as in PyTorch: a change of alpha then affects all of v.

    Twin: `optax.rmsprop`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, eps or the initial s is
            negative; rho or mu is not in [0, 1).

    Source: Tieleman & Hinton 2012, "Lecture 6.5: RMSProp"; centered: Graves 2013, arXiv:1308.0850, eq. 38-45.

    Example:
        >>> optimizer = fn.optim.rmsprop(0.1, decay=0.0, eps=0.0)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -1.0]), optimizer.init(params))
        >>> updates
        Array([-0.1,  0.1], dtype=float32)
    """
    check_flags(
        "rmsprop",
        eps_in_sqrt=eps_in_sqrt,
        centered=centered,
        nesterov=nesterov,
        bias_correction=bias_correction,
        rate_in_velocity=rate_in_velocity,
    )
    check_learning_rate("rmsprop", learning_rate)
    check.number("rmsprop", "decay", decay, "[0, 1)")
    check.number("rmsprop", "eps", eps, "[0, inf)")
    check.number("rmsprop", "initial_scale", initial_scale, "[0, inf)")
    if momentum is not None:
        check.number("rmsprop", "momentum", momentum, "[0, 1)")

    def init(params: optax.Params) -> RmspropState:
        return RmspropState(
            step=jnp.zeros([], jnp.int32) if bias_correction else init_step(learning_rate),
            s=jax.tree.map(lambda p: jnp.full_like(p, initial_scale), params),
            m=jax.tree.map(jnp.zeros_like, params) if centered else None,
            v=jax.tree.map(jnp.zeros_like, params) if momentum is not None else None,
        )

    def update(
        grads: optax.Updates, state: RmspropState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, RmspropState]:
        alpha = at_step(learning_rate, state.step)
        t = next_step(state.step)
        bias: Any = 1 - decay**t if bias_correction else None

        s = jax.tree.map(lambda s, g: (1 - decay) * abs_sq(g) + decay * s, state.s, grads)
        s_hat = jax.tree.map(lambda s: s / bias.astype(s.dtype), s) if bias_correction else s
        variance, m = s_hat, state.m
        if centered:
            m = jax.tree.map(lambda m, g: (1 - decay) * g + decay * m, state.m, grads)
            m_hat = jax.tree.map(lambda m: m / bias.astype(m.dtype), m) if bias_correction else m
            variance = jax.tree.map(lambda s, m: s - abs_sq(m), s_hat, m_hat)
        if eps_in_sqrt:
            x = jax.tree.map(
                lambda s, g: reciprocal_root(s + visible(eps, s, under_root=True)) * g, variance, grads
            )
        else:
            x = jax.tree.map(lambda s, g: 1 / (root(s) + visible(eps, s)) * g, variance, grads)

        v, updates = state.v, x
        if momentum is None or rate_in_velocity:
            updates = jax.tree.map(lambda x: times(-alpha, x), x)
        if momentum is not None:
            v = jax.tree.map(lambda v, x: x + momentum * v, state.v, updates)
            updates = jax.tree.map(lambda v, x: x + momentum * v, v, updates) if nesterov else v
            if not rate_in_velocity:
                updates = jax.tree.map(lambda v: times(-alpha, v), updates)
        state = RmspropState(t, cast_like(s, state.s), cast_like(m, state.m), cast_like(v, state.v))
        return cast_like(updates, grads), state

    return optax.GradientTransformationExtraArgs(init, update)
