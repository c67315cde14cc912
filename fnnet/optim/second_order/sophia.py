"""Sophia: steps divided by an estimate of the Hessian's diagonal, and clipped (Liu et al. 2023, arXiv:2305.14342)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    cast_like,
    check_count,
    check_flags,
    check_learning_rate,
    times,
)
from fnnet.optim.numerics import visible
from fnnet.optim.second_order.hutchinson import hutchinson_estimator_diag_hessian
from fnnet.optim.transforms.weight_decay import add_weight_decay


class SophiaState(NamedTuple):
    """The state of Sophia."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    h: optax.Params  # mean of the estimates of the Hessian's diagonal, like params
    estimator: Any  # state of the estimator
    evaluations: Evaluations  # a value and a gradient per step, a product per estimate


def sophia(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.965,
    b2: chex.Numeric = 0.99,
    eps: chex.Numeric = 1e-8,
    weight_decay: chex.Numeric = 1e-4,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    gamma: chex.Numeric = 0.01,
    clip_threshold: chex.Numeric | None = 1.0,
    update_interval: chex.Numeric = 10,
    hessian_diagonal_fn: optax.GradientTransformation
    | optax.GradientTransformationExtraArgs = hutchinson_estimator_diag_hessian(),  # noqa: B008
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: chex.Numeric = 0,
    *,
    hessian_first: bool = False,
    bias_correction: bool = True,
    eps_added: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Sophia, by default with Hutchinson's estimate (Sophia-H).

        m <- b1 m + (1 - b1) g                      m_hat = m / (1 - b1^t)
        u = clip(m_hat / max(gamma h, eps), -rho, rho)
        theta <- theta - alpha (u + lambda theta)
        h <- b2 h + (1 - b2) diag                   every `update_interval` steps, also the first

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1). The paper uses 0.96.
        b2: fraction of the old h that is kept, in [0, 1).
        eps: keeps the quotient finite. The paper uses 1e-12.
        weight_decay: lambda, multiplied by alpha. The paper uses 0.2.
        weight_decay_mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes
            one from params: True where a param decays. All do by default.
        gamma: factor of h. The larger it is, the fewer coordinates are clipped.
        clip_threshold: rho; None for no clipping. (The paper's first version has rho and no gamma: the same rule with
            gamma = 1.)
        update_interval: number of steps from one estimate to the next.
        hessian_diagonal_fn: the estimator, a transformation whose `update` returns the diagonal. It receives the
            params and all keyword arguments of Sophia's `update`.
        mu_dtype: dtype of m; the params' dtype by default.
        verbose: True to print the fraction of coordinates that are not clipped.
        print_win_rate_every_n_steps: number of steps between these prints; 0 for none.
        hessian_first: True to use the new h in the step, as in the paper. False for the old one: h is then 0 in the
            first step, and u is rho or -rho.
        bias_correction: False for m_hat = m, as in the paper.
        eps_added: True for max(gamma h, 0) + eps, as in the authors' code, instead of max(gamma h, eps).

    The estimator needs the loss on the batch as a function f of the params: `update(grads, state, params,
    value_fn=f)`, or `obj_fn=f`, optax's name. fnnet's training functions pass it.

    Twin: `optax.contrib.sophia`, equal bit for bit with the same function.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, eps, lambda, gamma or rho is
            negative; b1 or b2 is not in [0, 1); `update` is called without params, or without the function that the
            estimator needs.

    Source: Liu et al. 2023, arXiv:2305.14342, algorithm 3.

    Example:
        >>> optimizer = fn.optim.sophia(0.1, gamma=1.0, b2=0.0, weight_decay=0.0, hessian_first=True)
        >>> params, f = jnp.array([1.0, 0.5]), lambda p: jnp.sum(50 * p**2)
        >>> updates, state = optimizer.update(jax.grad(f)(params), optimizer.init(params), params, value_fn=f)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1000', '-0.0500']
    """
    check_flags(
        "sophia",
        verbose=verbose,
        hessian_first=hessian_first,
        bias_correction=bias_correction,
        eps_added=eps_added,
    )
    check_count("sophia", "print_win_rate_every_n_steps", print_win_rate_every_n_steps, least=0)
    check_learning_rate("sophia", learning_rate)
    check.number("sophia", "b1", b1, "[0, 1)")
    check.number("sophia", "b2", b2, "[0, 1)")
    check.number("sophia", "eps", eps, "[0, inf)")
    check.number("sophia", "weight_decay", weight_decay, "[0, inf)")
    check.number("sophia", "gamma", gamma, "[0, inf)")
    if clip_threshold is not None:
        check.number("sophia", "clip_threshold", clip_threshold, "[0, inf)")
    check_count("sophia", "update_interval", update_interval)
    estimator = optax.with_extra_args_support(hessian_diagonal_fn)

    def init(params: optax.Params) -> SophiaState:
        return SophiaState(
            step=jnp.zeros([], jnp.int32),
            m=jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params),
            h=jax.tree.map(jnp.zeros_like, params),
            estimator=estimator.init(params),
            evaluations=no_evaluations(),
        )

    def quotient(m: jax.Array, h: jax.Array) -> jax.Array:
        least = visible(eps, h)
        return m / (jnp.maximum(gamma * h, 0) + least if eps_added else jnp.maximum(gamma * h, least))

    def update(
        grads: optax.Updates, state: SophiaState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SophiaState]:
        if params is None:
            raise ValueError(
                "sophia: the Hessian needs the params, write update(grads, state, params, value_fn=f)"
            )
        if "obj_fn" not in extra and "value_fn" in extra:
            extra = extra | {"obj_fn": extra["value_fn"]}
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)

        def estimate(now: Any, h: optax.Params) -> tuple[Any, optax.Params]:
            diag, now = estimator.update(grads, now, params=params, **extra)
            return now, cast_like(jax.tree.map(lambda h, d: (1 - b2) * d + b2 * h, h, diag), h)

        due = state.step % update_interval == 0
        memory, h_next = jax.lax.cond(due, estimate, lambda now, h: (now, h), state.estimator, state.h)
        evaluations = state.evaluations.plus(values=1, gradients=1, products=due)

        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        bias = 1 - b1**t
        m_hat = jax.tree.map(lambda m: m / bias.astype(m.dtype), m) if bias_correction else m
        u = jax.tree.map(quotient, m_hat, h_next if hessian_first else state.h)
        if clip_threshold is not None:
            if verbose:
                print_share_below(clip_threshold, u, t, print_win_rate_every_n_steps)
            u = jax.tree.map(lambda u: jnp.clip(u, -clip_threshold, clip_threshold), u)
        u = add_weight_decay("sophia", u, params, weight_decay, weight_decay_mask)
        updates = jax.tree.map(lambda u: times(-alpha, u), u)
        return cast_like(updates, grads), SophiaState(t, cast_like(m, state.m), h_next, memory, evaluations)

    return optax.GradientTransformationExtraArgs(init, update)


def print_share_below(threshold: chex.Numeric, u: optax.Updates, t: jax.Array, every: chex.Numeric) -> None:
    """Prints the fraction of |u| < threshold every `every` steps; never if that is 0."""
    leaves = jax.tree.leaves(u)
    fraction = sum(jnp.sum(jnp.abs(u) < threshold) for u in leaves) / max(sum(u.size for u in leaves), 1)
    jax.lax.cond(
        (every > 0) & (t % jnp.maximum(every, 1) == 0),
        lambda: jax.debug.print("sophia: step {}, {:.3f} of the coordinates not clipped", t, fraction),
        lambda: None,
    )
