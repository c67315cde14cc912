"""A logistic regression and a training loop, shared by tests of line searches and second-order methods."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """Inputs with mean 0 and variance 1 and a column of ones, 569 x 31; labels -1 and 1."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1), 2.0 * y - 1


def loss(theta: Any) -> jax.Array:
    """Logistic regression with an L2 penalty; theta is a tree of an array w and a scalar b."""
    x, y = (jnp.asarray(a, theta["w"].dtype) for a in data())
    margins = y * (x[:, :-1] @ theta["w"] + jnp.broadcast_to(theta["b"], y.shape))
    penalty = 0.5e-3 * (jnp.sum(jnp.square(theta["w"])) + jnp.square(theta["b"]))
    return jnp.mean(jnp.logaddexp(0.0, -margins)) + penalty


def value_and_grad(theta: np.ndarray) -> tuple[float, np.ndarray]:
    """The same in NumPy, for SciPy; theta is one vector, b last."""
    x, y = data()
    margins = y * (x @ theta)
    weights = -y / (1 + np.exp(margins)) / len(y)
    return float(np.mean(np.logaddexp(0, -margins)) + 0.5e-3 * theta @ theta), x.T @ weights + 1e-3 * theta


def hessian(theta: np.ndarray) -> np.ndarray:
    x, y = data()
    share = 1 / (1 + np.exp(-y * (x @ theta)))
    return (x.T * (share * (1 - share) / len(y))) @ x + 1e-3 * np.eye(len(theta))


def start(dtype: Any = jnp.float64) -> dict[str, jax.Array]:
    return {"w": jnp.zeros(30, dtype), "b": jnp.zeros([], dtype)}


def vector(theta: Any) -> np.ndarray:
    """w and b as one array, with b last; leading axes stay."""
    return np.concatenate([theta["w"], np.asarray(theta["b"])[..., None]], axis=-1)


def descend(optimizer: Any, f: Callable[[Any], jax.Array], theta: Any, steps: int) -> Any:
    """(theta before and after each step, the last state), as one program."""
    optimizer = optax.with_extra_args_support(optimizer)

    @jax.jit
    def run(theta: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            theta, state = carry
            value, grad = jax.value_and_grad(f)(theta)
            updates, state = optimizer.update(grad, state, theta, value=value, grad=grad, value_fn=f)
            new = optax.apply_updates(theta, updates)
            return (new, state), new

        (_, state), thetas = jax.lax.scan(step, (theta, optimizer.init(theta)), length=steps)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), theta, thetas), state

    return run(theta)
