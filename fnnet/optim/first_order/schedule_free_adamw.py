"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import ScalarOrSchedule, abs_sq, at_step, cast_like, check_flags, times
from fnnet.optim.numerics import root, visible
from fnnet.optim.transforms.weight_decay import add_weight_decay
from fnnet.optim.wrappers.schedule_free import one_step_ahead, schedule_free, with_warmup


class NormalizedState(NamedTuple):
    """The state of Adam without momentum."""

    step: jax.Array  # int32[], updates taken
    v: optax.Params  # mean of the squared gradient, like params


def schedule_free_adamw(
    learning_rate: ScalarOrSchedule = 0.0025,
    warmup_steps: int | None = None,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    weight_decay: chex.Numeric = 0.0,
    weight_lr_power: chex.Numeric = 2.0,
    state_dtype: Any = None,
    *,
    r: chex.Numeric = 0.0,
    sum_dtype: Any = None,
    rate_from_zero: bool = True,
    bias_in_rate: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW: `schedule_free` of Adam without momentum.

        v <- b2 v + (1 - b2) g^2                            v_hat = v / (1 - b2^t)
        z <- z - alpha (g / (sqrt(v_hat) + eps) + lambda y)

    Args:
        learning_rate: alpha, a number or a schedule of the step. The schedule should not decay.
        warmup_steps: number of steps over which alpha rises linearly from 0; no warm-up by default.
        b1: fraction of x in y, in (0, 1). It replaces Adam's momentum.
        b2: fraction of the old v that is kept, in [0, 1).
        eps: keeps the quotient finite.
        weight_decay: lambda, multiplied by alpha.
        weight_lr_power: exponent of alpha in the weights, as in `schedule_free`.
        state_dtype: dtype of z; the params' dtype by default.
        r: exponent of the step in the weights, as in `schedule_free`.
        sum_dtype: dtype of the sum of the weights, as in `schedule_free`.
        rate_from_zero: as in `schedule_free_sgd`.
        bias_in_rate: True for v_hat = v and alpha sqrt(1 - b2^t) instead of alpha, in the step, the decay and the
            weights: as in the paper's experiments, and in AdamWScheduleFreePaper of the authors' package.

    Twin: `optax.contrib.schedule_free_adamw`, equal bit for bit.

    Raises:
        TypeError, ValueError: as `schedule_free`; b2 is not in [0, 1); eps or lambda is negative; warmup_steps is not
            a positive int, or is given with a schedule.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1.

    Example:
        >>> optimizer = fn.optim.schedule_free_adamw(0.1)
        >>> y, state = jnp.array([1.0, 1.0]), optimizer.init(jnp.array([1.0, 1.0]))
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), state, y)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1000', '0.1000']
    """
    check_flags("schedule_free_adamw", rate_from_zero=rate_from_zero, bias_in_rate=bias_in_rate)
    rate = with_warmup("schedule_free_adamw", learning_rate, warmup_steps)
    check.number("schedule_free_adamw", "b2", b2, "[0, 1)")
    check.number("schedule_free_adamw", "eps", eps, "[0, inf)")
    check.number("schedule_free_adamw", "weight_decay", weight_decay, "[0, inf)")
    base_rate = rate if rate_from_zero else one_step_ahead(rate)

    def root_of_bias(t: jax.Array) -> jax.Array:
        return jnp.sqrt(1 - b2**t)

    def weights_rate(t: jax.Array) -> Any:
        return at_step(rate, t) * root_of_bias(t)

    def init(params: optax.Params) -> NormalizedState:
        return NormalizedState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: optax.Updates, state: NormalizedState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NormalizedState]:
        alpha = at_step(base_rate, state.step)
        t = optax.safe_increment(state.step)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        v_hat = v
        if bias_in_rate:
            alpha = alpha * root_of_bias(t)
        else:
            bias = 1 - b2**t
            v_hat = jax.tree.map(lambda v: v / bias.astype(v.dtype), v)
        x = jax.tree.map(lambda v, g: 1 / (root(v) + visible(eps, v)) * g, v_hat, grads)
        x = add_weight_decay("schedule_free_adamw", x, params, weight_decay, None)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        return cast_like(updates, grads), NormalizedState(t, cast_like(v, state.v))

    base = optax.GradientTransformationExtraArgs(init, update)
    return schedule_free(
        base,
        weights_rate if bias_in_rate else rate,
        b1,
        weight_lr_power,
        state_dtype,
        r=r,
        sum_dtype=sum_dtype,
    )
