"""sam and lookahead beside optax's and their equations in NumPy, and around and inside other transformations."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.optim import LookaheadParams, lookahead, sam
from tests.arrays import at, close, each, equal


def params_of(dtype: Any = np.float32) -> dict[str, jax.Array]:
    tree = {"w": [[1.0, -2.0], [0.5, 3.0]], "b": [0.3, 0.0]}
    return {name: jnp.array(np.array(a, dtype)) for name, a in tree.items()}


def loss(params: Any) -> jax.Array:
    """Not quadratic, so that the point of the second gradient matters. The minimum is where all params are 0.5."""
    moved = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)]) - 0.5
    return jnp.mean(jnp.cosh(moved)) + jnp.square(jnp.sum(moved))


def run(optimizer: Any, params: Any, steps: int = 8, **extra: Any) -> Any:
    """The params after each step, and the last state."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        grads = jax.grad(loss)(params.fast if isinstance(params, LookaheadParams) else params)
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return path, state


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), tree)


# ------------------------------------------------------------------------------------------------------------- sam


def sam_of_optax(optimizer: Any, rho: Any, sync_period: int) -> Any:
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    return optax.contrib.sam(optimizer, ascent, sync_period, opaque_mode=True)


class TestSam:
    @pytest.mark.parametrize("sync_period", [2, 3])
    def test_equals_optax(self, sync_period: int) -> None:
        """Bit for bit, compiled apart."""
        params = params_of()
        ours, theirs = (
            jax.jit(lambda p, o=o, e=e: run(o, p, **e)[0])(params)
            for o, e in (
                (sam(fn.optim.adam(0.1), 0.3, sync_period=sync_period), {"value_fn": loss}),
                (
                    sam_of_optax(optax.adam(0.1), 0.3, sync_period),
                    {"grad_fn": lambda params, i: jax.grad(loss)(params)},
                ),
            )
        )
        equal(ours, theirs)

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("eta", [None, 0.0, 0.01])
    def test_equals_the_equation(self, eta: float | None) -> None:
        """Of L = theta^T A theta / 2, whose gradient is A theta; eta None is plain SAM."""
        rng = np.random.default_rng(0)
        a, theta = rng.normal(size=(4, 4)), rng.normal(size=4)
        a = a @ a.T
        adaptive: dict[str, Any] = {} if eta is None else {"adaptive": True, "eta": eta}
        optimizer = sam(fn.optim.sgd(0.1), 0.5, **adaptive)
        g = a @ theta
        t = np.ones(4) if eta is None else np.abs(theta) + eta
        epsilon = 0.5 * t**2 * g / np.linalg.norm(t * g)

        def value(params: Any) -> jax.Array:  # in two leaves: the length is that of both
            theta = jnp.concatenate(params)
            return theta @ jnp.asarray(a) @ theta / 2

        params = (jnp.asarray(theta[:1]), jnp.asarray(theta[1:]))
        updates, _ = optimizer.update(jax.grad(value)(params), optimizer.init(params), params, value_fn=value)
        np.testing.assert_allclose(np.concatenate(updates), -0.1 * a @ (theta + epsilon), rtol=1e-12)

    def test_adaptive_does_not_change_with_the_scale_of_params(self) -> None:
        scale, params = jnp.array([10.0, 0.1]), jnp.array([1.0, -2.0])
        optimizer = sam(fn.optim.sgd(1.0), 0.5, adaptive=True, eta=0.0)

        def step(value: Any, params: jax.Array) -> jax.Array:
            return optimizer.update(jax.grad(value)(params), optimizer.init(params), params, value_fn=value)[
                0
            ]

        plain, scaled = step(loss, params), step(lambda p: loss(scale * p), params / scale)
        close(scaled, scale * plain, rtol=1e-5)

    def test_counts_what_it_asks_for(self) -> None:
        params, calls = params_of(), []

        def counted(params: Any) -> jax.Array:
            calls.append(1)
            return loss(params)

        for period in (2, 3):
            calls.clear()
            optimizer = sam(fn.optim.sgd(0.1), sync_period=period)
            state = optimizer.init(params)
            for _ in range(3):
                _, state = optimizer.update(params, state, params, value_fn=counted)
            assert len(calls) == 3 * (period - 1)
            assert jax.tree.map(int, state.evaluations) == (3 * period, 3 * period, 0)

    def test_gradient_of_zero(self) -> None:
        params = jax.tree.map(lambda p: jnp.full_like(p, 0.5), params_of())
        optimizer = sam(fn.optim.sgd(0.1))
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params, value_fn=loss)
        equal(updates, jax.tree.map(jnp.zeros_like, params))

    @pytest.mark.parametrize("adaptive", [False, True])
    def test_arrays_for_numbers_and_stable_dtypes(self, adaptive: bool) -> None:
        """rho, eta and the rate in float32, mapped over, around params in bfloat16."""
        params = params_of(jnp.bfloat16)

        def end(rho: jax.Array) -> Any:
            optimizer = sam(fn.optim.momentum(rho / 5), rho, adaptive=adaptive, eta=rho / 10)
            state = optimizer.init(params)
            path, new_state = run(optimizer, params, 3, value_fn=loss)
            assert avals(new_state) == avals(state)
            return path

        mapped = jax.jit(jax.vmap(end))(np.array([0.0, 0.5], np.float32))
        chex.assert_trees_all_equal_dtypes(mapped, params)
        chex.assert_tree_all_finite(mapped)
        w = np.asarray(mapped["w"])
        assert np.all(w[0] == np.asarray(params["w"]))  # a rate of 0
        assert np.any(w[1] != w[0])

    def test_no_second_compile(self) -> None:
        traces, optimizer, params = [], sam(fn.optim.adam(0.1)), params_of()

        @jax.jit
        def step(params: Any, state: Any) -> Any:
            traces.append(1)
            updates, state = optimizer.update(params, state, params, value_fn=loss, nobody_knows=3)
            return optax.apply_updates(params, updates), state

        now = (params, optimizer.init(params))
        for _ in range(3):
            now = step(*now)
        assert len(traces) == 1

    def test_inside_and_around_optax(self) -> None:
        params, state_of = params_of(), sam(optax.sgd(0.1), 0.2)
        plain, *others = jax.jit(
            lambda p: [
                run(o, p, 4, value_fn=loss)[0]
                for o in (
                    state_of,
                    optax.chain(state_of, optax.identity()),
                    optax.apply_if_finite(state_of, 3),
                    optax.inject_hyperparams(sam, static_args="sync_period")(optax.sgd(0.1), rho=0.2),
                    sam(optax.chain(optax.scale(0.5), optax.sgd(0.2)), 0.2),
                )
            ]
        )(params)
        for other in others:
            close(other, plain, rtol=1e-5)
        around_adam = sam(optax.adam(0.1))
        moved = optax.tree.map_params(around_adam, lambda p: p + 1, around_adam.init(params))
        assert sum(float(np.sum(leaf)) for leaf in jax.tree.leaves(moved)) == 12  # m and v, 6 numbers each

    @pytest.mark.parametrize("params", [{}, {"w": jnp.zeros((0, 3))}, (jnp.ones(2), None)])
    def test_odd_trees(self, params: Any) -> None:
        def value(params: Any) -> jax.Array:
            return sum((jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params)), jnp.zeros([]))

        for adaptive in (False, True):
            optimizer = sam(fn.optim.sgd(0.1), adaptive=adaptive)
            updates, _ = optimizer.update(params, optimizer.init(params), params, value_fn=value)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
            chex.assert_tree_all_finite(updates)

    def test_errors(self) -> None:
        params, optimizer = params_of(), sam(fn.optim.sgd(0.1))
        state = optimizer.init(params)
        with pytest.raises(
            ValueError, match=r"sam: value_fn is missing.*write update\(grads, state, params, value_fn="
        ):
            optimizer.update(params, state, params)
        with pytest.raises(ValueError, match="sam: the second gradient needs the params"):
            optimizer.update(params, state, value_fn=loss)
        with pytest.raises(TypeError, match=r"sam: params are complex64\[2\], wanted real ones"):
            optimizer.update(1j * params["b"], state, 1j * params["b"], value_fn=loss)
        with pytest.raises(ValueError, match="sam: rho=-1, wanted at least 0"):
            sam(fn.optim.sgd(0.1), -1)
        with pytest.raises(ValueError, match="sam: eta=-1, wanted at least 0"):
            sam(fn.optim.sgd(0.1), eta=-1)
        with pytest.raises(ValueError, match="sam: sync_period=1, wanted at least 2"):
            sam(fn.optim.sgd(0.1), sync_period=1)
        with pytest.raises(TypeError, match=r"sam: sync_period=2\.5, wanted a positive int"):
            sam(fn.optim.sgd(0.1), sync_period=2.5)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- lookahead


