"""Normalization: inputs brought to mean 0 and variance 1, over the batch or over the features."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State


def batch_norm(*, momentum: float = 0.9, eps: float = 1e-5, axis_name: str | None = None) -> Layer:
    """Batch normalization: each feature over the batch (and over space).

        y = gamma (x - mu) / sqrt(var + eps) + beta
        train:  mu = mean(x), var = mean((x - mu)^2)             over all axes but the last, of m elements
                mean <- momentum mean + (1 - momentum) mu
                var  <- momentum var + (1 - momentum) var m / (m - 1)
        test:   mu and var are the running averages in state

    Shapes: x and y (batch, ..., features); params gamma, beta and state mean, var (features,).

    Args:
        momentum: share of the old running average that is kept at each step (PyTorch counts the other way, 0.1).
        eps: added to the variance.
        axis_name: mapped axis (of `vmap`, `shard_map`) whose batches are normalized as one.

    Statistics are computed and kept in float32 at least; y has the dtype of x.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not the features of gamma, or no batch; momentum is not in [0, 1); the running
            averages are missing from state, as in `layer(params, x)`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2, with the unbiased variance for the test.

    Example:
        >>> layer = fn.batch_norm()
        >>> x = jnp.array([[1.0], [3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> y, state = layer.apply(params, state, x, train=True)
        >>> y.squeeze().round(3), state["mean"].round(3), state["var"].round(3)
        (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32), Array([1.1], dtype=float32))
    """
    check.between("batch_norm", "momentum", momentum, 0, 1)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        params = _scale_and_shift("batch_norm", x)
        return params, {"mean": jnp.zeros(x.shape[-1:], jnp.float32), "var": jnp.ones(x.shape[-1:], jnp.float32)}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check("batch_norm", params, x)
        check.has_keys("batch_norm", "state", state, ("mean", "var"))
        x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not train:
            y = _normalize(x32, state["mean"], state["var"], eps)
            return _affine(y, params).astype(x.dtype), state
        if x.size == 0:
            raise ValueError(f"batch_norm: input is {check.describe(x)}, wanted at least one example to train on")

        axes = tuple(range(x.ndim - 1))
        m = x.size // x.shape[-1]
        mu = jnp.mean(x32, axes)
        if axis_name is not None:
            m *= lax.psum(1, axis_name)
            mu = lax.pmean(mu, axis_name)
        var = jnp.mean(jnp.square(x32 - jnp.broadcast_to(mu, x.shape)), axes)
        if axis_name is not None:
            var = lax.pmean(var, axis_name)

        seen = {"mean": mu, "var": var * (m / max(m - 1, 1))}
        state = jax.tree.map(lambda old, new: (momentum * old + (1 - momentum) * new).astype(old.dtype), state, seen)
        return _affine(_normalize(x32, mu, var, eps), params).astype(x.dtype), lax.stop_gradient(state)

    return Layer(init, apply, "batch_norm")


def layer_norm(*, eps: float = 1e-5) -> Layer:
    """Layer normalization: each example (each word, each pixel) over its features.

        y = gamma (x - mu) / sqrt(var + eps) + beta,      mu = mean(x), var = mean((x - mu)^2) over the last axis

    Shapes: x and y (batch, ..., features); params gamma, beta (features,).

    Args:
        eps: added to the variance.

    Statistics are computed in float32 at least; y has the dtype of x.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not the features of gamma.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450.

    Example:
        >>> layer = fn.layer_norm()
        >>> x = jnp.array([[1.0, 3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3)
        Array([[-1.,  1.]], dtype=float32)
    """

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return _scale_and_shift("layer_norm", x), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check("layer_norm", params, x)
        x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mu = jnp.mean(x32, axis=-1, keepdims=True)
        var = jnp.mean(jnp.square(x32 - mu), axis=-1, keepdims=True)
        return _affine(_normalize(x32, mu, var, eps), params).astype(x.dtype), {}

    return Layer(init, apply, "layer_norm")


def _scale_and_shift(layer: str, x: Any) -> Params:
    check.is_floating(layer, x)
    check.has_rank(layer, x, 1, "(batch, ..., features)")
    return {"gamma": jnp.ones(x.shape[-1:], x.dtype), "beta": jnp.zeros(x.shape[-1:], x.dtype)}


def _check(layer: str, params: Params, x: Any) -> None:
    check.is_floating(layer, x)
    check.has_rank(layer, x, 1, "(batch, ..., features)")
    check.has_keys(layer, "params", params, ("gamma", "beta"))
    if x.shape[-1:] != params["gamma"].shape:
        raise ValueError(
            f"{layer}: input is {check.describe(x)} and gamma {check.describe(params['gamma'])}, "
            f"wanted {params['gamma'].shape[0]} features, on the last axis"
        )


def _normalize(x: jax.Array, mu: jax.Array, var: jax.Array, eps: float) -> jax.Array:
    mu, scale = jnp.broadcast_to(mu, x.shape), jnp.broadcast_to(lax.rsqrt(var + eps), x.shape)
    return (x - mu) * scale


def _affine(x: jax.Array, params: Params) -> jax.Array:
    return x * jnp.broadcast_to(params["gamma"], x.shape) + jnp.broadcast_to(params["beta"], x.shape)
