"""The range test: the rates, the losses of the same steps by hand, and a rate that trains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.train.batches import next_batch

MSE = fn.losses.mean_squared_error
close = np.testing.assert_allclose


def jit(f: Any) -> Any:
    """The compiled function, with NumPy arrays as its result, so that comparing them compiles nothing."""
    compiled = jax.jit(f)
    return lambda *arguments: jax.device_get(compiled(*arguments))


def examples(n: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    return {"x": x, "y": x @ np.array([[1.0], [-2.0], [0.5]])}


def range_of(optimizer: Any = fn.optim.sgd, **arguments: Any) -> Any:
    net = fn.dense(1, w_init=fn.initializers.ones)
    return fn.train.learning_rate_range(net, MSE, optimizer, **{"steps": 60, "batch_size": 4} | arguments)


@pytest.mark.usefixtures("float64")
def test_each_step_by_hand() -> None:
    """Gradient descent on linear regression in NumPy, with the rate of each step."""
    data, key = examples(), jax.random.key(1)
    found = jit(range_of(low=1e-3, high=1.0, steps=9, smoothing=0.5))(key, data)
    rates = 1e-3 * 1e3 ** (np.arange(9) / 8)
    close(found.rates, rates, rtol=1e-12)

    order_key, w, b, losses = jax.random.split(key, 3)[1], np.ones((3, 1)), 0.0, []
    steps = np.arange(9, dtype=np.int32)

    @jit
    def draw(order: Any) -> Any:
        train = jax.tree.map(jnp.asarray, data)
        return jax.lax.scan(lambda order, t: next_batch(order_key, order, t, train, 4), order, steps)[1]

    batches = draw(np.zeros(12, np.int32))
    for t, rate in enumerate(rates):
        x, y = batches["x"][t], batches["y"][t]
        error = x @ w + b - y
        losses.append(np.mean(error**2))
        w, b = w - rate * 2 * x.T @ error / 4, b - rate * 2 * error.mean()
    close(found.losses, losses, rtol=1e-10)
    smoothed = [
        np.sum(0.5 ** np.arange(t, -1, -1) * losses[: t + 1]) * 0.5 / (1 - 0.5 ** (t + 1)) for t in range(9)
    ]
    close(found.smoothed, smoothed, rtol=1e-10)
    lowest = int(np.argmin(smoothed))
    assert lowest > 0
    close(found.suggestion, rates[lowest] / 10, rtol=1e-12)


def test_suggestion_trains_for_many_seeds_at_once() -> None:
    """Far over the end the run diverges; a tenth of the best rate is below the largest stable one, 2 / curvature."""
    data = examples(48)
    find = jit(jax.vmap(range_of(low=1e-5, high=1e5, steps=100, batch_size=16), in_axes=(0, None)))
    found = find(jax.random.split(jax.random.key(0), 3), data)
    assert found.losses.shape == (3, 100)
    assert not np.all(np.isfinite(found.losses[:, -1]))
    design = np.concatenate([np.asarray(data["x"]), np.ones((48, 1))], axis=1)
    stable = 2 / np.linalg.norm(2 * design.T @ design / 48, 2)
    assert np.all((0.01 * stable < found.suggestion) & (found.suggestion < stable)), (
        found.suggestion,
        stable,
    )


@pytest.mark.slow
def test_any_maker() -> None:
    """Hyperparameters beside the rate, a chain, states with and without a step: all with one state along the rates."""
    makers: list[tuple[Any, dict[str, Any]]] = [
        (fn.optim.adamw, {"b1": jnp.float32(0.8), "weight_decay": 1e-3}),
        (fn.optim.rmsprop, {"momentum": 0.5}),
        (optax.adam, {}),
        (
            lambda learning_rate: optax.chain(fn.optim.clip_by_global_norm(1.0), fn.optim.sgd(learning_rate)),
            {},
        ),
    ]
    data, key = examples(), jax.random.key(0)
    makers.append((fn.optim.adam, {}))
    *found, ours = jit(lambda: [range_of(make, steps=30)(key, data, hparams) for make, hparams in makers])()
    close(found[2].losses, ours.losses, rtol=1e-5)
    for one in found:
        assert np.all(np.isfinite(one.smoothed))
        close(one.losses[:2], ours.losses[:2], rtol=1e-4)  # with a rate of 1e-7


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    """Ascent: the smoothed loss rises from the first step on."""
    data = {"x": np.ones((4, 3)), "y": np.zeros((4, 1))}
    find = jit(range_of(lambda learning_rate: optax.sgd(-learning_rate), low=1e-3, high=1.0, steps=10))
    assert np.isnan(find(jax.random.key(0), data).suggestion)


def test_the_penalty_is_differentiated() -> None:
    """Without a gradient from the data, the penalty alone moves the weights: the losses differ."""
    data, key = examples(), jax.random.key(0)
    plain, pulled = (
        jit(range_of(low=0.1, high=0.2, steps=5, penalty=penalty))(key, data)
        for penalty in (None, lambda params: 0.5 * fn.losses.l2(params))
    )
    close(plain.losses[0], pulled.losses[0], rtol=1e-6)
    assert np.all(np.asarray(plain.losses[1:]) != np.asarray(pulled.losses[1:]))


KEY = jax.random.key(0)
ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: range_of(steps=1), ValueError, "steps=1, wanted at least 2"),
    (lambda: range_of(steps=1.5), TypeError, r"steps=1\.5, wanted a positive int"),
    (lambda: range_of(batch_size=0), ValueError, "batch_size=0, wanted at least 1"),
    (lambda: range_of(low=0.0), ValueError, r"low=0\.0, wanted at least 1e-30"),
    (lambda: range_of(low=1.0, high=0.1), ValueError, r"low=1\.0, high=0\.1, wanted low < high"),
    (lambda: range_of(smoothing=1.0), ValueError, r"smoothing=1\.0, wanted in \[0, 1\)"),
    (lambda: range_of(batch_size=13)(KEY, examples()), ValueError, "batch_size=13, wanted 12 at most"),
    (lambda: range_of()(KEY, {"x": jnp.ones(3)}), ValueError, "examples is .*, wanted a dict with x and y"),
]


@pytest.mark.parametrize("make, kind, message", ERRORS)
def test_errors(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_its_repr_is_a_few_lines() -> None:
    found = fn.train.LearningRateRange(np.ones(300), np.ones(300), np.ones(300), np.float32(0.5))  # type: ignore[arg-type]
    assert repr(found) == (
        "LearningRateRange(\n"
        "    rates: float64[300]\n"
        "    losses: float64[300]\n"
        "    smoothed: float64[300]\n"
        "    suggestion: 0.5\n"
        ")"
    )
