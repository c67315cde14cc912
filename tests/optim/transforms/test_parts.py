"""Parts of chains beside optax's, step by step, and those that optax does not have beside their formulas."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Lasso

import fnnet as fn
from tests.arrays import at, stack
from tests.arrays import close as trees_close

KEY = jax.random.key(3)
MASK = {"w": True, "b": False, "k": {"u": True, "s": False}}


def multi_steps(every: Any, **arguments: Any) -> optax.GradientTransformation:
    """Adam in optax's wrapper, with an accumulator of the default float dtype unless given."""
    wide = {"accumulator_dtype": jnp.zeros(0).dtype}
    return optax.MultiSteps(optax.adam(0.05), every, **{**wide, **arguments}).gradient_transformation()


def rising(step: Any) -> Any:
    """A schedule whose values are small multiples of a power of 2, so that sums are exact."""
    return 0.125 * (1 + step)


# name: (ours, optax's), each a function without arguments. They come before gradient descent.
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "clip": (partial(fn.optim.clip, 0.3), partial(optax.clip, 0.3)),
    "clip_by_global_norm": (
        partial(fn.optim.clip_by_global_norm, 1.5),
        partial(optax.clip_by_global_norm, 1.5),
    ),
    "adaptive_grad_clip": (partial(fn.optim.adaptive_grad_clip, 0.2), partial(optax.adaptive_grad_clip, 0.2)),
    "adaptive_grad_clip, eps": (
        partial(fn.optim.adaptive_grad_clip, 0.2, 1.0),
        partial(optax.adaptive_grad_clip, 0.2, 1.0),
    ),
    "add_noise": (partial(fn.optim.add_noise, 0.01, 0.55, KEY), partial(optax.add_noise, 0.01, 0.55, KEY)),
    "add_noise, seed": (partial(fn.optim.add_noise, 0.3, 1, 5), partial(optax.add_noise, 0.3, 1, 5)),
    "add_decayed_weights": (
        partial(fn.optim.add_decayed_weights, 0.1),
        partial(optax.add_decayed_weights, 0.1),
    ),
    "add_decayed_weights, scheduled": (
        partial(fn.optim.add_decayed_weights, rising, lambda p: jax.tree.map(lambda a: a.ndim > 1, p)),
        partial(optax.add_decayed_weights, rising, lambda p: jax.tree.map(lambda a: a.ndim > 1, p)),
    ),
    "add_decayed_weights, masked": (
        partial(fn.optim.add_decayed_weights, -0.1, MASK),
        partial(optax.add_decayed_weights, -0.1, MASK),
    ),
    "reduce_on_plateau": (
        partial(fn.optim.reduce_on_plateau, 0.5, 1),
        partial(optax.contrib.reduce_on_plateau, 0.5, 1),
    ),
    "reduce_on_plateau, all": (
        partial(fn.optim.reduce_on_plateau, 0.3, 2, 0.01, 0.02, 3, 2, 0.05),
        partial(optax.contrib.reduce_on_plateau, 0.3, 2, 0.01, 0.02, 3, 2, 0.05),
    ),
    "accumulate": (partial(fn.optim.accumulate, fn.optim.adam(0.05), 3), partial(multi_steps, 3)),
    "accumulate, sums, scheduled": (
        partial(fn.optim.accumulate, fn.optim.adam(0.05), lambda step: 1 + step % 3, False),
        partial(multi_steps, lambda step: 1 + step % 3, use_grad_mean=False),
    ),
    "accumulate, in bfloat16": (
        partial(fn.optim.accumulate, fn.optim.adam(0.05), 2, accumulator_dtype=jnp.bfloat16),
        partial(multi_steps, 2, accumulator_dtype=jnp.bfloat16),
    ),
}


