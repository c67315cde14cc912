"""Batch normalization: each feature gets mean 0 and variance 1 over the batch (Ioffe & Szegedy 2015)."""

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.normalization.norm import affine, check_affine, init_affine


@printable
def batch_norm(*, momentum: float = 0.9, eps: float = 1e-5, axis_name: str | None = None) -> Layer:
    """Batch normalization: each feature is normalized over the batch (and over space).

        y = gamma (x - mu) / sqrt(var + eps) + beta
        train:  mu = mean(x), var = mean((x - mu)^2)             over all axes but the last, of m elements
                mean <- momentum mean + (1 - momentum) mu
                var  <- momentum var + (1 - momentum) var m / (m - 1)
        test:   mu and var are the running averages in state

    Statistics are computed in float32 at least, and the running averages are kept in float32; y has the dtype of
    x. The variance of a single element (m = 1) is 0. In training, y is right where var itself would overflow. The
    running var cannot hold it: it is then inf, and evaluation gives NaN.

    Shapes: x and y (batch, ..., features); params gamma, beta and state mean, var (features,).

    Args:
        momentum: weight of the old running average at each step. (PyTorch's momentum is 1 minus this one: 0.1.)
        eps: added to the variance.
        axis_name: a mapped axis (of `vmap` or `shard_map`) over which the batches are normalized together.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of features does not match gamma, or the batch is empty; momentum is not in [0, 1);
            eps is negative; the running averages are missing from state, as in `layer(params, x)`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2, with the unbiased variance at test time.

    Example:
        >>> layer = fn.batch_norm()
        >>> x = jnp.array([[1.0], [3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> y, state = layer.apply(params, state, x, train=True)
        >>> y.squeeze().round(3), state["mean"].round(3), state["var"].round(3)
        (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32), Array([1.1], dtype=float32))
    """
    check.number("batch_norm", "momentum", momentum, "[0, 1)")
    check.number("batch_norm", "eps", eps, "[0, inf)")
    if axis_name is not None and not isinstance(axis_name, str | tuple):
        raise TypeError(f"batch_norm: axis_name={axis_name!r}, wanted the name of a mapped axis, or None")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        params = init_affine("batch_norm", x)
        features = x.shape[-1:]
        return params, {"mean": jnp.zeros(features, jnp.float32), "var": jnp.ones(features, jnp.float32)}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check(params, state, x, train)
        x = jnp.asarray(x)
        x32 = x.astype(jnp.result_type(x, jnp.float32))

        if not train:
            scale = _scale(state["var"].astype(x32.dtype), jnp.ones((), x32.dtype), eps)
            y = (x32 - jnp.broadcast_to(state["mean"], x.shape)) * jnp.broadcast_to(scale, x.shape)
            return affine(y, params).astype(x.dtype), state

        m = math.prod(x.shape[:-1]) * (1 if axis_name is None else lax.psum(1, axis_name))
        gamma, beta = (params[name].astype(x32.dtype) for name in ("gamma", "beta"))
        y, origin, mu, var, unit = _normalize(x32, gamma, beta, eps, axis_name)
        seen = {"mean": origin + mu, "var": var * jnp.square(unit) * (m / max(m - 1, 1))}

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return (momentum * old + (1 - momentum) * new).astype(old.dtype)

        state = jax.tree.map(average, state, seen)
        return y.astype(x.dtype), state

    return Layer(init, apply, "batch_norm")


def _check(params: Params, state: State, x: Any, train: bool) -> None:
    check_affine("batch_norm", params, x)
    check.has_shapes("batch_norm", "state", state, dict.fromkeys(("mean", "var"), x.shape[-1:]))
    if train and 0 in x.shape[:-1]:
        raise ValueError(f"batch_norm: input is {check.describe(x)}, wanted at least one example to train on")


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalize(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, eps: chex.Numeric, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """(y, origin, mu, var, unit): the output, an origin near the mean, the mean minus it, var / unit^2, the unit."""
    # Sums are of differences from one example: rounding a sum of large numbers can exceed their variation.
    origin = _mean(lax.stop_gradient(x[(slice(1),) * (x.ndim - 1)]), axis_name)
    differences = x - jnp.broadcast_to(origin, x.shape)
    mu = _mean(differences, axis_name)
    differences -= jnp.broadcast_to(mu, x.shape)
    # Squares are of differences in units of their size, where they would overflow. The largest element would be the
    # surest measure of it, but takes a pass over x: 18 to 39 % of the layer for images (forward and backward, two CPU
    # cores). Origin and mean are far smaller only if large numbers cancel exactly; then y is NaN.
    large = jnp.maximum(jnp.abs(origin), jnp.abs(mu))
    unit = lax.stop_gradient(jnp.where(large > float(jnp.finfo(x.dtype).max) ** 0.25, large, 1))
    var = _mean(jnp.square(differences * jnp.broadcast_to(1 / unit, x.shape)), axis_name)
    y = differences * jnp.broadcast_to(_scale(var, unit, eps), x.shape)
    return affine(y, {"gamma": gamma, "beta": beta}), origin, mu, var, unit


# By the chain rule, backprop sums over the batch four times. In this form it needs two sums, which are the gradients
# of beta and gamma as well: a ResNet block takes 46 ms instead of 54, and 29 MB instead of 38 (jax 0.12; XLA in
# 0.10.1 finds this form by itself: 50 ms either way; two CPU cores).
@_normalize.defjvp
def _(eps: chex.Numeric, axis_name: str | None, primals: Any, tangents: Any) -> Any:
    (x, gamma, beta), (dx, dgamma, dbeta) = primals, tangents
    y, origin, mu, var, unit = _normalize(x, gamma, beta, eps, axis_name)

    def wide(z: jax.Array) -> jax.Array:
        return jnp.broadcast_to(z, x.shape)

    scale = _scale(var, unit, eps)
    x_hat = (x - wide(origin) - wide(mu)) * wide(scale)
    dmu, slope = _mean(dx, axis_name), _mean(x_hat * dx, axis_name)
    step = gamma * scale
    dy = wide(step) * dx - wide(step * dmu) + x_hat * wide(dgamma - step * slope) + wide(dbeta)
    # var = mean((differences / unit)^2), and differences = x_hat / scale.
    dvar = 2 * slope / (scale * unit) / unit
    return (y, origin, mu, var, unit), (dy, jnp.zeros_like(origin), dmu, dvar, jnp.zeros_like(unit))


def _scale(var: jax.Array, unit: jax.Array, eps: chex.Numeric) -> jax.Array:
    """1 / sqrt(unit^2 var + eps). It is NaN if var is infinite: 0 would be a wrong number."""
    scale = lax.rsqrt(var + eps / jnp.square(unit)) / unit
    return jnp.where(scale == 0, jnp.nan, scale)


def _mean(z: jax.Array, axis_name: str | None) -> jax.Array:
    z = jnp.mean(z, tuple(range(z.ndim - 1)))
    return z if axis_name is None else lax.pmean(z, axis_name)
