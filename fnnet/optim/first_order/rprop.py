"""Rprop: steps from the sign of the gradient alone (Riedmiller & Braun 1993)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import cast_like, check_flags, check_learning_rate


class RpropState(NamedTuple):
    """The state of Rprop."""

    size: optax.Params  # step sizes, like params
    last: optax.Params  # the last step without its minus sign, like params; 0 after a change of sign


def rprop(
    learning_rate: chex.Numeric,
    eta_minus: chex.Numeric = 0.5,
    eta_plus: chex.Numeric = 1.2,
    min_step_size: chex.Numeric = 1e-6,
    max_step_size: chex.Numeric = 50.0,
    *,
    backtrack: bool = False,
    one_step_late: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Rprop, for full-batch gradients: noise would change their signs.

        g last > 0      size <- min(eta_plus size, max)         x = size sign(g)        last <- x
        g last < 0      size <- max(eta_minus size, min)        x = 0                   last <- 0
        g last = 0                                              x = size sign(g)        last <- x
        theta <- theta - x                              size = learning_rate, last = 0 at the start

    A change of sign means that the step went past a minimum: the parameter waits for one step, then continues with
    the smaller size.

    Args:
        learning_rate: the first step size, a number. The paper uses 0.1. (A schedule would have no effect later on.)
        eta_minus: factor of the size when the sign changes, in [0, 1).
        eta_plus: factor of the size when it does not, at least 1.
        min_step_size: lower bound of the sizes.
        max_step_size: upper bound of the sizes.
        backtrack: True to undo the last step when the sign changes, x = -last, as in the paper (Rprop+). False as in
            PyTorch (iRprop-).
        one_step_late: True to move theta by the x of the step before: theta waits one step at the start, and two when
            a sign changes. optax 0.2.8 does this by mistake (its pull request 1725).

    Twin: `optax.rprop` with one_step_late=True, equal bit for bit. PyTorch uses the rule above.

    Raises:
        TypeError, ValueError: the learning rate is not a number, or is negative; eta_minus is not in [0, 1); eta_plus
            is below 1; a bound of the sizes is negative; backtrack and one_step_late are both True.

    Source: Riedmiller & Braun 1993, "A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm"; the names of its variants: Igel & Hüsken 2003, "Empirical evaluation of the improved Rprop learning
    algorithms".

    Example:
        >>> optimizer = fn.optim.rprop(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> updates, state = optimizer.update(jnp.array([50.0, 0.1]), state)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1200', '-0.0000']
    """
    check_flags("rprop", backtrack=backtrack, one_step_late=one_step_late)
    if callable(learning_rate):
        raise TypeError("rprop: learning_rate is a schedule, wanted a number: the first step size")
    check_learning_rate("rprop", learning_rate)
    check.number("rprop", "eta_minus", eta_minus, "[0, 1)")
    check.number("rprop", "eta_plus", eta_plus, "[1, inf)")
    check.number("rprop", "min_step_size", min_step_size, "[0, inf)")
    check.number("rprop", "max_step_size", max_step_size, "[0, inf)")
    if backtrack and one_step_late:
        raise ValueError("rprop: backtrack and one_step_late are both True, wanted one at most")

    def init(params: optax.Params) -> RpropState:
        size = jax.tree.map(lambda p: jnp.full_like(p, learning_rate), params)
        return RpropState(size=size, last=jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: optax.Updates, state: RpropState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, RpropState]:
        def resize(size: jax.Array, agree: jax.Array) -> jax.Array:
            resized = size * jnp.where(agree > 0, eta_plus, eta_minus)
            return jnp.where(agree == 0, size, jnp.clip(resized, min=min_step_size, max=max_step_size))

        def unless_changed(agree: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.where(agree < 0, jnp.zeros_like(x), x)

        agree = jax.tree.map(lambda g, last: g * last, grads, state.last)
        size = jax.tree.map(resize, state.size, agree)
        x = jax.tree.map(lambda a, g, size: unless_changed(a, size * jnp.sign(g)), agree, grads, size)
        last = x
        if one_step_late:
            x = jax.tree.map(unless_changed, agree, state.last)
        if backtrack:
            x = jax.tree.map(lambda a, x, last: jnp.where(a < 0, -last, x), agree, x, state.last)
        updates = jax.tree.map(lambda x: -1.0 * x, x)
        return cast_like(updates, grads), RpropState(cast_like(size, state.size), cast_like(last, state.last))

    return optax.GradientTransformationExtraArgs(init, update)
