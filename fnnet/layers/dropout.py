"""Noise while training: units, channels, weights or examples left out at random, or blurred."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import Layer, Params, State, as_layer
from fnnet.layers.normalization.reparameterize import weight


def dropout(rate: chex.Numeric) -> Layer:
    """Dropout, inverted: what is kept is scaled up, so that nothing changes at test time.

        train:  y = x r / (1 - rate),   r ~ Bernoulli(1 - rate) for each element
        test:   y = x

    Shapes: x and y alike, any shape.

    Args:
        rate: the share that is dropped, in [0, 1); it may be a tracer, as a hyperparameter.

    Raises:
        ValueError: the rate is not in [0, 1); no key is given in training.
        TypeError: the input is not floating point.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting",
    section 10.

    Example:
        >>> layer = fn.dropout(0.5)
        >>> y, state = layer.apply({}, {}, jnp.ones((2, 4)), key=jax.random.key(0), train=True)
        >>> sorted(set(y.ravel().tolist()))
        [0.0, 2.0]
        >>> layer({}, jnp.ones(3))
        Array([1., 1., 1.], dtype=float32)
    """
    return _dropping("dropout", rate, 0, "any shape", lambda shape: shape)


def spatial_dropout(rate: chex.Numeric) -> Layer:
    """Spatial dropout, inverted: a channel is dropped in all of its space, or kept.

        train:  y[i, s, c] = x[i, s, c] r[i, c] / (1 - rate),   r ~ Bernoulli(1 - rate)
        test:   y = x

    Shapes: x and y (batch, *space, channels). For neighbours that tell the same: dropped by themselves, they
    would be no loss.

    Args:
        rate: the share of channels that is dropped, in [0, 1); it may be a tracer.

    Raises:
        ValueError: the rate is not in [0, 1); the input has no space; no key is given in training.
        TypeError: the input is not floating point.

    Source: Tompson et al. 2015, arXiv:1411.4280, section 3.2.

    Example:
        >>> layer = fn.spatial_dropout(0.5)
        >>> y, state = layer.apply({}, {}, jnp.ones((1, 2, 4)), key=jax.random.key(0), train=True)
        >>> bool(jnp.all(y[:, 0] == y[:, 1]))
        True
    """

    def of_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *(1 for _ in shape[1:-1]), shape[-1])

    return _dropping("spatial_dropout", rate, 3, "(batch, *space, channels)", of_channels)


def stochastic_depth(rate: chex.Numeric) -> Layer:
    """Stochastic depth, inverted ("drop path"): whole examples are dropped, at the end of a residual branch.

        train:  y[i] = x[i] r[i] / (1 - rate),   r ~ Bernoulli(1 - rate)
        test:   y = x

    Shapes: x and y (batch, ...). In `residual(..., stochastic_depth(0.1))`, what is dropped leaves the
    shortcut. The paper scales at test time instead, and lets the rate grow linearly with depth.

    Args:
        rate: the share of examples that is dropped, in [0, 1); it may be a tracer.

    Raises:
        ValueError: the rate is not in [0, 1); the input has no batch axis; no key is given in training.
        TypeError: the input is not floating point.

    Source: Huang et al. 2016, arXiv:1603.09382, eq. 2.

    Example:
        >>> net = fn.residual(fn.tanh, fn.stochastic_depth(0.5))
        >>> y, state = net.apply({}, {}, jnp.ones((6, 2)), key=jax.random.key(0), train=True)
        >>> sorted({round(v, 3) for v in y.ravel().tolist()})
        [1.0, 2.523]
    """

    def of_examples(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *(1 for _ in shape[1:]))

    return _dropping("stochastic_depth", rate, 1, "(batch, ...)", of_examples)


def drop_connect(layer: Layer, rate: chex.Numeric) -> Layer:
    """DropConnect, inverted: entries of a layer's weights are dropped, not its outputs.

        train:  f with w' = w r / (1 - rate),   r ~ Bernoulli(1 - rate) for each entry of w
        test:   f

    Params, state and shapes: those of the layer. One draw serves the whole batch; in the paper each example
    has its own, which `vmap` over examples and keys gives.

    Args:
        layer: a layer whose params have "w", such as `dense` or `conv`.
        rate: the share of entries that is dropped, in [0, 1); it may be a tracer.

    Raises:
        TypeError: `layer` is no layer.
        ValueError: the rate is not in [0, 1); the layer's params have no "w"; no key is given in training.

    Source: Wan et al. 2013, "Regularization of neural networks using DropConnect".

    Example:
        >>> layer = fn.drop_connect(fn.dense(4, w_init=fn.initializers.ones), 0.5)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 1)))
        >>> y, state = layer.apply(params, state, jnp.ones((1, 1)), key=jax.random.key(0), train=True)
        >>> set(y.ravel().tolist()) <= {0.0, 2.0}
        True
    """
    check.between("drop_connect", "rate", rate, 0, 1)
    inner = as_layer(layer)
    place = f"drop_connect[{inner.name!r}]"

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        with check.at(place, x):
            params, state = inner.init(key, x)
        weight("drop_connect", inner, params)
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        w = weight("drop_connect", inner, params)
        if train:
            w_key, key = jax.random.split(_needed("drop_connect", key))
            w = _drop(w_key, rate, w, w.shape)
        with check.at(place, x):
            return inner.apply({**params, "w": w}, state, x, key=key, train=train)

    return Layer(init, apply, "drop_connect")


def gaussian_dropout(rate: chex.Numeric) -> Layer:
    """Gaussian dropout: units are multiplied by noise of the mean and the variance that dropout has.

        train:  y = x r,   r ~ N(1, rate / (1 - rate)) for each element
        test:   y = x

    Shapes: x and y alike, any shape.

    Args:
        rate: that of the dropout it is like, in [0, 1); it may be a tracer.

    Raises:
        ValueError: the rate is not in [0, 1); no key is given in training.
        TypeError: the input is not floating point.

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting",
    section 10.

    Example:
        >>> layer = fn.gaussian_dropout(0.2)
        >>> y, state = layer.apply({}, {}, jnp.ones(10_000), key=jax.random.key(0), train=True)
        >>> bool(abs(y.std() - 0.5) < 0.01)
        True
    """
    check.between("gaussian_dropout", "rate", rate, 0, 1)
    return _noisy("gaussian_dropout", lambda x, noise: x * (1 + jnp.sqrt(rate / (1 - rate)) * noise))


def gaussian_noise(stddev: chex.Numeric) -> Layer:
    """Gaussian noise, added in training.

        train:  y = x + n,   n ~ N(0, stddev^2) for each element
        test:   y = x

    Shapes: x and y alike, any shape.

    Args:
        stddev: standard deviation of the noise, in the unit of x; it may be a tracer.

    Raises:
        ValueError: stddev is negative; no key is given in training.
        TypeError: the input is not floating point.

    Source: Bishop 1995, "Training with noise is equivalent to Tikhonov regularization".

    Example:
        >>> layer = fn.gaussian_noise(0.1)
        >>> y, state = layer.apply({}, {}, jnp.zeros(10_000), key=jax.random.key(0), train=True)
        >>> bool(abs(y.std() - 0.1) < 0.002)
        True
    """
    check.between("gaussian_noise", "stddev", stddev, 0)
    return _noisy("gaussian_noise", lambda x, noise: x + stddev * noise)


def _needed(layer: str, key: chex.PRNGKey | None) -> chex.PRNGKey:
    if key is None:
        raise ValueError(
            f"{layer}: train=True and no key, wanted one to draw with: apply(..., key=jax.random.key(0))"
        )
    return key


def _drop(key: chex.PRNGKey, rate: chex.Numeric, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """X with a share dropped and the rest scaled up; one draw for each element of the shape."""
    # Drawn flat, as initializers are: the same numbers, and XLA compiles it faster.
    flat = (math.prod(shape),)
    kept = jax.random.bernoulli(key, 1 - jnp.asarray(rate, jnp.float32), flat).reshape(shape)
    return jnp.where(jnp.broadcast_to(kept, x.shape), x / jnp.asarray(1 - rate, x.dtype), 0)


def _dropping(
    name: str, rate: chex.Numeric, rank: int, layout: str, shape_of_draws: Callable[..., tuple[int, ...]]
) -> Layer:
    check.between(name, "rate", rate, 0, 1)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        check.is_floating(name, x)
        check.has_rank(name, x, rank, layout)
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check.is_floating(name, x)
        check.has_rank(name, x, rank, layout)
        x = jnp.asarray(x)
        return (_drop(_needed(name, key), rate, x, shape_of_draws(x.shape)) if train else x), {}

    return Layer(init, apply, name)


def _noisy(name: str, blur: Callable[[jax.Array, jax.Array], jax.Array]) -> Layer:
    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        check.is_floating(name, x)
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check.is_floating(name, x)
        x = jnp.asarray(x)
        if not train:
            return x, {}
        # In float32 at least, and rounded once: half precision draws few different numbers.
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        noise = jax.random.normal(_needed(name, key), (x.size,), x32.dtype).reshape(x.shape)
        return blur(x32, noise).astype(x.dtype), {}

    return Layer(init, apply, name)
