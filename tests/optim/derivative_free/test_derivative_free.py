"""Derivative-free methods, each beside its loop in NumPy with the same draws, and what all have in common."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import differential_evolution as scipy_differential_evolution

import fnnet as fn

STEPS = 25
START = {"a": np.array([1.5, -1.0]), "b": np.array(2.0)}
X0 = np.array([1.5, -1.0, 2.0])

ALL = {
    "random_search": partial(fn.optim.random_search, population=3),
    "nelder_mead": fn.optim.nelder_mead,
    "simulated_annealing": partial(fn.optim.simulated_annealing, 0.5),
    "one_plus_one_es": fn.optim.one_plus_one_es,
    "cma_es": fn.optim.cma_es,
    "openai_es": partial(fn.optim.openai_es, 0.05, population=6),
    "genetic_algorithm": partial(fn.optim.genetic_algorithm, population=5),
    "differential_evolution": partial(fn.optim.differential_evolution, 5),
}


def hills(x: Any, xp: Any = jnp) -> Any:
    """A bowl with ripples; NaN where x_0 > 1.8."""
    bowl = xp.sum(xp.arange(1.0, 4.0) * (x - 0.5) ** 2) + 0.3 * xp.cos(9 * x[1])
    return xp.where(x[0] > 1.8, xp.nan, bowl)


def f(x: np.ndarray) -> float:
    value = float(hills(x, np))
    return value if np.isfinite(value) else np.inf


def trace(optimizer: Any, draws: Callable[[Any], Any]) -> Any:
    """(the random numbers of each step, the point and the state after it), as NumPy arrays."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        numbers = draws(state.key)
        updates, state = optimizer.update(
            None, state, params, value_fn=lambda p: hills(jnp.concatenate([p["a"], p["b"][None]]))
        )
        params = jax.tree.map(jnp.add, params, updates)
        return (params, state), (numbers, ravel_pytree(params)[0], state)

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=STEPS)[1])
    return jax.tree.map(np.asarray, run(jax.tree.map(jnp.asarray, START)))


