"""Adam: a separate step size for each parameter (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.first_order.nadam import nadam
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    abs_sq,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    times,
)
from fnnet.optim.numerics import root, visible


class AdamState(NamedTuple):
    """The state of Adam."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params


def adam(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    eps_root: chex.Numeric = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adam.

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        theta <- theta - alpha m_hat / (sqrt(v_hat + eps_root) + eps)

    Args:
        learning_rate: alpha, a number or a schedule of the step. The paper's is 0.001.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old v that is kept, in [0, 1).
        eps: keeps the quotient finite.
        eps_root: added inside the square root. (optax needs it for derivatives through the update where v is 0. Here
            they are finite without it.)
        mu_dtype: dtype of m; the params' dtype by default.
        nesterov: True for `nadam`.
        eps_before_correction: False as above. True adds eps to sqrt(v), before v is corrected, as in Keras and
            TensorFlow (with 1e-7); it is the "eps-hat" of the paper's section 2. That is like adding eps / sqrt(1 -
            b2^t) to sqrt(v_hat): with b2 = 0.999, 32 times as much in the first step, and the same in the long run.

    Twin: `optax.adam`, equal bit for bit. PyTorch uses the same rule.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or an eps is negative; b1 or
            b2 is not in [0, 1).

    Source: Kingma & Ba 2015, arXiv:1412.6980.

    Example:
        >>> optimizer = fn.optim.adam(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1000', '0.1000']
    """
    check_flags("adam", nesterov=nesterov, eps_before_correction=eps_before_correction)
    if nesterov:
        return nadam(
            learning_rate, b1, b2, eps, eps_root, mu_dtype, eps_before_correction=eps_before_correction
        )
    check_learning_rate("adam", learning_rate)
    check.number("adam", "b1", b1, "[0, 1)")
    check.number("adam", "b2", b2, "[0, 1)")
    check.number("adam", "eps", eps, "[0, inf)")
    check.number("adam", "eps_root", eps_root, "[0, inf)")

    def init(params: optax.Params) -> AdamState:
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        v = jax.tree.map(jnp.zeros_like, params)
        return AdamState(step=jnp.zeros([], jnp.int32), m=m, v=v)

    def update(
        grads: optax.Updates, state: AdamState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdamState]:
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)
        bias1, bias2 = 1 - b1**t, 1 - b2**t
        eps_t = eps / jnp.sqrt(bias2) if eps_before_correction else eps
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
        v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
        updates = jax.tree.map(
            lambda m, v: times(-alpha, m / (root(v + eps_root) + visible(eps_t, v))), m_hat, v_hat
        )
        return cast_like(updates, grads), AdamState(t, cast_like(m, state.m), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
