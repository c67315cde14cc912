"""The simplex method of Nelder & Mead (1965): n + 1 points that reflect, expand, contract and shrink."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_points, finite_or_inf, require_objective
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import check_flags, check_numbers
from fnnet.optim.vector import as_vector


class NelderMeadState(NamedTuple):
    """The state of Nelder-Mead."""

    step: jax.Array  # int32[], updates taken
    simplex: jax.Array  # float[n + 1, n], the vertices; after the first update the best is first
    values: jax.Array  # float[n + 1], the objective at the vertices
    evaluations: Evaluations  # values only


def nelder_mead(
    initial_simplex: jax.Array | None = None,
    adaptive: bool = False,
    *,
    relative_edge: chex.Numeric = 0.05,
    zero_edge: chex.Numeric = 0.00025,
) -> optax.GradientTransformationExtraArgs:
    """Nelder-Mead, one iteration per update.

    The vertices are sorted, L(x_0) <= ... <= L(x_n). c is the mean of all but the last, and p(t) = c + t (c - x_n).

        x_r = p(rho)                    reflection
        if L(x_r) < L(x_0):             expansion: x_n <- the better of p(rho chi) and x_r
        else if L(x_r) < L(x_{n-1}):    x_n <- x_r
        else if L(x_r) < L(x_n):        outside contraction: x_n <- p(rho psi) if not worse than x_r
        else:                           inside contraction: x_n <- p(-psi) if better than x_n
        if a contraction fails:         x_i <- x_0 + sigma (x_i - x_0)

    rho, chi, psi, sigma = 1, 2, 1/2, 1/2; adaptive: 1, 1 + 2/n, 3/4 - 1/(2n), 1 - 1/n.

    The new params are the best vertex so far, up to the rounding of params + (vertex - params). `state.simplex[0]` is
    the vertex itself, and the search continues from the simplex, whatever happens to the params. A step computes 1
    value (reflection), 2 (expansion, contraction) or 2 + n (shrinking); the first step n + 1 more. Under vmap all
    branches are computed, but only what the method asks for is counted. The values of the vertices are kept, so the
    objective must not change: with a new batch at each step, a vertex that had a lucky batch would stay forever. Use
    it for few parameters: the memory is n^2. The method draws nothing at random, so it has no seed. The gradient is
    not used. A value that is not finite ranks last.

    Args:
        initial_simplex: float[n + 1, n], the first vertices, with parameters in the order of
            `jax.flatten_util.ravel_pytree`. By default the params and, for each parameter, the params with that one
            changed.
        adaptive: True for coefficients that depend on n, for many parameters (Gao & Han).
        relative_edge: relative change of a parameter in the first simplex. The default is that of SciPy.
        zero_edge: change of a parameter that is 0. The default is that of SciPy, and too small for biases that start
            at 0.

    Baseline: `scipy.optimize.minimize(method="Nelder-Mead")`, simplex and counts equal after each iteration, to 1e-12
    in float64.

    Raises:
        TypeError, ValueError: the initial simplex has another shape; the params are not real; update is called
            without `value_fn` or the params.

    Source: Nelder & Mead 1965, "A simplex method for function minimization"; the inequalities are those of Lagarias
    et al. 1998, the adaptive coefficients of Gao & Han 2012.

    Example:
        >>> optimizer = fn.optim.nelder_mead()
        >>> params = jnp.array([3.0, -2.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(60):
        ...     params, state = step(params, state)
        >>> bool(jnp.sum(params**2) < 1e-4)
        True
    """
    check_flags("nelder_mead", adaptive=adaptive)
    check_numbers("nelder_mead", relative_edge=relative_edge, zero_edge=zero_edge)

    def init(params: optax.Params) -> NelderMeadState:
        theta, _ = as_vector("nelder_mead", params)
        n = theta.size
        if initial_simplex is None:
            edge = jnp.where(
                theta == 0,
                jnp.asarray(zero_edge, theta.dtype),
                jnp.asarray(relative_edge, theta.dtype) * theta,
            )
            simplex = theta[None, :] + jnp.concatenate([jnp.zeros((1, n), theta.dtype), jnp.diag(edge)])
        else:
            simplex = jnp.asarray(initial_simplex, theta.dtype)
            if n and simplex.shape != (n + 1, n):
                raise ValueError(
                    f"nelder_mead: initial_simplex is {check.describe(simplex)}, wanted ({n + 1}, {n}): "
                    f"{n + 1} vertices of {n} parameters"
                )
        values = jnp.full((n + 1,), jnp.inf, theta.dtype)
        return NelderMeadState(jnp.zeros([], jnp.int32), simplex, values, no_evaluations())

    def update(
        grads: optax.Updates,
        state: NelderMeadState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, NelderMeadState]:
        f = require_objective("nelder_mead", params, value_fn)
        theta, unflatten = as_vector("nelder_mead", params)
        n = theta.size
        if n == 0:
            return unflatten(theta), state
        rho, chi, psi, sigma = (1, 1 + 2 / n, 0.75 - 1 / (2 * n), 1 - 1 / n) if adaptive else (1, 2, 0.5, 0.5)

        def value_at(x: jax.Array) -> jax.Array:
            return finite_or_inf(f(unflatten(x)), x)

        def in_order(simplex: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
            order = jnp.argsort(values)
            return simplex[order], values[order]

        first = state.step == 0
        simplex, values = jax.lax.cond(
            first,
            lambda: in_order(state.simplex, evaluate_points(f, unflatten, state.simplex)),
            lambda: (state.simplex, state.values),
        )
        c = jnp.sum(simplex[:-1], axis=0) / n

        def p(t: Any) -> jax.Array:
            return (1 + t) * c - t * simplex[-1]

        best, second_worst, worst = values[0], values[-2], values[-1]
        x_r = p(rho)
        f_r = value_at(x_r)
        expand, outside = f_r < best, f_r < worst
        asks_again = expand | (f_r >= second_worst)
        x_2 = p(jnp.where(expand, rho * chi, jnp.where(outside, rho * psi, -psi)).astype(theta.dtype))
        f_2 = jax.lax.cond(asks_again, value_at, lambda x: jnp.asarray(jnp.inf, x.dtype), x_2)
        takes_2 = asks_again & jnp.where(expand, f_2 < f_r, jnp.where(outside, f_2 <= f_r, f_2 < worst))
        shrinks = asks_again & ~expand & ~takes_2

        x_new, f_new = jnp.where(takes_2, x_2, x_r), jnp.where(takes_2, f_2, f_r)

        def shrunk() -> tuple[jax.Array, jax.Array]:
            moved = simplex[:1] + sigma * (simplex[1:] - simplex[:1])
            moved_values = evaluate_points(f, unflatten, moved)
            return jnp.concatenate([simplex[:1], moved]), jnp.concatenate([values[:1], moved_values])

        simplex, values = in_order(
            *jax.lax.cond(shrinks, shrunk, lambda: (simplex.at[-1].set(x_new), values.at[-1].set(f_new)))
        )
        used = (
            1
            + asks_again.astype(jnp.int32)
            + n * shrinks.astype(jnp.int32)
            + (n + 1) * first.astype(jnp.int32)
        )
        return unflatten(simplex[0] - theta), NelderMeadState(
            optax.safe_increment(state.step), simplex, values, state.evaluations.plus(values=used)
        )

    return optax.GradientTransformationExtraArgs(init, update)
