"""Hessian-free optimization: Gauss-Newton steps by conjugate gradient, without building a matrix (Martens 2010)."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations, require
from fnnet.optim.hyperparameters import cast_like, check_flags
from fnnet.optim.second_order.curvature import dtype_of, finite_or_zero, flatten_problem

LEAST, MOST = 1e-20, 1e10  # bounds of lambda, which must be able to return from either


class HessianFreeState(NamedTuple):
    """The state of Hessian-free optimization."""

    lambda_: jax.Array  # float[], damping of the next step
    x: optax.Params  # the last iterate of conjugate gradient, like params
    evaluations: Evaluations  # all so far; products are those of conjugate gradient, and one for its start


def hessian_free(
    damping: chex.Numeric = 1.0,
    max_iterations: int = 250,
    tolerance: chex.Numeric = 5e-4,
    *,
    decay: chex.Numeric = 0.95,
    backtracking: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Hessian-free optimization with the Gauss-Newton matrix, for networks of any size and large batches.

        G v = J^T (H (J v)),  J = dz / dtheta,  H = d^2 loss_fn / dz^2
        phi(x) = x^T (G + lambda I) x / 2 + g^T x, minimized by conjugate gradient from decay x
            until phi(x_i) < 0 and phi(x_i) - phi(x_{i-k}) > k tolerance phi(x_i)
            k = max(10, ceil(i / 10)) < i
        d = x_last; with backtracking, go back over the x_ceil(1.3^j) while F(theta + d) falls
        rho = (F(theta + d) - F(theta)) / (g^T d + d^T G d / 2)
        lambda <- 3/2 lambda  if rho < 1/4,   2/3 lambda  if rho > 3/4
        theta <- theta + d                               if F(theta + d) < F(theta)

    Two parts of Martens' method are left out: a preconditioner, which needs the gradient of each example, and a line
    search along d. (A step that does not lower F is dropped, and lambda is raised.) F is value_fn and includes the
    penalty. G does not include the penalty's curvature; the damping stands in for it.

    A product costs about as much as two gradients. The memory is a few copies of the params, and with backtracking
    log_1.3(max_iterations) more: 21 for 250.

    Args:
        damping: lambda at the start, in the units of the mean loss's curvature. It is kept in [1e-20, 1e10].
        max_iterations: upper bound of the iterations of conjugate gradient per step.
        tolerance: least relative progress per iteration. 0 continues to max_iterations or a residual of 0.
        decay: conjugate gradient starts from the last x times this, in [0, 1]. (The paper: 1; Martens' program:
            0.95.)
        backtracking: True to go back over the x_i as above; False for d = x_last, with fewer evaluations of F.

    If the loss after a step is not finite, the step counts as raising it: the update is 0. rho uses the model without
    lambda, at the step that is taken.

    Baseline: NumPy, with a dense (G + lambda I)^-1 g when conjugate gradient runs to its end, equal at each step to
    1e-9 in float64; the whole algorithm in NumPy, to 1e-7 (conjugate gradient amplifies rounding errors); G of both
    by `jax.jacobian` and `jax.hessian`.

    Raises:
        TypeError: max_iterations is not an int; params are complex.
        ValueError: the damping is not in [1e-20, 1e10); max_iterations is not positive; the tolerance is negative;
            decay is not in [0, 1]; `update` is called without params, value, value_fn, predict_fn or loss_fn.

    Source: Martens 2010, "Deep learning via Hessian-free optimization"; decay: Martens & Sutskever 2012, "Training
    deep and recurrent networks with Hessian-free optimization"; the product: Schraudolph 2002.

    Example:
        >>> x, y = jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([5.0, 5.0])  # weights 1 and 2
        >>> optimizer, params = fn.optim.hessian_free(1e-6), jnp.zeros(2)
        >>> predict_fn, loss_fn = lambda w: x @ w, lambda z: jnp.mean(jnp.square(z - y))
        >>> value_fn = lambda w: loss_fn(predict_fn(w))
        >>> value, grads = jax.value_and_grad(value_fn)(params)
        >>> updates, state = optimizer.update(
        ...     grads, optimizer.init(params), params,
        ...     value=value, value_fn=value_fn, predict_fn=predict_fn, loss_fn=loss_fn)
        >>> bool(jnp.allclose(updates, jnp.array([1.0, 2.0]), rtol=1e-3))
        True
    """
    check_flags("hessian_free", backtracking=backtracking)
    name = "hessian_free"
    check.number(name, "damping", damping, f"[{LEAST}, {MOST})")
    check.is_positive(name, "max_iterations", max_iterations)
    check.number(name, "tolerance", tolerance, "[0, inf)")
    check.number(name, "decay", decay, "[0, 1]")
    # x_i is kept in the first place whose mark is not below i, so that each place ends with its mark's x, or
    # the last.
    back = [math.ceil(1.3**j) for j in range(100) if 1.3**j < max_iterations] if backtracking else []
    marks = sorted({*back, max_iterations})

    def init(params: optax.Params) -> HessianFreeState:
        lambda_ = jnp.asarray(damping, dtype_of(params))
        return HessianFreeState(lambda_, jax.tree.map(jnp.zeros_like, params), no_evaluations())

    def update(
        grads: optax.Updates,
        state: HessianFreeState,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        value_fn: Any = None,
        predict_fn: Any = None,
        loss_fn: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, HessianFreeState]:
        require(name, params=params, value=value, value_fn=value_fn, predict_fn=predict_fn, loss_fn=loss_fn)
        flat = flatten_problem(name, params, predict_fn, loss_fn)
        dtype = flat.theta.dtype
        g, x = (ravel_pytree(tree)[0].astype(dtype) for tree in (grads, state.x))
        lambda_ = state.lambda_.astype(dtype)

        z, jvp = jax.linearize(flat.predict, flat.theta)
        _, vjp = jax.vjp(flat.predict, flat.theta)
        _, hessian = jax.linearize(jax.grad(flat.loss), z)

        def damped_product(v: jax.Array) -> jax.Array:
            return vjp(hessian(jvp(v)))[0] + lambda_ * v

        cg = _conjugate_gradient(damped_product, g, decay * x, marks, tolerance)

        def loss_after(j: jax.Array) -> jax.Array:
            trial = value_fn(optax.apply_updates(params, cast_like(flat.to_tree(cg.kept[j]), grads)))
            return jnp.where(jnp.isfinite(trial), trial, jnp.inf).astype(dtype)

        def step_back(now: _Backtrack) -> _Backtrack:
            before = loss_after(now.j - 1)
            falls = before <= now.F
            j = jnp.where(falls, now.j - 1, now.j)
            return _Backtrack(j, jnp.where(falls, before, now.F), ~falls | (j == 0), now.values + 1)

        last = jnp.searchsorted(jnp.array(marks), cg.i)
        end = _Backtrack(last, loss_after(last), last == 0, jnp.asarray(1, jnp.int32))
        if backtracking:
            end = jax.lax.while_loop(lambda now: ~now.done, step_back, end)

        d = finite_or_zero(cg.kept[end.j])
        model = cg.phi_kept[end.j] - lambda_ * (d @ d) / 2  # g^T d + d^T G d / 2
        value = jnp.asarray(value, dtype)
        rho = jnp.where(model < 0, (end.F - value) / model, -jnp.inf)
        lambda_ = jnp.where(rho > 3 / 4, lambda_ * 2 / 3, jnp.where(rho >= 1 / 4, lambda_, lambda_ * 3 / 2))
        d = jnp.where(value > end.F, d, 0)
        now = HessianFreeState(
            lambda_=jnp.clip(lambda_, LEAST, MOST),
            x=flat.to_tree(finite_or_zero(cg.x)),
            evaluations=state.evaluations.plus(1 + end.values, 1, 1 + cg.i),
        )
        return cast_like(flat.to_tree(d), grads), cast_like(now, state)

    return optax.GradientTransformationExtraArgs(init, update)


