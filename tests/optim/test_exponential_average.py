"""Exponentially weighted averages beside loops in NumPy and `optax.ema`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from tests.arrays import at, equal, normal

close = np.testing.assert_allclose


@pytest.mark.usefixtures("float64")
class TestExponentialAverage:
    @pytest.mark.parametrize("debias", [True, False])
    def test_a_loop(self, debias: bool) -> None:
        values, decays = np.random.default_rng(0).normal(size=(20, 3)), np.array([0.0, 0.9, 0.999])
        averages = jax.jit(jax.vmap(lambda decay: fn.optim.exponential_average(values, decay, debias)))(
            decays
        )
        for average, decay in zip(averages, decays, strict=True):
            mean, wanted = np.zeros(3), []
            for t, x in enumerate(values, start=1):
                mean = decay * mean + (1 - decay) * x
                wanted.append(mean / (1 - decay**t) if debias else mean)
            close(average, wanted, rtol=1e-12, atol=1e-15)

    def test_the_weights(self) -> None:
        """Of the last of 10 values: (1 - b) b^age / (1 - b^10)."""
        last = jax.jit(lambda v: fn.optim.exponential_average(v, 0.8)[-1])
        close(jax.grad(last)(np.zeros(10)), 0.2 * 0.8 ** np.arange(9, -1, -1) / (1 - 0.8**10), rtol=1e-13)


def test_integers_and_trees() -> None:
    averages = fn.optim.exponential_average({"a": np.array([4, 8]), "b": np.ones((2, 3), jnp.bfloat16)}, 0.5)
    close(averages["a"], [4, 4 / 3 + 16 / 3], rtol=1e-6)
    assert averages["a"].dtype == jnp.float32
    assert averages["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize("debias", [True, False])
def test_exponential_average_is_optax_ema(debias: bool) -> None:
    values = {"a": normal(30, 3), "b": np.arange(30).astype(jnp.bfloat16)}
    ema, first = optax.ema(0.9, debias), at(values, 0)

    def theirs(state: Any, x: Any) -> Any:
        average, state = ema.update(x, state)
        return state, average

    ours = jax.jit(lambda v: fn.optim.exponential_average(v, 0.9, debias))(values)
    equal(ours, jax.jit(lambda v: jax.lax.scan(theirs, ema.init(first), v)[1])(values))


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: fn.optim.exponential_average(jnp.ones(3), 1.0), r"decay=1\.0, wanted in \[0, 1\)"),
    (lambda: fn.optim.exponential_average(jnp.ones(())), r"values is float32\[\], wanted a first axis"),
    (
        lambda: fn.optim.exponential_average_update(
            fn.optim.exponential_average_init(jnp.ones(2)), jnp.ones(2), 2.0
        ),
        r"decay=2\.0, wanted in \[0, 1\)",
    ),
]


@pytest.mark.parametrize("make, message", ERRORS)
def test_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
