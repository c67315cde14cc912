"""RAdam: Adam with rectified early steps (Liu et al. 2020, arXiv:1908.03265)."""

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


class RadamState(NamedTuple):
    """The state of RAdam."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params


def radam(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 0.0,
    threshold: chex.Numeric = 5.0,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """RAdam: momentum until v is known well enough, then Adam with a factor r that grows to 1.

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        rho_inf = 2 / (1 - b2) - 1      rho = rho_inf - 2 t b2^t / (1 - b2^t)
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        theta <- theta - alpha m_hat                                            if rho < threshold
        theta <- theta - alpha r m_hat / (sqrt(v_hat + eps_root) + eps)         otherwise

    Args:
        learning_rate: alpha, a number or a schedule of the step. It applies to both branches, although steps in the
            first scale with the gradient.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old v that is kept, in [0, 1). If b2 is at most 0.6, rho_inf is at most 4, and all steps
            are momentum.
        eps: keeps the quotient finite. The paper has no eps.
        eps_root: added inside the square root. (optax needs it for derivatives through the update where v is 0. Here
            they are finite without it.)
        threshold: least rho for the second branch, 4 or more. The authors' code and PyTorch use 5: with b2 = 0.999,
            the first 5 steps are momentum. The paper uses 4, which makes it 4 steps.
        nesterov: True for m_hat as in `nadam`.
        eps_before_correction: True adds eps to sqrt(v) before the bias correction, see `adam`, as in PyTorch and the
            authors' code.

    Twin: `optax.radam`, equal bit for bit. But a derivative through the first steps is finite here, and NaN in optax.
    PyTorch uses the rule with eps_before_correction=True.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or an eps is negative; b1 or
            b2 is not in [0, 1); the threshold is below 4, where r would be undefined.

    Source: Liu et al. 2020, "On the variance of the adaptive learning rate and beyond", arXiv:1908.03265, algorithm
    2.

    Example:
        >>> optimizer = fn.optim.radam(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-10.0000', '0.0100']
    """
    check_flags("radam", nesterov=nesterov, eps_before_correction=eps_before_correction)
    check_learning_rate("radam", learning_rate)
    check.number("radam", "b1", b1, "[0, 1)")
    check.number("radam", "b2", b2, "[0, 1)")
    check.number("radam", "eps", eps, "[0, inf)")
    check.number("radam", "eps_root", eps_root, "[0, inf)")
    check.number("radam", "threshold", threshold, "[4, inf)")

    def init(params: optax.Params) -> RadamState:
        return RadamState(step=jnp.zeros([], jnp.int32), m=zeros_like(params), v=zeros_like(params))

    def update(
        grads: optax.Updates, state: RadamState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, RadamState]:
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)
        bias1, bias2 = 1 - b1**t, 1 - b2**t
        eps_t = eps / jnp.sqrt(bias2) if eps_before_correction else eps
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * t * b2**t / bias2
        r_sq = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        rectify = rho >= threshold
        r = jnp.sqrt(jnp.where(rectify, r_sq, 1))  # no root of a negative number, whose derivative is NaN

        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        if nesterov:
            next_bias1 = 1 - b1 ** optax.safe_increment(t)
            m_next = jax.tree.map(lambda m: m / next_bias1.astype(m.dtype), m)
            g_hat = jax.tree.map(lambda g: g / bias1.astype(g.dtype), grads)
            m_hat = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m_next, g_hat)
        else:
            m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
        v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)

        def x(m: jax.Array, v: jax.Array) -> jax.Array:
            adaptive = r.astype(m.dtype) * m / (root(v + eps_root) + visible(eps_t, v))
            return jnp.where(rectify, adaptive, m)

        updates = jax.tree.map(lambda m, v: times(-alpha, x(m, v)), m_hat, v_hat)
        return cast_like(updates, grads), RadamState(t, cast_like(m, state.m), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