class TestLookahead:
    @pytest.mark.parametrize(
        ("make", "dtype", "arguments"),
        [
            (lambda m: m.adam(0.1), jnp.float32, (3, 0.5, False)),
            (lambda m: m.adam(0.1), jnp.float32, (3, 0.8, True)),
            (lambda m: m.sgd(0.1), jnp.bfloat16, (1, 0.3, False)),
        ],
    )
    def test_equals_optax(self, make: Any, dtype: Any, arguments: tuple[Any, ...]) -> None:
        """Bit for bit, compiled apart."""
        params = LookaheadParams.init_synced(params_of(dtype))
        ours = jax.jit(lambda p: run(lookahead(make(fn.optim), *arguments), p)[0])(params)
        theirs = jax.jit(lambda p: run(optax.lookahead(make(optax), *arguments), p)[0])(params)
        assert type(ours) is optax.LookaheadParams
        equal(ours, theirs)
        chex.assert_trees_all_equal_dtypes(ours, params)

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("reset_state", [False, True])
    def test_equals_the_two_loops_of_the_paper(self, reset_state: bool) -> None:
        """Around the heavy ball, on L = sum h theta^2 / 2, 3 rounds of 4 steps."""
        h, theta = np.array([1.0, 5.0]), np.array([1.0, -2.0])
        optimizer = lookahead(fn.optim.momentum(0.1, 0.9), 4, 0.6, reset_state)
        params = LookaheadParams.init_synced(jnp.asarray(theta))
        state, phi, v = optimizer.init(params), theta, 0
        update = jax.jit(optimizer.update)
        for _ in range(3):
            v = 0 if reset_state else v
            for _ in range(4):
                updates, state = update(h * params.fast, state, params)
                params = optax.apply_updates(params, updates)
                v = 0.9 * v + h * theta
                theta = theta - 0.1 * v
            phi = phi + 0.6 * (theta - phi)
            theta = phi
            np.testing.assert_allclose(params.slow, phi, rtol=1e-12)
            np.testing.assert_allclose(params.fast, phi, rtol=1e-12)

    def test_plain_params_take_the_same_steps(self) -> None:
        start = params_of()
        optimizer = lookahead(fn.optim.adam(0.1), 3, 0.5)
        pair = LookaheadParams.init_synced(start)
        (paired, _), (path, state) = jax.jit(lambda pair, p: (run(optimizer, pair), run(optimizer, p)))(
            pair, start
        )
        close(path, paired.fast, rtol=1e-6)
        close(state.slow, at(paired.slow, -1), rtol=1e-6)
        assert avals(state) == avals(optimizer.init(start))
        close(state.slow, at(path, 5), rtol=1e-6)  # 8 steps: synced after 6

    def test_arrays_for_numbers_and_stable_dtypes(self) -> None:
        """k and alpha mapped over, around params in bfloat16: each row is the run with its numbers."""
        start = LookaheadParams.init_synced(params_of(jnp.bfloat16))

        def path(k: Any, alpha: Any) -> Any:
            optimizer = lookahead(fn.optim.momentum(0.1), k, alpha, True)
            path, state = run(optimizer, start, 4)
            assert avals(state) == avals(jax.eval_shape(optimizer.init, start))
            return path

        numbers = ((2, 0.5), (3, 0.25))
        mapped = jax.jit(jax.vmap(path))(np.array([2, 3]), np.array([0.5, 0.25], np.float32))
        chex.assert_trees_all_equal_dtypes(mapped, start)
        alone = jax.jit(lambda: [path(*pair) for pair in numbers])()
        for i, one in enumerate(alone):
            close(at(mapped, i), each(np.asarray, one), rtol=2e-2)

    def test_inside_and_around_optax(self) -> None:
        start = params_of()
        plain, *others = jax.jit(
            lambda p: [
                run(o, p, 5)[0]
                for o in (
                    lookahead(fn.optim.sgd(0.1), 2, 0.5),
                    optax.chain(optax.identity(), lookahead(optax.sgd(0.1), 2, 0.5)),
                    optax.apply_if_finite(lookahead(fn.optim.sgd(0.1), 2, 0.5), 3),
                    optax.inject_hyperparams(lookahead)(optax.sgd(0.1), 2, 0.5),
                )
            ]
        )(start)
        for other in others:
            close(other, plain, rtol=1e-5)
        for params, copies in (
            (LookaheadParams.init_synced(start), 2),
            (start, 3),
        ):  # m, v and phi, 6 numbers each
            optimizer = lookahead(optax.adam(0.1), 2, 0.5)
            state = optimizer.init(params)
            moved = optax.tree.map_params(optimizer, lambda p: p + 1, state)
            grown = sum(jax.tree.leaves(each(lambda a, b: float(np.sum(a - b)), moved, state)))
            assert grown == pytest.approx(6 * copies)

    @pytest.mark.parametrize("params", [{}, jnp.zeros((0, 3)), (jnp.ones(2), None)])
    def test_odd_trees(self, params: Any) -> None:
        optimizer = lookahead(fn.optim.adam(0.1), 2, 0.5)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)

    def test_errors(self) -> None:
        sgd, params = fn.optim.sgd(0.1), params_of()
        optimizer = lookahead(sgd, 2, 0.5)
        with pytest.raises(ValueError, match="lookahead: sync_period=0, wanted at least 1"):
            lookahead(sgd, 0, 0.5)
        with pytest.raises(TypeError, match=r"lookahead: sync_period=2\.5, wanted a whole number"):
            lookahead(sgd, 2.5, 0.5)
        with pytest.raises(ValueError, match="lookahead: slow_step_size=-1, wanted at least 0"):
            lookahead(sgd, 2, -1)
        with pytest.raises(ValueError, match="lookahead: the step back needs the params"):
            optimizer.update(params, optimizer.init(params))
        with pytest.raises(ValueError, match="init and update take the same params"):
            optimizer.update(params, optimizer.init(params), LookaheadParams.init_synced(params))


def test_both_in_training() -> None:
    """One around the other in a training step: lookahead passes value_fn on, sam takes its second gradient."""
    net = fn.dense(1)
    optimizer = lookahead(sam(fn.optim.sgd(0.05), 0.01), 2, 0.5)
    step = jax.jit(fn.train.make_step(net, fn.losses.mean_squared_error, optimizer))
    batch = {"x": jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), "y": jnp.array([[1.0], [2.0], [3.0]])}
    key, losses = jax.random.key(0), []
    now = fn.train.start(net, optimizer, key, batch["x"])
    for _ in range(200):
        now, metrics = step(now, batch, key)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 1e-2 * losses[0]
    assert int(now.opt_state.fast_state.evaluations.gradients) == 400
