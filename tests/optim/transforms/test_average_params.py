"""Averages of the params beside loops in NumPy and `optax.incremental_update`."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from tests.arrays import at, each, normal, stack
from tests.arrays import close as trees_close

close = np.testing.assert_allclose
STEPS = 30


def params_of(dtype: Any) -> dict[str, Any]:
    tree = {"w": [[1.0, -2.0], [0.5, 3.0]], "b": [0.1, 0.0]}
    return {name: jnp.asarray(np.array(a, dtype)) for name, a in tree.items()}


def path(part: Any, dtype: Any = np.float32, steps: int = STEPS) -> Any:
    """(params, average) after each update of momentum, with one row per step. Without jit."""
    optimizer, params, rows = optax.chain(fn.optim.momentum(0.1), part), params_of(dtype), []
    state = optimizer.init(params)
    for step in range(steps):
        grads = each(lambda p, step=step: jnp.asarray((p + np.sin(3.0 * step)).astype(p.dtype)), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        rows.append((params, fn.optim.averaged_params(state)))
    return stack(*rows)


def averages_of(values: Any, decay: float) -> Any:
    """With the bias corrected, by a loop in NumPy."""

    def of_leaf(values: np.ndarray) -> np.ndarray:
        mean, averages = 0.0, []
        for t, x in enumerate(values, start=1):
            mean = decay * mean + (1 - decay) * x
            averages.append(mean / (1 - decay**t))
        return np.array(averages)

    return each(of_leaf, values)


@pytest.mark.usefixtures("float64")
class TestParams:
    @pytest.mark.parametrize("start", [0, 1, 7])
    def test_mean(self, start: int) -> None:
        params, averages = path(fn.optim.mean_params(start), jnp.float64)
        for name, thetas in params.items():
            thetas = np.asarray(thetas)
            wanted = [thetas[min(start, t) : t + 1].mean(axis=0) for t in range(STEPS)]
            close(averages[name], wanted, rtol=1e-12, atol=1e-15)

    @pytest.mark.parametrize("start", [0, 1, 7])
    def test_ema(self, start: int) -> None:
        """`optax.incremental_update`, from `start` on. start=1 is as in PyTorch, which starts with a copy."""
        params, averages = path(fn.optim.ema_params(0.9, start=start), jnp.float64)
        before, wanted = jax.tree.map(np.asarray, params_of(jnp.float64)), []
        for t in range(STEPS):
            theta = at(params, t)
            before = (
                theta if t < start else each(np.asarray, optax.incremental_update(theta, before, 1 - 0.9))
            )
            wanted.append(before)
        trees_close(averages, stack(*wanted), rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
    def test_ema_without_bias(self, decay: float) -> None:
        params, averages = path(fn.optim.ema_params(decay, debias=True), jnp.float64)
        trees_close(averages, averages_of(params, decay), rtol=1e-11, atol=1e-13)

    def test_start_without_bias(self) -> None:
        params, averages = path(fn.optim.ema_params(0.9, True, start=5), jnp.float64)
        late = averages_of(params["w"][5:], 0.9)
        close(averages["w"], np.concatenate([params["w"][:5], late]), rtol=1e-11, atol=1e-13)


def test_first_average_without_bias_in_float32() -> None:
    """1 - 0.9999^1 in float32 is 0.7 % off; the first average is the first params nevertheless."""
    params, averages = path(fn.optim.ema_params(0.9999, True), steps=1)
    trees_close(averages, params, rtol=1e-6)


def test_half_precision_is_averaged_in_float32() -> None:
    params, averages = path(fn.optim.ema_params(0.999), jnp.bfloat16, steps=200)
    assert averages["w"].dtype == jnp.float32
    mean, wanted = np.asarray(params_of(jnp.bfloat16)["w"], np.float64), []
    for theta in np.asarray(params["w"], np.float64):
        mean = 0.999 * mean + 0.001 * theta
        wanted.append(mean)
    close(averages["w"], wanted, rtol=1e-4, atol=1e-5)


PARTS: dict[str, Callable[[], Any]] = {"ema": lambda: fn.optim.ema_params(0.99), "mean": fn.optim.mean_params}


@pytest.mark.parametrize("name", PARTS)
def test_updates_pass_unchanged(name: str) -> None:
    part, updates = PARTS[name](), params_of(jnp.float32)
    assert part.update(updates, part.init(updates), updates)[0] is updates


def test_noise_averages_out_in_training() -> None:
    """A rate too large for the noise: the mean of the weights is nearer to the truth than the last weights are."""
    net, x = fn.dense(1, use_bias=False), normal(64, 2)
    examples = {"x": x, "y": x @ np.array([[2], [-1]], np.float32) + normal(64, 1, seed=1)}
    optimizer = optax.chain(fn.optim.sgd(0.2), fn.optim.mean_params(start=50))
    step = fn.train.make_step(net, fn.losses.mean_squared_error, optimizer)

    def one(now: Any, key: Any) -> Any:
        rows = jax.random.randint(key, (4,), 0, 64)
        batch = jax.tree.map(lambda a: jnp.asarray(a)[rows], examples)
        return step(now, batch, key)[0], None

    def train(key: Any) -> Any:
        now, _ = jax.lax.scan(one, fn.train.start(net, optimizer, key, x), jax.random.split(key, 400))
        return now.params, fn.optim.averaged_params(now.opt_state, now.params)

    last, average = jax.jit(jax.vmap(lambda seed: train(jax.random.key(seed))))(np.arange(5))
    best = np.linalg.lstsq(np.asarray(x), np.asarray(examples["y"]), rcond=None)[0]
    errors = [np.linalg.norm(np.asarray(p["w"]) - best, axis=(1, 2)).mean() for p in (last, average)]
    assert errors[1] < 0.3 * errors[0]


class TestFound:
    def test_inside_wrappers(self) -> None:
        inner = optax.chain(fn.optim.adam(0.1), fn.optim.ema_params())
        params = params_of(jnp.bfloat16)
        for wrap in (lambda o: o, lambda o: optax.apply_if_finite(o, 3), lambda o: fn.optim.accumulate(o, 2)):
            found = fn.optim.averaged_params(wrap(inner).init(params), params)
            chex.assert_trees_all_equal(found, params)
            chex.assert_trees_all_equal_dtypes(found, params)

    def test_the_average_is_a_copy(self) -> None:
        """Params and state can both be donated: they share no buffer."""
        params = jnp.ones(3)
        state = fn.optim.mean_params().init(params)
        assert state.average.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()

    @pytest.mark.parametrize("many", [0, 2])
    def test_none_or_more(self, many: int) -> None:
        state = optax.chain(*[fn.optim.mean_params()] * many, fn.optim.adam(0.1)).init(jnp.ones(2))
        with pytest.raises(ValueError, match=rf"averaged_params: {many} averages in the state, wanted one"):
            fn.optim.averaged_params(state)


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: fn.optim.ema_params(1.0), r"decay=1\.0, wanted in \[0, 1\)"),
    (lambda: fn.optim.ema_params(start=-1), "start=-1, wanted at least 0"),
    (lambda: fn.optim.mean_params(-1), "start=-1, wanted at least 0"),
    *(
        (
            lambda make=make: make().update(jnp.ones(2), make().init(jnp.ones(2))),
            "needs the params, write update",
        )
        for make in (fn.optim.ema_params, fn.optim.mean_params)
    ),
]


@pytest.mark.parametrize("make, message", ERRORS)
def test_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
