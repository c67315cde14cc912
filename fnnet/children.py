"""How combinators call their children: a key for each, the shape of an output, a child's apply."""

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


def child_keys(key: chex.PRNGKey | None, names: Iterable[str]) -> dict[str, chex.PRNGKey | None]:
    """A key for each child. It depends on the child's name, not its place: a new child changes no other's draws."""
    codes = {name: zlib.crc32(name.encode()) for name in names}
    if key is None or not codes:
        return dict.fromkeys(codes)
    # All keys at once: one by one, XLA takes 0.1 s to compile each.
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.array(list(codes.values()), jnp.uint32))
    return {name: keys[i] for i, name in enumerate(codes)}


def output_shape(child: Layer, params: Params, state: State, x: Any) -> Any:
    """The shape and dtype of a child's output, a `jax.ShapeDtypeStruct`, without computing it."""
    return jax.eval_shape(partial(child.apply, train=False), params, state, x)[0]


def apply_child(
    name: str, child: Layer, params: Params, state: State, x: Any, key: chex.PRNGKey | None, train: bool
) -> tuple[Any, State]:
    """Every combinator calls its children through this function, so that `observing_children` sees the calls."""
    observe = _observer.get()
    if observe is None:
        return child.apply(params, state, x, key=key, train=train)
    return observe(name, child, params, state, x, key, train)


# What `apply_child` calls instead of a child's apply, if anything. Only `summary` sets it, while it traces.
_observer: ContextVar[Callable[..., tuple[Any, State]] | None] = ContextVar("observer", default=None)


@contextmanager
def observing_children(observe: Callable[..., tuple[Any, State]]) -> Iterator[None]:
    """Within the block, `observe(name, child, params, state, x, key, train)` is called instead of a child's apply."""
    token = _observer.set(observe)
    try:
        yield
    finally:
        _observer.reset(token)
