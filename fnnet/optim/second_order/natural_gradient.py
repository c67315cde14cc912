"""The natural gradient: steepest descent measured in the distributions of the model (Amari 1998)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    at_step,
    cast_like,
    check_learning_rate,
    check_number_or_schedule,
    init_step,
    next_step,
)
from fnnet.optim.second_order.curvature import (
    FlatProblem,
    finite_or_zero,
    flatten_problem,
    gauss_newton_matrix,
    solve_damped,
)


class NaturalGradientState(NamedTuple):
    """The state of the natural gradient."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule
    evaluations: Evaluations  # all so far; a step takes 1 value, 1 gradient, and the products of F


def natural_gradient(
    learning_rate: ScalarOrSchedule = 1.0, damping: ScalarOrSchedule = 1e-3, *, fisher: str = "exact"
) -> optax.GradientTransformationExtraArgs:
    """The natural gradient, for small networks: the Fisher matrix F is built and decomposed.

        exact:      F = 1/N sum_i E[s s^T],  s = d log p(y | x_i) / dtheta,  y from p(. | x_i)
        empirical:  F = 1/N sum_i s_i s_i^T,  s_i the same at the target y_i
        theta <- theta - alpha (F + lambda I)^-1 g

    The exact F is computed as J^T H J, with the Jacobian J of the prediction and the Hessian H of the loss. The two
    are equal if the loss is -log p of an exponential family whose natural parameters are the prediction:
    `softmax_cross_entropy` and `binary_cross_entropy` of logits, and squared errors, with p a normal distribution.
    The rule is then `gauss_newton` with another default damping.

    The empirical F takes the score of each example from the loss: the first axis of the prediction must be that of
    the examples, and the loss their mean, as in training. It is not the Fisher matrix of the model, nor a curvature:
    when the fit is good, all s_i are close to 0 and steps become long (Kunstner et al.).

    For p parameters, N examples and n entries of the prediction, the exact F takes min(n, p) products with J or its
    transpose and 2 n p^2 operations, the empirical F N products and 2 N p^2 operations. The eigenvalues take about 10
    p^3. F does not include a penalty; g includes its gradient.

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        damping: lambda, a number or a schedule of the step. If it is 0 and F is singular, the step is the shortest of
            the least-squares solutions, as from the pseudo-inverse.
        fisher: "exact" or "empirical".

    A step that is not finite is not taken; the update is then 0.

    Baseline: NumPy, with both F of softmax regression summed from their definition, equal to 1e-12 in float64.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or lambda is negative; fisher
            is unknown; params are complex; `update` is called without params, predict_fn or loss_fn; the prediction
            is a scalar and the F empirical.

    Source: Amari 1998, "Natural gradient works efficiently in learning"; F = G: Martens 2020, arXiv:1412.1193; the
    empirical one: Kunstner, Balles & Hennig 2019, arXiv:1905.12558.

    Example:
        >>> logit = jnp.array([2.0])  # of a coin; its Fisher information is p (1 - p)
        >>> def loss_fn(z):
        ...     return fn.losses.binary_cross_entropy(z, jnp.array([1])).mean()
        >>> optimizer = fn.optim.natural_gradient(damping=0.0)
        >>> updates, state = optimizer.update(
        ...     jax.grad(loss_fn)(logit), optimizer.init(logit), logit,
        ...     predict_fn=lambda z: z, loss_fn=loss_fn)
        >>> p = jax.nn.sigmoid(logit)
        >>> bool(jnp.allclose(updates, (1 - p) / (p * (1 - p))))
        True
    """
    check_learning_rate("natural_gradient", learning_rate)
    check_number_or_schedule("natural_gradient", "damping", damping, "[0, inf)")
    check.one_of("natural_gradient", "fisher", fisher, ("exact", "empirical"))

    def init(params: optax.Params) -> NaturalGradientState:
        return NaturalGradientState(init_step(learning_rate, damping), no_evaluations())

    def update(
        grads: optax.Updates,
        state: NaturalGradientState,
        params: optax.Params | None = None,
        *,
        predict_fn: Any = None,
        loss_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, NaturalGradientState]:
        require("natural_gradient", params=params, predict_fn=predict_fn, loss_fn=loss_fn)
        alpha, lambda_ = at_step(learning_rate, state.step), at_step(damping, state.step)
        flat = flatten_problem("natural_gradient", params, predict_fn, loss_fn)
        g = ravel_pytree(grads)[0].astype(flat.theta.dtype)
        if fisher == "exact":
            F, products = gauss_newton_matrix(flat)
        else:
            F, products = _empirical_fisher(flat, jax.eval_shape(predict_fn, params).shape)
        d = finite_or_zero(-alpha * solve_damped(F, g, lambda_))
        evaluations = state.evaluations.plus(values=1, gradients=1, products=products)
        return cast_like(flat.to_tree(d), grads), NaturalGradientState(next_step(state.step), evaluations)

    return optax.GradientTransformationExtraArgs(init, update)


def _empirical_fisher(flat: FlatProblem, shape: tuple[int, ...]) -> tuple[jax.Array, int]:
    """1/N sum_i s_i s_i^T, and the number of products it took, N."""
    if not shape:
        raise ValueError(
            "natural_gradient: the prediction is a scalar, wanted an axis of examples for the empirical F"
        )
    N = shape[0]
    z, pull = jax.vjp(flat.predict, flat.theta)
    # Of the mean loss: row i is that of example i's own loss, divided by N.
    slope = jax.grad(flat.loss)(z).reshape(N, -1)
    # (N, N, outputs): the slope of each example alone.
    rows = jnp.eye(N, dtype=z.dtype)[:, :, None] * slope[None]
    s = jax.vmap(lambda row: pull(row.ravel())[0])(rows)  # (N, p), divided by N
    return N * (s.T @ s), N
