"""Gradient clipping: by element, by norm, or relative to the norm of the weights."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.copies import copy_axes, each_copy
from fnnet.optim.hyperparameters import times
from fnnet.optim.numerics import Norm, global_norm, norms, norms_like, wide


def clip(max_delta: chex.Numeric) -> optax.GradientTransformationExtraArgs:
    """Clips each element to an interval.

        g <- min(max(g, -delta), delta)

    Args:
        max_delta: delta, 0 or more. The direction of the gradient changes, since only large elements are cut.

    Twin: `optax.clip`, equal bit for bit; PyTorch's `clip_grad_value_`, Keras' `clipvalue`.

    Raises:
        ValueError: delta is negative.

    Source: Mikolov 2012, "Statistical language models based on neural networks", section 3.2.2.

    Example:
        >>> optimizer = optax.chain(fn.optim.clip(1.0), fn.optim.sgd(0.5))
        >>> grads = jnp.array([4.0, -0.5])
        >>> optimizer.update(grads, optimizer.init(grads))[0]
        Array([-0.5 ,  0.25], dtype=float32)
    """
    check.number("clip", "max_delta", max_delta, "[0, inf)")

    def cut(g: jax.Array) -> jax.Array:
        delta = jnp.asarray(max_delta, g.dtype)
        return jnp.clip(g, -delta, delta)

    def update(
        grads: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.EmptyState]:
        return jax.tree.map(cut, grads), state

    return optax.GradientTransformationExtraArgs(_no_state, update)


def clip_by_norm(max_norm: chex.Numeric) -> optax.GradientTransformationExtraArgs:
    """Scales each array of the tree to a norm of at most c, independently of the others.

        g <- g min(1, c / |g|)          for each array g

    Args:
        max_norm: c, 0 or more.

    Baseline: `optax.clip_by_global_norm` on each array alone, equal bit for bit; TensorFlow's `clip_by_norm`, Keras'
    `clipnorm`.

    Raises:
        ValueError: c is negative.

    Example:
        >>> optimizer = fn.optim.clip_by_norm(1.0)
        >>> grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5])}
        >>> optimizer.update(grads, optimizer.init(grads))[0]
        {'a': Array([0.6, 0.8], dtype=float32), 'b': Array([0.5], dtype=float32)}
    """
    check.number("clip_by_norm", "max_norm", max_norm, "[0, inf)")

    def update(
        grads: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.EmptyState]:
        norms = norms_like(grads)
        return each_copy(lambda g, norm: _clip_to_norm(g, norm, max_norm), grads, norms), state

    return optax.GradientTransformationExtraArgs(_no_state, update)


def clip_by_global_norm(
    max_norm: chex.Numeric, *, eps: chex.Numeric = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Scales the whole gradient, all arrays as one vector, to a norm of at most c. Its direction stays the same.

        g <- g min(1, c / (|g| + eps))

    Args:
        max_norm: c, 0 or more.
        eps: 0, as in the paper, optax, TensorFlow and Keras (`global_clipnorm`). PyTorch's `clip_grad_norm_` uses
            1e-6: clipped gradients end slightly below c, and so do those whose norm is c.

    Twin: `optax.clip_by_global_norm`, equal bit for bit.

    Raises:
        ValueError: c or eps is negative.

    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.

    Example:
        >>> optimizer = fn.optim.clip_by_global_norm(1.0)
        >>> grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
        >>> optimizer.update(grads, optimizer.init(grads))[0]
        {'a': Array([0.6], dtype=float32), 'b': Array([0.8], dtype=float32)}
    """
    check.number("clip_by_global_norm", "max_norm", max_norm, "[0, inf)")
    check.number("clip_by_global_norm", "eps", eps, "[0, inf)")

    def update(
        grads: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.EmptyState]:
        norm = global_norm(grads)
        if not (isinstance(eps, int | float) and eps == 0):  # without eps, bit for bit as optax
            norm = Norm(norm.value + eps, norm.divisor + eps)
        return jax.tree.map(lambda g: _clip_to_norm(g, norm, max_norm), grads), state

    return optax.GradientTransformationExtraArgs(_no_state, update)


