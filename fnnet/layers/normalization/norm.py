"""Normalization of each example separately: over its features, over space, or over groups of channels.

Statistics are computed in float32 at least; y has the dtype of x.
"""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State, printable


@printable
def layer_norm(*, eps: float = 1e-5) -> Layer:
    """Layer normalization: each example (or each token, each pixel) is normalized over its features.

        y = gamma (x - mu) / sqrt(var + eps) + beta
        mu = mean(x), var = mean((x - mu)^2)                     over the last axis

    Statistics are computed in float32 at least; y has the dtype of x.

    Shapes: x and y (batch, ..., features); params gamma, beta (features,).

    Args:
        eps: added to the variance.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of features does not match gamma; eps is negative.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450.

    Example:
        >>> layer = fn.layer_norm()
        >>> x = jnp.array([[1.0, 3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3)
        Array([[-1.,  1.]], dtype=float32)
    """
    check.number("layer_norm", "eps", eps, "[0, inf)")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return init_affine("layer_norm", x), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_affine("layer_norm", params, x)
        check.has_shapes("layer_norm", "state", state, {})
        x = jnp.asarray(x)
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        # The pass for the unit costs 3 to 5 % of the layer, forward and backward (2048 x 128 and 512, two CPU cores).
        unit = _unit(x32, (-1,))
        y = _standardize(x32 / jnp.broadcast_to(unit, x.shape), (-1,), eps / jnp.square(unit))
        return affine(y, params).astype(x.dtype), {}

    return Layer(init, apply, "layer_norm")


@printable
def rms_norm(*, eps: float = 1e-6) -> Layer:
    """Root-mean-square normalization: layer normalization without the mean and the shift.

        y = gamma x / sqrt(mean(x^2) + eps)                      over the last axis

    Shapes: x and y (batch, ..., features); params gamma (features,).

    Args:
        eps: added to the mean square.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of features does not match gamma; eps is negative.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.

    Example:
        >>> layer = fn.rms_norm()
        >>> x = jnp.array([[8.0, 0.0, 0.0, 0.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3)
        Array([[2., 0., 0., 0.]], dtype=float32)
    """
    check.number("rms_norm", "eps", eps, "[0, inf)")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return {"gamma": init_affine("rms_norm", x)["gamma"]}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_affine("rms_norm", params, x, names=("gamma",))
        check.has_shapes("rms_norm", "state", state, {})
        x = jnp.asarray(x)
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        unit = _unit(x32, (-1,))
        x32 /= jnp.broadcast_to(unit, x.shape)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        y = x32 * jnp.broadcast_to(lax.rsqrt(mean_square + eps / jnp.square(unit)), x.shape)
        return (y * jnp.broadcast_to(params["gamma"], x.shape)).astype(x.dtype), {}

    return Layer(init, apply, "rms_norm")


