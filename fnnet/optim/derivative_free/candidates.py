"""What derivative-free methods share: the values of candidates, the key."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet.optim.vector import Unflatten

Seed = int | jax.Array
ValueFn = Callable[[Any], jax.Array]


def key_of(seed: Seed) -> chex.PRNGKey:
    """A key from an int, which may be a tracer; a key, of either kind, stays what it is.

    From an int it is the raw kind, uint32[2], so that a state has plain arrays only. A copy: the state may be donated.
    """
    return jax.random.PRNGKey(seed) if jnp.ndim(seed) == 0 and not _is_key(seed) else jnp.copy(seed)


def _is_key(seed: Seed) -> bool:
    return isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)


def objective_of(method: str, params: optax.Params | None, value_fn: ValueFn | None) -> ValueFn:
    """value_fn, or raises ValueError where update was called without it or the params."""
    if value_fn is None or params is None:
        missing = [name for name, given in (("params", params), ("value_fn", value_fn)) if given is None]
        raise ValueError(
            f"{method}: update needs {' and '.join(missing)}; call "
            "optimizer.update(grads, state, params, value_fn=loss), where loss is a function of the params, "
            "as fn.train.make_step does"
        )
    return value_fn


def rankable(values: jax.Array, like: jax.Array) -> jax.Array:
    """Values in the dtype of the search; one that is not finite becomes inf and ranks last."""
    values = jnp.asarray(values).astype(like.dtype)
    return jnp.where(jnp.isfinite(values), values, jnp.inf)


def values_at(value_fn: ValueFn, unflatten: Unflatten, xs: jax.Array) -> jax.Array:
    """The objective at each row of xs, all at once (`vmap`): float[rows]."""
    return rankable(jax.vmap(lambda x: value_fn(unflatten(x)))(xs), xs)


def values_after(
    value_fn: ValueFn, params: optax.Params, unflatten: Unflatten, steps: jax.Array
) -> jax.Array:
    """The objective at params + step for each row of steps: just where `optax.apply_updates` arrives."""
    return rankable(jax.vmap(lambda d: value_fn(optax.apply_updates(params, unflatten(d))))(steps), steps)
