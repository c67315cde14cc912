"""CMA-ES beside the package `cma`, given the same points, and beside the equations of the tutorial in NumPy."""

import math
import warnings
from typing import Any

import cma
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import inv, sqrtm

import fnnet as fn
from fnnet.optim.derivative_free.cma_es import CmaEsState, axes, constants, tell

M = np.array([1.0, -2.0, 0.5, 3.0])


def ellipsoid(x: Any, xp: Any = jnp) -> Any:
    return xp.sum(10.0 ** xp.arange(len(x)) * (x - 0.5) ** 2) + x[0] * x[1]


def after(state: CmaEsState, x: jax.Array, values: jax.Array, k: Any) -> CmaEsState:
    return tell(state, *axes(state.c), (x - state.m[None, :]) / state.sigma, values, k)


def package(sigma: float, population: int, active: bool, k: Any) -> cma.CMAEvolutionStrategy:
    """cma's, with the tutorial's c_sigma and d_sigma, C = I exactly, and eigenvectors in each generation."""
    es = cma.CMAEvolutionStrategy(
        M, sigma, {"seed": 3, "popsize": population, "CMA_active": active, "verbose": -9}
    )
    es.adapt_sigma.initialize(es)
    es.adapt_sigma.cs, es.adapt_sigma.damps = k.c_sigma, k.d_sigma
    n = len(M)
    es.sm.C, es.sm.B, es.sm.D, es.sm.lazy_update_gap = np.eye(n), np.eye(n), np.ones(n), 0
    norm = es.sm.norm
    es.sm.norm = lambda y: norm(y) - 1e-9  # cma adds 1e-9 to the length of points with negative weights
    return es


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("population", "active", "sigma"), [(8, True, 0.5), (12, False, 1e-3)])
def test_state_equals_that_of_cma_after_each_generation(population: int, active: bool, sigma: float) -> None:
    k = constants(4, population, active)
    chi = math.sqrt(2) * math.gamma(2.5) / math.gamma(2)
    assert k.chi == pytest.approx(chi, rel=1e-3)
    k = k._replace(chi=chi)  # cma takes E|N(0, I)| exactly
    state = fn.optim.cma_es(sigma).init(jnp.asarray(M))
    step = jax.jit(lambda state, x, values: after(state, x, values, k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cma, of this version of Python and NumPy
        es = package(sigma, population, active, k)
        theirs = (es.sp.weights.mueff, es.sp.cc, es.sp.c1, es.sp.cmu)
        np.testing.assert_allclose((k.mu_eff, k.c_c, k.c_1, k.c_mu), theirs, rtol=1e-13)
        np.testing.assert_allclose(k.w, es.sp.weights.asarray, rtol=1e-13, atol=1e-15)
        stalled = []
        for _ in range(60):
            x = np.asarray(es.ask())
            values = np.array([ellipsoid(row, np) for row in x])
            es.tell(list(x), list(values))
            state = step(state, jnp.asarray(x), jnp.asarray(values))
            scale = es.sigma
            np.testing.assert_allclose(state.m, es.mean, rtol=1e-10, atol=1e-10 * scale)
            np.testing.assert_allclose(state.sigma, es.sigma, rtol=1e-10)
            np.testing.assert_allclose(state.c, es.sm.C, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(state.p_c, es.pc, rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(state.p_sigma, es.adapt_sigma.ps, rtol=1e-10, atol=1e-10)
            stalled.append(not es.adapt_sigma.hsig(es))
    assert es.sigma != sigma
    assert any(stalled)
    assert not all(stalled)


def generation(now: dict[str, Any], y: np.ndarray, values: np.ndarray, active: bool) -> dict[str, Any]:
    """Figure 6 and table 1 of the tutorial, with C^(-1/2) as a matrix."""
    lam, n = y.shape
    mu = lam // 2
    raw = np.array([np.log((lam + 1) / 2) - np.log(i) for i in range(1, lam + 1)])
    mueff = sum(raw[:mu]) ** 2 / sum(raw[:mu] ** 2)
    mueff_minus = sum(raw[mu:]) ** 2 / sum(raw[mu:] ** 2)
    cc = (4 + mueff / n) / (n + 4 + 2 * mueff / n)
    cs = (mueff + 2) / (n + mueff + 5)
    ds = 1 + 2 * max(0, np.sqrt((mueff - 1) / (n + 1)) - 1) + cs
    c1 = 2 / ((n + 1.3) ** 2 + mueff)
    cmu = min(1 - c1, 2 * (0.25 + mueff + 1 / mueff - 2) / ((n + 2) ** 2 + 2 * mueff / 2))
    alpha = min(1 + c1 / cmu, 1 + 2 * mueff_minus / (mueff + 2), (1 - c1 - cmu) / (n * cmu))
    w = np.array([r / sum(raw[raw > 0]) if r >= 0 else active * alpha * r / -sum(raw[raw < 0]) for r in raw])
    chi = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    root = inv(sqrtm(now["c"]).real)

    y = y[np.argsort(values, kind="stable")]
    step = sum(w[i] * y[i] for i in range(mu))
    ps = (1 - cs) * now["p_sigma"] + np.sqrt(cs * (2 - cs) * mueff) * root @ step
    length = np.linalg.norm(ps)
    h = float(length / np.sqrt(1 - (1 - cs) ** (2 * (now["g"] + 1))) < (1.4 + 2 / (n + 1)) * chi)
    pc = (1 - cc) * now["p_c"] + h * np.sqrt(cc * (2 - cc) * mueff) * step
    c = (1 + c1 * (1 - h) * cc * (2 - cc) - c1 - cmu * sum(w)) * now["c"] + c1 * np.outer(pc, pc)
    for i in range(lam):
        scaled = w[i] if w[i] >= 0 else w[i] * n / np.linalg.norm(root @ y[i]) ** 2
        c = c + cmu * scaled * np.outer(y[i], y[i])
    return {
        "g": now["g"] + 1,
        "m": now["m"] + now["sigma"] * step,
        "sigma": now["sigma"] * np.exp(cs / ds * (length / chi - 1)),
        "c": c,
        "p_c": pc,
        "p_sigma": ps,
        "h": h,
    }


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("active", [True, False])
def test_updates_equal_the_tutorial_with_the_same_draws(active: bool) -> None:
    """Through `update` itself, with the points of the seed. sigma is small, so that h is 0 at the start."""
    optimizer = fn.optim.cma_es(1e-3, active=active, seed=5)
    params = {"a": jnp.asarray(M[:3]), "b": jnp.asarray(M[3])}

    def value(p: Any) -> jax.Array:
        return ellipsoid(jnp.concatenate([p["a"], p["b"][None]]))

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        b, d = axes(state.c)
        z = jax.random.normal(jax.random.split(state.key)[1], (8, 4), jnp.float64)
        y = z @ (b * d[None, :]).T
        updates, new = optimizer.update(None, state, params, value_fn=value)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, new), (y, params, new)

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=60)[1])
    ys, points, states = jax.tree.map(np.asarray, run(params))
    now = {"g": 0, "m": M, "sigma": 1e-3, "c": np.eye(4), "p_c": np.zeros(4), "p_sigma": np.zeros(4)}
    flags = []
    for g, y in enumerate(ys):
        values = np.array([ellipsoid(now["m"] + now["sigma"] * row, np) for row in y])
        now = generation(now, y, values, active)
        flags.append(now["h"])
        for name in ("m", "sigma", "c", "p_c", "p_sigma"):
            np.testing.assert_allclose(getattr(states, name)[g], now[name], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(np.append(points["a"][g], points["b"][g]), now["m"], rtol=1e-9, atol=1e-10)
        assert states.evaluations.values[g] == 8 * (g + 1)
    assert set(flags) == {0.0, 1.0}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_it_learns_the_shape_of_an_ellipsoid() -> None:
    """Condition number 1e6, six parameters: to 1e-16 in 300 generations of 9, three seeds at once."""
    scales = jnp.logspace(0, 6, 6)

    def run(seed: jax.Array) -> Any:
        optimizer, x = fn.optim.cma_es(0.5, seed=seed), jnp.ones(6)

        def step(carry: Any, _: None) -> Any:
            x, state = carry
            updates, state = optimizer.update(None, state, x, value_fn=lambda x: jnp.sum(scales * x**2))
            return (x + updates, state), None

        return jax.lax.scan(step, (x, optimizer.init(x)), length=400)[0]

    x, state = jax.jit(jax.vmap(run))(jnp.arange(3))
    assert np.all(np.sum(np.asarray(scales)[None] * x**2, axis=1) < 1e-12)
    assert len(set(x[:, 0].tolist())) == 3
    for c in state.c:  # C is about the inverse Hessian: after scaling, all axes have about the same length
        eigenvalues = np.linalg.eigvalsh(np.sqrt(scales)[:, None] * c * np.sqrt(scales)[None, :])
        assert eigenvalues[-1] / eigenvalues[0] < 100


def test_small_sizes_and_singular_matrices() -> None:
    np.testing.assert_allclose(constants(1, 2).w[0], 1)
    assert all(np.all(np.isfinite(c)) for n in range(4) for c in constants(n, 2 + n))
    b, d = axes(jnp.array([[1.0, 1.0], [1.0, 1.0]]))
    assert np.all(d > 0)
    np.testing.assert_allclose((b * d[None, :] ** 2) @ b.T, np.ones((2, 2)), atol=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"cma_es: sigma=-1, wanted at least 0"):
        fn.optim.cma_es(-1)
    with pytest.raises(ValueError, match=r"cma_es: population=1, wanted at least 2"):
        fn.optim.cma_es(population=1)
