"""Normalization of each example by itself: over its features, its space, or its neighbouring channels.

Statistics are computed in float32 at least; y has the dtype of x.
"""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check
from fnnet.layer import Layer, Params, State


def layer_norm(*, eps: float = 1e-5) -> Layer:
    """Layer normalization: each example (each word, each pixel) over its features.

        y = gamma (x - mu) / sqrt(var + eps) + beta
        mu = mean(x), var = mean((x - mu)^2)                     over the last axis

    Shapes: x and y (batch, ..., features); params gamma, beta (features,).

    Args:
        eps: added to the variance.

    Statistics are computed in float32 at least; y has the dtype of x.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not the features of gamma; eps is negative.

    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450.

    Example:
        >>> layer = fn.layer_norm()
        >>> x = jnp.array([[1.0, 3.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3)
        Array([[-1.,  1.]], dtype=float32)
    """
    check.between("layer_norm", "eps", eps, 0)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return scale_and_shift("layer_norm", x), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_input("layer_norm", params, x)
        x = jnp.asarray(x)
        y = _standardize(x.astype(jnp.result_type(x, jnp.float32)), (-1,), eps)
        return affine(y, params).astype(x.dtype), {}

    return Layer(init, apply, "layer_norm")


def rms_norm(*, eps: float = 1e-6) -> Layer:
    """Root-mean-square normalization: layer normalization without the mean and the shift.

        y = gamma x / sqrt(mean(x^2) + eps)                      over the last axis

    Shapes: x and y (batch, ..., features); params gamma (features,).

    Args:
        eps: added to the mean square.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has not the features of gamma; eps is negative.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.

    Example:
        >>> layer = fn.rms_norm()
        >>> x = jnp.array([[8.0, 0.0, 0.0, 0.0]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(3)
        Array([[2., 0., 0., 0.]], dtype=float32)
    """
    check.between("rms_norm", "eps", eps, 0)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return {"gamma": scale_and_shift("rms_norm", x)["gamma"]}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check_input("rms_norm", params, x, names=("gamma",))
        x = jnp.asarray(x)
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        unit = _unit(x32, (-1,))
        x32 /= jnp.broadcast_to(unit, x.shape)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        y = x32 * jnp.broadcast_to(lax.rsqrt(mean_square + eps / jnp.square(unit)), x.shape)
        return (y * jnp.broadcast_to(params["gamma"], x.shape)).astype(x.dtype), {}

    return Layer(init, apply, "rms_norm")