def draw(seed: int, dtype: Any = np.float32, *leading: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {"w": (3, 2), "b": (2,), "k": {"u": (2, 1, 2, 3), "s": ()}}
    normal = lambda shape: np.asarray(rng.normal(size=leading + shape)).astype(dtype)  # noqa: E731
    return jax.tree.map(normal, shapes, is_leaf=lambda node: isinstance(node, tuple))


def path(make: Callable[[], Any], params: Any, all_grads: Any) -> Any:
    """The updates and params of each step, one program. The loss falls, stays, and rises a little."""
    optimizer = optax.with_extra_args_support(make())
    step = jnp.arange(len(jax.tree.leaves(all_grads)[0]))
    losses = jnp.maximum(3.0 - 0.5 * step, 1.0) + 0.01 * jnp.sin(5.0 * step)

    def one(carry: Any, seen: Any) -> Any:
        (params, state), (grads, value) = carry, seen
        updates, state = optimizer.update(grads, state, params, value=value)
        params = optax.apply_updates(
            params, jax.tree.map(lambda u: u * jnp.asarray(-0.125, u.dtype), updates)
        )
        return (params, state), (updates, params)

    return jax.lax.scan(one, (params, optimizer.init(params)), (all_grads, losses))[1]


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
def test_equal_to_optax_at_every_step(kind: str) -> None:
    """Bit for bit, but for accumulate; other arguments than the common ones in float32 only."""
    names = [name for name in PAIRS if kind == "float32" or "," not in name]
    with jax.enable_x64(kind == "float64"):
        params, grads = draw(0, jnp.dtype(kind)), draw(1, jnp.dtype(kind), 24)
        if kind != "float32":
            params, grads = ({name: tree[name] for name in "wb"} for tree in (params, grads))
        # Large gradients and small ones in turn, and none at step 7.
        size = np.where(np.arange(24) == 7, 0, 0.3 + np.arange(24) % 4).astype(jnp.dtype(kind))
        grads = jax.tree.map(lambda g: g * size.reshape(-1, *[1] * (g.ndim - 1)), grads)
        ours, theirs = (
            jax.jit(lambda p, g, side=side: {n: path(PAIRS[n][side], p, g) for n in names})(params, grads)
            for side in (0, 1)
        )
        for name in names:
            # The optimizer inside is compiled as a branch here, and not in optax.
            roundings = 16 * float(jnp.finfo(kind).eps) if "accumulate" in name else 0
            trees_close(ours[name], theirs[name], rtol=roundings, atol=0.05 * roundings)
            assert not np.array_equal(ours[name][0]["w"], grads["w"]), f"{name} changed nothing"


# Every part of a chain and every wrapper, once.
PARTS: dict[str, Callable[[], Any]] = {
    **{name: ours for name, (ours, _) in PAIRS.items() if "," not in name},
    "clip_by_norm": partial(fn.optim.clip_by_norm, 0.5),
    "proximal_l1": partial(fn.optim.proximal_l1, 0.1, 0.1),
    "ema_params": partial(fn.optim.ema_params, 0.9),
    "mean_params": fn.optim.mean_params,
}


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), tree)


@pytest.mark.parametrize("name", PARTS)
class TestParts:
    def test_type_and_dtypes(self, name: str) -> None:
        for dtype in (jnp.float32, jnp.bfloat16):
            optimizer, params = PARTS[name](), draw(0, dtype)
            assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
            state = jax.eval_shape(optimizer.init, params)
            update = partial(optimizer.update, value=jnp.float32(1.0), nobody_knows=3)
            updates, new_state = jax.eval_shape(update, params, state, params)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
            assert avals(new_state) == avals(state)

    @pytest.mark.parametrize("params", [{}, (jnp.zeros((0, 3)), None), jnp.ones(2)])
    def test_odd_trees(self, name: str, params: Any) -> None:
        optimizer = PARTS[name]()

        def both(params: Any) -> Any:
            return optimizer.update(params, optimizer.init(params), params, value=jnp.float32(1.0))[0]

        updates = jax.eval_shape(both, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)

    def test_map_params(self, name: str) -> None:
        """optax finds the copies of the params in the state."""
        optimizer = PARTS[name]()
        state = optimizer.init(draw(0))
        moved = optax.tree.map_params(optimizer, lambda p: p + 1, state)
        assert jax.tree.structure(moved) == jax.tree.structure(state)


