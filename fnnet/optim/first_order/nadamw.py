"""NadamW: Nadam with AdamW's weight decay (Dozat 2016; Loshchilov & Hutter 2019, arXiv:1711.05101)."""

from collections.abc import Callable
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
    check_number_or_schedule,
    times,
)
from fnnet.optim.numerics import root, visible
from fnnet.optim.transforms.weight_decay import add_weight_decay


class NadamwState(NamedTuple):
    """The state of NadamW."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params
    product: jax.Array | None  # float[], mu_1 ... mu_t; None without momentum_decay


def nadamw(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    momentum_decay: chex.Numeric | None = None,
    schedule_in_mean: bool = False,
    eps_before_correction: bool = False,
    rate_in_decay: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """NadamW: the step of `nadam` with the weight decay of `adamw`.

        m <- b1 m + (1 - b1) g          m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)
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
        weight_decay: lambda, a number or a schedule of the step.
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param decays. All do by default.
        momentum_decay: psi, see `nadam`; None for a constant b1. PyTorch's NAdam with decoupled_weight_decay=True
            uses 0.004.
        schedule_in_mean: with a psi, True for Dozat's m, see `nadam`.
        eps_before_correction: True adds eps to sqrt(v) before the bias correction, see `adam`.
        rate_in_decay: False for a decay that is not multiplied by alpha, see `adamw`.

    Twin: `optax.nadamw`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, an eps, lambda or psi is
            negative; b1 or b2 is not in [0, 1); `update` is called without params.

    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam"; Loshchilov & Hutter 2019, arXiv:1711.05101.

    Example:
        >>> optimizer = fn.optim.nadamw(0.1, weight_decay=0.01)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, 0.0]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1484', '-0.0010']
    """
    check_flags(
        "nadamw",
        schedule_in_mean=schedule_in_mean,
        eps_before_correction=eps_before_correction,
        rate_in_decay=rate_in_decay,
    )
    check_learning_rate("nadamw", learning_rate)
    check.number("nadamw", "b1", b1, "[0, 1)")
    check.number("nadamw", "b2", b2, "[0, 1)")
    check.number("nadamw", "eps", eps, "[0, inf)")
    check.number("nadamw", "eps_root", eps_root, "[0, inf)")
    check_number_or_schedule("nadamw", "weight_decay", weight_decay, "[0, inf)")
    if momentum_decay is not None:
        check.number("nadamw", "momentum_decay", momentum_decay, "[0, inf)")

    def init(params: optax.Params) -> NadamwState:
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        v = jax.tree.map(jnp.zeros_like, params)
        product = None if momentum_decay is None else jnp.ones([])
        return NadamwState(step=jnp.zeros([], jnp.int32), m=m, v=v, product=product)

    def update(
        grads: optax.Updates, state: NadamwState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NadamwState]:
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
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
        x = jax.tree.map(lambda m, v: m / (root(v + eps_root) + visible(eps_t, v)), m_hat, v_hat)
        if rate_in_decay:
            x = add_weight_decay("nadamw", x, params, decay, mask)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        if not rate_in_decay:
            updates = add_weight_decay("nadamw", updates, params, -decay, mask)
        state = NadamwState(
            t, cast_like(m, state.m), cast_like(v, state.v), cast_like(product, state.product)
        )
        return cast_like(updates, grads), state

    return optax.GradientTransformationExtraArgs(init, update)