@printable
def group_norm(groups: int, *, eps: float = 1e-5) -> Layer:
    """Group normalization: each example is normalized over space and the channels of a group.

        y = gamma (x - mu) / sqrt(var + eps) + beta
        mu = mean(x), var = mean((x - mu)^2)                     over space and channels / groups channels

    In a sequence (batch, time, channels), time is treated as space, and padding is counted.

    Shapes: x and y (batch, ..., channels); params gamma, beta (channels,).

    Args:
        groups: number of groups of adjacent channels. 1 normalizes over all channels; as many groups as channels
            is `instance_norm`. The paper uses 32.
        eps: added to the variance.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no batch axis, the number of channels does not match gamma, or groups does not
            divide it; eps is negative.

    Source: Wu & He 2018, arXiv:1803.08494.

    Example:
        >>> layer = fn.group_norm(2)
        >>> x = jnp.array([[1.0, 3.0, 10.0, 10.2]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(2)
        Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    check.is_positive("group_norm", "groups", groups)

    def groups_of(x: Any) -> int:
        check.is_floating("group_norm", x)
        check.has_rank("group_norm", x, 2, "(batch, ..., channels)")
        if x.shape[-1] % groups:
            raise ValueError(
                f"group_norm: input is {check.describe(x)}, wanted channels that {groups} groups divide"
            )
        return int(groups)

    return _over_space("group_norm", groups_of, eps)


@printable
def instance_norm(*, eps: float = 1e-5) -> Layer:
    """Instance normalization: each channel of each example is normalized over space.

        y = gamma (x - mu) / sqrt(var + eps) + beta
        mu = mean(x), var = mean((x - mu)^2)                     over space

    If space has a single element, y is beta.

    Shapes: x and y (batch, *space, channels); params gamma, beta (channels,).

    Args:
        eps: added to the variance.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no spatial axis, or the number of channels does not match gamma; eps is negative.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022, with a scale and a shift per channel as
    in Dumoulin et al. 2017, arXiv:1610.07629.

    Example:
        >>> layer = fn.instance_norm()
        >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).squeeze().round(3)
        Array([-1.,  1.], dtype=float32)
    """

    def groups_of(x: Any) -> int:
        check.is_floating("instance_norm", x)
        check.has_rank("instance_norm", x, 3, "(batch, *space, channels)")
        return x.shape[-1]

    return _over_space("instance_norm", groups_of, eps)


def init_affine(layer: str, x: Any) -> Params:
    """The params gamma, ones, and beta, zeros, one of each per feature."""
    check.is_floating(layer, x)
    check.has_rank(layer, x, 1, "(batch, ..., features)")
    dtype = jnp.result_type(x)
    return {"gamma": jnp.ones(x.shape[-1:], dtype), "beta": jnp.zeros(x.shape[-1:], dtype)}


def check_affine(layer: str, params: Params, x: Any, names: tuple[str, ...] = ("gamma", "beta")) -> None:
    """Raises unless the params have these names, and one number per feature of the input."""
    check.is_floating(layer, x)
    check.has_rank(layer, x, 1, "(batch, ..., features)")
    shapes = dict.fromkeys(names, x.shape[-1:])
    check.has_shapes(layer, "params", params, shapes, features=[("gamma", [0], "input", x)])


def affine(x: jax.Array, params: Params) -> jax.Array:
    """gamma x + beta, along the last axis."""
    return x * jnp.broadcast_to(params["gamma"], x.shape) + jnp.broadcast_to(params["beta"], x.shape)


def _over_space(layer: str, groups_of: Callable[[Any], int], eps: float) -> Layer:
    """Group and instance normalization. `groups_of(x)` checks the input and gives the number of groups."""
    check.number(layer, "eps", eps, "[0, inf)")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        groups_of(x)
        return init_affine(layer, x), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        groups = groups_of(x)
        check_affine(layer, params, x)
        check.has_shapes(layer, "state", state, {})
        x = jnp.asarray(x)
        grouped = (x.shape[0], math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
        x32 = x.astype(jnp.result_type(x, jnp.float32)).reshape(grouped)
        unit = _unit(x32, (1, 3))
        y = _standardize(x32 / jnp.broadcast_to(unit, grouped), (1, 3), eps / jnp.square(unit))
        return affine(y.reshape(x.shape), params).astype(x.dtype), {}

    return Layer(init, apply, layer)


def _standardize(x: jax.Array, axes: tuple[int, ...], eps: chex.Numeric) -> jax.Array:
    """Mean 0 and variance 1 over the axes."""
    # Sums are of differences from the first element: rounding a sum of large numbers can exceed their variation.
    first = lax.stop_gradient(x)
    for axis in axes:
        first = lax.slice_in_dim(first, 0, 1, axis=axis)
    x -= jnp.broadcast_to(first, x.shape)
    # Computed once, so that backprop sums its gradient once.
    differences = x - jnp.broadcast_to(jnp.mean(x, axes, keepdims=True), x.shape)
    var = jnp.mean(jnp.square(differences), axes, keepdims=True)
    return differences * jnp.broadcast_to(lax.rsqrt(var + eps), x.shape)


def _unit(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The unit to divide x by, 1 for ordinary numbers: so no square overflows, nor var^(-3/2) in backprop vanishes."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axes, keepdims=True, initial=0))
    return jnp.where(largest > float(jnp.finfo(x.dtype).max) ** 0.25, largest, 1)
