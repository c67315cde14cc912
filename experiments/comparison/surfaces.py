"""Functions of two numbers on which the path of an optimizer can be drawn. Each one is hard for a different reason.

Each is f = value(z) with z = residuals(theta), usually a sum of squares. Methods that use the structure of the loss
(Gauss-Newton, Levenberg-Marquardt) need the residuals.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Surface(NamedTuple):
    """A function of two numbers."""

    title: str  # its formula
    residuals: Callable[[jax.Array], jax.Array]  # theta, float[2] -> z, float[k]
    value: Callable[[jax.Array], jax.Array]  # z -> f, float[]; its minimum is 0
    start: tuple[float, float]
    jitter: tuple[float, float]  # seeds start uniformly within this distance of `start`
    minima: tuple[tuple[float, float], ...]  # all points with f = 0
    box: tuple[float, float, float, float]  # part shown in pictures: left, right, bottom, top

    def f(self, theta: jax.Array) -> jax.Array:
        """The value at theta, float[2]."""
        return self.value(self.residuals(theta))


def _sum_of_squares(z: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(z))


def _banana(theta: jax.Array) -> jax.Array:
    x, y = theta
    return jnp.stack([1 - x, 10 * (y - jnp.square(x))])


def _beale(theta: jax.Array) -> jax.Array:
    x, y = theta
    return jnp.stack([1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3])


def _himmelblau(theta: jax.Array) -> jax.Array:
    x, y = theta
    return jnp.stack([jnp.square(x) + y - 11, x + jnp.square(y) - 7])


def _rastrigin(z: jax.Array) -> jax.Array:
    return jnp.sum(10 + jnp.square(z) - 10 * jnp.cos(2 * math.pi * z))


def _saddle(theta: jax.Array) -> jax.Array:
    x, y = theta
    return jnp.stack([x / math.sqrt(2), (jnp.square(y) - 1) / 2])


def _valley(theta: jax.Array) -> jax.Array:
    x, y = theta
    return jnp.stack([(x + y) / 2, math.sqrt(1000) * (x - y) / 2])


SURFACES: dict[str, Surface] = {
    "banana": Surface(  # Rosenbrock 1960
        "(1 - x)² + 100 (y - x²)²",
        _banana,
        _sum_of_squares,
        start=(-1.2, 1.0),
        jitter=(0.2, 0.2),
        minima=((1.0, 1.0),),
        box=(-2, 2, -1.5, 3),
    ),
    "beale": Surface(  # Beale 1958; number 5 of Moré, Garbow & Hillstrom 1981
        "(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²",
        _beale,
        _sum_of_squares,
        start=(1.0, 1.0),
        jitter=(0.2, 0.2),
        minima=((3.0, 0.5),),
        box=(-1, 4.5, -2, 2),
    ),
    "himmelblau": Surface(  # Himmelblau 1972
        "(x² + y - 11)² + (x + y² - 7)²",
        _himmelblau,
        _sum_of_squares,
        start=(0.0, 0.0),
        jitter=(0.5, 0.5),
        minima=(
            (3.0, 2.0),
            (-2.8051180869527448, 3.131312518250573),
            (-3.7793102533777469, -3.2831859912861694),
            (3.5844283403304917, -1.8481265269644036),
        ),
        box=(-5, 5, -5, 5),
    ),
    "rastrigin": Surface(  # Rastrigin 1974: a local minimum near each pair of whole numbers
        "20 + x² + y² - 10 cos 2πx - 10 cos 2πy",
        lambda theta: theta,
        _rastrigin,
        start=(-2.3, 1.6),
        jitter=(0.3, 0.3),
        minima=((0.0, 0.0),),
        box=(-3.5, 3.5, -3.5, 3.5),
    ),
    "saddle": Surface(  # starts close to the ridge y = 0, which leads to the saddle at (0, 0)
        "x² / 2 + (y² - 1)² / 4",
        _saddle,
        _sum_of_squares,
        start=(-1.5, 0.01),
        jitter=(0.3, 0.005),
        minima=((0.0, 1.0), (0.0, -1.0)),
        box=(-2, 2, -1.8, 1.8),
    ),
    "valley": Surface(  # condition number 1000, not along the axes: a step size for each parameter does not help
        "(x + y)² / 4 + 1000 (x - y)² / 4",
        _valley,
        _sum_of_squares,
        start=(-2.0, -1.0),
        jitter=(0.3, 0.3),
        minima=((0.0, 0.0),),
        box=(-2.8, 1.5, -2.5, 1.5),
    ),
}
