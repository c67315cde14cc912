"""Adagrad: step sizes that shrink with the sum of squared gradients (Duchi, Hazan & Singer 2011)."""

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


class AdagradState(NamedTuple):
    """The state of Adagrad."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule
    s: optax.Params  # sum of the squared gradients, like params


def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: chex.Numeric = 0.1,
    eps: chex.Numeric = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Adagrad.

        s <- s + g^2                                    s = initial_accumulator_value at the start
        theta <- theta - alpha g / sqrt(s + eps)        0 where s = 0

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        initial_accumulator_value: s at the start. optax and TensorFlow use 0.1, the paper and PyTorch 0.
        eps: keeps the quotient finite.
        eps_in_sqrt: True as above; False for g / (sqrt(s) + eps), as in the paper and in PyTorch (with eps=1e-10).

    Twin: `optax.adagrad`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, the initial s or eps is
            negative.

    Source: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization".

    Example:
        >>> optimizer = fn.optim.adagrad(0.1, initial_accumulator_value=0.0)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, 0.0]), optimizer.init(params))
        >>> updates
        Array([-0.1, -0. ], dtype=float32)
    """
    check_flags("adagrad", eps_in_sqrt=eps_in_sqrt)
    check_learning_rate("adagrad", learning_rate)
    check.number("adagrad", "initial_accumulator_value", initial_accumulator_value, "[0, inf)")
    check.number("adagrad", "eps", eps, "[0, inf)")

    def init(params: optax.Params) -> AdagradState:
        s = jax.tree.map(lambda p: jnp.full_like(p, initial_accumulator_value), params)
        return AdagradState(step=init_step(learning_rate), s=s)

    def update(
        grads: optax.Updates, state: AdagradState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdagradState]:
        alpha = at_step(learning_rate, state.step)
        s = jax.tree.map(lambda s, g: abs_sq(g) + s, state.s, grads)
        if eps_in_sqrt:
            scale = jax.tree.map(lambda s: reciprocal_root(s + visible(eps, s, under_root=True)), s)
        else:
            scale = jax.tree.map(lambda s: 1 / (root(s) + visible(eps, s)), s)
        scale = jax.tree.map(lambda s, scale: jnp.where(s > 0, scale, 0.0), s, scale)
        updates = jax.tree.map(lambda scale, g: times(-alpha, scale * g), scale, grads)
        return cast_like(updates, grads), AdagradState(next_step(state.step), cast_like(s, state.s))

    return optax.GradientTransformationExtraArgs(init, update)
