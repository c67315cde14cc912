"""Random keys: what takes a key takes the int that is its seed as well."""

from numbers import Integral
from typing import Any

import chex
import jax
import numpy as np

from fnnet import check


def as_key(function: str, key: Any) -> chex.PRNGKey:
    """The PRNG key, or that of a seed.

    Raises:
        TypeError: it is neither.
        ValueError: the seed has more than 32 bits, of which JAX would drop those that are too many.

    Example:
        >>> fn.keys.as_key("fit", 3) == jax.random.key(3)
        Array(True, dtype=bool)
    """
    dtype, shape = getattr(key, "dtype", None), np.shape(key)
    if isinstance(key, jax.Array | np.ndarray | np.generic):
        if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
            return key
        if dtype == np.uint32 and len(shape) == 1:  # of jax.random.PRNGKey
            return key
        is_seed = shape == () and jax.dtypes.issubdtype(dtype, np.integer)
    else:
        is_seed = isinstance(key, Integral) and not isinstance(key, bool)
    if not is_seed:
        several = "; for several runs, map over the keys with vmap" if len(shape) == 1 else ""
        raise TypeError(
            f"{function}: key={check.describe(key)}, wanted a key such as jax.random.key(0), or its seed, an "
            f"int{several}"
        )
    if isinstance(key, jax.core.Tracer):
        return jax.random.key(key)
    if not 0 <= int(key) < 2**32:
        raise ValueError(
            f"{function}: key={key}, wanted a seed from 0 to 2**32 - 1: JAX takes any other for one of these"
        )
    return jax.random.key(int(key))
