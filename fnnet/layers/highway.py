"""The highway layer: a gate mixes the output of a layer with its input (Srivastava et al. 2015)."""

from collections.abc import Callable
from typing import Any

import chex
import jax

from fnnet import activations, check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.dense import dense


@printable
def highway(
    activation: Callable[[jax.Array], jax.Array] = activations.relu,
    *,
    w_init: Initializer = initializers.kaiming_normal(),
    b_init: Initializer = initializers.zeros,
    gate_bias: chex.Numeric = -2.0,
) -> Layer:
    """Highway layer: a transform gate t sets how much of x is replaced by h(x).

        y = t * h(x) + (1 - t) * x
        h(x) = activation(x w_h + b_h),   t = sigmoid(x w_t + b_t)

    Shapes: x and y (batch, ..., features), w_h and w_t (features, features), b_h and b_t (features,).

    Args:
        activation: the activation of h. The default is relu.
        w_init: initializer of w_h and w_t. The default is He's normal.
        b_init: initializer of b_h. The default is zeros.
        gate_bias: initial value of b_t. The default is -2, so that initially most of x passes unchanged.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match w_h.

    Source: Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387, eq. 3.

    Example:
        >>> layer = fn.highway(gate_bias=-100.0)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> layer(params, jnp.array([[3.0, -1.0]]))
        Array([[ 3., -1.]], dtype=float32)
    """

    def affine(features: int) -> tuple[Layer, Layer]:
        """The affine maps of h and of t."""
        b_t_init = initializers.constant(gate_bias)
        return dense(features, w_init=w_init, b_init=b_init), dense(features, w_init=w_init, b_init=b_t_init)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        _check_input(x)
        maps = affine(x.shape[-1])
        (h, _), (t, _) = (f.init(k, x) for f, k in zip(maps, jax.random.split(key), strict=True))
        return {"w_h": h["w"], "b_h": h["b"], "w_t": t["w"], "b_t": t["b"]}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check_input(x)
        check.has_keys("highway", "params", params, ("w_h", "b_h", "w_t", "b_t"))
        affine_h, affine_t = affine(x.shape[-1])
        with check.at("highway", x):
            h = activation(affine_h({"w": params["w_h"], "b": params["b_h"]}, x))
            z = affine_t({"w": params["w_t"], "b": params["b_t"]}, x)
        # sigmoid(-z) is 1 - sigmoid(z) without cancellation.
        return activations.sigmoid(z) * h + activations.sigmoid(-z) * x, {}

    return Layer(init, apply, "highway")


def _check_input(x: Any) -> None:
    check.is_floating("highway", x)
    check.has_rank("highway", x, 1, "(batch, ..., features)")