close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
class TestNumPyLoops:
    def test_random_search(self) -> None:
        def draws(key: Any) -> Any:
            return jax.random.normal(jax.random.split(key)[1], (4, 3), jnp.float64)

        optimizer = fn.optim.random_search(lambda t: 0.5 * 0.97**t, 4, seed=1)
        normals, points, states = trace(optimizer, draws)
        x, moves = X0, 0
        for t in range(STEPS):
            candidates = x + 0.5 * 0.97**t * normals[t]
            values = [f(c) for c in candidates]
            if min(values) < f(x):
                x, moves = candidates[np.argmin(values)], moves + 1
            close(points[t], x)
            assert states.evaluations.values[t] == 5 * (t + 1)
        assert 0 < moves < STEPS

    def test_simulated_annealing(self) -> None:
        """By the textbook rule: accept with the probability exp(-difference / T)."""

        def draws(key: Any) -> Any:
            _, step, chance = jax.random.split(key, 3)
            return jax.random.normal(step, (3,), jnp.float64), jax.random.exponential(
                chance, dtype=jnp.float64
            )

        optimizer = fn.optim.simulated_annealing(optax.exponential_decay(2.0, 1, 0.9), 0.4, seed=2)
        (normals, exponentials), points, states = trace(optimizer, draws)
        x, seen, uphill = X0, [(f(X0), X0)], 0
        for t in range(STEPS):
            y = x + 0.4 * normals[t]
            uniform, difference = np.exp(-exponentials[t]), f(y) - f(x)
            if difference <= 0 or uniform < np.exp(-difference / (2.0 * 0.9**t)):
                x, uphill = y, uphill + (difference > 0)
                seen.append((f(y), y))
            close(points[t], x)
            best_value, best = min(seen, key=lambda pair: pair[0])
            close(states.best_value[t], best_value)
            close(np.append(states.best["a"][t], states.best["b"][t]), best)
            assert states.accepted[t] == len(seen) - 1
            assert states.evaluations.values[t] == 2 * (t + 1)
        assert 0 < uphill < len(seen) - 1 < STEPS

    def test_one_plus_one_es(self) -> None:
        def draws(key: Any) -> Any:
            return jax.random.normal(jax.random.split(key)[1], (3,), jnp.float64)

        normals, points, states = trace(fn.optim.one_plus_one_es(0.5, seed=3), draws)
        x, sigma, successes = X0, 0.5, 0
        for t in range(STEPS):
            y = x + sigma * normals[t]
            success = f(y) <= f(x)
            x, successes = (y if success else x), successes + success
            sigma = sigma * np.exp((success - 1 / 5) / np.sqrt(3 + 1))
            close(points[t], x)
            close(states.sigma[t], sigma)
            assert states.successes[t] == successes
            assert states.evaluations.values[t] == 2 * (t + 1)
        assert 0 < successes < STEPS

    @pytest.mark.parametrize("ranks", [True, False])
    def test_openai_es(self, ranks: bool) -> None:
        def draws(key: Any) -> Any:
            return jax.random.normal(jax.random.split(key)[1], (4, 3), jnp.float64)

        optimizer = fn.optim.openai_es(lambda t: 0.1 / (t + 1), 0.3, 8, ranks=ranks, seed=4)
        normals, points, states = trace(optimizer, draws)
        x, left_out = X0, 0
        for t in range(STEPS):
            pairs = np.array([[f(x + 0.3 * e), f(x - 0.3 * e)] for e in normals[t]])
            if ranks:
                values = pairs.T.ravel()
                u = [(sum(values < v) + sum(values[:i] == v)) / 7 - 0.5 for i, v in enumerate(values)]
                pairs = np.array(u).reshape(2, 4).T
            kept = np.all(np.isfinite(pairs), axis=1)
            left_out += np.sum(~kept)
            g = sum((p - m) * e for (p, m), e in zip(pairs[kept], normals[t][kept], strict=True)) / (8 * 0.3)
            x = x - 0.1 / (t + 1) * g
            close(points[t], x)
            assert states.evaluations.values[t] == 8 * (t + 1)
        assert (left_out > 0) != ranks

    @pytest.mark.slow
    def test_genetic_algorithm(self) -> None:
        size, elite, tournament, crossover, mutation = 8, 2, 3, 0.7, 0.4

        def draws(key: Any) -> Any:
            _, select, pair, gene, mutate, noise = jax.random.split(key, 6)
            return (
                jax.random.randint(select, (2, 6, tournament), 0, size),
                jax.random.uniform(pair, (6, 1), jnp.float64),
                jax.random.bernoulli(gene, 0.5, (6, 3)),
                jax.random.uniform(mutate, (6, 3), jnp.float64),
                jax.random.normal(noise, (6, 3), jnp.float64),
            )

        optimizer = fn.optim.genetic_algorithm(
            0.2, size, spread=0.5, elite=elite, crossover=crossover, mutation=mutation, seed=5
        )
        population = np.asarray(optimizer.init(START).population)
        close(population[0], X0)
        assert 0.2 < np.std(population[1:] - X0) < 0.8
        numbers, points, states = trace(optimizer, draws)
        for t in range(STEPS):
            drawn, pairs, genes, mutates, noise = (a[t] for a in numbers)
            values = np.array([f(x) for x in population])
            close(points[t], population[np.argmin(values)])
            following = [population[i] for i in np.argsort(values, kind="stable")[:elite]]
            place = {int(i): r for r, i in enumerate(np.argsort(values, kind="stable"))}
            by_place = {r: i for i, r in place.items()}
            for i in range(size - elite):
                # Competitors are drawn by rank; the best of them wins.
                a, b = (
                    population[min((by_place[int(c)] for c in drawn[side, i]), key=lambda m: place[m])]
                    for side in (0, 1)
                )
                child = a.copy()
                for j in range(3):
                    if pairs[i, 0] < crossover and genes[i, j]:
                        child[j] = b[j]
                    if mutates[i, j] < mutation:
                        child[j] += 0.2 * noise[i, j]
                following.append(child)
            population = np.array(following)
            close(states.population[t], population)
            assert states.evaluations.values[t] == size * (t + 1)
        assert f(points[-1]) < f(points[0])

    @pytest.mark.slow
    @pytest.mark.parametrize(("strategy", "reevaluate"), [("rand/1/bin", False), ("best/1/bin", True)])
    def test_differential_evolution(self, strategy: Any, reevaluate: bool) -> None:
        size = 7

        def draws(key: Any) -> Any:
            _, choose, gene, chance = jax.random.split(key, 4)
            return (
                [
                    jax.random.randint(k, (size,), 0, size - 1 - i)
                    for i, k in enumerate(jax.random.split(choose, 3))
                ],
                jax.random.randint(gene, (size, 1), 0, 3),
                jax.random.uniform(chance, (size, 3), jnp.float64),
            )

        optimizer = fn.optim.differential_evolution(
            size, 0.6, 0.4, strategy, sigma=0.5, reevaluate=reevaluate, seed=6
        )
        population = np.asarray(optimizer.init(START).population)
        close(population[0], X0)
        numbers, points, states = trace(optimizer, draws)
        for t in range(STEPS):
            drawn, genes, chances = jax.tree.map(lambda a, t=t: a[t], numbers)
            values = np.array([f(x) for x in population])
            following = population.copy()
            for i in range(size if t > 0 else 0):  # the first update evaluates the population
                chosen: list[int] = []
                for r in drawn:
                    free = [m for m in range(size) if m != i and m not in chosen]
                    chosen.append(free[r[i]])
                r1, r2, r3 = (population[m] for m in chosen)
                best = population[np.argmin(values)]
                v = r1 + 0.6 * (r2 - r3) if strategy == "rand/1/bin" else best + 0.6 * (r1 - r2)
                crosses = (chances[i] < 0.4) | (np.arange(3) == genes[i])
                u = np.where(crosses, v, population[i])
                if f(u) <= values[i]:
                    following[i] = u
            population = following
            values = [f(x) for x in population]
            close(states.population[t], population)
            close(states.values[t], values)
            close(points[t], population[np.argmin(values)])
            assert states.evaluations.values[t] == size * (1 + reevaluate) * (t + 1)
        assert f(points[-1]) < f(points[0])


