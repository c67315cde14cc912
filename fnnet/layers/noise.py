"""Gaussian noise in training, multiplied with the input or added to it."""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.activations import identity
from fnnet.layer import Layer, printable
from fnnet.layers.without_params import without_params


@printable
def gaussian_dropout(rate: chex.Numeric) -> Layer:
    """Gaussian dropout: units are multiplied by noise with the mean and the variance of dropout's mask.

        train:  y = x r,   r ~ N(1, rate / (1 - rate)) for each element
        test:   y = x

    Shapes: x and y have the same shape, which may be any.

    Args:
        rate: the rate of the dropout that it imitates, in [0, 1). It may be a tracer.

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
    check.number("gaussian_dropout", "rate", rate, "[0, 1)")
    return _noisy("gaussian_dropout", lambda x, noise: x * (1 + jnp.sqrt(rate / (1 - rate)) * noise))


@printable
def gaussian_noise(stddev: chex.Numeric) -> Layer:
    """Gaussian noise, added in training.

        train:  y = x + n,   n ~ N(0, stddev^2) for each element
        test:   y = x

    Shapes: x and y have the same shape, which may be any.

    Args:
        stddev: standard deviation of the noise, in the unit of x. It may be a tracer.

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
    check.number("gaussian_noise", "stddev", stddev, "[0, inf)")
    return _noisy("gaussian_noise", lambda x, noise: x + stddev * noise)


def _noisy(name: str, combine: Callable[[jax.Array, jax.Array], jax.Array]) -> Layer:
    """A layer that in training gives combine(x, noise), with noise ~ N(0, 1) for each element."""

    def add_noise(key: chex.PRNGKey, x: jax.Array) -> jax.Array:
        # In float32 at least, and rounded once: half precision can draw only a few different numbers.
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        noise = jax.random.normal(key, (x.size,), x32.dtype).reshape(x.shape)
        return combine(x32, noise).astype(x.dtype)

    return without_params(name, partial(check.is_floating, name), identity, in_training=add_noise)
