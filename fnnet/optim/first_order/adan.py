"""Adan: Nesterov momentum from differences of gradients (Xie et al. 2022, arXiv:2208.06677)."""

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
    zeros_like,
)
from fnnet.optim.numerics import root, visible
from fnnet.optim.transforms.weight_decay import add_weight_decay


class AdanState(NamedTuple):
    """The state of Adan."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its changes, like params
    n: optax.Params  # mean of the squared gradient, one step ahead, like params
    g: optax.Params  # the last gradient, like params


def adan(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.98,
    b2: chex.Numeric = 0.92,
    b3: chex.Numeric = 0.99,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    difference_times_b2: bool = False,
    proximal: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adan.

        d = g - g_last                                  0 in the first step

        m <- b1 m + (1 - b1) g                          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) d                          v_hat = v / (1 - b2^t)
        n <- b3 n + (1 - b3) (g + w d)^2                n_hat = n / (1 - b3^t)
        x = (m_hat + w v_hat) / (sqrt(n_hat + eps_root) + eps)
        theta <- theta - alpha (x + lambda theta)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1). (The paper's beta is 1 - b, for all three.)
        b2: fraction of the old v that is kept, in [0, 1).
        b3: fraction of the old n that is kept, in [0, 1).
        eps: keeps the quotient finite.
        eps_root: added inside the square root; 0 in the paper and the authors' code.
        weight_decay: lambda, a number or a schedule of the step.
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param decays. All do by default.
        difference_times_b2: True for w = b2, Nesterov's look-ahead, as in the paper and the authors' code. False for
            w = 1 - b2, as in optax 0.2.8, which mixed up the b of the paper and of the code; little of the look-ahead
            remains.
        proximal: True for theta <- (theta - alpha x) / (1 + alpha lambda), as in the paper; False as above.

    The bias correction, and d = 0 in the first step, follow the authors' code. The paper starts from the first
    gradients instead (m = g, n = g^2, v = d of the second step), without a correction.

    Twin: `optax.adan`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, an eps or lambda is negative;
            b1, b2 or b3 is not in [0, 1); `update` is called without params while lambda is not 0.

    Source: Xie, Zhou, Li, Lin & Yan 2022, arXiv:2208.06677, algorithm 1.

    Example:
        >>> optimizer = fn.optim.adan(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1000', '0.1000']
    """
    check_flags("adan", difference_times_b2=difference_times_b2, proximal=proximal)
    check_learning_rate("adan", learning_rate)
    check.number("adan", "b1", b1, "[0, 1)")
    check.number("adan", "b2", b2, "[0, 1)")
    check.number("adan", "b3", b3, "[0, 1)")
    check.number("adan", "eps", eps, "[0, inf)")
    check.number("adan", "eps_root", eps_root, "[0, inf)")
    check_number_or_schedule("adan", "weight_decay", weight_decay, "[0, inf)")

    def init(params: optax.Params) -> AdanState:
        return AdanState(
            step=jnp.zeros([], jnp.int32),
            m=zeros_like(params),
            v=zeros_like(params),
            n=zeros_like(params),
            g=zeros_like(params),
        )

    def update(
        grads: optax.Updates, state: AdanState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdanState]:
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
        t = optax.safe_increment(state.step)
        bias1, bias2, bias3 = 1 - b1**t, 1 - b2**t, 1 - b3**t
        w = b2 if difference_times_b2 else 1 - b2

        d = jax.tree.map(
            lambda g, last: jnp.where(state.step == 0, jnp.zeros_like(g), g - last), grads, state.g
        )
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, d: (1 - b2) * d + b2 * v, state.v, d)
        n = jax.tree.map(lambda n, g, d: (1 - b3) * abs_sq(g + w * d) + b3 * n, state.n, grads, d)
        m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
        v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
        n_hat = jax.tree.map(lambda n: n / bias3.astype(n.dtype), n)
        x = jax.tree.map(
            lambda m, v, n: (m + w * v) / (root(n + eps_root) + visible(eps, n)), m_hat, v_hat, n_hat
        )
        if proximal and params is not None:
            # (theta - alpha x) / (1 + alpha lambda) is theta - alpha (x + lambda' (theta - alpha x)).
            params = jax.tree.map(lambda p, x: p - alpha * x, params, x)
            decay = decay / (1 + alpha * decay)
        x = add_weight_decay("adan", x, params, decay, mask)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        state = AdanState(
            t, cast_like(m, state.m), cast_like(v, state.v), cast_like(n, state.n), cast_like(grads, state.g)
        )
        return cast_like(updates, grads), state

    return optax.GradientTransformationExtraArgs(init, update)
