"""Spectral normalization: a wrapper that divides a layer's weights by their largest singular value."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State, as_layer, printable
from fnnet.layers.normalization.inner_weight import check_names_free, split_off, weight


@printable
def spectral_norm(layer: Layer, *, iterations: int = 1, eps: float = 1e-12) -> Layer:
    """Spectral normalization: weights are divided by their largest singular value, so that f is 1-Lipschitz in x.

        f with w / sigma,       sigma = v^T w u,       w as a matrix (rest, features)
        train:  v <- w u / ||w u||,  u <- w^T v / ||w^T v||,     `iterations` times, before sigma is computed
        test:   u and v are those in state

    The gradient goes through w, but not through u and v. These start with 15 iterations from a random u. A w of
    zeros is left unchanged. For a convolution, sigma is the norm of the reshaped kernel, as in the paper, not that
    of the convolution itself. (PyTorch's newer version updates u before v.)

    Shapes: x, y and params are those of the layer; state u (features,) and v (rest,), float32, next to the
    layer's own state.

    Args:
        layer: a layer whose params have "w", such as `dense` or `conv`.
        iterations: steps of the power iteration per training step.
        eps: a sigma, or a norm of w u, that is at most eps counts as 0.

    Raises:
        TypeError: `layer` is not a layer.
        ValueError: the layer's params have no "w", or its state has a "u" or "v"; eps is negative; the
            vectors are missing from state.

    Source: Miyato et al. 2018, arXiv:1802.05957, algorithm 1.

    Example:
        >>> layer = fn.spectral_norm(fn.dense(2, w_init=fn.initializers.constant(3.0)))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> y, state = layer.apply(params, state, jnp.array([[1.0, 1.0]]))
        >>> y.round(4)
        Array([[1., 1.]], dtype=float32)
    """
    check.is_positive("spectral_norm", "iterations", iterations)
    check.number("spectral_norm", "eps", eps, "[0, inf)")
    inner = as_layer(layer)

    def iterate(w: jax.Array, u: jax.Array, v: jax.Array, times: int) -> tuple[jax.Array, jax.Array]:
        def unit(new: jax.Array, old: jax.Array) -> jax.Array:
            norm = jnp.linalg.norm(new)
            return jnp.where(norm > eps, new / jnp.where(norm > eps, norm, 1), old)

        def step(_: int, vectors: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            u, v = vectors
            v = unit(w @ u, v)
            return unit(v @ w, u), v

        return lax.fori_loop(0, times, step, (u, v))

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        layer_key, u_key = jax.random.split(key)
        with check.at(f"spectral_norm[{inner.name!r}]", x):
            params, state = inner.init(layer_key, x)
        w = weight("spectral_norm", inner, params).astype(jnp.float32)
        w = w.reshape(-1, w.shape[-1])
        u = jax.random.normal(u_key, w.shape[-1:], jnp.float32)
        v = jnp.full(len(w), len(w) ** -0.5, jnp.float32)
        check_names_free("spectral_norm", inner, "state", state, "u", "v")
        u, v = iterate(w, u / jnp.linalg.norm(u), v, 15)
        return params, {"u": u, "v": v, **state}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        w = weight("spectral_norm", inner, params)
        *vectors, others = split_off("spectral_norm", "state", state, "u", "v")
        shapes = {"u": w.shape[-1:], "v": (math.prod(w.shape[:-1]),)}
        check.has_shapes("spectral_norm", "state", dict(zip(shapes, vectors, strict=True)), shapes)
        dtype = jnp.result_type(w, jnp.float32)
        matrix = w.astype(dtype).reshape(-1, w.shape[-1])
        u, v = (jnp.asarray(vector, dtype) for vector in vectors)
        if train:
            u, v = lax.stop_gradient(iterate(lax.stop_gradient(matrix), u, v, iterations))
            vectors = [u.astype(jnp.float32), v.astype(jnp.float32)]
        sigma = v @ matrix @ u
        w = (matrix / jnp.where(jnp.abs(sigma) > eps, sigma, 1)).reshape(w.shape).astype(w.dtype)
        with check.at(f"spectral_norm[{inner.name!r}]", x):
            y, others = inner.apply({**params, "w": w}, others, x, key=key, train=train)
        return y, {"u": vectors[0], "v": vectors[1], **others}

    return Layer(init, apply, "spectral_norm")
