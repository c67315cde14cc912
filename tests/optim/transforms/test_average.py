"""Averages beside loops in NumPy and optax's own."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn

close = np.testing.assert_allclose
STEPS = 30


@pytest.mark.usefixtures("float64")
class TestExponentialAverage:
    @pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
    @pytest.mark.parametrize("debias", [True, False])
    def test_a_loop(self, decay: float, debias: bool) -> None:
        values = np.random.default_rng(0).normal(size=(20, 3))
        mean, wanted = np.zeros(3), []
        for t, x in enumerate(values, start=1):
            mean = decay * mean + (1 - decay) * x
            wanted.append(mean / (1 - decay**t) if debias else mean)
        close(fn.optim.exponential_average(values, decay, debias), wanted, rtol=1e-12, atol=1e-15)

    def test_the_weights(self) -> None:
        """Of the last of 10 values: (1 - b) b^age / (1 - b^10)."""
        last = jax.jit(lambda v: fn.optim.exponential_average(v, 0.8)[-1])
        close(jax.grad(last)(jnp.zeros(10)), 0.2 * 0.8 ** np.arange(9, -1, -1) / (1 - 0.8**10), rtol=1e-13)


def test_integers_and_trees() -> None:
    averages = fn.optim.exponential_average({"a": np.array([4, 8]), "b": jnp.ones((2, 3), jnp.bfloat16)}, 0.5)
    close(averages["a"], [4, 4 / 3 + 16 / 3], rtol=1e-6)
    assert averages["a"].dtype == jnp.float32
    assert averages["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize("debias", [True, False])
def test_exponential_average_is_optax_ema(debias: bool) -> None:
    values = {
        "a": jax.random.normal(jax.random.key(0), (STEPS, 3)),
        "b": jnp.arange(STEPS, dtype=jnp.bfloat16),
    }
    ema, first = optax.ema(0.9, debias), jax.tree.map(lambda v: v[0], values)

    def theirs(state: Any, x: Any) -> Any:
        average, state = ema.update(x, state)
        return state, average

    ours = jax.jit(lambda v: fn.optim.exponential_average(v, 0.9, debias))(values)
    chex.assert_trees_all_equal(ours, jax.jit(lambda v: jax.lax.scan(theirs, ema.init(first), v)[1])(values))


def params_of(dtype: Any) -> dict[str, Any]:
    return {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]], dtype), "b": jnp.array([0.1, 0.0], dtype)}


def path(part: Any, dtype: Any = jnp.float32, steps: int = STEPS) -> Any:
    """(params, average) after each update of momentum, as arrays with one row a step: one program."""
    optimizer = optax.chain(fn.optim.momentum(0.1), part)

    def one(carry: Any, step: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(lambda p: p + jnp.sin(3.0 * step).astype(p.dtype), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, fn.optim.averaged_params(state))

    params = params_of(dtype)
    return jax.jit(lambda p: jax.lax.scan(one, (p, optimizer.init(p)), jnp.arange(steps))[1])(params)


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
        """`optax.incremental_update`, from the params at the start on; start=1 is PyTorch's, which copies at first."""
        params, averages = path(fn.optim.ema_params(0.9, start=start), jnp.float64)
        before, wanted = jax.tree.map(np.asarray, params_of(jnp.float64)), []
        for t in range(STEPS):
            theta = jax.tree.map(lambda p, t=t: np.asarray(p[t]), params)
            before = theta if t < start else optax.incremental_update(theta, before, 1 - 0.9)
            wanted.append(before)
        wanted = jax.tree.map(lambda *rows: np.stack(rows), *wanted)
        chex.assert_trees_all_close(averages, wanted, rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
    def test_ema_without_bias(self, decay: float) -> None:
        params, averages = path(fn.optim.ema_params(decay, debias=True), jnp.float64)
        chex.assert_trees_all_close(
            averages, fn.optim.exponential_average(params, decay), rtol=1e-11, atol=1e-13
        )

    def test_start_without_bias(self) -> None:
        params, averages = path(fn.optim.ema_params(0.9, True, start=5), jnp.float64)
        late = fn.optim.exponential_average(params["w"][5:], 0.9)
        close(averages["w"], np.concatenate([params["w"][:5], late]), rtol=1e-11, atol=1e-13)


def test_first_average_without_bias_in_float32() -> None:
    """1 - 0.9999^1 in float32 is 0.7 % off; the first average is the first params nevertheless."""
    params, averages = path(fn.optim.ema_params(0.9999, True), steps=1)
    chex.assert_trees_all_close(averages, params, rtol=1e-6)


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
    net, truth, keys = (
        fn.dense(1, use_bias=False),
        jnp.array([[2.0], [-1.0]]),
        jax.random.split(jax.random.key(0), 3),
    )
    x = jax.random.normal(keys[0], (64, 2))
    examples = {"x": x, "y": x @ truth + jax.random.normal(keys[1], (64, 1))}
    optimizer = optax.chain(fn.optim.sgd(0.2), fn.optim.mean_params(start=50))
    step = fn.train.make_step(net, fn.losses.mean_squared_error, optimizer)

    def one(now: Any, key: Any) -> Any:
        batch = jax.tree.map(lambda a: a[jax.random.randint(key, (4,), 0, 64)], examples)
        return step(now, batch, key)[0], None

    def train(key: Any) -> Any:
        now, _ = jax.lax.scan(one, fn.train.start(net, optimizer, key, x), jax.random.split(key, 400))
        return now.params, fn.optim.averaged_params(now.opt_state, now.params)

    last, average = jax.jit(jax.vmap(train))(jax.random.split(keys[2], 5))
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
        """Params and state may both be donated: no buffer is in both."""
        params = jnp.ones(3)
        state = fn.optim.mean_params().init(params)
        assert state.average.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()

    @pytest.mark.parametrize("many", [0, 2])
    def test_none_or_more(self, many: int) -> None:
        state = optax.chain(*[fn.optim.mean_params()] * many, fn.optim.adam(0.1)).init(jnp.ones(2))
        with pytest.raises(ValueError, match=rf"averaged_params: {many} averages in the state, wanted one"):
            fn.optim.averaged_params(state)


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: fn.optim.exponential_average(jnp.ones(3), 1.0), r"decay=1\.0, wanted in \[0, 1\)"),
    (lambda: fn.optim.exponential_average(jnp.ones(())), r"values is float32\[\], wanted a first axis"),
    (
        lambda: fn.optim.exponential_average_update(
            fn.optim.exponential_average_init(jnp.ones(2)), jnp.ones(2), 2.0
        ),
        r"decay=2\.0, wanted in \[0, 1\)",
    ),
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
