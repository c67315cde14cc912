"""Roots, quotients and norms that stay finite where the plain formula is 0 / 0, vanishes or overflows.

Where the plain formula is right, the numbers are those of the plain formula, bit for bit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnnet.copies import copy_axes
from fnnet.optim.hyperparameters import abs_sq


def with_finite_slope(
    f: Callable[[jax.Array], jax.Array], slope: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """f, elementwise, with the derivative `slope(x)`, or 0 where that is not finite.

    A gradient that is 0 in every step has v = 0 in every step. Then d sqrt(v) = inf * 0 = NaN would be the derivative
    of the whole run by its learning rate.
    """

    @jax.custom_jvp
    def function(x: jax.Array) -> jax.Array:
        return f(x)

    @function.defjvp
    def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        (x,), (t,) = primals, tangents
        finite = jnp.isfinite(slope(x))
        # The inner selection keeps second derivatives finite, too.
        return function(x), t * jnp.where(finite, slope(jnp.where(finite, x, 1)), 0).astype(x.dtype)

    return function


root = with_finite_slope(jnp.sqrt, lambda x: 0.5 / jnp.sqrt(x))
reciprocal_root = with_finite_slope(jax.lax.rsqrt, lambda x: -0.5 * jax.lax.rsqrt(x) / x)
inverse_power = with_finite_slope(lambda x: x**-0.5, lambda x: -0.5 * x**-1.5)  # optax's form in adafactor


def visible(eps: Any, x: jax.Array, *, under_root: bool = False) -> Any:
    """An eps that keeps a quotient finite, in the dtype of x: at least the smallest number that does.

    In float16 1e-8 is 0, and 0 / (sqrt(0) + 1e-8) would be 0 / 0. A divisor must be a normal number, 6e-5 or more,
    whose reciprocal is finite, too; under a root 6e-8 is enough. An eps that is 0 stays 0.
    """
    info = jnp.finfo(x.dtype)
    least = float(info.smallest_subnormal if under_root else info.tiny)
    if isinstance(eps, int | float):
        return max(eps, least) if eps else eps
    return jnp.maximum(eps, least) if least > 1e-30 else eps


def wide(x: jax.Array) -> jax.Array:
    """x, in float32 instead of float16, in which the square of 300 is infinite and that of 1e-4 is 0."""
    return x.astype(jnp.float32) if x.dtype == jnp.float16 else x


class Norm(NamedTuple):
    """The norm of an array, or of all of a tree: sqrt(sum x^2), also where the square overflows or vanishes."""

    value: jax.Array  # float32 at least for float16
    divisor: jax.Array  # the same, or 1 instead of 0


def norms(arrays: Sequence[jax.Array], axes: Sequence[tuple[int, ...]]) -> list[Norm]:
    """The norm of each array over its axes."""
    return _norms(list(map(wide, arrays)), tuple(axes)) if arrays else []


def norms_like(tree: Any) -> Any:
    """The norm of each array of a tree; of each copy, where `repeat` stacked the arrays."""
    leaves, structure = jax.tree.flatten(tree)
    axes = [tuple(range(n, x.ndim)) for x, n in zip(leaves, jax.tree.leaves(copy_axes(tree)), strict=True)]
    return jax.tree.unflatten(structure, norms(leaves, axes))


def global_norm(tree: Any) -> Norm:
    """The norm of all arrays of a tree, taken as one vector."""
    return _global_norm(list(map(wide, jax.tree.leaves(tree))))


# Compiled by themselves, so that without jit, too, their condition is compiled only once.
@partial(jax.jit, static_argnums=1)
def _norms(arrays: list[jax.Array], axes: tuple[tuple[int, ...], ...]) -> list[Norm]:
    squares = [jnp.sum(abs_sq(x), axis=over) for x, over in zip(arrays, axes, strict=True)]

    def scaled(x: jax.Array, square: jax.Array, over: tuple[int, ...]) -> Norm:
        size = _size(jnp.max(jnp.abs(x), axis=over, keepdims=True, initial=0))
        norm = jnp.squeeze(size, over) * root(jnp.sum(abs_sq(x / size), axis=over))
        return _rare(jnp.where(_ordinary(square), root(square), norm))

    return jax.lax.cond(
        jnp.all(jnp.stack([jnp.all(_ordinary(square)) for square in squares])),
        lambda: [Norm(root(square), root(square)) for square in squares],
        lambda: [scaled(*each) for each in zip(arrays, squares, axes, strict=True)],
    )


@jax.jit
def _global_norm(arrays: list[jax.Array]) -> Norm:
    if not arrays:
        return Norm(jnp.zeros([]), jnp.ones([]))
    square: Any = sum(jnp.sum(abs_sq(x)) for x in arrays)

    def scaled() -> Norm:
        largest = [jnp.max(jnp.abs(x), initial=0).astype(square.dtype) for x in arrays]
        size = _size(jnp.max(jnp.stack(largest)))
        parts = [jnp.sum(abs_sq(x / size)).astype(square.dtype) for x in arrays]
        return _rare(size * root(sum(parts, jnp.zeros([], square.dtype))))

    return jax.lax.cond(_ordinary(square), lambda: Norm(root(square), root(square)), scaled)


def _rare(norm: jax.Array) -> Norm:
    """In this branch alone a norm may be 0."""
    return Norm(norm, jnp.where(norm == 0, 1, norm))


def _ordinary(square: jax.Array) -> jax.Array:
    """Whether a sum of squares did not overflow, and is not so small that some of its terms may have vanished."""
    info = jnp.finfo(square.dtype)
    return (square >= float(info.tiny) / float(info.eps)) & (square <= float(info.max))


def _size(largest: jax.Array) -> jax.Array:
    """What to divide by before squaring: the largest absolute value, or 1 if that is 0 or not finite."""
    return jax.lax.stop_gradient(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1))
