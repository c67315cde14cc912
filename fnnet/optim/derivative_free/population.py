"""Where random points come from: the key of a method, and its first population."""

from numbers import Integral
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fnnet import check
from fnnet.optim.hyperparameters import times

Seed = int | jax.Array


def check_seed(method: str, seed: Any) -> None:
    """Raises TypeError or ValueError unless the seed is a key, or an int of 32 bits. A tracer passes."""
    if isinstance(seed, jax.Array):  # a tracer among them
        if _is_key(seed) or jnp.issubdtype(seed.dtype, jnp.integer):
            return
    elif isinstance(seed, Integral) and not isinstance(seed, bool):
        check.integer(method, "seed", seed, f"[0, {2**32})")  # JAX takes any other for one of these
        return
    raise TypeError(f"{method}: seed={seed!r}, wanted an int or a key of jax.random")


def as_key(seed: Seed) -> chex.PRNGKey:
    """A key from an int, which may be a tracer. A key of either kind is returned as it is.

    An int gives the raw kind, uint32[2], so that the state holds plain arrays only. The key is copied, because the
    state may be donated.
    """
    return jax.random.PRNGKey(seed) if jnp.ndim(seed) == 0 and not _is_key(seed) else jnp.copy(seed)


def _is_key(seed: Seed) -> bool:
    return isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)


def draw_population(key: chex.PRNGKey, theta: jax.Array, members: int, sigma: ArrayLike) -> jax.Array:
    """float[members, n]: theta itself first, then points drawn from N(theta, sigma^2)."""
    around = jax.random.normal(key, (members, theta.size), theta.dtype).at[0].set(0)
    return theta[None, :] + times(sigma, around)
