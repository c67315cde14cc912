"""Activations: functions of an array, applied to each element, except for softmax and log_softmax along an axis.

They keep the dtype of a floating-point input, float16 and bfloat16 included. NaN gives NaN, and an infinite input
gives the limit. The chain rule can cancel digits or overflow, for large inputs or in half precision. Where it does,
`_with_derivative` above the function states an accurate derivative.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.layer import takes_input


def _at_least_float32(x: jax.Array) -> jax.Array:
    """Converts to float32 at least: exp overflows float16 at 11.1, and half precision has too few digits for a sum."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _to_dtype_of_x(y: jax.Array, x: jax.Array) -> jax.Array:
    """Converts y to the dtype of x, unless that is an integer dtype."""
    dtype = jnp.asarray(x).dtype
    return y.astype(dtype) if jnp.issubdtype(dtype, jnp.floating) else y


def _times(x: jax.Array, y: jax.Array) -> jax.Array:
    """The product x y for a y that falls faster than x grows: inf * 0 is 0, the limit."""
    return jnp.where((y == 0) & jnp.isinf(x), 0, x) * y


def _with_derivative(
    derivative: Callable[[jax.Array], jax.Array],
) -> Callable[[Callable[[jax.Array], jax.Array]], Callable[[jax.Array], jax.Array]]:
    """Decorator that states a function's derivative. Both are computed in float32 at least and rounded once."""

    def decorate(f: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        @jax.custom_jvp
        @functools.wraps(f)
        def activation(x: jax.Array) -> jax.Array:
            return _to_dtype_of_x(f(_at_least_float32(x)), x)

        @activation.defjvp
        def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
            (x,), (dx,) = primals, tangents
            return activation(x), dx * _to_dtype_of_x(derivative(_at_least_float32(x)), x)

        return activation

    return decorate


@takes_input
def identity(x: jax.Array) -> jax.Array:
    """The identity: y = x.

    Example:
        >>> fn.identity(jnp.array([-1.0, 2.0]))
        Array([-1.,  2.], dtype=float32)
    """
    return x


@takes_input
def hardlim(x: jax.Array) -> jax.Array:
    """Threshold: y = 1 for x >= 0, else 0. Its derivative is 0.

    Source: McCulloch & Pitts 1943, "A logical calculus of the ideas immanent in nervous activity".

    Example:
        >>> fn.hardlim(jnp.array([-0.5, 0.0, 0.5]))
        Array([0., 1., 1.], dtype=float32)
    """
    x = jnp.asarray(x)
    return jnp.where(jnp.isnan(x), x, x >= 0).astype(x.dtype)


@takes_input
def hardlims(x: jax.Array) -> jax.Array:
    """Symmetric threshold: y = 1 for x >= 0, else -1. Its derivative is 0.

    Example:
        >>> fn.hardlims(jnp.array([-0.5, 0.0, 0.5]))
        Array([-1.,  1.,  1.], dtype=float32)
    """
    return 2 * hardlim(x) - 1


def _logistic_density(x: jax.Array) -> jax.Array:
    # y (1 - y) rounds to 0 once y rounds to 1: at x = 6 in bfloat16.
    e = jnp.exp(-jnp.abs(x))
    return e / jnp.square(1 + e)


@takes_input
@_with_derivative(_logistic_density)
def sigmoid(x: jax.Array) -> jax.Array:
    """Logistic sigmoid: y = 1 / (1 + exp(-x)), in (0, 1).

    Example:
        >>> fn.sigmoid(jnp.array([-1000.0, 0.0, 1000.0]))
        Array([0. , 0.5, 1. ], dtype=float32)
    """
    return jax.lax.logistic(x)


# 1 - y^2 rounds to 0 once y rounds to 1: at x = 4 in bfloat16.
@takes_input
@_with_derivative(lambda x: 4 * _logistic_density(2 * x))
def tanh(x: jax.Array) -> jax.Array:
    """Hyperbolic tangent: y = (exp(x) - exp(-x)) / (exp(x) + exp(-x)), in (-1, 1).

    Example:
        >>> fn.tanh(jnp.array([-100.0, 0.0, 100.0]))
        Array([-1.,  0.,  1.], dtype=float32)
    """
    return jnp.tanh(x)


@takes_input
def bipolar_sigmoid(x: jax.Array) -> jax.Array:
    """Bipolar sigmoid: y = (1 - exp(-x)) / (1 + exp(-x)) = tanh(x / 2), in (-1, 1).

    Source: Jang, Sun & Mizutani 1997, "Neuro-fuzzy and soft computing".

    Example:
        >>> fn.bipolar_sigmoid(jnp.array([-100.0, 0.0, 100.0]))
        Array([-1.,  0.,  1.], dtype=float32)
    """
    return tanh(x / 2)


# The quotient rule would subtract two numbers of size 1/|x| to give one of 1/x^2.
@takes_input
@_with_derivative(lambda x: jnp.square(1 / (1 + jnp.abs(x))))
def softsign(x: jax.Array) -> jax.Array:
    """Softsign: y = x / (1 + |x|), in (-1, 1).

    Source: Bergstra et al. 2009, "Quadratic polynomials learn better image features".

    Example:
        >>> fn.softsign(jnp.array([-1.0, 0.0, 3.0]))
        Array([-0.5 ,  0.  ,  0.75], dtype=float32)
    """
    return jnp.where(jnp.isinf(x), jnp.sign(x), x / (1 + jnp.abs(x)))


@takes_input
@_with_derivative(sigmoid)
def softplus(x: jax.Array) -> jax.Array:
    """Softplus: y = log(1 + exp(x)), a smooth relu.

    Source: Dugas et al. 2000, "Incorporating second-order functional knowledge for better option pricing".

    Example:
        >>> fn.softplus(jnp.array([-1000.0, 0.0, 1000.0]))
        Array([0.000000e+00, 6.931472e-01, 1.000000e+03], dtype=float32)
    """
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@takes_input
def relu(x: jax.Array) -> jax.Array:
    """Rectified linear unit: y = max(x, 0). Its derivative at 0 is 0.

    Source: Nair & Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".

    Example:
        >>> fn.relu(jnp.array([-1.0, 0.0, 2.0]))
        Array([0., 0., 2.], dtype=float32)
    """
    return _relu(x)


@jax.custom_jvp
def _relu(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0)


@_relu.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    # The derivative of maximum at 0 would be 1/2.
    return _relu(x), jnp.where(x > 0, dx, 0)


@takes_input
def leaky_relu(x: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    """Leaky relu: y = x for x > 0, else negative_slope x. Its derivative at 0 is negative_slope.

    Args:
        x: array of any shape.
        negative_slope: a finite number. It may be a tracer.

    Raises:
        TypeError, ValueError: negative_slope is not such a number.

    Source: Maas, Hannun & Ng 2013, "Rectifier nonlinearities improve neural network acoustic models".

    Example:
        >>> fn.leaky_relu(jnp.array([-1.0, 0.0, 2.0]))
        Array([-0.01,  0.  ,  2.  ], dtype=float32)
    """
    check.number("leaky_relu", "negative_slope", negative_slope)
    return jnp.where(x > 0, x, negative_slope * x)


@takes_input
def elu(x: jax.Array, alpha: float = 1.0) -> jax.Array:
    """Exponential linear unit: y = x for x > 0, else alpha (exp(x) - 1). Its derivative at 0 is alpha.

    Args:
        x: array of any shape.
        alpha: -alpha is the limit for very negative x; in [0, inf). It may be a tracer.

    Raises:
        TypeError, ValueError: alpha is not such a number.

    Source: Clevert, Unterthiner & Hochreiter 2016, arXiv:1511.07289.

    Example:
        >>> fn.elu(jnp.array([-100.0, 0.0, 2.0]))
        Array([-1.,  0.,  2.], dtype=float32)
    """
    check.number("elu", "alpha", alpha, "[0, inf)")
    # The branch that is not taken must be finite, too. Otherwise its derivative is inf * 0.
    return jnp.where(x > 0, x, alpha * _expm1(jnp.where(x > 0, 0, x)))


# JAX's derivative of expm1 is (exp(x) - 1) + 1, which rounds to 0 for very negative x.
@_with_derivative(jnp.exp)
def _expm1(x: jax.Array) -> jax.Array:
    return jnp.expm1(x)


@takes_input
def selu(x: jax.Array) -> jax.Array:
    """Scaled elu: y = 1.0507 elu(x, 1.6733), which has mean 0 and variance 1 as a fixed point.

    Source: Klambauer et al. 2017, "Self-normalizing neural networks", arXiv:1706.02515.

    Example:
        >>> fn.selu(jnp.array([-100.0, 0.0, 1.0]))
        Array([-1.7580993,  0.       ,  1.050701 ], dtype=float32)
    """
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


@takes_input
def gelu(x: jax.Array, approximate: bool = False) -> jax.Array:
    """Gaussian error linear unit: y = x Phi(x), where Phi is the normal distribution function.

    Args:
        x: array of any shape.
        approximate: use y = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3), as GPT-2 does (and
            `jax.nn.gelu` by default).

    Raises:
        TypeError: approximate is not True or False.

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415.

    Example:
        >>> fn.gelu(jnp.array([-100.0, 0.0, 100.0]))
        Array([ -0.,   0., 100.], dtype=float32)
    """
    check.flag("gelu", "approximate", approximate)
    return _gelu_by_tanh(x) if approximate else _gelu(x)


def _normal_density(x: jax.Array) -> jax.Array:
    # Beyond 40 the density is 0 even in float64, and the square could overflow.
    return jnp.exp(-jnp.square(jnp.clip(x, -40, 40)) / 2) / math.sqrt(2 * math.pi)


@_with_derivative(_normal_density)
def _normal_distribution(x: jax.Array) -> jax.Array:
    # With erfc, because 1 + erf cancels digits for very negative x.
    return jax.lax.erfc(-x * math.sqrt(1 / 2)) / 2


@_with_derivative(lambda x: _normal_distribution(x) + _times(x, _normal_density(x)))
def _gelu(x: jax.Array) -> jax.Array:
    return _times(x, _normal_distribution(x))


def _two_u(x: jax.Array) -> jax.Array:
    # (1 + tanh(u)) / 2 cancels digits for very negative x. It equals sigmoid(2 u), which is 0 or 1 where x is clipped.
    x = jnp.clip(x, -30, 30)
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x * jnp.square(x))


def _gelu_by_tanh_derivative(x: jax.Array) -> jax.Array:
    v, x = _two_u(x), jnp.clip(x, -30, 30)
    slope = math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * jnp.square(x))
    return sigmoid(v) + x * _logistic_density(v) * slope


