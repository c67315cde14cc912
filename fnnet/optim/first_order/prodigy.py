"""Prodigy: Adam that estimates its learning rate (Mishchenko & Defazio 2024, arXiv:2306.06101)."""

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
    copy_tree,
    zeros_like,
)
from fnnet.optim.numerics import root, visible, wide


class ProdigyState(NamedTuple):
    """The state of Prodigy."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of d g, like params
    v: optax.Params  # mean of its square, like params
    s: optax.Params  # weighted sum of the gradients, like params
    theta_0: optax.Params  # the first params, like params
    r: jax.Array  # float[], weighted sum of <g, theta_0 - theta>
    d: jax.Array  # float[], estimate of the distance from theta_0 to the solution
    d_max: jax.Array | None  # float[], the largest estimate, with a growth rate


def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    betas: tuple[chex.Numeric, chex.Numeric] = (0.9, 0.999),
    beta3: chex.Numeric | None = None,
    eps: chex.Numeric = 1e-8,
    estim_lr0: chex.Numeric = 1e-6,
    estim_lr_coef: chex.Numeric = 1.0,
    weight_decay: chex.Numeric = 0.0,
    safeguard_warmup: bool = False,
    *,
    bias_correction: bool = True,
    growth_rate: chex.Numeric | None = None,
    next_d_in_eps: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Prodigy, in its form for Adam.

        gamma = alpha d sqrt(1 - b2^t) / (1 - b1^t)
        m <- b1 m + (1 - b1) d g
        v <- b2 v + (1 - b2) (d g)^2
        r <- b3 r + (d / d_0) gamma <g, theta_0 - theta>
        s <- b3 s + (d / d_0) gamma g
        d' = max(d, c r / |s|_1)
        theta <- theta - gamma m / (sqrt(v) + d' eps) - lambda gamma theta
        d <- d'

    Args:
        learning_rate: alpha, a number or a schedule of the step. It multiplies the estimate, so use 1 or a schedule
            from 1 to 0.
        betas: (b1, b2), fractions of the old m and v that are kept, in [0, 1).
        beta3: b3, fraction of the old r and s that is kept, in [0, 1); sqrt(b2) by default.
        eps: keeps the quotient finite.
        estim_lr0: d_0, the first estimate. Choose it too small rather than too large. (But float32 params of size 1
            do not move by steps below 6e-8.)
        estim_lr_coef: c, a factor of the estimates.
        weight_decay: lambda, multiplied by gamma, as in AdamW.
        safeguard_warmup: True for s <- b3 s + (d / d_0) d g, so that small rates in a warm-up do not make the
            estimate too large.
        bias_correction: False for gamma = alpha d, as in the paper, and by default in the authors' package.
        growth_rate: upper bound of the factor by which d grows in a step once it has left d_0, as in the authors'
            package; no bound by default.
        next_d_in_eps: True for d' eps, as in optax and the authors' package; False for d eps, as in the paper.

    If all gradients or all rates so far were 0, r and |s| are 0, and d stays the same, as in the authors' package.
    (In optax 0.2.8, d and the params become NaN; with a schedule that starts at 0, in the first step.)

    Twin: `optax.contrib.prodigy`, equal bit for bit wherever that is finite.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, eps, c or lambda is negative;
            b1, b2 or b3 is not in [0, 1); d_0 is not above 0; the growth rate is below 1; `update` is called without
            params.

    Source: Mishchenko & Defazio 2024, arXiv:2306.06101, algorithm 4.

    Example:
        >>> optimizer = fn.optim.prodigy(estim_lr0=0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates], float(state.d)
        (['-0.1000', '0.1000'], 0.10000000149011612)
    """
    check_flags(
        "prodigy",
        safeguard_warmup=safeguard_warmup,
        bias_correction=bias_correction,
        next_d_in_eps=next_d_in_eps,
    )
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"prodigy: betas={betas!r}, wanted two numbers, (b1, b2)")
    b1, b2 = betas
    check_learning_rate("prodigy", learning_rate)
    check.number("prodigy", "betas[0]", b1, "[0, 1)")
    check.number("prodigy", "betas[1]", b2, "[0, 1)")
    b3 = b2**0.5 if beta3 is None else beta3
    if beta3 is not None:
        check.number("prodigy", "beta3", beta3, "[0, 1)")
    check.number("prodigy", "eps", eps, "[0, inf)")
    check.number("prodigy", "estim_lr0", estim_lr0, "(0, inf)")  # the estimates grow from it
    check.number("prodigy", "estim_lr_coef", estim_lr_coef, "[0, inf)")
    check.number("prodigy", "weight_decay", weight_decay, "[0, inf)")
    if growth_rate is not None:
        check.number("prodigy", "growth_rate", growth_rate, "[1, inf)")

    def init(params: optax.Params) -> ProdigyState:
        dtype = optax.tree.dtype(params, "lowest")
        dtype = jnp.float32 if dtype == jnp.float16 else dtype  # 1e-6 squared is 0 in float16
        return ProdigyState(
            step=jnp.zeros([], jnp.int32),
            m=zeros_like(params),
            v=zeros_like(params),
            s=zeros_like(params),
            theta_0=copy_tree(params),
            r=jnp.zeros([], dtype),
            d=jnp.full([], estim_lr0, dtype),
            d_max=None if growth_rate is None else jnp.full([], estim_lr0, dtype),
        )

    def update(
        grads: optax.Updates, state: ProdigyState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ProdigyState]:
        if params is None:
            raise ValueError("prodigy: its estimate needs the params, write update(grads, state, params)")
        alpha, d = at_step(learning_rate, state.step), state.d
        t = optax.safe_increment(state.step)
        bias: Any = ((1 - b2**t) ** 0.5) / (1 - b1**t) if bias_correction else 1.0
        gamma = jnp.asarray(d * alpha * bias, d.dtype)

        d_g = jax.tree.map(lambda g: d * g, grads)
        m = jax.tree.map(lambda m, dg: b1 * m + (1 - b1) * dg, state.m, d_g)
        v = jax.tree.map(lambda v, dg: b2 * v + (1 - b2) * dg * dg, state.v, d_g)

        # Divided by d_0, which cancels out: d^2 is at first too small for float32.
        factor = d if safeguard_warmup else gamma
        s = jax.tree.map(lambda s, dg: b3 * s + factor * dg / estim_lr0, state.s, d_g)
        way = jax.tree.map(lambda g, p0, p: inner(g, p0 - p), grads, state.theta_0, params)
        r = b3 * state.r + (d / estim_lr0) * gamma * sum(jax.tree.leaves(way))
        size: Any = sum(jnp.sum(jnp.abs(wide(s))) for s in jax.tree.leaves(s))
        d_hat = estim_lr_coef * r / jnp.where(size == 0, 1, size)  # r is 0 then, too
        d_next, d_max = jnp.where(d_hat > d, d_hat, d), None
        if growth_rate is not None and state.d_max is not None:
            d_max = jnp.where(d_hat > state.d_max, d_hat, state.d_max)
            d_next = jnp.minimum(d_max, jnp.where(d == estim_lr0, d_next, d) * growth_rate)

        d_eps = (d_next if next_d_in_eps else d) * eps
        updates = jax.tree.map(
            lambda m, v, p: -weight_decay * gamma * p - gamma * m / (root(v) + visible(d_eps, v)),
            m,
            v,
            params,
        )
        new = ProdigyState(t, m, v, s, state.theta_0, r, d_next, d_max)
        return cast_like(updates, grads), cast_like(new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """<a, b> of two arrays, in full precision on every device."""
    return jnp.vdot(wide(a), wide(b), precision=jax.lax.Precision.HIGHEST)
