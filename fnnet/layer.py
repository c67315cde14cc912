"""A layer is a pair of pure functions: the ground of everything else.

    init(key, x) -> (params, state)
    apply(params, state, x, *, key=None, train=False) -> (y, state)

`x` in `init` is an example batch or a `jax.ShapeDtypeStruct`: only its shape and dtype are read. `params` and
`state` are nested dicts of arrays, `{}` when empty. The state has the same tree in training and evaluation, so
that it can be the carry of a `lax.scan`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex

Params = dict[str, Any]
State = dict[str, Any]


# No NamedTuple: `jax.jit(layer)` needs a weak reference to its function, and there is none to a tuple.
@dataclass(frozen=True)
class Layer:
    """A layer or a whole network: two pure functions, and the name it goes by in params and in errors.

    Attributes:
        init: `(key, x) -> (params, state)`.
        apply: `(params, state, x, *, key=None, train=False) -> (y, state)`.
        name: the kind, such as "dense"; `serial` counts the children of a kind: `dense_0`, `dense_1`.

    Example:
        A layer written by hand, one gain for each feature:

        >>> def init(key, x):
        ...     return {"gain": jnp.ones(x.shape[-1:], x.dtype)}, {}
        >>> def apply(params, state, x, *, key=None, train=False):
        ...     return x * params["gain"], {}
        >>> scale = fn.Layer(init, apply, "scale")
        >>> params, state = scale.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
        >>> scale(params, jnp.array([1.0, 2.0, 3.0]))
        Array([1., 2., 3.], dtype=float32)
    """

    init: Callable[..., tuple[Params, State]]
    apply: Callable[..., tuple[Any, State]]
    name: str

    def __call__(self, params: Params, x: Any) -> Any:
        """The deterministic forward pass of a layer without state: `y = layer(params, x)`."""
        y, _ = self.apply(params, {}, x)
        return y


def as_layer(f: Layer | Callable[[Any], Any]) -> Layer:
    """A layer from a plain function of an array, such as `jnp.tanh`. A `Layer` comes back as it is.

    Raises:
        TypeError: `f` is neither, or makes a layer, as `fn.dense` without its features does.

    Example:
        >>> double = fn.as_layer(lambda x: 2 * x)
        >>> double({}, jnp.arange(3))
        Array([0, 2, 4], dtype=int32)
    """
    if isinstance(f, Layer):
        return f
    if not callable(f):
        hint = f"; write recurrent({f.name}_cell(...))" if hasattr(f, "initial_carry") else ""
        raise TypeError(f"a layer is a fnnet.Layer or a function of an array, got {f!r}{hint}")

    # A partial has no name of its own, and a lambda's is no identifier.
    named = getattr(f, "func", f)
    name = getattr(named, "__name__", type(named).__name__).strip("<>")
    makes_a_layer = f"{name} makes a layer and is none: write {name}(...), with its arguments"
    if getattr(named, "__annotations__", {}).get("return") is Layer:
        raise TypeError(makes_a_layer)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        y = f(x)
        if isinstance(y, Layer):
            raise TypeError(makes_a_layer)
        return y, {}

    return Layer(init, apply, name)
