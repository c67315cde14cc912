"""The cache for decoding token by token: the keys and values of the time steps so far, and their number."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import State


def empty_cache(batch: int, length: int, kv_heads: int, d: int, dtype: Any) -> State:
    """A cache with room for the keys and values of `length` time steps."""
    room = jnp.zeros((batch, length, kv_heads, d), dtype)
    return {"k": room, "v": room, "position": jnp.zeros((), jnp.int32)}


def cache_shapes(length: int, kv_heads: int, d: int) -> dict[str, Any]:
    """The shapes of such a cache. `append` checks its batch; training does not read it, and may have another."""
    return {"k": (None, length, kv_heads, d), "v": (None, length, kv_heads, d), "position": int}


def append(layer: str, cache: State, k: jax.Array, v: jax.Array) -> tuple[Any, State]:
    """(has_room, cache): the cache with k and v written at its position, and whether there was room for them."""
    shape, start = cache["k"].shape, cache["position"]
    for name in ("k", "v"):
        if cache[name].shape[0] != k.shape[0]:
            raise ValueError(
                f"{layer}: the cache in state is {check.describe(cache[name])} and the new keys "
                f"{check.describe(k)}, wanted one batch; init with the batch to be decoded"
            )
    fits = has_room(layer, start, k.shape[1], shape[1])
    new = {"k": k, "v": v}
    written = {
        name: lax.dynamic_update_slice_in_dim(cache[name], array.astype(cache[name].dtype), start, axis=1)
        for name, array in new.items()
    }
    return fits, {**written, "position": start + k.shape[1]}


def has_room(layer: str, position: Any, time: int, length: int) -> Any:
    """Whether `time` more steps fit into `length`. Raises ValueError if it is known that they do not."""
    known = not isinstance(position, jax.core.Tracer)
    if time > length or (known and int(position) + time > length):
        at = f" at position {int(position)}" if known else ""
        raise ValueError(f"{layer}: {time} time steps{at}, wanted at most {length} in all; make it longer")
    return position + time <= length
