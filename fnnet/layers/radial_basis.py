"""The radial basis layer: how close the input is to each of several centres (Broomhead & Lowe 1988)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.draw import check_initializers, draw


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
        beta: initial value of every beta_j, more than 0. The default is 1 / (2 in), so that standardized inputs and
            centres give a y of about 1 / e.
        c_init: initializer of c. The default is N(0, 1), for standardized inputs. To start at examples, replace
            params["c"] by some of them.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match c; params have other shapes; beta is not more than 0.

    Source: Broomhead & Lowe 1988, "Multivariable functional interpolation and adaptive networks".

    Example:
        >>> params = {"c": jnp.array([[0.0, 0.0], [3.0, 4.0]]), "beta": jnp.array([1.0, 0.0])}
        >>> fn.radial_basis(2)(params, jnp.array([[0.0, 0.0], [30.0, 40.0]]))
        Array([[1., 1.],
               [0., 1.]], dtype=float32)
    """
    check.is_positive("radial_basis", "centres", centres)
    if beta is not None:
        check.number("radial_basis", "beta", beta, "(0, inf)")
    check_initializers("radial_basis", {"c_init": c_init})

    def shapes(x: Any) -> dict[str, Any]:
        _check_input(x)
        return {"c": (centres, x.shape[-1]), "beta": (centres,)}

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        wanted, dtype = shapes(x), jnp.result_type(x)
        start = 1 / (2 * x.shape[-1]) if beta is None else beta
        c = draw("radial_basis", key, {"c": wanted["c"]}, {"c": c_init}, dtype)
        return {**c, "beta": jnp.full(wanted["beta"], start, dtype)}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        features = [("c", [1], "input", x)]
        check.has_shapes("radial_basis", "params", params, shapes(x), features=features)
        check.has_shapes("radial_basis", "state", state, {})
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