# A number, or several, as a tracer: (maker of one argument, that number)
NUMBERS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "clip": (fn.optim.clip, 0.3),
    "clip_by_norm": (fn.optim.clip_by_norm, 0.3),
    "clip_by_global_norm": (lambda x: fn.optim.clip_by_global_norm(x, eps=x), 0.3),
    "adaptive_grad_clip": (lambda x: fn.optim.adaptive_grad_clip(x, x), 0.2),
    "add_noise": (lambda x: fn.optim.add_noise(x, x, 0), 0.1),
    "add_decayed_weights": (fn.optim.add_decayed_weights, 0.1),
    "proximal_l1": (lambda x: fn.optim.proximal_l1(x, x), 0.3),
    "reduce_on_plateau": (
        lambda x: fn.optim.reduce_on_plateau(x, 1, x * 0.01, x * 0.01, min_scale=x * 0.01),
        0.5,
    ),
    "accumulate": (lambda x: fn.optim.accumulate(fn.optim.sgd(x), jnp.int32(10 * x)), 0.2),
    "ema_params": (lambda x: fn.optim.ema_params(x, start=jnp.int32(10 * x)), 0.2),
}


def test_numbers_may_be_tracers() -> None:
    def ends(numbers: dict[str, Any], dtype: Any = jnp.float32) -> Any:
        params = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]], dtype)}
        grads = {"w": jnp.broadcast_to(jnp.cos(params["w"]), (5, 2, 2))}
        return {n: path(lambda n=n: NUMBERS[n][0](numbers[n]), params, grads)[1]["w"] for n in NUMBERS}

    numbers = {name: jnp.float32(number) for name, (_, number) in NUMBERS.items()}
    mapped = jax.jit(jax.vmap(ends))(stack(numbers, numbers))
    plain = jax.jit(lambda: ends({name: number for name, (_, number) in NUMBERS.items()}))()
    for i in range(2):
        trees_close(at(mapped, i), plain, rtol=1e-5, atol=1e-6)
    # Numbers in float32 over params in bfloat16: all is a scan's carry nevertheless.
    half = jax.eval_shape(partial(ends, dtype=jnp.bfloat16), numbers)
    assert {a.dtype for a in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}


def test_arguments_are_those_of_optax() -> None:
    ours, theirs = (
        inspect.signature(f).parameters for f in (fn.optim.reduce_on_plateau, optax.contrib.reduce_on_plateau)
    )
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


def apply(part: Any, grads: Any, params: Any = None, **extra: Any) -> Any:
    """The first update, without jit."""
    return part.update(grads, part.init(grads if params is None else params), params, **extra)[0]


close = np.testing.assert_allclose


