"""CMA-ES: evolution with an adapted covariance matrix (Hansen 2016, arXiv:1604.00772)."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnnet import check
from fnnet.optim.derivative_free.objective import ValueFn, evaluate_points, require_objective
from fnnet.optim.derivative_free.population import Seed, as_key, check_seed
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import check_flags
from fnnet.optim.vector import as_vector


class CmaEsState(NamedTuple):
    """The state of CMA-ES."""

    step: jax.Array  # int32[], g, generations so far
    key: chex.PRNGKey  # for the next generations
    m: jax.Array  # float[n], mean of the distribution
    sigma: jax.Array  # float[], its overall scale
    c: jax.Array  # float[n, n], C, its shape: points are from N(m, sigma^2 C)
    p_c: jax.Array  # float[n], evolution path of C
    p_sigma: jax.Array  # float[n], evolution path of sigma
    evaluations: Evaluations  # values only


class Constants(NamedTuple):
    """The strategy parameters for n parameters and lambda points: table 1 of the tutorial."""

    w: np.ndarray  # float[lambda], weights by rank; the positive ones come first and sum to 1
    mu_eff: float  # effective number of points with positive weights
    c_sigma: float  # learning rate of p_sigma
    d_sigma: float  # damping of sigma
    c_c: float  # learning rate of p_c
    c_1: float  # learning rate of the rank-one update of C
    c_mu: float  # learning rate of the rank-mu update of C
    chi: float  # about E|N(0, I)|


def constants(n: int, population: int, active: bool = True) -> Constants:
    """The default strategy parameters of the tutorial, as plain floats."""
    n, mu = max(n, 1), population // 2
    w = np.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
    # Python floats, because NumPy's would turn float32 into float64 if that is enabled.
    mu_eff = float(w[:mu].sum() ** 2 / np.square(w[:mu]).sum())
    mu_eff_minus = float(w[mu:].sum() ** 2 / np.square(w[mu:]).sum())
    c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
    d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (1 / 4 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + mu_eff))
    minus = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (n * c_mu))
    positive, negative = np.maximum(w, 0), np.minimum(w, 0)
    w = positive / positive.sum() + (active * minus) * negative / -negative.sum()
    chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    return Constants(w, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, chi)


def axes(c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """B and the diagonal of D, where C = B D^2 B'.

    Rounding can make an eigenvalue negative, so all are raised to at least eps times the largest.
    """
    if c.size == 0:
        return c, jnp.diag(c)
    d_squared, b = jnp.linalg.eigh(c)
    return b, jnp.sqrt(jnp.maximum(d_squared, jnp.finfo(c.dtype).eps * d_squared[-1]))


def tell(
    state: CmaEsState, b: jax.Array, d: jax.Array, y: jax.Array, values: jax.Array, k: Constants
) -> CmaEsState:
    """The state after the points m + sigma y have been evaluated: all of `update` except drawing the points."""
    n, t = max(state.m.size, 1), state.step + 1
    w = jnp.asarray(k.w, y.dtype)
    y = y[jnp.argsort(values)]
    y_w = jnp.maximum(w, 0) @ y
    m = state.m + state.sigma * y_w

    p_sigma = (1 - k.c_sigma) * state.p_sigma + math.sqrt(k.c_sigma * (2 - k.c_sigma) * k.mu_eff) * (
        b @ ((b.T @ y_w) / d)
    )
    length = jnp.linalg.norm(p_sigma)
    sigma = state.sigma * jnp.exp(k.c_sigma / k.d_sigma * (length / k.chi - 1))

    unbiased = length / jnp.sqrt(1 - (1 - k.c_sigma) ** (2 * t.astype(y.dtype)))
    h = (unbiased < (1.4 + 2 / (n + 1)) * k.chi).astype(y.dtype)
    p_c = (1 - k.c_c) * state.p_c + h * math.sqrt(k.c_c * (2 - k.c_c) * k.mu_eff) * y_w
    lost = (1 - h) * k.c_c * (2 - k.c_c)
    # A point with a negative weight subtracts the same amount whatever its length, so that C stays positive.
    squares = jnp.sum(jnp.square((y @ b) / d[None, :]), axis=1)
    w_o = jnp.where(w >= 0, w, w * n / jnp.where(squares > 0, squares, 1))
    c = (
        (1 + k.c_1 * lost - k.c_1 - k.c_mu * float(k.w.sum())) * state.c
        + k.c_1 * jnp.outer(p_c, p_c)
        + k.c_mu * (w_o[:, None] * y).T @ y
    )
    return state._replace(
        step=optax.safe_increment(state.step),
        m=m,
        sigma=sigma,
        c=c,
        p_c=p_c,
        p_sigma=p_sigma,
        evaluations=state.evaluations.plus(values=values.size),
    )


def cma_es(
    sigma: chex.Numeric = 0.5, population: int | None = None, *, active: bool = True, seed: Seed = 0
) -> optax.GradientTransformationExtraArgs:
    """CMA-ES with a full covariance matrix, one generation per update.

        x_i = m + sigma y_i,  y_i ~ N(0, C),  i = 1 ... lambda; then sorted by L(x_i)
        y_w = sum of w_i y_i over the positive w_i
        m <- m + sigma y_w
        p_sigma <- (1 - c_sigma) p_sigma + sqrt(c_sigma (2 - c_sigma) mu_eff) C^(-1/2) y_w
        p_c <- (1 - c_c) p_c + h sqrt(c_c (2 - c_c) mu_eff) y_w
        C <- (1 + c_1 (1 - h) c_c (2 - c_c) - c_1 - c_mu sum_i w_i) C
             + c_1 p_c p_c' + c_mu sum_i w_i° y_i y_i'
        sigma <- sigma exp((c_sigma / d_sigma) (|p_sigma| / E|N(0, I)| - 1))

    h is 0 while p_sigma is long, otherwise 1:

        h = 0 if |p_sigma| / sqrt(1 - (1 - c_sigma)^(2t)) >= (1.4 + 2 / (n + 1)) E|N(0, I)|

    w_i° is w_i, or w_i n / |C^(-1/2) y_i|^2 if w_i is negative. All constants are those of the tutorial
    (`constants`).

    The new params are the mean m, up to the rounding of params + (m - params). `state.m` is m itself, and the search
    continues from there, whatever happens to the params. A step computes lambda values on the batch of that step; it
    does not compute L(m). C has n^2 numbers, and its eigenvectors cost n^3 operations per step, so use it for at most
    a few hundred parameters. The gradient is not used. A value that is not finite ranks last.

    Args:
        sigma: standard deviation of the first points, in units of the params: about a third of the expected distance
            to the minimum.
        population: lambda, at least 2; 4 + floor(3 ln n) for n parameters by default. All points are evaluated at
            once, by vmap. More points help with noise and with many minima.
        active: False to give the worse half the weight 0, as before 2006.
        seed: an int or a JAX key.

    Version 4.5 of the package `cma` differs in these points:

        h = 1 if |p_sigma|^2 / n < 2 + 4 / (n + 1)
        c_sigma = min(1/2, (mu_eff + 2) / (n + mu_eff + 3))

    d_sigma has 1/2 instead of 1, and depends on mirrored points; E|N(0, I)| is exact for small n; sigma changes by at
    most a factor of e per step; c_1 is smaller for lambda < 6; the diagonal of C starts at 1 to 1.0001; the
    eigenvectors are computed only every few generations.

    Baseline: `cma.CMAEvolutionStrategy` with the same c_sigma, d_sigma and E|N(0, I)|, given the same points: m,
    sigma, C and both paths are equal after each generation, to 1e-10 in float64; and the equations of the tutorial in
    NumPy.

    Raises:
        TypeError, ValueError: sigma is negative; population is not an int, or is less than 2; the params are not
            real; update is called without `value_fn` or the params.

    Source: Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv:1604.00772, figure 6 and table 1.

    Example:
        >>> optimizer = fn.optim.cma_es()
        >>> params = jnp.array([3.0, -2.0])
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     updates, state = optimizer.update(None, state, params, value_fn=lambda x: jnp.sum(x**2))
        ...     return params + updates, state
        >>> for _ in range(40):
        ...     params, state = step(params, state)
        >>> bool(jnp.sum(params**2) < 1e-3), int(state.evaluations.values)
        (True, 240)
    """
    check_seed("cma_es", seed)
    check_flags("cma_es", active=active)
    check.number("cma_es", "sigma", sigma, "[0, inf)")
    if population is not None:
        check.is_positive("cma_es", "population", population)
        check.number("cma_es", "population", population, "[2, inf)")

    def init(params: optax.Params) -> CmaEsState:
        theta, _ = as_vector("cma_es", params)
        return CmaEsState(
            step=jnp.zeros([], jnp.int32),
            key=as_key(seed),
            m=jnp.copy(theta),  # params of one vector would share its buffer, which could not be donated
            sigma=jnp.asarray(sigma, theta.dtype),
            c=jnp.eye(theta.size, dtype=theta.dtype),
            p_c=jnp.zeros_like(theta),
            p_sigma=jnp.zeros_like(theta),
            evaluations=no_evaluations(),
        )

    def update(
        grads: optax.Updates,
        state: CmaEsState,
        params: optax.Params | None = None,
        *,
        value_fn: ValueFn | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, CmaEsState]:
        f = require_objective("cma_es", params, value_fn)
        theta, unflatten = as_vector("cma_es", params)
        n = theta.size
        points = 4 + math.floor(3 * math.log(max(n, 1))) if population is None else population
        key, draw = jax.random.split(state.key)
        b, d = axes(state.c)
        y = (jax.random.normal(draw, (points, n), theta.dtype) * d[None, :]) @ b.T
        values = evaluate_points(f, unflatten, state.m[None, :] + state.sigma * y)
        state = tell(state, b, d, y, values, constants(n, points, active))._replace(key=key)
        return unflatten(state.m - theta), state

    return optax.GradientTransformationExtraArgs(init, update)
