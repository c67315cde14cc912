"""The highway layer: a gate between a layer and its input (Srivastava et al. 2015)."""

from collections.abc import Callable
from typing import Any

import chex
import jax

from fnnet import activations, check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State
from fnnet.layers.dense import dense


def highway(
    activation: Callable[[jax.Array], jax.Array] = activations.relu,
    *,
    w_init: Initializer = initializers.kaiming_normal(),
    b_init: Initializer = initializers.zeros,
    gate_bias: chex.Numeric = -2.0,
) -> Layer:
    """Highway layer: the transform gate t says how much of x is replaced by h(x).

        y = t * h(x) + (1 - t) * x
        h(x) = activation(x w_h + b_h),   t = sigmoid(x w_t + b_t)

    Shapes: x and y (batch, ..., features), w_h and w_t (features, features), b_h and b_t (features,).

    Args:
        activation: that of h; relu.
        w_init: initializer of w_h and w_t; He's normal.
        b_init: initializer of b_h; zeros.
        gate_bias: what each b_t starts at; -2, so that at first most of x passes.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input's features are not those of w_h.

    Source: Srivastava, Greff & Schmidhuber 2015, arXiv:1505.00387, eq. 3.

    Example:
        >>> layer = fn.highway(gate_bias=-100.0)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> layer(params, jnp.array([[3.0, -1.0]]))
        Array([[ 3., -1.]], dtype=float32)
    """

    def parts(x: Any) -> tuple[Layer, Layer]:
        check.is_floating("highway", x)
        check.has_rank("highway", x, 1, "(batch, ..., features)")
        features = x.shape[-1]
        b_t_init = initializers.constant(gate_bias)
        return dense(features, w_init=w_init, b_init=b_init), dense(features, w_init=w_init, b_init=b_t_init)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        (h, _), (t, _) = (part.init(k, x) for part, k in zip(parts(x), jax.random.split(key), strict=True))
        return {"w_h": h["w"], "b_h": h["b"], "w_t": t["w"], "b_t": t["b"]}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        h, t = parts(x)
        check.has_keys("highway", "params", params, ("w_h", "b_h", "w_t", "b_t"))
        with check.at("highway", x):
            proposal = activation(h({"w": params["w_h"], "b": params["b_h"]}, x))
            z = t({"w": params["w_t"], "b": params["b_t"]}, x)
        # 1 - sigmoid(z) without cancellation.
        return activations.sigmoid(z) * proposal + activations.sigmoid(-z) * x, {}

    return Layer(init, apply, "highway")
