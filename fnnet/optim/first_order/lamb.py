"""LAMB: Adam with a learning rate for each layer, proportional to its weights (You et al. 2020, arXiv:1904.00962)."""

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
    abs_sq,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    check_number_or_schedule,
    times,
    zeros_like,
)
from fnnet.optim.numerics import Norm, norms_like, root, visible
from fnnet.optim.transforms.weight_decay import add_weight_decay, map_masked


class LambState(NamedTuple):
    """The state of LAMB."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params


def lamb(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-6,
    eps_root: chex.Numeric = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    bias_correction: bool = True,
    decay_in_ratio: bool = True,
    phi_min: chex.Numeric | None = None,
    phi_max: chex.Numeric | None = None,
    trust_ratio_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_first: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """LAMB. Each array of the params counts as a layer with its own learning rate.

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        u = m_hat / (sqrt(v_hat + eps_root) + eps) + lambda theta
        ratio = phi(|theta|) / |u|                      1 where phi(|theta|) or |u| is 0
        theta <- theta - alpha ratio u                  phi(z) = min(max(z, phi_min), phi_max)

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        b1: fraction of the old m that is kept, in [0, 1).
        b2: fraction of the old v that is kept, in [0, 1).
        eps: keeps the quotient finite. (Keras's is 1e-7.)
        eps_root: added inside the square root. (optax needs it for derivatives through the update where v is 0. Here
            they are finite without it.)
        weight_decay: lambda, a number or a schedule of the step. The paper uses 0.01.
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param decays. All do by default. Biases and gains are often left out.
        bias_correction: False for m_hat = m and v_hat = v, as in the paper's first version and much PyTorch code.
        decay_in_ratio: True as above and in the paper. False leaves lambda theta out of u and adds it to the step,
            theta <- theta - alpha (ratio u + lambda theta).
        phi_min: lower bound of phi; none by default. The paper leaves the bounds open.
        phi_max: upper bound of phi; none by default. (10 is common.)
        trust_ratio_mask: like `mask`: True where an array has the ratio; elsewhere it is 1. All have it by default.
            (apex leaves out arrays without decay.)
        decay_first: True for theta <- (1 - alpha lambda) theta before the step, as in Keras: the ratio is that of the
            decayed theta, and u is without lambda theta.

    Twin: `optax.lamb`, equal bit for bit; up to rounding if alpha and lambda are both schedules, whose steps optax
    counts separately.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it, an eps, lambda or a bound of
            phi is negative; b1 or b2 is not in [0, 1); `update` is called without params.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2.

    Example:
        >>> optimizer = fn.optim.lamb(0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.3536', '0.3536']
    """
    check_flags(
        "lamb", bias_correction=bias_correction, decay_in_ratio=decay_in_ratio, decay_first=decay_first
    )
    check_learning_rate("lamb", learning_rate)
    check.number("lamb", "b1", b1, "[0, 1)")
    check.number("lamb", "b2", b2, "[0, 1)")
    check.number("lamb", "eps", eps, "[0, inf)")
    check.number("lamb", "eps_root", eps_root, "[0, inf)")
    check_number_or_schedule("lamb", "weight_decay", weight_decay, "[0, inf)")
    if phi_min is not None:
        check.number("lamb", "phi_min", phi_min, "[0, inf)")
    if phi_max is not None:
        check.number("lamb", "phi_max", phi_max, "[0, inf)")

    def apply_trust_ratio(u: jax.Array, of_theta: Norm, of_u: Norm) -> jax.Array:
        phi = of_theta.value
        if phi_min is not None:
            phi = jnp.maximum(phi, phi_min)
        if phi_max is not None:
            phi = jnp.minimum(phi, phi_max)
        still = jnp.logical_or(phi == 0, of_u.value == 0)
        return (u * jnp.where(still, 1, phi / of_u.divisor)).astype(u.dtype)

    def init(params: optax.Params) -> LambState:
        return LambState(step=jnp.zeros([], jnp.int32), m=zeros_like(params), v=zeros_like(params))

    def update(
        grads: optax.Updates, state: LambState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, LambState]:
        if params is None:
            raise ValueError("lamb: its ratio needs the params, write update(grads, state, params)")
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
        t = optax.safe_increment(state.step)
        m = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.m, grads)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        m_hat, v_hat = m, v
        if bias_correction:
            bias1, bias2 = 1 - b1**t, 1 - b2**t
            m_hat = jax.tree.map(lambda m: m / bias1.astype(m.dtype), m)
            v_hat = jax.tree.map(lambda v: v / bias2.astype(v.dtype), v)
        u = jax.tree.map(lambda m, v: m / (root(v + eps_root) + visible(eps, v)), m_hat, v_hat)

        theta = params
        if decay_first:
            theta = add_weight_decay("lamb", params, params, -alpha * decay, mask)
        elif decay_in_ratio:
            u = add_weight_decay("lamb", u, params, decay, mask)
        u = map_masked(
            lambda u, _, of_theta, of_u, n: for_each_copy(apply_trust_ratio, n)(u, of_theta, of_u),
            trust_ratio_mask, u, params, *norms_like((theta, u)), copy_axes(u),
        )  # fmt: skip
        if decay_first or not decay_in_ratio:
            u = add_weight_decay("lamb", u, params, decay, mask)
        updates = jax.tree.map(lambda u: times(-alpha, u), u)
        return cast_like(updates, grads), LambState(t, cast_like(m, state.m), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)
