"""Counts how often a method evaluates the objective, so that different methods can be compared at equal cost."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Evaluations(NamedTuple):
    """Evaluations so far. A value with its gradient counts as one of each.

    First-order methods need one value and one gradient per step and keep no count. Methods that need more, or less,
    keep this count in the field `evaluations` of their state.
    """

    values: jax.Array  # int32[], of the objective
    gradients: jax.Array  # int32[]
    products: jax.Array  # int32[], of a Hessian, Gauss-Newton matrix or Jacobian with a vector

    def plus(
        self, values: jax.Array | int = 0, gradients: jax.Array | int = 0, products: jax.Array | int = 0
    ) -> "Evaluations":
        """The count after further evaluations."""
        more = (values, gradients, products)
        return Evaluations(*(now + jnp.asarray(n, jnp.int32) for now, n in zip(self, more, strict=True)))


def no_evaluations() -> Evaluations:
    """The count at the start: 0 of each kind."""
    return Evaluations(*(jnp.zeros([], jnp.int32) for _ in range(3)))


def require(optimizer: str, **given: Any) -> None:
    """Raises ValueError if one of the given arguments of `update` is None."""
    for name, argument in given.items():
        if argument is None:
            raise ValueError(
                f"{optimizer}: needs {name}, which training passes; in your own training loop write "
                f"update(grads, state, params, {name}={name}, ...)"
            )
