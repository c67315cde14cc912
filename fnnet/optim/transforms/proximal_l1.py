"""The proximal step of an L1 penalty: soft thresholding, which sets weights to exactly 0 (Daubechies et al. 2004)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    check_learning_rate,
    check_number_or_schedule,
    init_step,
    next_step,
)
from fnnet.optim.transforms.weight_decay import map_masked


class ProximalL1State(NamedTuple):
    """The state of the proximal step."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule


def proximal_l1(
    strength: ScalarOrSchedule,
    learning_rate: ScalarOrSchedule,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Soft thresholding after the step of an optimizer. Put it last in a chain.

        z = theta + u                           where the optimizer would go
        theta <- sign(z) max(|z| - alpha lambda, 0)

    It is argmin_x alpha lambda |x|_1 + 1/2 |x - z|^2. After gradient descent it is ISTA, which minimizes loss +
    lambda |theta|_1 and sets weights to exactly 0. The gradient of the penalty, lambda sign(theta), does not.

        optax.chain(sgd(alpha), proximal_l1(lambda, alpha))

    Args:
        strength: lambda, a number or a schedule of the step.
        learning_rate: alpha, that of the optimizer, a number or a schedule of the step. After an optimizer that
            scales each element separately, such as Adam, the threshold is still the same for all elements, as in
            common practice; the minimum is then not that of loss + lambda |theta|_1.
        mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes one from
            params: True where a param shrinks. All do by default. Biases are often left out.

    Baseline: the formula; the minimum is that of scikit-learn's `Lasso`, to 1e-9, and with the same zeros.

    Raises:
        TypeError, ValueError: lambda or alpha is neither a number nor a schedule, or is negative; `update` is called
            without params.

    Source: Daubechies, Defrise & De Mol 2004, arXiv:math/0307152; Parikh & Boyd 2014, "Proximal algorithms", 6.5.2.

    Example:
        >>> optimizer = optax.chain(fn.optim.sgd(0.5), fn.optim.proximal_l1(0.2, 0.5))
        >>> params = jnp.array([1.0, -0.05])
        >>> updates, state = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        >>> params + updates
        Array([0.9, 0. ], dtype=float32)
    """
    check_learning_rate("proximal_l1", learning_rate)
    check_number_or_schedule("proximal_l1", "strength", strength, "[0, inf)")

    def init(params: optax.Params) -> ProximalL1State:
        return ProximalL1State(init_step(strength, learning_rate))

    def update(
        grads: optax.Updates, state: ProximalL1State, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ProximalL1State]:
        if params is None:
            raise ValueError("proximal_l1: needs the params, write update(grads, state, params)")
        threshold = at_step(learning_rate, state.step) * at_step(strength, state.step)

        def shrink(u: jax.Array, p: jax.Array) -> jax.Array:
            z = p + u
            size = jnp.maximum(jnp.abs(z) - jnp.asarray(threshold, jnp.abs(z).dtype), 0)
            return (jnp.sign(z) * size - p).astype(u.dtype)

        return map_masked(shrink, mask, grads, params), ProximalL1State(next_step(state.step))

    return optax.GradientTransformationExtraArgs(init, update)
