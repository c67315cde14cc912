"""Batch normalization: each feature brought to mean 0 and variance 1 over the batch."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.layers.norm import affine, check_input, scale_and_shift


def batch_norm(*, momentum: float = 0.9, eps: float = 1e-5, axis_name: str | None = None) -> Layer:
    """Batch normalization: each feature over the batch (and over space).

        y = gamma (x - mu) / sqrt(var + eps) + beta
        train:  mu = mean(x), var = mean((x - mu)^2)             over all axes but the last, of m elements
                mean <- momentum mean + (1 - momentum) mu
                var  <- momentum var + (1 - momentum) var m / (m - 1)
        test:   mu and var are the running averages in state

    Shapes: x and y (batch, ..., features); params gamma, beta and state mean, var (features,).

    Args:
        momentum: share of the old running average that is kept at each step (PyTorch counts the other way,
            0.1).
        eps: added to the variance.
        axis_name: mapped axis (of `vmap`, `shard_map`) whose batches are normalized as one.

    Statistics are computed in float32 at least, the running averages kept in float32; y has the dtype of x.
    The variance of one element (m = 1) is 0.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not the features of gamma, or no batch; momentum is not in [0, 1); eps is
            negative; the running averages are missing from state, as in `layer(params, x)`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2, with the unbiased variance for the
    test.

    Example:
        >>> layer = fn.batch_norm()
        >>> x = jnp.array([[1.0], [3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> y, state = layer.apply(params, state, x, train=True)
        >>> y.squeeze().round(3), state["mean"].round(3), state["var"].round(3)
        (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32), Array([1.1], dtype=float32))
    """
    check.between("batch_norm", "momentum", momentum, 0, 1)
    check.between("batch_norm", "eps", eps, 0)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        params = scale_and_shift("batch_norm", x)
        features = x.shape[-1:]
        return params, {"mean": jnp.zeros(features, jnp.float32), "var": jnp.ones(features, jnp.float32)}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_input("batch_norm", params, x)
        check.has_keys("batch_norm", "state", state, ("mean", "var"))
        x = jnp.asarray(x)
        x32 = x.astype(jnp.result_type(x, jnp.float32))

        def normalize(differences: jax.Array, var: jax.Array) -> jax.Array:
            scale = lax.rsqrt(var.astype(x32.dtype) + eps)
            return differences * jnp.broadcast_to(scale, x.shape)

        if not train:
            y = normalize(x32 - jnp.broadcast_to(state["mean"], x.shape), state["var"])
            return affine(y, params).astype(x.dtype), state
        m = math.prod(x.shape[:-1])
        if m == 0:
            raise ValueError(
                f"batch_norm: input is {check.describe(x)}, wanted at least one example to train on"
            )

        def mean(z: jax.Array) -> jax.Array:
            z = jnp.mean(z, tuple(range(z.ndim - 1)))
            return z if axis_name is None else lax.pmean(z, axis_name)

        m *= 1 if axis_name is None else lax.psum(1, axis_name)
        # Of the differences from one example: a sum of large numbers is rounded by more than they may vary.
        origin = mean(lax.stop_gradient(x32[(slice(1),) * (x.ndim - 1)]))
        x32 -= jnp.broadcast_to(origin, x.shape)
        mu = mean(x32)
        differences = x32 - jnp.broadcast_to(mu, x.shape)
        var = mean(jnp.square(differences))

        seen = {"mean": origin + mu, "var": var * (m / max(m - 1, 1))}

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return (momentum * old + (1 - momentum) * new).astype(old.dtype)

        state = jax.tree.map(average, state, seen)
        return affine(normalize(differences, var), params).astype(x.dtype), state

    return Layer(init, apply, "batch_norm")
