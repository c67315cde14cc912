"""The radial basis layer: how close the input is to each of several centres (Broomhead & Lowe 1988)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable


@printable
def radial_basis(
    centres: int, *, beta: chex.Numeric | None = None, c_init: Initializer = initializers.normal(1.0)
) -> Layer:
    """Gaussian radial basis functions. Followed by a `dense` layer they are a radial basis function network.

        y_j = exp(-beta_j ||x - c_j||^2),   j = 1, ..., centres

    Distances are computed in float32 at least, from the differences x - c_j: expanding the square would cancel
    digits.

    Shapes: x (batch, ..., in), c (centres, in), beta (centres,), y (batch, ..., centres).

    Args:
        centres: number of centres.
        beta: initial value of every beta_j. The default is 1 / (2 in), so that standardized inputs and centres
            give a y of about 1 / e.
        c_init: initializer of c. The default is N(0, 1), for standardized inputs. To start at examples, replace
            params["c"] by some of them.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match c.

    Source: Broomhead & Lowe 1988, "Multivariable functional interpolation and adaptive networks".

    Example:
        >>> params = {"c": jnp.array([[0.0, 0.0], [3.0, 4.0]]), "beta": jnp.array([1.0, 0.0])}
        >>> fn.radial_basis(2)(params, jnp.array([[0.0, 0.0], [30.0, 40.0]]))
        Array([[1., 1.],
               [0., 1.]], dtype=float32)
    """
    check.is_positive("radial_basis", "centres", centres)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        _check_input(x)
        dtype = jnp.result_type(x)
        start = 1 / (2 * x.shape[-1]) if beta is None else beta
        c = c_init(key, (centres, x.shape[-1]), dtype)
        return {"c": c, "beta": jnp.full(centres, start, dtype)}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check(params, x)
        c, x = jnp.asarray(params["c"]), jnp.asarray(x)
        dtype = jnp.result_type(x, jnp.float32)
        pairs = (*x.shape[:-1], *c.shape)
        differences = jnp.broadcast_to(x[..., None, :].astype(dtype), pairs) - jnp.broadcast_to(c, pairs)
        # Beyond this limit the square would be infinite, and gradients 0 * inf.
        limit = (float(jnp.finfo(dtype).max) / (4 * c.shape[1])) ** 0.5
        square = jnp.sum(jnp.square(jnp.clip(differences, -limit, limit)), axis=-1)
        return jnp.exp(-jnp.broadcast_to(params["beta"], square.shape) * square).astype(x.dtype), {}

    return Layer(init, apply, "radial_basis")


def _check_input(x: Any) -> None:
    check.is_floating("radial_basis", x)
    check.has_rank("radial_basis", x, 1, "(batch, ..., features)")


def _check(params: Params, x: Any) -> None:
    _check_input(x)
    check.has_keys("radial_basis", "params", params, ("c", "beta"))
    c = params["c"]
    if x.shape[-1] != c.shape[1]:
        raise ValueError(
            f"radial_basis: input is {check.describe(x)} and c {check.describe(c)}, wanted {c.shape[1]} "
            "features, on the last axis"
        )