def adaptive_grad_clip(
    clipping: chex.Numeric, eps: chex.Numeric = 1e-3, axis: int | Sequence[int] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Adaptive gradient clipping: limits the gradient of each unit relative to the norm of that unit's weights.

        g_i <- g_i min(1, lambda max(|w_i|, eps) / |g_i|)      for the weights w_i into output i

    Args:
        clipping: lambda, 0 or more. The paper uses 0.01 for batches of 4096, and more for smaller batches.
        eps: least norm of the weights, so that weights that start at 0 can move.
        axis: the axes over which norms are taken. By default all but the last for kernels with 2, 4 or 5 axes, the
            first for those with 3, and all elements of a vector.

    Twin: `optax.adaptive_grad_clip`, equal bit for bit.

    Raises:
        ValueError: lambda or eps is negative; `update` is called without params; an array has more than 5 axes and
            `axis` is not given.

    Source: Brock et al. 2021, arXiv:2102.06171, eq. 3.

    Example:
        >>> optimizer = fn.optim.adaptive_grad_clip(0.1)
        >>> params, grads = jnp.array([[3.0, 0.3], [4.0, 0.4]]), jnp.ones((2, 2))
        >>> optimizer.update(grads, optimizer.init(params), params)[0].round(4)
        Array([[0.3536, 0.0354],
               [0.3536, 0.0354]], dtype=float32)
    """
    check.number("adaptive_grad_clip", "clipping", clipping, "[0, inf)")
    check.number("adaptive_grad_clip", "eps", eps, "[0, inf)")
    given = () if axis is None else axis if isinstance(axis, Sequence) else (axis,)
    if not all(isinstance(a, int) and not isinstance(a, bool) for a in given):
        raise TypeError(f"adaptive_grad_clip: axis={axis!r}, wanted an int or several")

    def unit_axes(x: jax.Array, copies: int) -> tuple[int, ...]:
        """The axes over which norms are taken, those of one copy."""
        ndim = x.ndim - copies
        if axis is not None:
            if not all(-ndim <= a < ndim for a in given):
                raise ValueError(
                    f"adaptive_grad_clip: axis={axis} for {check.describe(x)}, wanted axes that it has"
                )
            over = [a % ndim for a in given]
        elif sum(n != 1 for n in x.shape[copies:]) <= 1:
            over = [*range(ndim)]
        elif ndim in (2, 3):
            over = [0]
        elif ndim in (4, 5):
            over = [*range(ndim - 1)]
        else:
            raise ValueError(
                f"adaptive_grad_clip: an array is {check.describe(x)}, wanted 5 axes at most, or an axis="
            )
        return tuple(copies + a for a in over)

    def cut(g: jax.Array, over: tuple[int, ...], of_g: Norm, of_w: Norm) -> jax.Array:
        norm, w_norm = (jnp.broadcast_to(jnp.expand_dims(one.value, over), g.shape) for one in (of_g, of_w))
        limit = times(clipping, jnp.maximum(w_norm, jnp.asarray(eps, norm.dtype)))
        clipped = g * (limit / jnp.maximum(norm, 1e-6))  # 1e-6 matters only if lambda eps is smaller
        return jnp.where(norm < limit, g, clipped.astype(g.dtype))

    def update(
        grads: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.EmptyState]:
        if params is None:
            raise ValueError("adaptive_grad_clip: needs the params, write update(grads, state, params)")
        leaves, structure = jax.tree.flatten(grads)
        weights = jax.tree.leaves(jax.tree.map(lambda _, w: w, grads, params))
        axes = [unit_axes(g, n) for g, n in zip(leaves, jax.tree.leaves(copy_axes(grads)), strict=True)]
        sizes = norms([*leaves, *weights], axes * 2)
        each = zip(leaves, axes, sizes[: len(axes)], sizes[len(axes) :], strict=True)
        return jax.tree.unflatten(structure, [cut(*one) for one in each]), state

    return optax.GradientTransformationExtraArgs(_no_state, update)


def _no_state(params: optax.Params) -> optax.EmptyState:
    return optax.EmptyState()


def _clip_to_norm(g: jax.Array, norm: Norm, max_norm: chex.Numeric) -> jax.Array:
    """g times max_norm / norm where that factor is less than 1."""
    # A gradient of 0 stays, even if max_norm is 0.
    fits = (norm.value < max_norm) | (norm.value == 0)
    unit = wide(g) / norm.divisor.astype(wide(g).dtype)
    return jnp.where(fits, g, times(max_norm, unit).astype(g.dtype))
