"""Positions in a sequence: learned and sinusoidal vectors that are added, and rotations of feature pairs."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.attention.cache import has_room
from fnnet.layers.draw import check_initializers, draw


@printable
def learned_position(
    length: int, *, w_init: Initializer = initializers.normal(0.02), cache: bool = False
) -> Layer:
    """Learned positions, as in GPT-2 and BERT: row t of a table is added to time step t.

        y_t = x_t + w_t

    Shapes: x and y (batch, time, features), w (length, features), time <= length.

    Args:
        length: number of time steps in the longest sequence.
        w_init: initializer of w. The default is N(0, 0.02^2), as in GPT-2.
        cache: continue the count from call to call, for decoding token by token. The state is
            {"position": int32[]}, the number of time steps so far, and an evaluation starts there. Training starts
            at 0 and leaves the state unchanged. The params are the same with and without a cache.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the sequence is longer than length, its features do not match w, or w has another length. Under
            jit the position is not known, and nothing can be raised: the output is NaN.

    Source: Gehring et al. 2017, arXiv:1705.03122, section 3.1; Vaswani et al. 2017, arXiv:1706.03762.

    Example:
        >>> layer = fn.learned_position(8, w_init=fn.initializers.ones)
        >>> params, state = layer.init(jax.random.key(0), jnp.zeros((1, 3, 2)))
        >>> jax.tree.map(jnp.shape, params), state
        ({'w': (8, 2)}, {})
        >>> layer(params, jnp.zeros((1, 2, 2)))
        Array([[[1., 1.],
                [1., 1.]]], dtype=float32)
    """
    check.is_positive("learned_position", "length", length)
    check.flag("learned_position", "cache", cache)
    check_initializers("learned_position", {"w_init": w_init})

    def shapes(x: Any) -> dict[str, Any]:
        _check_sequence("learned_position", x)
        return {"w": (length, x.shape[-1])}

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        wanted = shapes(x)
        has_room("learned_position", 0, x.shape[1], length)
        params = draw("learned_position", key, wanted, {"w": w_init}, jnp.result_type(x))
        return params, _init_position(cache)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        features = [("w", [1], "input", x)]
        check.has_shapes("learned_position", "params", params, shapes(x), features=features)
        start, after = _advance("learned_position", cache, train, state, x)
        w, x = jnp.asarray(params["w"]), jnp.asarray(x)
        fits = has_room("learned_position", start, x.shape[1], length)
        rows = lax.dynamic_slice_in_dim(w, start, x.shape[1]).astype(x.dtype)
        return jnp.where(fits, x + jnp.broadcast_to(rows[None], x.shape), jnp.nan), after

    return Layer(init, apply, "learned_position")


@printable
def sinusoidal_position(*, base: chex.Numeric = 10000.0, cache: bool = False) -> Layer:
    """Sinusoidal positions: waves of many lengths are added, for sequences of any length.

        y_t,2i   = x_t,2i   + sin(t / base^(2i / features))
        y_t,2i+1 = x_t,2i+1 + cos(t / base^(2i / features))

    The waves are computed in float32 at least; y has the dtype of x.

    Shapes: x and y (batch, time, features). There are no params.

    Args:
        base: the wavelengths range from 2 pi time steps to about 2 pi base. At least 1.
        cache: continue the count from call to call, as in `learned_position`.

    Raises:
        TypeError: the input is not floating point.
        ValueError: the input is not (batch, time, features); base is less than 1.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    Example:
        >>> fn.sinusoidal_position()({}, jnp.zeros((1, 2, 2))).round(1)
        Array([[[0. , 1. ],
                [0.8, 0.5]]], dtype=float32)
    """
    check.number("sinusoidal_position", "base", base, "[1, inf)")
    check.flag("sinusoidal_position", "cache", cache)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        _check_sequence("sinusoidal_position", x)
        return {}, _init_position(cache)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[jax.Array, State]:
        _check_sequence("sinusoidal_position", x)
        check.has_shapes("sinusoidal_position", "params", params, {})
        start, after = _advance("sinusoidal_position", cache, train, state, x)
        x = jnp.asarray(x)
        time, features = x.shape[1:]
        angle = _angles(start + jnp.arange(time), -(-features // 2), features, base, x.dtype)
        waves = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(time, 2 * angle.shape[1])[
            :, :features
        ]
        return (x + jnp.broadcast_to(waves[None], x.shape)).astype(x.dtype), after

    return Layer(init, apply, "sinusoidal_position")


def rotary(
    x: jax.Array,
    positions: jax.Array | None = None,
    *,
    base: chex.Numeric = 10000.0,
    interleaved: bool = True,
) -> jax.Array:
    """Rotary positions: each pair of features is rotated by an angle that grows with the position.

        y_2i   = x_2i cos(a_i) - x_2i+1 sin(a_i)
        y_2i+1 = x_2i sin(a_i) + x_2i+1 cos(a_i),     a_i = position / base^(2i / d)

    The product of a rotated query and a rotated key depends only on the difference of their positions. This is a
    plain function, which `multi_head_attention(..., rotary=True)` calls. Angles are computed in float32 at least;
    y has the dtype of x.

    Shapes: x and y (batch, time, heads, d), d even.

    Args:
        x: queries or keys.
        positions: positions of the time steps, (time,) or (batch, time). The default is 0, 1, 2, ...
        base: the slowest pair rotates once in about 2 pi base time steps. At least 1.
        interleaved: True rotates the pairs (2i, 2i + 1), as in the paper; False the pairs (i, i + d/2), as Llama
            and GPT-NeoX do. Weights trained with one are wrong for the other.

    Raises:
        TypeError: x is not floating point.
        ValueError: x is not (batch, time, heads, d), d is odd, the shape of the positions does not match x, or
            base is less than 1.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2.

    Example:
        >>> x = jnp.tile(jnp.array([1.0, 0.0]), (1, 3, 1, 1))
        >>> (100 * fn.rotary(x)).squeeze().round()
        Array([[100.,   0.],
               [ 54.,  84.],
               [-42.,  91.]], dtype=float32)
    """
    check.number("rotary", "base", base, "[1, inf)")
    check.flag("rotary", "interleaved", interleaved)
    _check_rotary(x, positions)
    x = jnp.asarray(x)
    time, d = x.shape[1], x.shape[3]
    positions = jnp.arange(time) if positions is None else jnp.asarray(positions)
    angle = _angles(positions, d // 2, d, base, x.dtype)
    angle = angle.reshape(angle.shape[0] if angle.ndim == 3 else 1, time, 1, d // 2)
    cos, sin = (jnp.broadcast_to(f(angle), (*x.shape[:3], d // 2)) for f in (jnp.cos, jnp.sin))
    # The last axis is split into (d/2, 2) or (2, d/2).
    axis = -1 if interleaved else -2
    pairs = x.astype(angle.dtype).reshape(*x.shape[:3], *((d // 2, 2) if interleaved else (2, d // 2)))
    a, b = lax.index_in_dim(pairs, 0, axis, False), lax.index_in_dim(pairs, 1, axis, False)
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis).reshape(x.shape).astype(x.dtype)


def _check_rotary(x: Any, positions: Any) -> None:
    check.is_floating("rotary", x)
    if len(x.shape) != 4:
        raise ValueError(f"rotary: input is {check.describe(x)}, wanted (batch, time, heads, d)")
    batch, time, _, d = x.shape
    if d % 2:
        raise ValueError(
            f"rotary: input is {check.describe(x)}, wanted an even d: features are rotated in pairs"
        )
    if positions is not None and jnp.shape(positions) not in ((time,), (1, time), (batch, time)):
        raise ValueError(
            f"rotary: positions are {check.describe(jnp.asarray(positions))} for x {check.describe(x)}, wanted "
            f"(time,) or (batch, time), here {(time,)} or {(batch, time)}"
        )


def _init_position(cache: bool) -> State:
    return {"position": jnp.zeros((), jnp.int32)} if cache else {}


def _advance(layer: str, cache: bool, train: bool, state: State, x: Any) -> tuple[Any, State]:
    """The position of the first time step of x, and the state after the last."""
    check.has_shapes(layer, "state", state, {"position": int} if cache else {})
    if not cache:
        return 0, {}
    if train:
        return 0, state
    return state["position"], {"position": state["position"] + x.shape[1]}


def _check_sequence(layer: str, x: Any) -> None:
    check.is_floating(layer, x)
    if len(x.shape) != 3:
        raise ValueError(f"{layer}: input is {check.describe(x)}, wanted (batch, time, features)")


def _angles(positions: jax.Array, pairs: int, features: int, base: chex.Numeric, dtype: Any) -> jax.Array:
    """position / base^(2i / features), (..., time, pairs), in float32 at least."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    frequency = jnp.asarray(base, dtype) ** (jnp.arange(pairs, dtype=dtype) * (-2 / features))
    return jnp.multiply(
        *jnp.broadcast_arrays(positions.astype(dtype)[..., None], frequency[*[None] * positions.ndim])
    )