class TestClip:
    def test_by_norm_is_by_global_norm_of_each(self) -> None:
        grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[0.1, 0.2]]), "c": jnp.array(-7.0)}

        ours = apply(fn.optim.clip_by_norm(0.7), grads)
        theirs = {name: apply(optax.clip_by_global_norm(0.7), g) for name, g in grads.items()}
        chex.assert_trees_all_equal(ours, theirs)
        close(ours["a"], [0.42, 0.56], rtol=1e-6)

    @pytest.mark.usefixtures("float64")
    def test_eps_of_pytorch(self) -> None:
        """Its norm ends at c |g| / (|g| + 1e-6), and one of just c is shortened; ours ends at c, and is left."""
        long, just = jnp.array([3.0, 4.0]), jnp.array([0.6, 0.8])
        ours, pytorch = fn.optim.clip_by_global_norm(1.0), fn.optim.clip_by_global_norm(1.0, eps=1e-6)
        close(jnp.linalg.norm(apply(ours, long)), 1, rtol=1e-15)
        close(jnp.linalg.norm(apply(pytorch, long)), 5 / 5.000001, rtol=1e-15)
        close(apply(pytorch, just), np.array([0.6, 0.8]) / 1.000001, rtol=1e-15)
        close(apply(ours, just), just, rtol=1e-15)
        np.testing.assert_array_equal(apply(pytorch, just * 0.9), just * 0.9)

    def test_nothing_is_clipped_to_nothing(self) -> None:
        """A bound of 0 and a gradient of 0 give 0, where optax has 0 / 0."""
        for part in (fn.optim.clip(0.0), fn.optim.clip_by_norm(0.0), fn.optim.clip_by_global_norm(0.0)):
            np.testing.assert_array_equal(apply(part, jnp.zeros(2)), np.zeros(2))
            np.testing.assert_array_equal(apply(part, jnp.array([1.0, -2.0])), np.zeros(2))

    def test_complex_gradients(self) -> None:
        grads = jnp.array([3.0 + 4.0j, -12.0j])
        for make in ("clip_by_global_norm", "adaptive_grad_clip"):
            ours, theirs = (apply(getattr(m, make)(0.5), grads, grads / 7) for m in (fn.optim, optax))
            close(ours, theirs, rtol=1e-6)
        close(apply(fn.optim.clip_by_norm(6.5), grads), grads / 2, rtol=1e-6)

    @pytest.mark.parametrize(
        "shape", [(3,), (1, 4), (3, 2), (2, 3, 2), (2, 2, 3, 2), (2, 1, 2, 3, 2), (2,) * 6]
    )
    def test_units(self, shape: tuple[int, ...]) -> None:
        """Every unit with a gradient above lambda |w| ends there, in NumPy."""
        rng = np.random.default_rng(1)
        g, w = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
        axis = {1: 0, 2: 0, 3: 0, 4: (0, 1, 2), 5: (0, 1, 2, 3), 6: (0, 1)}[len(shape)]
        axis = None if shape == (1, 4) else axis
        part = fn.optim.adaptive_grad_clip(0.3, axis=axis if len(shape) == 6 else None)
        size, limit = (np.sqrt(np.sum(x**2, axis=axis, keepdims=True)) for x in (g, w))
        close(apply(part, g, w), g * np.minimum(1, 0.3 * limit / size), rtol=1e-5)


class TestNoise:
    def test_its_variance_decays(self) -> None:
        """The variance of the noise at step t is eta / t^gamma."""
        part, zeros = fn.optim.add_noise(0.3, 0.55, 7), jnp.zeros(20_000)

        def one(state: Any, _: None) -> Any:
            updates, state = part.update(zeros, state)
            return state, jnp.mean(jnp.square(updates))

        variances = jax.jit(lambda: jax.lax.scan(one, part.init(zeros), length=6)[1])()
        # The mean of 20,000 squares has a standard deviation of 1 %.
        close(variances, 0.3 / np.arange(1, 7) ** 0.55, rtol=0.04)

    def test_two_leaves_get_different_noise(self) -> None:
        updates = apply(fn.optim.add_noise(1.0, 0.55, seed=0), {"a": jnp.zeros(4), "b": jnp.zeros(4)})
        assert np.all(np.asarray(updates["a"]) != np.asarray(updates["b"]))

    def test_keys_and_seeds_are_one(self) -> None:
        seeded, keyed = (apply(fn.optim.add_noise(1.0, 0.5, k), jnp.zeros(3)) for k in (4, jax.random.key(4)))
        np.testing.assert_array_equal(seeded, keyed)


def test_no_decay_is_no_change() -> None:
    part, grads = fn.optim.add_decayed_weights(), jnp.array([1.0, -2.0])
    np.testing.assert_array_equal(apply(part, grads, grads), grads)


def test_decay_in_front_of_adam_is_not_that_behind() -> None:
    """In front, Adam scales the decay: its first step is alpha whatever lambda is. Behind, it is alpha lambda theta."""
    params, alpha = jnp.array([2.0, -4.0]), 0.1
    front = optax.chain(fn.optim.add_decayed_weights(0.5), fn.optim.adam(alpha, eps=0.0))
    behind = optax.chain(fn.optim.adam(alpha), fn.optim.add_decayed_weights(-alpha * 0.5))
    decoupled = fn.optim.adamw(alpha, weight_decay=0.5)
    close(apply(front, jnp.zeros(2), params), [-0.1, 0.1], rtol=1e-5)
    close(apply(behind, jnp.zeros(2), params), [-0.1, 0.2], rtol=1e-6)
    close(apply(decoupled, jnp.zeros(2), params), [-0.1, 0.2], rtol=1e-6)


