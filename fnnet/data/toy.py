"""Small two-dimensional problems: dicts {"x": float32[n, 2], "y": int32[n]}, for `split` or `Dataset`."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check
from fnnet.data.dataset import Examples


def xor() -> Examples:
    """The exclusive or: the four points (a, b) of {0, 1}^2 with y = a xor b. A single layer cannot solve it.

    Source: Minsky & Papert 1969, "Perceptrons"; as a task for networks Rumelhart, Hinton & Williams 1986.

    Example:
        >>> fn.data.xor()["y"]
        Array([0, 1, 1, 0], dtype=int32)
    """
    x = [[0, 0], [0, 1], [1, 0], [1, 1]]
    return {"x": jnp.array(x, jnp.float32), "y": jnp.array([a ^ b for a, b in x], jnp.int32)}


def two_spirals(
    n: int = 97, *, turns: float = 3, noise: chex.Numeric = 0.0, key: chex.PRNGKey | None = None
) -> Examples:
    """Two spirals wound around each other. y says which spiral a point is on.

        angle a = i pi / 16,   radius r = 6.5 (104 - i) / 104,   i from 0 to 96
        (r sin a, r cos a) has y = 1,   its mirror image (-r sin a, -r cos a) has y = 0

    With the defaults these are the 194 points of the benchmark, in its order: alternating between the spirals, from
    the outside in.

    Args:
        n: points per spiral, evenly spaced in i.
        turns: how often each spiral winds around the centre, a finite number. a is turns / 3 times the above.
        noise: standard deviation of the normal noise on each coordinate, in [0, inf). Neighbouring arms are 1 apart.
        key: key of the noise.

    Raises:
        TypeError: n is not an int, or turns or noise is not a number.
        ValueError: n is not positive, turns or noise is not as above, or there is noise but no key.

    Source: Lang & Witbrock 1988, "Learning to tell two spirals apart"; the points are A. Wieland's.

    Example:
        >>> spirals = fn.data.two_spirals()
        >>> spirals["x"].shape, spirals["y"][:4]
        ((194, 2), Array([1, 0, 1, 0], dtype=int32))
        >>> spirals["x"][2:4]
        Array([[ 1.255894,  6.313805],
               [-1.255894, -6.313805]], dtype=float32)
    """
    check.is_positive("two_spirals", "n", n)
    check.number("two_spirals", "turns", turns)
    i = np.linspace(0, 96, n)
    a = i * math.pi / 16 * (turns / 3)
    r = 6.5 * (104 - i) / 104
    one = np.stack([r * np.sin(a), r * np.cos(a)], axis=-1)  # (n, 2)
    x = np.stack([one, -one], axis=1).reshape(2 * n, 2)
    return {"x": _add_noise("two_spirals", x, noise, key), "y": jnp.tile(jnp.array([1, 0], jnp.int32), n)}


def two_moons(key: chex.PRNGKey | None, n: int = 200, *, noise: chex.Numeric = 0.1) -> Examples:
    """Two interleaving half circles of radius 1.

        (cos a, sin a) has y = 0,   (1 - cos a, 1/2 - sin a) has y = 1,   a evenly spaced from 0 to pi

    Args:
        key: key of the noise. It may be None if there is no noise.
        n: total number of points: n // 2 of class 0, followed by the others, of class 1.
        noise: standard deviation of the normal noise on each coordinate, in [0, inf).

    Raises:
        TypeError: n is not an int, or noise is not a number.
        ValueError: n is not positive, noise is not as above, or there is noise but no key.

    Source: scikit-learn's `make_moons`.

    Example:
        >>> moons = fn.data.two_moons(jax.random.key(0), 100)
        >>> moons["x"].shape, jnp.bincount(moons["y"])
        ((100, 2), Array([50, 50], dtype=int32))
    """
    check.is_positive("two_moons", "n", n)
    upper = np.linspace(0, math.pi, n // 2)
    lower = np.linspace(0, math.pi, n - n // 2)
    x = np.concatenate(
        [
            np.stack([np.cos(upper), np.sin(upper)], axis=-1),
            np.stack([1 - np.cos(lower), 1 / 2 - np.sin(lower)], axis=-1),
        ]
    )
    y = jnp.array(np.repeat([0, 1], [n // 2, n - n // 2]), jnp.int32)
    return {"x": _add_noise("two_moons", x, noise, key), "y": y}


def blobs(
    key: chex.PRNGKey,
    n: int = 300,
    *,
    classes: int = 3,
    features: int = 2,
    spread: chex.Numeric = 1.0,
    box: chex.Numeric = 10.0,
) -> Examples:
    """A spherical Gaussian cluster for each class.

        centre_k ~ U[-box, box]^features,   x ~ N(centre_y, spread^2 I)

    The classes follow one after the other and have equal sizes. If their number does not divide n, the first ones
    have one point more.

    Shapes: x float32[n, features], y int32[n].

    Args:
        key: key of the centres and of the points.
        n: total number of points.
        classes: number of clusters.
        features: number of coordinates of a point.
        spread: standard deviation of each cluster along each axis, in [0, inf).
        box: bound of the coordinates of the centres, in [0, inf).

    Raises:
        TypeError: a size is not an int, or spread or box is not a number.
        ValueError: a size is not positive, there are fewer points than classes, or spread or box is not as above.

    Source: scikit-learn's `make_blobs`.

    Example:
        >>> blobs = fn.data.blobs(jax.random.key(0), 10, classes=3)
        >>> blobs["x"].shape, blobs["y"]
        ((10, 2), Array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2], dtype=int32))
    """
    for name, size in (("n", n), ("classes", classes), ("features", features)):
        check.is_positive("blobs", name, size)
    if n < classes:
        raise ValueError(f"blobs: n={n}, wanted at least one point for each of {classes} classes")
    check.number("blobs", "spread", spread, "[0, inf)")
    check.number("blobs", "box", box, "[0, inf)")
    centre_key, point_key = jax.random.split(key)
    limit = jnp.asarray(box, jnp.float32)
    centres = jax.random.uniform(centre_key, (classes, features), jnp.float32, -limit, limit)
    y = jnp.array(np.sort(np.arange(n) % classes), jnp.int32)
    noise = jnp.asarray(spread, jnp.float32) * jax.random.normal(point_key, (n, features), jnp.float32)
    return {"x": centres[y] + noise, "y": y}


def _add_noise(function: str, x: np.ndarray, noise: chex.Numeric, key: chex.PRNGKey | None) -> jax.Array:
    check.number(function, "noise", noise, "[0, inf)")
    exact = jnp.asarray(x, jnp.float32)
    if key is not None:
        return exact + jnp.asarray(noise, jnp.float32) * jax.random.normal(key, x.shape, jnp.float32)
    if isinstance(noise, jax.core.Tracer) or noise != 0:
        raise ValueError(f"{function}: noise={noise} needs a key, such as jax.random.key(0); got none")
    return exact