def group_norm(groups: int, *, eps: float = 1e-5) -> Layer:
    """Group normalization: each example over space and the channels of a group.

        y = gamma (x - mu) / sqrt(var + eps) + beta
        mu = mean(x), var = mean((x - mu)^2)                     over space and channels / groups channels

    Shapes: x and y (batch, ..., channels); params gamma, beta (channels,). Of a sequence
    (batch, time, channels), time is space, and what pads it is counted in.

    Args:
        groups: parts of the channels, side by side; 1 normalizes over all of them, as many as channels is
            `instance_norm`. The paper takes 32.
        eps: added to the variance.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no batch axis or not the channels of gamma, or groups divides the channels
            with a remainder; eps is negative.

    Source: Wu & He 2018, arXiv:1803.08494.

    Example:
        >>> layer = fn.group_norm(2)
        >>> x = jnp.array([[1.0, 3.0, 10.0, 10.2]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).round(2)
        Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    check.is_positive("group_norm", "groups", groups)

    def channels_in(x: Any) -> int:
        check.is_floating("group_norm", x)
        check.has_rank("group_norm", x, 2, "(batch, ..., channels)")
        if x.shape[-1] % groups:
            raise ValueError(
                f"group_norm: input is {check.describe(x)}, wanted channels that {groups} groups divide"
            )
        return int(groups)

    return _over_space("group_norm", channels_in, eps)


def instance_norm(*, eps: float = 1e-5) -> Layer:
    """Instance normalization: each channel of each example over space.

        y = gamma (x - mu) / sqrt(var + eps) + beta
        mu = mean(x), var = mean((x - mu)^2)                     over space

    Shapes: x and y (batch, *space, channels); params gamma, beta (channels,). A space of one element gives
    beta.

    Args:
        eps: added to the variance.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no space or not the channels of gamma; eps is negative.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022, with a scale and a shift for each channel, as
    in Dumoulin et al. 2017, arXiv:1610.07629.

    Example:
        >>> layer = fn.instance_norm()
        >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer(params, x).squeeze().round(3)
        Array([-1.,  1.], dtype=float32)
    """

    def channels_in(x: Any) -> int:
        check.is_floating("instance_norm", x)
        check.has_rank("instance_norm", x, 3, "(batch, *space, channels)")
        return x.shape[-1]

    return _over_space("instance_norm", channels_in, eps)


def local_response_norm(
    size: int = 5, *, k: chex.Numeric = 2.0, alpha: chex.Numeric = 1e-4, beta: chex.Numeric = 0.75
) -> Layer:
    """Local response normalization: each channel is held down by its neighbours.

        y_c = x_c / (k + alpha sum_j x_j^2)^beta,        c - size // 2 <= j <= c + (size - 1) // 2

    Shapes: x and y (..., channels). Channels beyond the first and the last count as 0.

    Args:
        size: channels in the window.
        k: what the sum is added to. The paper has 2, PyTorch 1.
        alpha: factor of the sum. PyTorch divides it by size: its alpha is size times this one.
        beta: the exponent.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input has no axis; k, alpha or beta is negative.

    Source: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural
    networks", section 3.3.

    Example:
        >>> layer = fn.local_response_norm(3, k=1.0, alpha=1.0, beta=0.5)
        >>> layer({}, jnp.array([[1.0, 0.0, 0.0, 4.0]])).round(3)
        Array([[0.707, 0.   , 0.   , 0.97 ]], dtype=float32)
    """
    check.is_positive("local_response_norm", "size", size)
    for name, value in {"k": k, "alpha": alpha, "beta": beta}.items():
        check.between("local_response_norm", name, value, 0)

    def is_valid(x: Any) -> None:
        check.is_floating("local_response_norm", x)
        check.has_rank("local_response_norm", x, 1, "(batch, ..., channels)")

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        is_valid(x)
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        is_valid(x)
        x = jnp.asarray(x)
        x32 = x.astype(jnp.result_type(x, jnp.float32))
        ones = (1,) * (x.ndim - 1)
        pads = [*((0, 0) for _ in ones), (size // 2, (size - 1) // 2)]
        total = lax.reduce_window(jnp.square(x32), 0.0, lax.add, (*ones, size), (*ones, 1), pads)
        return (x32 * (k + alpha * total) ** -beta).astype(x.dtype), {}

    return Layer(init, apply, "local_response_norm")


def scale_and_shift(layer: str, x: Any) -> Params:
    """The params gamma, of ones, and beta, of zeros, one of each for a feature."""
    check.is_floating(layer, x)
    check.has_rank(layer, x, 1, "(batch, ..., features)")
    dtype = jnp.result_type(x)
    return {"gamma": jnp.ones(x.shape[-1:], dtype), "beta": jnp.zeros(x.shape[-1:], dtype)}


def check_input(layer: str, params: Params, x: Any, names: tuple[str, ...] = ("gamma", "beta")) -> None:
    """Raises unless the params have the names, and the input their features."""
    check.is_floating(layer, x)
    check.has_rank(layer, x, 1, "(batch, ..., features)")
    check.has_keys(layer, "params", params, names)
    if x.shape[-1:] != params["gamma"].shape:
        raise ValueError(
            f"{layer}: input is {check.describe(x)} and gamma {check.describe(params['gamma'])}, "
            f"wanted {params['gamma'].shape[0]} features, on the last axis"
        )


def affine(x: jax.Array, params: Params) -> jax.Array:
    """Gamma x + beta."""
    return x * jnp.broadcast_to(params["gamma"], x.shape) + jnp.broadcast_to(params["beta"], x.shape)


def _over_space(layer: str, groups_of: Any, eps: float) -> Layer:
    """Group and instance normalization; `groups_of` checks the input and says how many groups it has."""
    check.between(layer, "eps", eps, 0)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        groups_of(x)
        return scale_and_shift(layer, x), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        groups = groups_of(x)
        check_input(layer, params, x)
        x = jnp.asarray(x)
        grouped = (x.shape[0], math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
        x32 = x.astype(jnp.result_type(x, jnp.float32)).reshape(grouped)
        unit = _unit(x32, (1, 3))
        y = _standardize(x32 / jnp.broadcast_to(unit, grouped), (1, 3), eps / jnp.square(unit))
        return affine(y.reshape(x.shape), params).astype(x.dtype), {}

    return Layer(init, apply, layer)


def _standardize(x: jax.Array, axes: tuple[int, ...], eps: chex.Numeric) -> jax.Array:
    """Mean 0 and variance 1 over the axes."""
    # Of the differences from the first element: a sum of large numbers is rounded by more than they may vary.
    first = lax.stop_gradient(x)
    for axis in axes:
        first = lax.slice_in_dim(first, 0, 1, axis=axis)
    x -= jnp.broadcast_to(first, x.shape)
    # Named once, so that its gradient is summed once.
    differences = x - jnp.broadcast_to(jnp.mean(x, axes, keepdims=True), x.shape)
    var = jnp.mean(jnp.square(differences), axes, keepdims=True)
    return differences * jnp.broadcast_to(lax.rsqrt(var + eps), x.shape)


def _unit(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """What to measure x in so that no square of it overflows: 1 but for very large numbers."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axes, keepdims=True, initial=0))
    return jnp.where(largest > float(jnp.finfo(x.dtype).max) ** 0.4, largest, 1)