class TestAccumulate:
    def test_k_batches_are_one(self) -> None:
        """With sgd, after each k-th batch, as if the k batches were one; nothing moves in between."""
        rng = np.random.default_rng(0)
        grads = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
        part = fn.optim.accumulate(fn.optim.momentum(0.1), 3)

        def one(carry: Any, g: Any) -> Any:
            updates, state = part.update(g, carry)
            return state, (updates, state.step, state.batch)

        updates, steps, batches = jax.jit(lambda: jax.lax.scan(one, part.init(jnp.zeros(4)), grads)[1])()
        first, second = (np.asarray(g, np.float64).mean(axis=0) for g in (grads[:3], grads[3:]))
        wanted = np.zeros((6, 4))
        wanted[2], wanted[5] = -0.1 * first, -0.1 * (0.9 * first + second)
        close(updates, wanted, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(steps, [0, 0, 1, 1, 1, 2])
        np.testing.assert_array_equal(batches, [1, 2, 0, 1, 2, 0])

    def test_the_optimizer_runs_once_in_k(self) -> None:
        """It is not run in between with its result discarded, which would waste the evaluations of a line search."""
        runs: list[int] = []

        def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            jax.debug.callback(lambda: runs.append(1))
            return jax.tree.map(lambda g: -extra["value"] * g, grads), state

        counted = optax.GradientTransformationExtraArgs(lambda params: (), update)
        part = fn.optim.accumulate(counted, 2)

        def one(state: Any, value: Any) -> Any:
            updates, state = part.update(jnp.ones(1), state, jnp.ones(1), value=value)
            return state, updates[0]

        updates = jax.jit(lambda: jax.lax.scan(one, part.init(jnp.ones(1)), jnp.arange(6.0))[1])()
        jax.effects_barrier()
        np.testing.assert_array_equal(updates, [0, -1, 0, -3, 0, -5])  # the value is the k-th batch's
        assert len(runs) == 3

    @pytest.mark.usefixtures("float64")
    def test_float64_stays(self) -> None:
        """optax accumulates in float32 by default."""
        grads = jnp.array([1 / 3])
        means = []
        for part in (
            fn.optim.accumulate(fn.optim.sgd(1.0), 2),
            optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation(),
        ):
            _, state = part.update(grads, part.init(grads))
            means.append(-part.update(grads, state)[0])
        close(means[0], 1 / 3, rtol=1e-16)
        assert 1e-9 < abs(float(means[1][0]) - 1 / 3) < 1e-7


class TestProximalL1:
    @pytest.mark.usefixtures("float64")
    def test_the_optimum_of_lasso(self) -> None:
        """1/(2n) |y - X w|^2 + lambda |w|_1: scikit-learn's minimum, with the same zeros."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(40, 12)) * np.linspace(0.5, 2, 12)
        y = x[:, :4] @ np.array([3.0, -2.0, 1.0, 0.2]) + 0.3 * rng.normal(size=40)
        strength = 0.25
        wanted = Lasso(strength, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
        rate = 1 / np.linalg.norm(x.T @ x / 40, 2)
        optimizer = optax.chain(fn.optim.sgd(rate), fn.optim.proximal_l1(strength, rate))

        def step(carry: Any, _: None) -> Any:
            w, state = carry
            updates, state = optimizer.update(x.T @ (x @ w - y) / 40, state, w)
            return (optax.apply_updates(w, updates), state), None

        w = jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), length=2000)[0][0])(jnp.ones(12))
        close(w, wanted, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(np.asarray(w) == 0, wanted == 0)
        assert 3 <= np.sum(wanted == 0) <= 10

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    def test_the_formula(self, dtype: Any) -> None:
        rng = np.random.default_rng(2)
        params, steps = (jnp.asarray(rng.normal(size=500), dtype) for _ in range(2))
        part = fn.optim.proximal_l1(2.0, 0.3)
        ends = optax.apply_updates(params, apply(part, steps, params))
        z = np.asarray(params, np.float64) + np.asarray(steps, np.float64)
        wanted = np.sign(z) * np.maximum(np.abs(z) - 0.6, 0)
        close(np.asarray(ends, np.float32), wanted, atol=1e-6 if dtype == jnp.float32 else 0.04)
        inside = np.abs(z) < 0.6 - 0.03
        assert np.sum(inside) > 100
        np.testing.assert_array_equal(np.asarray(ends, np.float64)[inside], 0)  # exactly

    def test_a_mask_spares(self) -> None:
        params = {"w": jnp.array([0.1, 2.0]), "b": jnp.array([0.1])}
        part = fn.optim.proximal_l1(1.0, 0.5, {"w": True, "b": False})
        updates = apply(part, jax.tree.map(jnp.zeros_like, params), params)
        close(params["w"] + updates["w"], [0, 1.5])
        np.testing.assert_array_equal(updates["b"], [0])

    def test_schedules(self) -> None:
        params, zeros = jnp.array([5.0]), jnp.zeros(1)
        part = fn.optim.proximal_l1(lambda step: 1.0 + step, lambda step: 0.1 * (1 + step))
        state, ends = part.init(params), []
        for _ in range(3):
            updates, state = part.update(zeros, state, params)
            params = params + updates
            ends.append(float(params[0]))
        close(ends, [5 - 0.1, 5 - 0.1 - 0.4, 5 - 0.1 - 0.4 - 0.9], rtol=1e-6)

    def test_complex_numbers_shrink_to_0(self) -> None:
        params = jnp.array([3.0 + 4.0j, 0.1j])
        updates = apply(fn.optim.proximal_l1(1.0, 1.0), jnp.zeros(2, complex), params)
        close(params + updates, [2.4 + 3.2j, 0], rtol=1e-6)


class TestReduceOnPlateau:
    def scales(self, values: list[float], **arguments: Any) -> list[float]:
        part, one, scales = fn.optim.reduce_on_plateau(**arguments), jnp.float32(1), []
        state = part.init(one)
        for value in values:
            update, state = part.update(one, state, value=np.float32(value))
            scales.append(float(update))
        return scales

    def test_halved_when_it_stops_improving(self) -> None:
        assert self.scales([3, 2, 2, 1, 1.5, 1.2, 0.5], factor=0.5, patience=1) == [
            1, 1, 0.5, 0.5, 0.25, 0.125, 0.125,
        ]  # fmt: skip

    def test_patience_of_pytorch_is_one_more(self) -> None:
        """patience=2: Keras and optax reduce at the second loss without improvement, PyTorch at the third."""
        values = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        assert self.scales(values, factor=0.5, patience=2) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
        assert self.scales(values, factor=0.5, patience=2 + 1) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]

    def test_once_per_evaluation(self) -> None:
        """The last validation loss at each of n updates, with accumulation_size=n: one loss per evaluation."""
        seen = np.repeat([3.0, 2.0, 2.0, 1.9], 5).tolist()
        scales = self.scales(seen, factor=0.5, patience=1, accumulation_size=5)
        assert scales == [1.0] * 14 + [0.5] * 6

    def test_nan_is_no_improvement(self) -> None:
        nan = float("nan")
        assert self.scales([1, nan, 0.5], factor=0.5, patience=1) == [1, 0.5, 0.5]


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: fn.optim.clip(-1.0), ValueError, r"max_delta=-1\.0, wanted at least 0"),
    (lambda: fn.optim.clip_by_norm(-1.0), ValueError, r"max_norm=-1\.0, wanted at least 0"),
    (lambda: fn.optim.clip_by_global_norm(-1.0), ValueError, r"max_norm=-1\.0, wanted at least 0"),
    (lambda: fn.optim.clip_by_global_norm(1.0, eps=-1.0), ValueError, r"eps=-1\.0, wanted at least 0"),
    (lambda: fn.optim.adaptive_grad_clip(-1.0), ValueError, r"clipping=-1\.0, wanted at least 0"),
    (lambda: fn.optim.adaptive_grad_clip(1.0, -1.0), ValueError, r"eps=-1\.0, wanted at least 0"),
    (
        lambda: apply(fn.optim.adaptive_grad_clip(0.1), jnp.ones(2)),
        ValueError,
        "adaptive_grad_clip: needs the params",
    ),
    (
        lambda: apply(fn.optim.adaptive_grad_clip(0.1), jnp.ones((2,) * 6), jnp.ones((2,) * 6)),
        ValueError,
        r"float32\[2,2,2,2,2,2\], wanted 5 axes at most, or an axis=",
    ),
    (lambda: fn.optim.add_noise(-0.1, 0.5, 0), ValueError, r"eta=-0\.1, wanted at least 0"),
    (lambda: fn.optim.add_noise(0.1, 0.5), ValueError, "key=None, seed=None, wanted a key"),
    (lambda: fn.optim.add_noise(0.1, 0.5, 0, seed=0), ValueError, "key=0, seed=0, wanted a key"),
    (
        lambda: fn.optim.add_decayed_weights(None),
        TypeError,
        "weight_decay=None, wanted a number or a schedule",
    ),
    (
        lambda: apply(fn.optim.add_decayed_weights(0.1), jnp.ones(2)),
        ValueError,
        "weight decay needs the params",
    ),
    (lambda: fn.optim.accumulate(fn.optim.sgd(0.1), 0), ValueError, "every=0, wanted at least 1"),
    (lambda: fn.optim.accumulate(fn.optim.sgd(0.1), 1.5), TypeError, r"every=1\.5, wanted a positive int"),
    (lambda: fn.optim.proximal_l1(0.1, -0.1), ValueError, r"learning_rate=-0\.1, wanted at least 0"),
    (lambda: fn.optim.proximal_l1(-0.1, 0.1), ValueError, r"strength=-0\.1, wanted at least 0"),
    (lambda: fn.optim.proximal_l1("0.1", 0.1), TypeError, r"strength='0\.1', wanted a number or a schedule"),
    (lambda: apply(fn.optim.proximal_l1(0.1, 0.1), jnp.ones(2)), ValueError, "proximal_l1: needs the params"),
    (lambda: fn.optim.reduce_on_plateau(0.0), ValueError, r"factor=0\.0, wanted in \(0, 1\)"),
    (lambda: fn.optim.reduce_on_plateau(1.0), ValueError, r"factor=1\.0, wanted in \(0, 1\)"),
    (lambda: fn.optim.reduce_on_plateau(patience=0), ValueError, "patience=0, wanted at least 1"),
    (lambda: fn.optim.reduce_on_plateau(rtol=-0.1), ValueError, r"rtol=-0\.1, wanted in \[0, 1\]"),
    (lambda: fn.optim.reduce_on_plateau(rtol=1.1), ValueError, r"rtol=1\.1, wanted in \[0, 1\]"),
    (
        lambda: fn.optim.reduce_on_plateau(rtol=0.0),
        ValueError,
        r"rtol=0\.0, atol=0\.0, wanted one of them positive",
    ),
    (lambda: fn.optim.reduce_on_plateau(atol=-0.1), ValueError, r"atol=-0\.1, wanted at least 0"),
    (lambda: fn.optim.reduce_on_plateau(cooldown=-1), ValueError, "cooldown=-1, wanted at least 0"),
    (
        lambda: fn.optim.reduce_on_plateau(accumulation_size=0),
        ValueError,
        "accumulation_size=0, wanted at least 1",
    ),
    (lambda: fn.optim.reduce_on_plateau(min_scale=-1.0), ValueError, r"min_scale=-1\.0, wanted at least 0"),
    (
        lambda: apply(fn.optim.reduce_on_plateau(), jnp.ones(2)),
        ValueError,
        r"needs the loss, write update\(updates, state, params, value=loss\)",
    ),
    (
        lambda: apply(fn.optim.reduce_on_plateau(), jnp.ones(2), value=jnp.ones(3)),
        ValueError,
        r"value is float32\[3\], wanted a scalar",
    ),
]


@pytest.mark.parametrize("make, kind, message", ERRORS)
def test_errors(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()
