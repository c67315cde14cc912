"""The Gauss-Newton method: Newton's method without the curvature of the network (Gauss 1809; Schraudolph 2002)."""

from typing import Any, NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree

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
    finite_or_zero,
    flatten_problem,
    gauss_newton_matrix,
    solve_damped,
)


class GaussNewtonState(NamedTuple):
    """The state of Gauss-Newton."""

    step: jax.Array | None  # int32[], updates taken; None without a schedule
    evaluations: Evaluations  # all so far; a step takes 1 value, 1 gradient, min(n, p) products


def gauss_newton(
    learning_rate: ScalarOrSchedule = 1.0, damping: ScalarOrSchedule = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Gauss-Newton, for small networks: the matrix G is built and decomposed.

        z = predict_fn(theta),   J = dz / dtheta,   H = d^2 loss_fn / dz^2
        G = J^T H J                                         J^T J times a number for squared errors
        d = -(G + lambda I)^-1 g
        theta <- theta + alpha d

    With lambda = 0 and G singular, d is the shortest of the least-squares solutions of G d = -g, as from the
    pseudo-inverse. G squares the condition number of J: in float32, there is no step along directions whose singular
    value is less than about 1e-3 of the largest.

    For p parameters and n entries of the prediction (examples times outputs) a step takes min(n, p) products with J
    or its transpose, p products with H alone, 2 n p^2 operations for G and about 10 p^3 for its eigenvalues; and
    memory for 2 n p + 2 p^2 numbers. G does not include the curvature of a penalty; g includes its gradient. A loss
    that is not convex in z, or is piecewise linear like the hinge loss, has no useful H: negative curvature counts as
    0.

    Args:
        learning_rate: alpha, a number or a schedule of the step; 1 is the full step.
        damping: lambda, a number or a schedule of the step, in the units of the mean loss's curvature.
            `levenberg_marquardt` adapts it.

    A step that is not finite is not taken; the update is then 0.

    Baseline: `optimistix.GaussNewton`, equal in float64 to 1e-12 after one step and 1e-10 after five (it uses the QR
    decomposition of J); the damped equation in NumPy, 1e-12 at each step.

    Raises:
        TypeError, ValueError: the learning rate is neither a number nor a schedule; it or lambda is negative; params
            are complex; `update` is called without params, predict_fn or loss_fn.

    Source: Gauss 1809, "Theoria motus"; with H, Schraudolph 2002, "Fast curvature matrix-vector products for
    second-order gradient descent".

    Example:
        >>> x, y = jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])
        >>> predict_fn, loss_fn = lambda w: w * x, lambda z: jnp.mean(jnp.square(z - y))
        >>> optimizer, params = fn.optim.gauss_newton(), jnp.array(0.0)
        >>> grads = jax.grad(lambda w: loss_fn(predict_fn(w)))(params)
        >>> updates, state = optimizer.update(
        ...     grads, optimizer.init(params), params, predict_fn=predict_fn, loss_fn=loss_fn)
        >>> updates
        Array(2., dtype=float32)
    """
    check_learning_rate("gauss_newton", learning_rate)
    check_number_or_schedule("gauss_newton", "damping", damping, "[0, inf)")

    def init(params: optax.Params) -> GaussNewtonState:
        return GaussNewtonState(init_step(learning_rate, damping), no_evaluations())

    def update(
        grads: optax.Updates,
        state: GaussNewtonState,
        params: optax.Params | None = None,
        *,
        predict_fn: Any = None,
        loss_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GaussNewtonState]:
        require("gauss_newton", params=params, predict_fn=predict_fn, loss_fn=loss_fn)
        alpha, lambda_ = at_step(learning_rate, state.step), at_step(damping, state.step)
        flat = flatten_problem("gauss_newton", params, predict_fn, loss_fn)
        g = ravel_pytree(grads)[0].astype(flat.theta.dtype)
        G, products = gauss_newton_matrix(flat)
        d = finite_or_zero(-alpha * solve_damped(G, g, lambda_))
        evaluations = state.evaluations.plus(values=1, gradients=1, products=products)
        return cast_like(flat.to_tree(d), grads), GaussNewtonState(next_step(state.step), evaluations)

    return optax.GradientTransformationExtraArgs(init, update)
