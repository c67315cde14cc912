"""Every optimizer beside its optax twin on a real network with noisy gradients, at every one of 1,000 steps.

The bound of the project is 1e-12 relative in float64. On a CPU twins are equal bit for bit, in every dtype, and that is
what is tested: 0 units in the last place. (This depends on the order of the operations: compilers fuse one of two
products with their sum, and rounding follows.)
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.optim import TWINS
from tests.arrays import integers, normal

STEPS = 1000
RATES = (1e-3, 1e-2, 1e-1)
# Relative bounds, by dtype, of twins that are not equal bit for bit, each with its reason.
# muon: newer releases of jax sum its matrix products in another order for one side than for the other. A rate of
# 0.1, at which it oscillates and any rounding error grows as large as the params, is left out.
BOUNDS: dict[str, dict[Any, float]] = {"muon": {jnp.float64: 1e-12, jnp.float32: 1e-4}}
RATES_OF = {"muon": (1e-4, 1e-3, 1e-2)}

# A network with two layers learns the classes that a linear map gives.
NET = fn.serial(fn.dense(16), fn.tanh, fn.dense(5))
X = normal(256, 8, seed=1)
Y = np.argmax(X @ normal(8, 5, seed=2), axis=1).astype(np.int32)
BATCHES = integers(256, STEPS, 32, seed=3)
# One step without a gradient, and one with its sign flipped.
FACTORS = np.select([np.arange(STEPS) == 100, np.arange(STEPS) == 200], [0, -1], 1).astype(np.float32)


class Case(NamedTuple):
    """A training run, or several of them mapped over their learning rates."""

    make: Callable[..., Any]  # learning_rate -> optimizer
    dtype: Any
    rate: Any = 1e-2  # a number or a schedule; an array of rates for mapped runs
    bound: float = 0.0  # of the relative difference from the twin

    def init(self, params: Any) -> Any:
        """The params and the state, before the first step."""
        params = jax.tree.map(lambda p: p.astype(self.dtype), params)
        if isinstance(self.rate, np.ndarray):
            params = jax.tree.map(lambda p: jnp.stack([p] * len(self.rate)), params)
        return params, self.with_rate(lambda optimizer, params: optimizer.init(params), params)

    def step(self, params: Any, state: Any, batch: Any) -> Any:
        def one(optimizer: Any, params: Any, state: Any) -> Any:
            # The barrier keeps the compiler from fusing the gradient with the update.
            grads = jax.lax.optimization_barrier(gradient(params, *batch))
            updates, state = optimizer.update(grads, state, params)
            return jax.lax.optimization_barrier(optax.apply_updates(params, updates)), state

        return self.with_rate(one, params, state)

    def with_rate(self, f: Any, *arguments: Any) -> Any:
        if isinstance(self.rate, np.ndarray):
            return jax.vmap(lambda rate, *a: f(self.make(learning_rate=rate), *a))(self.rate, *arguments)
        return f(self.make(learning_rate=self.rate), *arguments)


@cache
def start() -> Any:
    """The params at the start, in NumPy."""
    return jax.tree.map(np.asarray, NET.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8), jnp.float32))[0])


def gradient(params: Any, x: jax.Array, y: jax.Array, factor: jax.Array) -> Any:
    dtype = jax.tree.leaves(params)[0].dtype
    x = x.astype(dtype)
    grads = jax.grad(lambda p: fn.losses.softmax_cross_entropy(NET(p, x), y).mean())(params)
    return jax.tree.map(lambda g: g * factor.astype(dtype), grads)


def paths(cases: list[Case]) -> list[Any]:
    """The params of each case after each step, as one program."""

    def step(now: Any, batch: Any) -> Any:
        now = [case.step(*pair, batch) for case, pair in zip(cases, now, strict=True)]
        return now, [params for params, _ in now]

    @jax.jit
    def run(params: Any, batches: Any) -> Any:
        return jax.lax.scan(step, [case.init(params) for case in cases], batches)[1]

    return run(start(), (X[BATCHES], Y[BATCHES], FACTORS))


def largest_gaps(ours: Any, theirs: Any) -> np.ndarray:
    """max |ours - optax| / max |optax| at each step, of the array where it is largest."""
    gaps = []
    for pair in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = (np.asarray(path).reshape(STEPS, -1).astype(np.float64) for path in pair)
        largest, size = np.max(np.abs(a - b), axis=1), np.max(np.abs(b), axis=1)
        gaps.append(np.where(largest == 0, 0, largest / np.where(size == 0, 1, size)))  # biases start at 0
    return np.max(gaps, axis=0)


def check(cases: dict[str, tuple[Case, Case]]) -> None:
    """Both sides of each case, compiled apart, from the same weights on the same batches."""
    ours, theirs = (paths(list(side)) for side in zip(*cases.values(), strict=True))
    for (name, (case, _)), a, b in zip(cases.items(), ours, theirs, strict=True):
        gaps = largest_gaps(a, b)
        assert np.all(gaps <= case.bound), (
            f"{name}: {np.nanmax(gaps)} from step {np.argmin(gaps <= case.bound)} on, wanted {case.bound} at most"
        )
        assert all(np.any(p[-1] != p[0]) for p in map(np.asarray, jax.tree.leaves(a))), (
            f"{name}: params did not move"
        )


def twins(name: str, dtype: Any, rate: Any = 1e-2, wrap: Any = lambda make: make) -> tuple[Case, Case]:
    """The cases of an optimizer and of its twin."""
    bound = BOUNDS.get(name, {}).get(dtype, 0.0)
    ours, theirs = (Case(wrap(make), dtype, rate, bound) for make in TWINS[name])
    return ours, theirs


def chained(make: Any) -> Any:
    return lambda learning_rate: optax.chain(
        optax.clip_by_global_norm(0.5), make(learning_rate=learning_rate), optax.add_decayed_weights(-1e-4)
    )


@pytest.mark.optimized
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", TWINS)
def test_float64(name: str) -> None:
    """Learning rates mapped by vmap."""
    check({"rates": twins(name, jnp.float64, np.array(RATES_OF.get(name, RATES)))})


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", TWINS)
def test_a_schedule_and_a_chain(name: str) -> None:
    cases = {"chain": twins(name, jnp.float64, wrap=chained)}
    if name != "rprop":  # its learning rate is the first step size, a number
        first = 1e-4 if name == "prodigy" else 0.0  # from a rate of 0 on, optax's is NaN
        schedule = optax.warmup_cosine_decay_schedule(first, 1e-2, 50, STEPS)
        cases["schedule"] = twins(name, jnp.float64, schedule)
    check(cases)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("name", TWINS)
def test_fewer_digits(name: str) -> None:
    check({dtype.__name__: twins(name, dtype) for dtype in (jnp.float32, jnp.bfloat16)})


VARIANTS = {
    "momentum in bfloat16": (
        partial(fn.optim.momentum, accumulator_dtype=jnp.bfloat16),
        partial(optax.sgd, momentum=0.9, accumulator_dtype=jnp.bfloat16),
    ),
    "sgd with momentum": (partial(fn.optim.sgd, momentum=0.5), partial(optax.sgd, momentum=0.5)),
    "sgd with nesterov": (
        partial(fn.optim.sgd, momentum=0.5, nesterov=True),
        partial(optax.sgd, momentum=0.5, nesterov=True),
    ),
    "adagrad from 0": tuple(partial(m.adagrad, initial_accumulator_value=0.0) for m in (fn.optim, optax)),
    "adadelta with decay": tuple(
        partial(m.adadelta, rho=0.8, weight_decay=1e-2, weight_decay_mask={"dense_0": True, "dense_1": False})
        for m in (fn.optim, optax)
    ),
    "rmsprop, eps outside": tuple(
        partial(m.rmsprop, eps_in_sqrt=False, initial_scale=1.0) for m in (fn.optim, optax)
    ),
    "rmsprop, all": tuple(
        partial(m.rmsprop, centered=True, momentum=0.5, nesterov=True, bias_correction=True, eps=1e-4)
        for m in (fn.optim, optax)
    ),
    "rmsprop, corrected": tuple(partial(m.rmsprop, bias_correction=True) for m in (fn.optim, optax)),
    "adam, all": tuple(partial(m.adam, b1=0.8, b2=0.99, eps=1e-6, eps_root=1e-6) for m in (fn.optim, optax)),
    "adam, m in bfloat16": tuple(partial(m.adam, mu_dtype=jnp.bfloat16) for m in (fn.optim, optax)),
    "adam with nesterov": tuple(partial(m.adam, nesterov=True) for m in (fn.optim, optax)),
    "adamw with nesterov": tuple(partial(m.adamw, nesterov=True) for m in (fn.optim, optax)),
    "adamw, scheduled decay": tuple(
        partial(m.adamw, weight_decay=optax.linear_schedule(0.1, 0.0, 500)) for m in (fn.optim, optax)
    ),
    "amsgrad, uncorrected": tuple(
        partial(m.amsgrad, bias_correction_mu=False, bias_correction_nu=False, eps_root=1e-6)
        for m in (fn.optim, optax)
    ),
    "radam with nesterov": tuple(partial(m.radam, nesterov=True, threshold=6.0) for m in (fn.optim, optax)),
    "adabelief with nesterov": tuple(partial(m.adabelief, nesterov=True) for m in (fn.optim, optax)),
    "adan with decay": tuple(
        partial(m.adan, weight_decay=0.1, mask={"dense_0": True, "dense_1": False}) for m in (fn.optim, optax)
    ),
    "lion, m in bfloat16": tuple(
        partial(m.lion, mu_dtype=jnp.bfloat16, weight_decay=optax.linear_schedule(0.1, 0.0, 500))
        for m in (fn.optim, optax)
    ),
    "adamw, masked": tuple(
        partial(m.adamw, weight_decay=0.1, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
        for m in (fn.optim, optax)
    ),
}


@pytest.mark.slow
@pytest.mark.optimized
def test_other_arguments() -> None:
    check(
        {
            name: (Case(ours, jnp.float32), Case(theirs, jnp.float32))
            for name, (ours, theirs) in VARIANTS.items()
        }
    )
