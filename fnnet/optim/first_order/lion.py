"""Lion: steps by the sign of a mean of the gradient (Chen et al. 2023, arXiv:2302.06675)."""

from collections.abc import Callable
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
    check_learning_rate,
    check_number_or_schedule,
    times,
)
from fnnet.optim.transforms.weight_decay import add_weight_decay


class LionState(NamedTuple):
    """The state of Lion."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params


def lion(
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.99,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lion. Each parameter moves up or down by alpha.

        c = sign(b1 m + (1 - b1) g)             b1 < b2: recent gradients count more here than in m
        theta <- theta - alpha (c + lambda theta)
        m <- b2 m + (1 - b2) g

    Args:
        learning_rate: alpha, a number or a schedule of the step. The paper uses a rate 3 to 10 times lower than for
            AdamW.
        b1: fraction of m in the step, in [0, 1).
        b2: fraction of the old m that is kept, in [0, 1). With b2 = b1 the step is the sign of a momentum.
        mu_dtype: dtype of m; the params' dtype by default.
        weight_decay: lambda, a number or a schedule of the step, multiplied by alpha. The default 1e-3 is optax's.
            Keras and the authors' code have 0; the paper uses 3 to 10 times more than for AdamW, because alpha is
            that much smaller.
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param decays. All do by default.

    Twin: `optax.lion`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or lambda is negative; b1 or
            b2 is not in [0, 1); `update` is called without params.

    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms", arXiv:2302.06675, algorithm 2.

    Example:
        >>> optimizer = fn.optim.lion(0.1, weight_decay=0.01)
        >>> params = jnp.array([1.0, 1.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1010', '0.0990']
    """
    check_learning_rate("lion", learning_rate)
    check.number("lion", "b1", b1, "[0, 1)")
    check.number("lion", "b2", b2, "[0, 1)")
    check_number_or_schedule("lion", "weight_decay", weight_decay, "[0, inf)")

    def init(params: optax.Params) -> LionState:
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        return LionState(step=jnp.zeros([], jnp.int32), m=m)

    def update(
        grads: optax.Updates, state: LionState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, LionState]:
        alpha = at_step(learning_rate, state.step)
        decay = at_step(weight_decay, state.step)
        c = jax.tree.map(lambda m, g: jnp.sign((1 - b1) * g + b1 * m), state.m, grads)
        m = jax.tree.map(lambda m, g: (1 - b2) * g + b2 * m, state.m, grads)
        x = add_weight_decay("lion", c, params, decay, mask)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        return cast_like(updates, grads), LionState(optax.safe_increment(state.step), cast_like(m, state.m))

    return optax.GradientTransformationExtraArgs(init, update)
