"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.first_order.nadamw import nadamw
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    abs_sq,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    check_number_or_schedule,
    times,
)
from fnnet.optim.numerics import root, visible
from fnnet.optim.transforms.weight_decay import add_weight_decay


class AdamwState(NamedTuple):
    """The state of AdamW."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
    rate_in_decay: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """AdamW.

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        theta <- theta - alpha (m_hat / (sqrt(v_hat + eps_root) + eps) + lambda theta)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old v that is kept, in [0, 1).
        eps: keeps the quotient finite.
        eps_root: added inside the square root. (optax needs it for derivatives through the update where v is 0. Here
            they are finite without it.)
        mu_dtype: dtype of m; the params' dtype by default.
        weight_decay: lambda, a number or a schedule of the step. The default is optax's; PyTorch uses 0.01, Keras
            0.004.
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param decays. All do by default. Biases and gains are often left out.
        nesterov: True for `nadamw`.
        eps_before_correction: True adds eps to sqrt(v) before the bias correction, see `adam`, as in Keras (with
            eps=1e-7).
        rate_in_decay: True as above, as in optax, PyTorch and Keras: alpha multiplies lambda. False for theta <-
            theta - alpha m_hat / (...) - lambda theta. The paper multiplies the decay by the schedule eta of the
            learning rate, but not by its size alpha_0: pass two schedules, learning_rate = alpha_0 eta and
            weight_decay = lambda_0 eta, with rate_in_decay=False.

    Twin: `optax.adamw`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, an eps or lambda is negative;
            b1 or b2 is not in [0, 1); `update` is called without params.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.

    Example:
        >>> optimizer = fn.optim.adamw(0.1, weight_decay=0.01)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, 0.0]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1010', '-0.0010']
    """
    check_flags(
        "adamw", nesterov=nesterov, eps_before_correction=eps_before_correction, rate_in_decay=rate_in_decay
    )
    if nesterov:
        return nadamw(
            learning_rate,
            b1,
            b2,
            eps,
            eps_root,
            mu_dtype,
            weight_decay,
            mask,
            eps_before_correction=eps_before_correction,
            rate_in_decay=rate_in_decay,
        )
    check_learning_rate("adamw", learning_rate)
    check.number("adamw", "b1", b1, "[0, 1)")
    check.number("adamw", "b2", b2, "[0, 1)")
    check.number("adamw", "eps", eps, "[0, inf)")
    check.number("adamw", "eps_root", eps_root, "[0, inf)")
    check_number_or_schedule("adamw", "weight_decay", weight_decay, "[0, inf)")

    def init(params: optax.Params) -> AdamwState:
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        v = jax.tree.map(jnp.zeros_like, params)
        return AdamwState(step=jnp.zeros([], jnp.int32), m=m, v=v)

    def update(
        grads: optax.Updates, state: AdamwState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdamwState]:
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
        t = optax.safe_increment(state.step)
        bias1, bias2 = 1 - b1**t, 1 - b2**t
        eps_t = eps / jnp.sqrt(bias2) if eps_before_correction else eps
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
        v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
        x = jax.tree.map(lambda m, v: m / (root(v + eps_root) + visible(eps_t, v)), m_hat, v_hat)
        if rate_in_decay:
            x = add_weight_decay("adamw", x, params, decay, mask)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        if not rate_in_decay:
            updates = add_weight_decay("adamw", updates, params, -decay, mask)
        return cast_like(updates, grads), AdamwState(t, cast_like(m, state.m), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
