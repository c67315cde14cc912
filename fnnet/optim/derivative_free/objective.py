"""The objective at many points at once, for methods that use only its values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fnnet.optim.vector import Unflatten

ValueFn = Callable[[Any], jax.Array]


def require_objective(method: str, params: optax.Params | None, value_fn: ValueFn | None) -> ValueFn:
    """Returns value_fn; raises ValueError if `update` was called without it or without the params."""
    if value_fn is None or params is None:
        missing = [name for name, given in (("params", params), ("value_fn", value_fn)) if given is None]
        raise ValueError(
            f"{method}: update needs {' and '.join(missing)}; call "
            "optimizer.update(grads, state, params, value_fn=loss), where loss is a function of the params, "
            "as fn.train.make_step does"
        )
    return value_fn


def finite_or_inf(values: jax.Array, like: jax.Array) -> jax.Array:
    """Values in the dtype of `like`; a value that is not finite becomes inf, and so ranks last."""
    values = jnp.asarray(values).astype(like.dtype)
    return jnp.where(jnp.isfinite(values), values, jnp.inf)


def evaluate_points(value_fn: ValueFn, unflatten: Unflatten, xs: jax.Array) -> jax.Array:
    """float[rows]: the objective at each row of xs, all of them at once by `vmap`."""
    return finite_or_inf(jax.vmap(lambda x: value_fn(unflatten(x)))(xs), xs)


def evaluate_steps(
    value_fn: ValueFn, params: optax.Params, unflatten: Unflatten, steps: jax.Array
) -> jax.Array:
    """float[rows]: the objective at params + step for each row of steps.

    Each point is rounded just as `optax.apply_updates` would round it.
    """
    return finite_or_inf(
        jax.vmap(lambda d: value_fn(optax.apply_updates(params, unflatten(d))))(steps), steps
    )
