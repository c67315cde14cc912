"""Yogi: Adam with changes of v limited by the size of the gradient (Zaheer et al. 2018)."""

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
)
from fnnet.optim.numerics import root, visible


class YogiState(NamedTuple):
    """The state of Yogi."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # estimate of its mean square, like params


def yogi(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-3,
    *,
    initial_m: chex.Numeric = 1e-6,
    initial_v: chex.Numeric = 1e-6,
    bias_correction: bool = True,
    eps_before_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Yogi.

        m <- b1 m + (1 - b1) g                          m_hat = m / (1 - b1^t)
        v <- v - (1 - b2) sign(v - g^2) g^2             v_hat = v / (1 - b2^t)
        theta <- theta - alpha m_hat / (sqrt(v_hat) + eps)

    Adam's v moves towards g^2 by a fraction of their distance, so a large v is forgotten quickly once gradients are
    small. Yogi's v moves by a fraction of g^2, whatever the distance.

    Args:
        learning_rate: alpha, a number or a schedule of the step. The paper uses 0.01.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: v changes by the fraction 1 - b2 of g^2; in [0, 1).
        eps: keeps the quotient finite. The paper recommends 1e-3, much more than for Adam.
        initial_m: m at the start. optax uses 1e-6, as for v, which moves params slightly even without a gradient. The
            paper and TensorFlow Addons use 0.
        initial_v: v at the start. TensorFlow Addons use 1e-6, too; the paper's algorithm starts at 0.
        bias_correction: True as above; False for m_hat = m and v_hat = v, as in the paper's algorithm.
        eps_before_correction: True adds eps to sqrt(v) before the bias correction, see `adam`, as in TensorFlow
            Addons.

    Twin: `optax.yogi`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, eps or the initial v is
            negative; b1 or b2 is not in [0, 1).

    Source: Zaheer et al. 2018, "Adaptive methods for nonconvex optimization", algorithm 2.

    Example:
        >>> optimizer = fn.optim.yogi(0.1)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params))
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1000', '0.0944']
    """
    check_flags("yogi", bias_correction=bias_correction, eps_before_correction=eps_before_correction)
    check.number("yogi", "initial_m", initial_m)
    check_learning_rate("yogi", learning_rate)
    check.number("yogi", "b1", b1, "[0, 1)")
    check.number("yogi", "b2", b2, "[0, 1)")
    check.number("yogi", "eps", eps, "[0, inf)")
    check.number("yogi", "initial_v", initial_v, "[0, inf)")

    def init(params: optax.Params) -> YogiState:
        m = jax.tree.map(lambda p: jnp.full_like(p, initial_m), params)
        v = jax.tree.map(lambda p: jnp.full_like(p, initial_v), params)
        return YogiState(step=jnp.zeros([], jnp.int32), m=m, v=v)

    def update(
        grads: optax.Updates, state: YogiState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, YogiState]:
        alpha = at_step(learning_rate, state.step)
        t = optax.safe_increment(state.step)
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, g: v - (1 - b2) * jnp.sign(v - abs_sq(g)) * abs_sq(g), state.v, grads)
        m_hat, v_hat, eps_t = m, v, eps
        if bias_correction:
            bias1, bias2 = 1 - b1**t, 1 - b2**t
            m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
            v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
            eps_t = eps / jnp.sqrt(bias2) if eps_before_correction else eps
        updates = jax.tree.map(lambda m, v: times(-alpha, m / (root(v) + visible(eps_t, v))), m_hat, v_hat)
        return cast_like(updates, grads), YogiState(t, cast_like(m, state.m), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