@pytest.mark.usefixtures("float64")
class TestStatistics:
    def test_openai_es_estimates_the_gradient_of_a_quadratic(self) -> None:
        """Each pair gives (g.e) e: its mean is g, and its squared error has the mean (n + 1) |g|^2."""
        a, x = jnp.array([1.0, 4.0, 9.0, 2.0]), jnp.array([1.0, -2.0, 0.5, 1.0])
        pairs, seeds = 10, 400

        def estimate(seed: jax.Array) -> jax.Array:
            optimizer = fn.optim.openai_es(1.0, 0.3, 2 * pairs, ranks=False, seed=seed)
            return -optimizer.update(None, optimizer.init(x), x, value_fn=lambda x: jnp.sum(a * x**2))[0]

        g = 2 * a * x
        errors = np.asarray(jax.jit(jax.vmap(estimate))(jnp.arange(seeds)) - g[None])
        expected = 5 * np.sum(g**2) / pairs
        np.testing.assert_allclose(np.mean(np.sum(errors**2, axis=1)), expected, rtol=0.15)
        assert np.linalg.norm(np.mean(errors, axis=0)) < 3 * np.sqrt(expected / seeds)

    def test_one_child_in_five_succeeds(self) -> None:
        """On a sphere, for any first sigma, once it has had time to adapt."""

        def run(sigma: jax.Array) -> Any:
            optimizer, x = fn.optim.one_plus_one_es(sigma, damping=1.5), jnp.ones(20)

            def step(carry: Any, _: None) -> Any:
                x, state = carry
                updates, state = optimizer.update(None, state, x, value_fn=lambda x: jnp.sum(x**2))
                return (x + updates, state), (state.successes, state.sigma, jnp.linalg.norm(x))

            return jax.lax.scan(step, (x, optimizer.init(x)), length=1000)[1]

        successes, sigma, distance = jax.jit(jax.vmap(run))(jnp.array([1e-4, 1.0, 1e4]))
        for i in range(3):
            assert 0.15 < (successes[i, -1] - successes[i, 199]) / 800 < 0.22
            # sigma is about 1.2 distance / n, where progress on a sphere is fastest
            ratio = np.exp(np.mean(np.log(20 * sigma[i, 200:] / distance[i, 200:])))
            assert 0.6 < ratio < 2.5

    @pytest.mark.slow
    def test_differential_evolution_finds_the_optimum_of_rastrigin_that_scipy_finds(self) -> None:
        def rastrigin(x: Any, xp: Any = jnp) -> Any:
            return 20 + xp.sum(x**2 - 10 * xp.cos(2 * xp.pi * x))

        optimizer, x = fn.optim.differential_evolution(20, sigma=2.0), jnp.array([2.9, -3.1])

        def step(carry: Any, _: None) -> Any:
            x, state = carry
            updates, state = optimizer.update(None, state, x, value_fn=rastrigin)
            return (x + updates, state), None

        (end, _), _ = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), length=150))(x)
        theirs = scipy_differential_evolution(partial(rastrigin, xp=np), [(-5, 5)] * 2, seed=0)
        np.testing.assert_allclose(end, theirs.x, atol=1e-6)
        assert rastrigin(end) <= theirs.fun + 1e-9


