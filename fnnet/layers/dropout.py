"""Dropout: in training, units, channels, examples or weights are set to 0 at random."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.activations import identity
from fnnet.layer import Layer, Params, State, as_layer, printable
from fnnet.layers.keys import required_key
from fnnet.layers.normalization.inner_weight import weight
from fnnet.layers.without_params import without_params


@printable
def dropout(rate: chex.Numeric) -> Layer:
    """Inverted dropout: units are dropped in training, and the others are scaled up to keep the mean.

        train:  y = x r / (1 - rate),   r ~ Bernoulli(1 - rate) for each element
        test:   y = x

    Shapes: x and y have the same shape, which may be any.

    Args:
        rate: the fraction that is dropped, in [0, 1). It may be a tracer, such as a hyperparameter.

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
    return _dropout("dropout", rate, 0, "any shape", lambda shape: shape)


@printable
def spatial_dropout(rate: chex.Numeric) -> Layer:
    """Inverted spatial dropout: a channel of an example is dropped or kept as a whole.

        train:  y[i, s, c] = x[i, s, c] r[i, c] / (1 - rate),   r ~ Bernoulli(1 - rate)
        test:   y = x

    Neighbouring pixels are strongly correlated, so dropping single ones would have little effect.

    Shapes: x and y (batch, *space, channels).

    Args:
        rate: the fraction of channels that is dropped, in [0, 1). It may be a tracer.

    Raises:
        ValueError: the rate is not in [0, 1); the input has no spatial axis; no key is given in training.
        TypeError: the input is not floating point.

    Source: Tompson et al. 2015, arXiv:1411.4280, section 3.2.

    Example:
        >>> layer = fn.spatial_dropout(0.5)
        >>> y, state = layer.apply({}, {}, jnp.ones((1, 2, 4)), key=jax.random.key(0), train=True)
        >>> bool(jnp.all(y[:, 0] == y[:, 1]))
        True
    """

    def one_per_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *(1 for _ in shape[1:-1]), shape[-1])

    return _dropout("spatial_dropout", rate, 3, "(batch, *space, channels)", one_per_channel)


@printable
def stochastic_depth(rate: chex.Numeric) -> Layer:
    """Inverted stochastic depth ("drop path"): whole examples are dropped, at the end of a residual branch.

        train:  y[i] = x[i] r[i] / (1 - rate),   r ~ Bernoulli(1 - rate)
        test:   y = x

    In `residual(..., stochastic_depth(0.1))` a dropped example passes through the shortcut only. The paper
    scales at test time instead, and increases the rate linearly with depth.

    Shapes: x and y (batch, ...).

    Args:
        rate: the fraction of examples that is dropped, in [0, 1). It may be a tracer.

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

    def one_per_example(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *(1 for _ in shape[1:]))

    return _dropout("stochastic_depth", rate, 1, "(batch, ...)", one_per_example)


@printable
def drop_connect(layer: Layer, rate: chex.Numeric) -> Layer:
    """Inverted DropConnect: entries of a layer's weights are dropped, not its outputs.

        train:  f with w' = w r / (1 - rate),   r ~ Bernoulli(1 - rate) for each entry of w
        test:   f

    The whole batch shares one mask. In the paper each example has its own; `vmap` over examples and keys gives
    that.

    Shapes: params, state, x and y are those of the layer.

    Args:
        layer: a layer whose params have "w", such as `dense` or `conv`.
        rate: the fraction of entries that is dropped, in [0, 1). It may be a tracer.

    Raises:
        TypeError: `layer` is not a layer.
        ValueError: the rate is not in [0, 1); the layer's params have no "w"; no key is given in training.

    Source: Wan et al. 2013, "Regularization of neural networks using DropConnect".

    Example:
        >>> layer = fn.drop_connect(fn.dense(4, w_init=fn.initializers.ones), 0.5)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 1)))
        >>> y, state = layer.apply(params, state, jnp.ones((1, 1)), key=jax.random.key(0), train=True)
        >>> set(y.ravel().tolist()) <= {0.0, 2.0}
        True
    """
    check.number("drop_connect", "rate", rate, "[0, 1)")
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
            w_key, key = jax.random.split(required_key("drop_connect", key))
            w = _drop(w_key, rate, w, w.shape)
        with check.at(place, x):
            return inner.apply({**params, "w": w}, state, x, key=key, train=train)

    return Layer(init, apply, "drop_connect")


def dropout_if_any(rate: chex.Numeric) -> Layer:
    """Dropout, or a layer that does nothing and needs no key, if the rate is the number 0."""
    return as_layer(identity) if isinstance(rate, Real) and rate == 0 else dropout(rate)


def _dropout(
    name: str,
    rate: chex.Numeric,
    rank: int,
    layout: str,
    mask_shape: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> Layer:
    """Dropout with one draw for each element of mask_shape(x.shape)."""
    check.number(name, "rate", rate, "[0, 1)")

    def check_input(x: Any) -> None:
        check.is_floating(name, x)
        check.has_rank(name, x, rank, layout)

    def drop(key: chex.PRNGKey, x: jax.Array) -> jax.Array:
        return _drop(key, rate, x, mask_shape(x.shape))

    return without_params(name, check_input, identity, in_training=drop)


def _drop(key: chex.PRNGKey, rate: chex.Numeric, x: jax.Array, mask_shape: tuple[int, ...]) -> jax.Array:
    """X r / (1 - rate), with the mask r ~ Bernoulli(1 - rate) of a shape that broadcasts to that of x."""
    # Drawn on one axis, like initializers: the numbers are the same, and XLA compiles it faster.
    flat = (math.prod(mask_shape),)
    r = jax.random.bernoulli(key, 1 - jnp.asarray(rate, jnp.float32), flat).reshape(mask_shape)
    return jnp.where(jnp.broadcast_to(r, x.shape), x / jnp.asarray(1 - rate, x.dtype), 0)