@_with_derivative(_gelu_by_tanh_derivative)
def _gelu_by_tanh(x: jax.Array) -> jax.Array:
    return _times(x, sigmoid(_two_u(x)))


@takes_input
@_with_derivative(lambda x: sigmoid(x) + _times(x, _logistic_density(x)))
def silu(x: jax.Array) -> jax.Array:
    """Sigmoid linear unit (swish): y = x sigmoid(x).

    Source: Elfwing, Uchibe & Doya 2018, arXiv:1702.03118; Ramachandran, Zoph & Le 2017, arXiv:1710.05941.

    Example:
        >>> fn.silu(jnp.array([-1000.0, 0.0, 1000.0]))
        Array([  -0.,    0., 1000.], dtype=float32)
    """
    return _times(x, sigmoid(x))


@takes_input
def softmax(x: jax.Array, axis: int = -1) -> jax.Array:
    """Softmax: y_i = exp(x_i) / sum_j exp(x_j) along `axis`.

    An entry of -inf gets probability 0. If all entries are -inf, or one is inf, there is no limit, and y is NaN.

    Raises:
        TypeError, ValueError: axis is not an int, or not an axis of x.

    Example:
        >>> fn.softmax(jnp.array([1000.0, 1000.0, -jnp.inf]))
        Array([0.5, 0.5, 0. ], dtype=float32)
    """
    e = jnp.exp(_shift_to_max_0("softmax", x, axis))
    return _to_dtype_of_x(e / jnp.sum(e, axis=axis, keepdims=True), x)


@takes_input
def log_softmax(x: jax.Array, axis: int = -1) -> jax.Array:
    """The logarithm of softmax: y_i = x_i - log sum_j exp(x_j) along `axis`.

    Raises:
        TypeError, ValueError: axis is not an int, or not an axis of x.

    Example:
        >>> fn.log_softmax(jnp.array([1000.0, 0.0]))
        Array([    0., -1000.], dtype=float32)
    """
    shifted = _shift_to_max_0("log_softmax", x, axis)
    return _to_dtype_of_x(shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=axis, keepdims=True)), x)


def _shift_to_max_0(function: str, x: jax.Array, axis: int) -> jax.Array:
    """Shifts x so that its maximum is 0. This does not change the softmax, and keeps exp from overflowing."""
    x = _at_least_float32(x)
    check.integer(function, "axis", axis, f"[{-x.ndim}, {x.ndim})")
    return x - jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
