"""What a method asks of the objective: the count, to compare unlike methods at one budget, and the check."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Evaluations(NamedTuple):
    """Evaluations so far. A value with its gradient counts as one of each.

    First-order methods take one value and one gradient a step and keep no count; those that ask for more, or for
    less, keep this one in the field `evaluations` of their state.
    """

    values: jax.Array  # int32[], of the objective
    gradients: jax.Array  # int32[]
    products: jax.Array  # int32[], of a Hessian, Gauss-Newton matrix or Jacobian with a vector

    def plus(
        self, values: jax.Array | int = 0, gradients: jax.Array | int = 0, products: jax.Array | int = 0
    ) -> "Evaluations":
        """The count after some more."""
        more = (values, gradients, products)
        return Evaluations(*(now + jnp.asarray(n, jnp.int32) for now, n in zip(self, more, strict=True)))


def no_evaluations() -> Evaluations:
    """The count at the start, 0 of each."""
    return Evaluations(*(jnp.zeros([], jnp.int32) for _ in range(3)))


def require(optimizer: str, **given: Any) -> None:
    """Raises ValueError where one of the given arguments of update is None."""
    for name, argument in given.items():
        if argument is None:
            raise ValueError(
                f"{optimizer}: needs {name}, which training passes; in a loop of one's own write "
                f"update(grads, state, params, {name}={name}, ...)"
            )
