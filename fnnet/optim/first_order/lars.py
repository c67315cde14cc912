"""LARS: a learning rate for each layer, proportional to its weights (You, Gitman & Ginsburg 2017, arXiv:1708.03888)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.copies import copy_axes, for_each_copy
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    check_number_or_schedule,
    init_step,
    next_step,
    times,
)
from fnnet.optim.numerics import Norm, norms_like
from fnnet.optim.transforms.weight_decay import add_weight_decay, map_masked


class LarsState(NamedTuple):
    """The state of LARS."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule
    v: optax.Params  # velocity, like params


def lars(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = True,
    trust_coefficient: chex.Numeric = 0.001,
    eps: chex.Numeric = 0.0,
    trust_ratio_mask: Any | Callable[[optax.Params], Any] | None = True,
    momentum: chex.Numeric = 0.9,
    nesterov: bool = False,
    *,
    joint_norm: bool = True,
    rate_in_velocity: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """LARS. Each array of the params counts as a layer with its own learning rate.

        u = g + lambda theta
        ratio = eta |theta| / (|u| + eps)           1 where a norm is 0
        v <- mu v + alpha ratio u
        theta <- theta - v

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        weight_decay: lambda, a number or a schedule of the step. The paper uses 0.0005.
        weight_decay_mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes
            one from params: True where a param decays. Biases and gains are often left out.
        trust_coefficient: eta.
        eps: keeps the quotient finite.
        trust_ratio_mask: like `weight_decay_mask`: True where an array has the ratio; elsewhere it is 1.
        momentum: mu, in [0, 1).
        nesterov: theta <- theta - (mu v + alpha ratio u).
        joint_norm: True as above and in optax. False for ratio = eta |theta| / (|g| + lambda |theta| + eps), as in
            the paper, MLPerf and apex. Without decay the two are the same.
        rate_in_velocity: True as above and in the paper: v holds steps. False for v <- mu v + ratio u, theta <- theta
            - alpha v, as with LARS before PyTorch's SGD in apex: a change of alpha then affects all of v. With a
            constant alpha the two are the same.

    Twin: `optax.lars`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, lambda, eta or eps is
            negative; mu is not in [0, 1); `update` is called without params.

    Source: You, Gitman & Ginsburg 2017, arXiv:1708.03888, eq. 6 and algorithm 1.

    Example:
        >>> optimizer = fn.optim.lars(0.1, trust_coefficient=0.01)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = optimizer.update(jnp.array([3.0, -4.0]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.0030', '0.0040']
    """
    check_flags("lars", nesterov=nesterov, joint_norm=joint_norm, rate_in_velocity=rate_in_velocity)
    check_learning_rate("lars", learning_rate)
    check_number_or_schedule("lars", "weight_decay", weight_decay, "[0, inf)")
    check.number("lars", "trust_coefficient", trust_coefficient, "[0, inf)")
    check.number("lars", "eps", eps, "[0, inf)")
    check.number("lars", "momentum", momentum, "[0, 1)")

    def apply_trust_ratio(u: jax.Array, theta_norm: jax.Array, size: jax.Array) -> jax.Array:
        still = jnp.logical_or(theta_norm == 0, size == 0)
        ratio = trust_coefficient * theta_norm / (jnp.where(still, 1, size) + eps)
        return (u * jnp.where(still, 1, ratio)).astype(u.dtype)

    def init(params: optax.Params) -> LarsState:
        v = jax.tree.map(jnp.zeros_like, params)
        return LarsState(step=init_step(learning_rate, weight_decay), v=v)

    def update(
        grads: optax.Updates, state: LarsState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, LarsState]:
        if params is None:
            raise ValueError("lars: its ratio needs the params, write update(grads, state, params)")
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
        u = add_weight_decay("lars", grads, params, decay, weight_decay_mask)
        theta_norms, sizes = (
            jax.tree.map(lambda norm: norm.value, norms, is_leaf=lambda node: isinstance(node, Norm))
            for norms in norms_like((params, u if joint_norm else grads))
        )
        if not joint_norm:
            chosen = weight_decay_mask(params) if callable(weight_decay_mask) else weight_decay_mask
            sizes = add_weight_decay("lars", sizes, theta_norms, decay, chosen)
        x = map_masked(
            lambda u, _, theta_norm, size, n: for_each_copy(apply_trust_ratio, n)(u, theta_norm, size),
            trust_ratio_mask, u, params, theta_norms, sizes, copy_axes(grads),
        )  # fmt: skip

        if rate_in_velocity:
            x = jax.tree.map(lambda x: times(-alpha, x), x)
        v = jax.tree.map(lambda v, x: x + momentum * v, state.v, x)
        updates = jax.tree.map(lambda v, x: x + momentum * v, v, x) if nesterov else v
        if not rate_in_velocity:
            updates = jax.tree.map(lambda v: times(-alpha, v), updates)
        return cast_like(updates, grads), LarsState(next_step(state.step), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
