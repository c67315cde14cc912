"""Combinators around one layer: `repeat`, `cast`, `remat` and `freeze`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.children import Child, apply_child, output_shape
from fnnet.copies import COPIES
from fnnet.layer import Layer, Params, State, as_layer, printable


@printable
def repeat(layer: Child, times: int, *, unroll: int = 1) -> Layer:
    """A layer repeated several times, each time with its own params.

        y = f(... f(f(x; theta_1); theta_2) ...; theta_n)

    The params (and state) of all copies are stacked along a leading axis, and a `lax.scan` runs over them. So only
    one copy is compiled, whatever their number. The params stand under the key "copies". It tells optimizers that the
    leading axis is not part of the layer: `muon`, `lamb`, clipping and all others do with each copy what they
    do with a layer in a list (`copy_axes`).

    Shapes: y as x; params {"copies": the layer's, each array (times, ...)}, or {} for a layer without params; state
    as the layer's, each array (times, ...).

    Args:
        layer: a layer, or a plain function of an array. Its output must have the shape and dtype of its input.
        times: number of copies.
        unroll: copies per iteration of the scan. More may run faster, but take longer to compile.

    Raises:
        TypeError, ValueError: `times` or `unroll` is not a positive int; the layer changes shape or dtype; params or
            state have another number of copies. Whatever the layer raises, with a note.

    Example:
        >>> net = fn.repeat(fn.residual(fn.dense(3), fn.tanh), 12)
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> params["copies"]["dense_0"]["w"].shape, net(params, jnp.ones((5, 3))).shape
        ((12, 3, 3), (5, 3))
    """
    check.is_positive("repeat", "times", times)
    check.is_positive("repeat", "unroll", unroll)
    child = as_layer(layer)

    def keys_of(key: chex.PRNGKey) -> jax.Array:
        return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(times))

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        with check.at(f"repeat[{child.name!r}]", x):
            x = jax.eval_shape(lambda x: x, x)  # NumPy's float64 and int64 in the dtypes that a block returns
            params, state = jax.vmap(lambda key: child.init(key, x))(keys_of(key))
            p, s = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (params, state))
            check_unchanged(x, output_shape(child, p, s, x))
        return ({COPIES: params} if params else {}), state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        check.has_shapes("repeat", "params", params, {COPIES: ...} if params else {})
        check.is_dict("repeat", "state", state)
        params = params[COPIES] if params else params
        for leaf in jax.tree.leaves((params, state)):
            if jnp.shape(leaf)[:1] != (times,):
                raise ValueError(
                    f"repeat: params or state have {check.describe(leaf)}, wanted {times} copies on the first axis; "
                    "pass those that this network's init returned"
                )
        x = jax.tree.map(jnp.asarray, x)

        def block(x: Any, each: Any) -> tuple[Any, State]:
            params, state, key = each
            y, state = _apply_wrapped("repeat", child, params, state, x, key, train)
            check_unchanged(x, y)
            return y, state

        keys = None if key is None else keys_of(key)
        return lax.scan(block, x, (params, state, keys), length=times, unroll=unroll)

    def check_unchanged(x: Any, y: Any) -> None:
        def avals(tree: Any) -> Any:
            return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

        if avals(x) != avals(y):
            raise ValueError(
                f"repeat: a block maps {check.describe(x)} to {check.describe(y)}, wanted one shape and dtype"
            )

    return Layer(init, apply, "repeat")


@printable
def cast(layer: Child, dtype: Any = jnp.bfloat16) -> Layer:
    """A layer or network computed in another precision, with params kept in float32.

        y = f(half(x); half(theta)),      y in the dtype of x

    The gradient of theta is float32, so that an optimizer can add up small updates. Statistics in the state are not
    cast. In float16 small gradients vanish unless the loss is scaled; bfloat16 has the range of float32.

    Args:
        layer: a layer, or a plain function of an array.
        dtype: dtype of the computation: bfloat16, float16 or another floating-point dtype.

    Raises:
        TypeError: dtype is not floating point.

    Source: Micikevicius et al. 2018, arXiv:1710.03740.

    Example:
        >>> net = fn.cast(fn.dense(2))
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> params["w"].dtype, net(params, jnp.ones((5, 3))).dtype
        (dtype('float32'), dtype('float32'))
    """
    try:
        floating = dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:  # no dtype at all
        floating = False
    if not floating:
        raise TypeError(f"cast: dtype={dtype!r}, wanted floating point, such as jnp.bfloat16")
    child = as_layer(layer)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        # Params for an input in float32 at least; state, if any, for the input that the layer will get.
        params, state = child.init(key, _shapes(x, lambda d: jnp.promote_types(d, jnp.float32)))
        if state:
            _, state = child.init(key, _shapes(x, lambda d: jnp.dtype(dtype)))
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        floating = [a.dtype for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.floating)]
        outer = jnp.result_type(*floating) if floating else jnp.result_type(float)
        half = partial(_cast, dtype=dtype)
        _check_dicts("cast", params, state)
        y, state = _apply_wrapped("cast", child, half(params), state, half(x), key, train)
        return _cast(y, outer), state

    return Layer(init, apply, "cast")


@printable
def remat(layer: Child, *, policy: Callable[..., bool] | None = None) -> Layer:
    """Rematerialization: backprop recomputes what happens inside a layer instead of storing it. Saves memory.

        y = f(x; theta), and only x and theta are stored for the backward pass

    Args:
        layer: a layer, or a plain function of an array.
        policy: which intermediate values to store nevertheless, one of `jax.checkpoint_policies`. The default is
            none.

    Raises:
        TypeError: the policy is not a function.

    Source: Chen et al. 2016, arXiv:1604.06174.

    Example:
        Backprop through 48 blocks, storing one array per block:

        >>> net = fn.repeat(fn.remat(fn.residual(fn.dense(3), fn.tanh)), 48)
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> net(params, jnp.ones((5, 3))).shape
        (5, 3)
    """
    if policy is not None and not callable(policy):
        raise TypeError(f"remat: policy={policy!r}, wanted one of jax.checkpoint_policies, or None")
    child = as_layer(layer)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        _check_dicts("remat", params, state)

        @partial(jax.checkpoint, policy=policy)
        def recomputed(params: Params, state: State, x: Any, key: chex.PRNGKey | None) -> tuple[Any, State]:
            return _apply_wrapped("remat", child, params, state, x, key, train)

        return recomputed(params, state, x, key)

    return Layer(child.init, apply, "remat")


@printable
def freeze(layer: Child) -> Layer:
    """A layer that does not learn: its params get no gradient, and it always runs as in evaluation.

        y = f(x; theta),      d y / d theta = 0

    The gradient with respect to x passes through. In training, too, running averages do not change and nothing is
    dropped. An optimizer with weight decay still shrinks the params: exclude them with `optax.masked`.

    Args:
        layer: a layer, or a plain function of an array.

    Example:
        >>> net = fn.serial(fn.freeze(fn.dense(3)), fn.dense(1))
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> slopes = jax.grad(lambda p: net(p, jnp.ones((5, 2))).sum())(params)
        >>> bool((slopes["freeze_0"]["w"] == 0).all()), bool((slopes["dense_0"]["w"] == 0).all())
        (True, False)
    """
    child = as_layer(layer)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        _check_dicts("freeze", params, state)
        y, after = _apply_wrapped("freeze", child, lax.stop_gradient(params), state, x, None, False)
        # Training leaves the state unchanged. An evaluation may change it, such as a cache of keys and values.
        return y, state if train else after

    return Layer(child.init, apply, "freeze")


def _check_dicts(kind: str, params: Params, state: State) -> None:
    """Raises unless both are dicts, before JAX is given another mapping."""
    check.is_dict(kind, "params", params)
    check.is_dict(kind, "state", state)


def _apply_wrapped(
    kind: str, child: Layer, params: Params, state: State, x: Any, key: chex.PRNGKey | None, train: bool
) -> tuple[Any, State]:
    with check.at(f"{kind}[{child.name!r}]", x):
        return apply_child(child.name, child, params, state, x, key, train)


def _cast(tree: Any, dtype: Any) -> Any:
    def convert(a: Any) -> Any:
        # What is no array stays as it is: the layer refuses it.
        is_floating = hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating)
        return a.astype(dtype) if is_floating else a

    return jax.tree.map(convert, tree)


def _shapes(x: Any, dtype: Callable[[Any], Any]) -> Any:
    def struct(a: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            a.shape, dtype(a.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype
        )

    return jax.tree.map(struct, x)
