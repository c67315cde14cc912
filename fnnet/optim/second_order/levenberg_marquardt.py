"""Levenberg-Marquardt: between Gauss-Newton and gradient descent (Levenberg 1944, Marquardt 1963)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import cast_like
from fnnet.optim.second_order.curvature import dtype_of, finite_or_zero, flatten_problem, gauss_newton_matrix

LEAST, MOST = 1e-20, 1e10  # bounds of mu, which must be able to return from either


class LevenbergMarquardtState(NamedTuple):
    """The state of Levenberg-Marquardt."""

    mu: jax.Array  # float[], damping of the next step
    nu: jax.Array  # float[], Nielsen's factor of mu at the next rejection; Marquardt's rule does not use it
    evaluations: Evaluations  # all so far; a step takes 2 values, 1 gradient, min(n, p) products


def levenberg_marquardt(
    damping: chex.Numeric = 1e-3,
    scaling: str = "identity",
    rule: str = "nielsen",
    *,
    accept_above: chex.Numeric = 0.0,
    lower_above: chex.Numeric = 0.0,
    lower_by: chex.Numeric = 10.0,
    raise_by: chex.Numeric = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt, for small networks and full batches. A step tries one update and takes it if the loss falls.

        G = J^T H J,  J = dz / dtheta,  H = d^2 loss_fn / dz^2      J^T J times a number for squares
        d = -(G + mu D)^-1 g
        rho = (F(theta) - F(theta + d)) / (d^T (mu D d - g) / 2)    reduction of the loss / model's
        rho > accept_above:  theta <- theta + d                     accepted
        Nielsen:    accepted  mu <- mu max(1/3, 1 - (2 rho - 1)^3),  nu <- 2
                    rejected  mu <- mu nu,  nu <- 2 nu               nu = 2 at the start
        Marquardt:  accepted  mu <- mu / lower_by                    only if rho > lower_above
                    rejected  mu <- mu raise_by

    The step after a rejection has the same params and computes the Jacobian again: the price of one try per step,
    which gives the program a constant shape. F is value_fn and includes the penalty. G does not include the penalty's
    curvature; the damping stands in for it. With a new batch at each step mu adapts, too, but rho is that of the
    batch.

    For p parameters and n entries of the prediction (examples times outputs) a step takes min(n, p) products with J
    or its transpose, p products with H alone, 2 n p^2 operations for G and p^3 / 3 for its Cholesky factor; and
    memory for 2 n p + 2 p^2 numbers. float64 is worth its cost here. In float32 a fit ends where rounding of the loss
    hides the gain of a step. And G, which squares the condition number of J, cannot be factored with mu much below
    1e-7 of its largest entry; such a step is rejected.

    Args:
        damping: mu at the start, in the units of the mean loss's curvature. For half the sum of N squares, use N / 2
            times as much. mu is kept in [1e-20, 1e10]. (MATLAB's trainlm: 0.001.)
        scaling: "identity" for D = I (Levenberg, Nielsen, trainlm, optimistix), or "diagonal" for D = diag(G), with 1
            in place of 0 (Marquardt; mu then has no unit, and steps do not depend on the scales of the params).
        rule: "nielsen" or "marquardt".
        accept_above: a step is taken if rho is above this. (optimistix: 0.01.)
        lower_above: Marquardt's rule lowers mu if rho is above this. (optimistix: 0.99.)
        lower_by: factor by which Marquardt's rule lowers mu. (optimistix: 3.5.)
        raise_by: factor by which Marquardt's rule raises mu. (optimistix: 4.)

    A step is rejected, too, if it or the loss after it is not finite. The update is then 0.

    Baseline: `optimistix.LevenbergMarquardt`, with the numbers above and mu = 1 at the start, equal at each step to
    1e-10 in float64; both rules in NumPy, to 1e-9; the optimum of `scipy.optimize.least_squares(method="lm")`.

    Raises:
        ValueError: the damping is not in [1e-20, 1e10); accept_above or lower_above is not in [0, 1); a factor is
            less than 1; the scaling or the rule is unknown; `update` is called without params, value, value_fn,
            predict_fn or loss_fn.
        TypeError: params are complex.

    Source: Levenberg 1944, "A method for the solution of certain non-linear problems in least squares"; Marquardt
    1963, "An algorithm for least-squares estimation of nonlinear parameters"; Nielsen 1999, "Damping parameter in
    Marquardt's method"; for networks Hagan & Menhaj 1994, "Training feedforward networks with the Marquardt
    algorithm".

    Example:
        >>> x = jnp.linspace(-2.0, 2.0, 9)[:, None]
        >>> net = fn.serial(fn.dense(4), fn.tanh, fn.dense(1))
        >>> loss, maker = fn.losses.mean_squared_error, fn.optim.levenberg_marquardt
        >>> run = fn.train.make_run(net, loss, maker, steps=20, batch_size=9)
        >>> data = {"train": {"x": x, "y": jnp.cos(x)}}
        >>> history = jax.jit(run)(jax.random.key(0), data, {"damping": 1e-2}).history
        >>> bool(history["train_loss"][-1] < 1e-3)
        True
    """
    name = "levenberg_marquardt"
    check.number(name, "damping", damping, f"[{LEAST}, {MOST})")
    check.number(name, "accept_above", accept_above, "[0, 1)")
    check.number(name, "lower_above", lower_above, "[0, 1)")
    check.number(name, "lower_by", lower_by, "[1, inf)")
    check.number(name, "raise_by", raise_by, "[1, inf)")
    check.one_of(name, "scaling", scaling, ("identity", "diagonal"))
    check.one_of(name, "rule", rule, ("nielsen", "marquardt"))

    def init(params: optax.Params) -> LevenbergMarquardtState:
        dtype = dtype_of(params)
        return LevenbergMarquardtState(jnp.asarray(damping, dtype), jnp.asarray(2, dtype), no_evaluations())

    def update(
        grads: optax.Updates,
        state: LevenbergMarquardtState,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        value_fn: Any = None,
        predict_fn: Any = None,
        loss_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, LevenbergMarquardtState]:
        require(name, params=params, value=value, value_fn=value_fn, predict_fn=predict_fn, loss_fn=loss_fn)
        flat = flatten_problem(name, params, predict_fn, loss_fn)
        g = ravel_pytree(grads)[0].astype(flat.theta.dtype)
        mu, nu = state.mu.astype(g.dtype), state.nu.astype(g.dtype)

        G, products = gauss_newton_matrix(flat)
        diagonal = jnp.diag(G)
        D = jnp.where(diagonal > 0, diagonal, 1) if scaling == "diagonal" else jnp.ones_like(g)
        factor = jnp.linalg.cholesky(G + jnp.diag(mu * D))
        # NaN if the matrix is not positive definite.
        d = finite_or_zero(-jax.scipy.linalg.cho_solve((factor, True), g))

        updates = cast_like(flat.to_tree(d), grads)
        predicted = d @ (mu * D * d - g) / 2
        trial = value_fn(optax.apply_updates(params, updates))
        rho = jnp.asarray(value - trial, g.dtype) / predicted
        accepted = jnp.isfinite(trial) & (predicted > 0) & (rho > accept_above)
        if rule == "nielsen":
            lower = mu * jnp.maximum(1 / 3, 1 - (2 * rho - 1) ** 3)
            mu, nu = jnp.where(accepted, lower, mu * nu), jnp.where(accepted, 2, 2 * nu)
        else:
            lower = jnp.where(rho > lower_above, mu / lower_by, mu)
            mu = jnp.where(accepted, lower, mu * raise_by)
        now = LevenbergMarquardtState(
            mu=jnp.clip(mu, LEAST, MOST),
            nu=nu,
            evaluations=state.evaluations.plus(values=2, gradients=1, products=products),
        )
        updates = jax.tree.map(lambda u: jnp.where(accepted, u, 0), updates)
        return cast_like(updates, grads), cast_like(now, state)

    return optax.GradientTransformationExtraArgs(init, update)