@pytest.mark.parametrize("name", ALL)
class TestAll:
    def test_the_gradient_is_not_read(self, name: str) -> None:
        """No output depends on it, so a compiler drops the backward pass."""
        optimizer, x = ALL[name](), jnp.array([1.0, -0.5])

        def update(grads: Any, state: Any) -> Any:
            value_fn = lambda x: jnp.sum(x**2)  # noqa: E731
            return optimizer.update(grads, state, x, value_fn=value_fn, grad=grads, value=1.25)

        jaxpr = jax.make_jaxpr(update)(x, optimizer.init(x)).jaxpr
        assert not any(v is jaxpr.invars[0] for eqn in jaxpr.eqns for v in eqn.invars)
        assert all(v is not jaxpr.invars[0] for v in jaxpr.outvars)

    def test_a_value_that_is_not_finite_ranks_last(self, name: str) -> None:
        """No point is taken from the half space where the value is NaN, inf or -inf. Seeds are mapped, too."""
        x = jnp.array([0.5, -0.5])

        def run(bad: jax.Array, seed: jax.Array) -> Any:
            optimizer = ALL[name]() if name == "nelder_mead" else ALL[name](seed=seed)

            def step(carry: Any, _: None) -> Any:
                x, state = carry
                value_fn = lambda x: jnp.where(x[0] < 0.4, bad, jnp.sum((x + 1) ** 2))  # noqa: E731
                updates, state = optimizer.update(None, state, x, value_fn=value_fn)
                return (x + updates, state), x + updates

            return jax.lax.scan(step, (x, optimizer.init(x)), length=20)[1]

        path = jax.jit(jax.vmap(run))(
            jnp.array([jnp.nan, jnp.inf, -jnp.inf, jnp.nan]), jnp.array([2, 2, 2, 3])
        )
        chex.assert_tree_all_finite(path)
        np.testing.assert_array_equal(path[1], path[0])
        np.testing.assert_array_equal(path[2], path[0])
        assert np.any(path[3] != path[0]) == (name != "nelder_mead")
        if name not in ("openai_es", "cma_es"):  # their mean is no candidate
            assert np.all(path[:, :, 0] >= 0.4 - 1e-6)
            assert np.any(path[0, -1] != x)

    @pytest.mark.parametrize(
        "params", [{}, jnp.zeros((0, 3)), (jnp.ones(2, jnp.bfloat16), None, jnp.ones(1))]
    )
    def test_odd_trees(self, name: str, params: Any) -> None:
        optimizer = ALL[name]()

        def update(params: Any) -> Any:
            def value_fn(p: Any) -> jax.Array:
                return sum((jnp.sum(a**2).astype(jnp.float32) for a in jax.tree.leaves(p)), jnp.float32(0))

            return optimizer.update(None, optimizer.init(params), params, value_fn=value_fn)

        updates, _ = jax.eval_shape(update, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_the_state_is_stable_where_float64_is_enabled(self, name: str, dtype: Any) -> None:
        optimizer, x = ALL[name](), jax.ShapeDtypeStruct((3,), dtype)
        state = jax.eval_shape(optimizer.init, x)

        def update(x: Any, state: Any) -> Any:
            return optimizer.update(None, state, x, value_fn=lambda x: jnp.sum(x**2))

        updates, new = jax.eval_shape(update, x, state)
        assert (updates.shape, updates.dtype) == (x.shape, x.dtype)
        for after, before in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
            assert (after.shape, after.dtype, after.weak_type) == (
                before.shape,
                before.dtype,
                before.weak_type,
            )

    def test_complex_params_raise(self, name: str) -> None:
        optimizer, x = ALL[name](), jnp.ones(2, jnp.complex64)
        with pytest.raises(
            TypeError, match=rf"{name}: params are complex64\[2\], wanted real floating point"
        ):
            optimizer.update(None, optimizer.init(x), x, value_fn=lambda x: jnp.sum(abs(x)))

    def test_what_is_missing_is_named(self, name: str) -> None:
        optimizer, x = ALL[name](), jnp.ones(2)
        state = optimizer.init(x)
        with pytest.raises(ValueError, match=rf"{name}: update needs params; call optimizer.update"):
            optimizer.update(x, state, value_fn=jnp.sum)
        with pytest.raises(ValueError, match=rf"{name}: update needs params and value_fn; call"):
            optimizer.update(x, state)


@pytest.mark.parametrize("name", ["random_search", "simulated_annealing", "one_plus_one_es"])
def test_the_candidate_is_where_apply_updates_arrives(name: str) -> None:
    """In bfloat16, where params + step is rounded a lot: exactly the new params were evaluated."""
    optimizer = ALL[name](sigma=0.01, seed=3)
    x = jnp.array([1.0, -3.0, 100.0], jnp.bfloat16)
    seen = []

    def value_fn(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x: seen.append(np.asarray(x, np.float32)), x)
        return jnp.sum(x.astype(jnp.float32))

    state, update = optimizer.init(x), jax.jit(partial(optimizer.update, value_fn=value_fn))
    moved = 0
    for _ in range(8):
        updates, state = update(x, state, x)
        jax.effects_barrier()
        y = optax.apply_updates(x, updates)
        assert any(np.array_equal(np.asarray(y, np.float32), point) for point in seen)
        moved += bool(np.any(np.asarray(updates, np.float32) != 0))
        x, seen = y, []
    assert moved


def test_annealing_at_temperature_0_never_climbs_and_uses_the_given_value() -> None:
    optimizer, x = fn.optim.simulated_annealing(0.0, 0.5), jnp.array([1.0])

    def from_value(value: jax.Array) -> Any:
        return optimizer.update(
            None, optimizer.init(x), x, value_fn=lambda x: jnp.sum(x) * 0 + 1, value=value
        )

    updates, state = jax.jit(jax.vmap(from_value))(jnp.array([1.0, 0.5]))
    assert updates[0] != 0
    assert updates[1] == 0
    np.testing.assert_array_equal(state.best_value, [1.0, 0.5])


def test_seeds_are_ints_or_keys() -> None:
    draws = [
        fn.optim.differential_evolution(4, seed=seed).init(jnp.ones(2)).population
        for seed in (7, jnp.int32(7), jax.random.key(7), jax.random.PRNGKey(7), 8)
    ]
    chex.assert_trees_all_equal(*draws[:-1])
    assert np.any(draws[-1] != draws[0])


ERRORS: dict[str, Callable[[], Any]] = {
    r"random_search: sigma=-1, wanted at least 0": lambda: fn.optim.random_search(-1),
    r"random_search: population=0, wanted at least 1": lambda: fn.optim.random_search(population=0),
    r"simulated_annealing: temperature=-1, wanted": lambda: fn.optim.simulated_annealing(-1),
    r"simulated_annealing: sigma=-1, wanted": lambda: fn.optim.simulated_annealing(1, -1),
    r"one_plus_one_es: sigma=-1, wanted": lambda: fn.optim.one_plus_one_es(-1),
    r"one_plus_one_es: damping=-1, wanted": lambda: fn.optim.one_plus_one_es(damping=-1),
    r"one_plus_one_es: target=1, wanted in \[0, 1\)": lambda: fn.optim.one_plus_one_es(target=1),
    r"openai_es: learning_rate=-1, wanted": lambda: fn.optim.openai_es(-1),
    r"openai_es: sigma=-1, wanted": lambda: fn.optim.openai_es(1, -1),
    r"openai_es: population=5, wanted an even number": lambda: fn.optim.openai_es(1, population=5),
    r"genetic_algorithm: sigma=-1, wanted": lambda: fn.optim.genetic_algorithm(-1),
    r"genetic_algorithm: spread=-1, wanted": lambda: fn.optim.genetic_algorithm(spread=-1),
    r"genetic_algorithm: tournament=0, wanted": lambda: fn.optim.genetic_algorithm(tournament=0),
    r"genetic_algorithm: elite=50, wanted 0 to 49": lambda: fn.optim.genetic_algorithm(elite=50),
    r"genetic_algorithm: mutation=1.1, wanted in \[0, 1\]": lambda: fn.optim.genetic_algorithm(mutation=1.1),
    r"genetic_algorithm: crossover=-1, wanted in": lambda: fn.optim.genetic_algorithm(crossover=-1),
    r"differential_evolution: population=3, wanted at least 4": lambda: fn.optim.differential_evolution(3),
    r"differential_evolution: weight=-1, wanted": lambda: fn.optim.differential_evolution(weight=-1),
    r"differential_evolution: crossover=2, wanted": lambda: fn.optim.differential_evolution(crossover=2),
    r"differential_evolution: sigma=-1, wanted": lambda: fn.optim.differential_evolution(sigma=-1),
    r"strategy='best', wanted one of 'rand/1/bin'": lambda: fn.optim.differential_evolution(strategy="best"),
}


@pytest.mark.parametrize("message", ERRORS)
def test_bad_arguments(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()
