"""Layers whose weights are computed from other params: weight and spectral normalization.

Both wrap a layer whose params have "w", such as `dense` or `conv`.
"""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State, as_layer


def weight_norm(layer: Layer) -> Layer:
    """Weight normalization: the length and the direction of each output's weights are params of their own.

        f with w = g v / ||v||,       the norm over all axes but the last, the output features

    Shapes: those of the layer; params g (features,), v like w, and the layer's others. They start so that w
    is what the layer would start with; where that is 0, v is 1 and g is 0.

    Args:
        layer: a layer whose params have "w", such as `dense` or `conv`.

    The norm is computed in float32 at least; w has the dtype of v.

    Raises:
        TypeError: `layer` is no layer.
        ValueError: the layer's params have no "w", or have a "g" or "v".

    Source: Salimans & Kingma 2016, arXiv:1602.07868, eq. 2.

    Example:
        >>> layer = fn.weight_norm(fn.dense(1, w_init=fn.initializers.ones))
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> params["g"], layer(params, jnp.ones((1, 4)))
        (Array([2.], dtype=float32), Array([[4.]], dtype=float32))
    """
    inner = as_layer(layer)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        with check.at(f"weight_norm[{inner.name!r}]", x):
            params, state = inner.init(key, x)
        w = weight("weight_norm", inner, params)
        _are_free("weight_norm", inner, "params", params, "g", "v")
        others = {name: p for name, p in params.items() if name != "w"}
        norm = _norm(w)
        v = jnp.where(jnp.broadcast_to(norm == 0, w.shape), 1, w)
        return {"g": norm.reshape(w.shape[-1:]).astype(w.dtype), "v": v, **others}, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        g, v, others = _apart("weight_norm", "params", params, "g", "v")
        scale = g.reshape(*(1 for _ in v.shape[1:]), -1) / _norm(v)
        w = (v * jnp.broadcast_to(scale, v.shape)).astype(v.dtype)
        with check.at(f"weight_norm[{inner.name!r}]", x):
            return inner.apply({"w": w, **others}, state, x, key=key, train=train)

    return Layer(init, apply, "weight_norm")


def spectral_norm(layer: Layer, *, iterations: int = 1, eps: float = 1e-12) -> Layer:
    """Spectral normalization: weights divided by their largest singular value, so that f is 1-Lipschitz in x.

        f with w / sigma,       sigma = v^T w u,       w as a matrix (rest, features)
        train:  v <- w u / ||w u||,  u <- w^T v / ||w^T v||,     `iterations` times, before sigma is computed
        test:   u and v are those in state

    Shapes: those of the layer; params those of the layer; state u (features,) and v (rest,), float32, beside
    the layer's own. The gradient goes through w, not through u and v. They start with 15 iterations from a
    random u. A w of zeros stays as it is. (Of a convolution this is the norm of the reshaped kernel, as in
    the paper, not that of the convolution itself. PyTorch's newer form renews u before v.)

    Args:
        layer: a layer whose params have "w", such as `dense` or `conv`.
        iterations: steps of the power iteration in one training step.
        eps: a sigma, or a norm of w u, that is no larger counts as 0.

    Raises:
        TypeError: `layer` is no layer.
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
    check.between("spectral_norm", "eps", eps, 0)
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
        _are_free("spectral_norm", inner, "state", state, "u", "v")
        u, v = iterate(w, u / jnp.linalg.norm(u), v, 15)
        return params, {"u": u, "v": v, **state}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        w = weight("spectral_norm", inner, params)
        *vectors, others = _apart("spectral_norm", "state", state, "u", "v")
        dtype = jnp.result_type(w, jnp.float32)
        matrix = w.astype(dtype).reshape(-1, w.shape[-1])
        u, v = (vector.astype(dtype) for vector in vectors)
        if train:
            u, v = lax.stop_gradient(iterate(lax.stop_gradient(matrix), u, v, iterations))
            vectors = [u.astype(jnp.float32), v.astype(jnp.float32)]
        sigma = v @ matrix @ u
        w = (matrix / jnp.where(jnp.abs(sigma) > eps, sigma, 1)).reshape(w.shape).astype(w.dtype)
        with check.at(f"spectral_norm[{inner.name!r}]", x):
            y, others = inner.apply({**params, "w": w}, others, x, key=key, train=train)
        return y, {"u": vectors[0], "v": vectors[1], **others}

    return Layer(init, apply, "spectral_norm")


def weight(wrapper: str, layer: Layer, params: Any) -> jax.Array:
    """The "w" of a layer's params; raises where there is none."""
    if not hasattr(_dict(wrapper, "params", params).get("w"), "shape"):
        raise ValueError(
            f"{wrapper}: params has {sorted(params) or 'no entries'}, wanted the 'w' of {layer.name}; wrap a "
            "layer that has one, such as dense or conv, and pass the params that init returned"
        )
    return jnp.asarray(params["w"])


def _dict(wrapper: str, what: str, tree: Any) -> Mapping[str, Any]:
    if not isinstance(tree, Mapping):
        raise TypeError(f"{wrapper}: {what} is {check.describe(tree)}, wanted the dict that init returned")
    return tree


def _apart(wrapper: str, what: str, tree: Any, *names: str) -> tuple[Any, ...]:
    """The wrapper's own entries, by name, and a dict of the others, which the wrapped layer checks."""
    if not set(names) <= set(_dict(wrapper, what, tree)):
        raise ValueError(
            f"{wrapper}: {what} has {sorted(tree) or 'no entries'}, wanted {list(names)} and the wrapped "
            f"layer's; pass the {what} that this network's init returned"
            + (", and keep the one that apply returns" if what == "state" else "")
        )
    return *(jnp.asarray(tree[name]) for name in names), {k: v for k, v in tree.items() if k not in names}


def _are_free(wrapper: str, layer: Layer, what: str, tree: Mapping[str, Any], *names: str) -> None:
    if taken := sorted(set(tree) & set(names)):
        raise ValueError(
            f"{wrapper}: {what} of {layer.name} has {taken}, as the wrapper has; wanted a layer without"
        )


def _norm(v: jax.Array) -> jax.Array:
    """Over all axes but the last, which are kept; of the largest, so that no square over- or underflows."""
    axes = tuple(range(v.ndim - 1))
    v = v.astype(jnp.result_type(v, jnp.float32))
    largest = lax.stop_gradient(jnp.max(jnp.abs(v), axes, keepdims=True, initial=0))
    unit = jnp.where(largest == 0, 1, largest)
    return unit * jnp.sqrt(jnp.sum(jnp.square(v / jnp.broadcast_to(unit, v.shape)), axes, keepdims=True))
