"""AMSGrad: Adam with step sizes that never grow (Reddi, Kale & Kumar 2018, arXiv:1904.09237)."""

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


class AmsgradState(NamedTuple):
    """The state of AMSGrad."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params
    v_max: optax.Params  # largest v_hat so far (largest v, if max_before_correction), like params


def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_before_correction: bool = False,
    eps_before_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """AMSGrad.

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        v_max <- max(v_max, v_hat)
        theta <- theta - alpha m_hat / (sqrt(v_max + eps_root) + eps)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old v that is kept, in [0, 1).
        eps: keeps the quotient finite. The paper has no eps.
        eps_root: added inside the square root. (optax needs it for derivatives through the update where v is 0. Here
            they are finite without it.)
        mu_dtype: dtype of m; the params' dtype by default.
        bias_correction_mu: False for m_hat = m.
        bias_correction_nu: False for v_hat = v. The paper corrects neither.
        max_before_correction: True for v_max <- max(v_max, v), which is divided by 1 - b2^t only in the step, as in
            PyTorch and Keras. The two differ early on, because the first v_hat, from a single gradient, is often the
            largest.
        eps_before_correction: True adds eps to sqrt(v_max) before the bias correction, see `adam`, as in Keras (with
            max_before_correction and eps=1e-7).

    Twin: `optax.amsgrad`, equal bit for bit. PyTorch uses the rule with max_before_correction=True.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or an eps is negative; b1 or
            b2 is not in [0, 1).

    Source: Reddi, Kale & Kumar 2018, "On the convergence of Adam and beyond", arXiv:1904.09237, algorithm 2.

    Example:
        >>> optimizer = fn.optim.amsgrad(0.1, b1=0.0)
        >>> params = jnp.array([1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0]), optimizer.init(params))
        >>> updates, state = optimizer.update(jnp.array([1.0]), state)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.0010']
    """
    check_flags(
        "amsgrad",
        bias_correction_mu=bias_correction_mu,
        bias_correction_nu=bias_correction_nu,
        max_before_correction=max_before_correction,
        eps_before_correction=eps_before_correction,
    )
    check_learning_rate("amsgrad", learning_rate)
    check.number("amsgrad", "b1", b1, "[0, 1)")
    check.number("amsgrad", "b2", b2, "[0, 1)")
    check.number("amsgrad", "eps", eps, "[0, inf)")
    check.number("amsgrad", "eps_root", eps_root, "[0, inf)")

    def init(params: optax.Params) -> AmsgradState:
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        return AmsgradState(
            step=jnp.zeros([], jnp.int32), m=m, v=zeros_like(params), v_max=zeros_like(params)
        )

    def update(
        grads: optax.Updates, state: AmsgradState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AmsgradState]:
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)
        bias1 = 1 - b1**t if bias_correction_mu else jnp.ones([])
        bias2 = 1 - b2**t if bias_correction_nu else jnp.ones([])
        eps_t = eps / jnp.sqrt(bias2) if eps_before_correction else eps
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
        if max_before_correction:
            v_max = jax.tree.map(jnp.maximum, state.v_max, v)
            v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v_max)
        else:
            v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
            v_max = v_hat = jax.tree.map(jnp.maximum, state.v_max, v_hat)
        updates = jax.tree.map(
            lambda m, v: times(-alpha, m / (root(v + eps_root) + visible(eps_t, v))), m_hat, v_hat
        )
        state = AmsgradState(t, cast_like(m, state.m), cast_like(v, state.v), cast_like(v_max, state.v_max))
        return cast_like(updates, grads), state

    return optax.GradientTransformationExtraArgs(init, update)
