"""AdaBelief: long steps where the gradient is close to its mean (Zhuang et al. 2020, arXiv:2010.07468)."""

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
    zeros_like,
)
from fnnet.optim.numerics import root, visible


class AdabeliefState(NamedTuple):
    """The state of AdaBelief."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    s: optax.Params  # mean of its squared distance from m, like params


def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-16,
    eps_root: chex.Numeric = 1e-16,
    *,
    nesterov: bool = False,
    eps_root_in_s: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """AdaBelief.

        m <- b1 m + (1 - b1) g                          m_hat = m / (1 - b1^t)
        s <- b2 s + (1 - b2) (g - m)^2 + eps_root       s_hat = s / (1 - b2^t)
        theta <- theta - alpha m_hat / (sqrt(s_hat) + eps)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1). With b1 = 0, m is g, and the step is alpha g divided by the
            epsilons alone.
        b2: fraction of the old s that is kept, in [0, 1).
        eps: keeps the quotient finite. The paper uses one epsilon, 1e-8, in both places; the authors' code uses
            1e-16.
        eps_root: added to s at each step, where it accumulates to eps_root / (1 - b2): 1e-8 becomes 1e-5, so that
            gradient noise below 0.003 no longer matters.
        nesterov: True for m_hat as in `nadam`.
        eps_root_in_s: True as above, as in the paper's algorithm 2 and the authors' code. False for s without it and
            s_hat = (s + eps_root) / (1 - b2^t), as in the paper's appendix. (The first version of the paper has no
            eps_root: 0.)

    Twin: `optax.adabelief`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or an eps is negative; b1 or
            b2 is not in [0, 1).

    Source: Zhuang et al. 2020, "AdaBelief optimizer", arXiv:2010.07468, algorithm 2.

    Example:
        >>> optimizer = fn.optim.adabelief(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1111', '0.1111']
    """
    check_flags("adabelief", nesterov=nesterov, eps_root_in_s=eps_root_in_s)
    check_learning_rate("adabelief", learning_rate)
    check.number("adabelief", "b1", b1, "[0, 1)")
    check.number("adabelief", "b2", b2, "[0, 1)")
    check.number("adabelief", "eps", eps, "[0, inf)")
    check.number("adabelief", "eps_root", eps_root, "[0, inf)")

    def init(params: optax.Params) -> AdabeliefState:
        return AdabeliefState(step=jnp.zeros([], jnp.int32), m=zeros_like(params), s=zeros_like(params))

    def update(
        grads: optax.Updates, state: AdabeliefState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdabeliefState]:
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)
        bias1, bias2 = 1 - b1**t, 1 - b2**t
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        s = jax.tree.map(lambda s, g, m: (1 - b2) * abs_sq(g - m) + b2 * s, state.s, grads, m)
        s_eps = jax.tree.map(lambda s: s + eps_root, s)
        if nesterov:
            next_bias1 = 1 - b1 ** optax.safe_increment(t)
            m_next = jax.tree.map(lambda m: m / next_bias1.astype(m.dtype), m)
            g_hat = jax.tree.map(lambda g: g / bias1.astype(g.dtype), grads)
            m_hat = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m_next, g_hat)
        else:
            m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
        s_hat = jax.tree.map(lambda s: s / bias2.astype(s.dtype), s_eps)
        updates = jax.tree.map(lambda m, s: times(-alpha, m / (root(s) + visible(eps, s))), m_hat, s_hat)
        s = s_eps if eps_root_in_s else s
        return cast_like(updates, grads), AdabeliefState(t, cast_like(m, state.m), cast_like(s, state.s))

    return optax.GradientTransformationExtraArgs(init, update)
