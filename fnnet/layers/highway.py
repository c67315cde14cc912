"""The highway layer: a gate mixes the output of a layer with its input (Srivastava et al. 2015)."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import activations, check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.dense import add_bias, product
from fnnet.layers.draw import check_activation, check_initializers, draw


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
        gate_bias: initial value of b_t, a finite number. The default is -2, so that initially most of x passes
            unchanged.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the number of input features does not match w_h; params have other shapes; gate_bias is not
            finite.

    Source: Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387, eq. 3.

    Example:
        >>> layer = fn.highway(gate_bias=-100.0)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> layer(params, jnp.array([[3.0, -1.0]]))
        Array([[ 3., -1.]], dtype=float32)
    """
    check_activation("highway", activation)
    check_initializers("highway", {"w_init": w_init, "b_init": b_init})
    check.number("highway", "gate_bias", gate_bias)
    inits = {"w_h": w_init, "b_h": b_init, "w_t": w_init, "b_t": initializers.constant(gate_bias)}

    def shapes(x: Any) -> dict[str, Any]:
        check.is_floating("highway", x)
        check.has_rank("highway", x, 1, "(batch, ..., features)")
        n = x.shape[-1]
        return {"w_h": (n, n), "b_h": (n,), "w_t": (n, n), "b_t": (n,)}

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        h_key, t_key = jax.random.split(key)
        h, t = ({name: s for name, s in shapes(x).items() if name[-1] == part} for part in "ht")
        dtype = jnp.result_type(x)
        return draw("highway", h_key, h, inits, dtype) | draw("highway", t_key, t, inits, dtype), {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        check.has_shapes("highway", "params", params, shapes(x), features=[("w_h", [0, 1], "input", x)])
        check.has_shapes("highway", "state", state, {})
        x = jnp.asarray(x)
        h = activation(add_bias(product(x, params["w_h"]), {"b": params["b_h"]}))
        z = add_bias(product(x, params["w_t"]), {"b": params["b_t"]})
        # sigmoid(-z) is 1 - sigmoid(z) without cancellation.
        return activations.sigmoid(z) * h + activations.sigmoid(-z) * x, {}

    return Layer(init, apply, "highway")
