"""The natural gradient: steepest descent where distance is that of the model's distributions (Amari 1998)."""

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
    """What the natural gradient remembers."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule
    evaluations: Evaluations  # all so far: a step takes 1 value, 1 gradient, and the products of F


def natural_gradient(
    learning_rate: ScalarOrSchedule = 1.0, damping: ScalarOrSchedule = 1e-3, *, fisher: str = "exact"
) -> optax.GradientTransformationExtraArgs:
    """The natural gradient, for small networks: F is built and decomposed.

        F = 1/N sum_i E[s s^T],  s = d log p(y | x_i) / dtheta,  y drawn from the model's p(. | x_i) exact
        F = 1/N sum_i s_i s_i^T,  s_i the same at the target y_i                                     empirical
        theta <- theta - alpha (F + lambda I)^-1 g

    The exact F is computed as J^T H J, J the Jacobian of the prediction and H the Hessian of the loss, to
    which it is equal where the loss is -log p of an exponential family whose natural parameters are the
    prediction: `softmax_cross_entropy` and `binary_cross_entropy` of logits, and squared errors, whose p is
    the normal distribution whose -log p is the loss given. Then the rule is `gauss_newton` with another
    default damping. The empirical F reads the score of each example off the loss: it takes the prediction's
    first axis for that of the examples and the loss for their mean, as in training. It is no Fisher matrix of
    the model, and no curvature: where the fit is good all s_i are near 0, and steps grow long (Kunstner et
    al.).

    For p parameters, N examples and n entries of the prediction, F takes min(n, p) products with J or its
    transpose, exact, or N, empirical; and 2 n p^2 (2 N p^2) operations, and its eigenvalues about 10 p^3. A
    penalty is no part of F; its gradient is in g.

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        damping: lambda, a number or a schedule of the step. With 0 and a singular F, the step is the shortest
            of the least-squares solutions, as from the pseudo-inverse.
        fisher: "exact" or "empirical".

    A step that is not finite is not taken: the update is 0.

    Baseline: NumPy, with both F of softmax regression summed from their definition, equal to 1e-12 in
    float64.

    Raises:
        TypeError, ValueError: the learning rate is no number or schedule; it or lambda are negative; fisher
            is unknown; params are complex; `update` is not given params, predict_fn and loss_fn; the
            empirical F of a prediction that is a scalar.

    Source: Amari 1998, "Natural gradient works efficiently in learning"; F = G: Martens 2020,
    arXiv:1412.1193; the empirical one: Kunstner, Balles & Hennig 2019, arXiv:1905.12558.

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
    check.between("natural_gradient", "damping", damping, 0)
    if fisher not in ("exact", "empirical"):
        raise ValueError(f'natural_gradient: fisher={fisher!r}, wanted "exact" or "empirical"')

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
    """1/N sum_i s_i s_i^T, and how many products it took, N."""
    if not shape:
        raise ValueError(
            "natural_gradient: the prediction is a scalar, wanted an axis of examples for the empirical F"
        )
    N = shape[0]
    z, pull = jax.vjp(flat.predict, flat.theta)
    slope = jax.grad(flat.loss)(z).reshape(N, -1)  # of the mean: row i is that of example i's own loss, by N
    rows = jnp.eye(N, dtype=z.dtype)[:, :, None] * slope[None]  # (N, N, outputs): each example's slope alone
    s = jax.vmap(lambda row: pull(row.ravel())[0])(rows)  # (N, p), by N
    return N * (s.T @ s), N