class _Backtrack(NamedTuple):
    """The state of the backtracking over the iterates of conjugate gradient."""

    j: jax.Array  # int32[], index of the stored iterate
    F: jax.Array  # float[], the loss there
    done: jax.Array  # bool[]
    values: jax.Array  # int32[], number of losses computed


class _Iterate(NamedTuple):
    """The state of conjugate gradient."""

    i: jax.Array  # int32[], iterations
    x: jax.Array  # float[p]
    r: jax.Array  # float[p], A x + g
    v: jax.Array  # float[p], direction
    phi: jax.Array  # float[max_iterations + 1], x^T A x / 2 + g^T x of each iterate so far
    kept: jax.Array  # float[places, p], stored iterates
    phi_kept: jax.Array  # float[places], phi of the stored iterates
    done: jax.Array  # bool[]


def _conjugate_gradient(A: Any, g: jax.Array, x: jax.Array, marks: list[int], tolerance: Any) -> _Iterate:
    """Minimizes phi from x, until progress is small, the residual is 0, or i = marks[-1]."""
    i, places = jnp.zeros([], jnp.int32), jnp.array(marks)

    def iterate(now: _Iterate) -> _Iterate:
        Av, rr = A(now.v), now.r @ now.r
        curvature = now.v @ Av
        positive = curvature > 0  # otherwise phi has no minimum along v, or rounding hides it, and x stays
        a = jnp.where(positive, rr / jnp.where(positive, curvature, 1), 0)
        x, r = now.x + a * now.v, now.r + a * Av
        v = -r + (r @ r) / rr * now.v

        i = now.i + 1
        phi_i = x @ (r + g) / 2
        k = jnp.maximum(10, (i + 9) // 10)
        before = now.phi[jnp.maximum(i - k, 0)]
        small = (i > k) & (phi_i < 0) & (phi_i - before > k * tolerance * phi_i)
        done = small | ~positive | (r @ r == 0) | (i == marks[-1])
        j = jnp.searchsorted(places, i)
        phi, kept, phi_kept = now.phi.at[i].set(phi_i), now.kept.at[j].set(x), now.phi_kept.at[j].set(phi_i)
        return _Iterate(i, x, r, v, phi, kept, phi_kept, done)

    r = A(x) + g
    phi_0 = x @ (r + g) / 2
    start = _Iterate(
        i=i,
        x=x,
        r=r,
        v=-r,
        phi=jnp.full(marks[-1] + 1, phi_0),
        kept=jnp.broadcast_to(x, (len(marks), x.size)),
        phi_kept=jnp.full(len(marks), phi_0),
        done=r @ r == 0,
    )
    return jax.lax.while_loop(lambda now: ~now.done, iterate, start)
