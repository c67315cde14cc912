"""What combinators call their children by: a key for each, the shape of their output, their apply."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet.layer import Layer, Params, State

Child = Layer | Callable[[Any], Any]


def keys_of(key: chex.PRNGKey | None, names: Iterable[str]) -> dict[str, chex.PRNGKey | None]:
    """Each child's key: by its name, not its place, so that a layer in between leaves the others' draws alone."""
    codes = {name: zlib.crc32(name.encode()) for name in names}
    if key is None or not codes:
        return dict.fromkeys(codes)
    # All in one go: to compile them one by one XLA takes 0.1 s each.
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.array(list(codes.values()), jnp.uint32))
    return {name: keys[i] for i, name in enumerate(codes)}


def output(child: Layer, params: Params, state: State, x: Any) -> Any:
    """Shape and dtype of a child's output, without computing it."""
    return jax.eval_shape(partial(child.apply, train=False), params, state, x)[0]


def apply_child(
    name: str, child: Layer, params: Params, state: State, x: Any, key: chex.PRNGKey | None, train: bool
) -> tuple[Any, State]:
    """What every combinator calls its children by: `with watching(see)` sees them."""
    watcher = _watcher.get()
    if watcher is None:
        return child.apply(params, state, x, key=key, train=train)
    return watcher(name, child, params, state, x, key, train)


# What `apply_child` calls instead; only `summary` sets it, while it traces.
_watcher: ContextVar[Callable[..., tuple[Any, State]] | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(see: Callable[..., tuple[Any, State]]) -> Iterator[None]:
    """Within the block, `see(name, child, params, state, x, key, train)` stands for a child's apply."""
    token = _watcher.set(see)
    try:
        yield
    finally:
        _watcher.reset(token)
