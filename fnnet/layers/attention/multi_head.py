"""Multi-head attention (Vaswani et al. 2017), with grouped queries, rotary positions and a cache for decoding."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from fnnet import check, initializers
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.attention import position
from fnnet.layers.attention.cache import append, cache_shapes, empty_cache, has_room
from fnnet.layers.attention.dot_product import attend, check_heads, scores_shape
from fnnet.layers.attention.inputs import attention_inputs
from fnnet.layers.attention.mask import attention_mask
from fnnet.layers.dense import add_bias, product
from fnnet.layers.draw import check_initializers, draw
from fnnet.layers.dropout import dropout_if_any

NAME = "multi_head_attention"


@printable
def multi_head_attention(
    heads: int,
    *,
    kv_heads: int | None = None,
    features: int | None = None,
    head_features: int | None = None,
    causal: bool = False,
    use_bias: bool = True,
    dropout: chex.Numeric = 0.0,
    rotary: bool | Callable[[jax.Array, jax.Array], jax.Array] = False,
    cache: int | None = None,
    w_init: Initializer = initializers.glorot_uniform(),
    b_init: Initializer = initializers.zeros,
) -> Layer:
    """Multi-head attention from a sequence to itself or to a memory.

        q = x w_q + b_q,    k = m w_k + b_k,    v = m w_v + b_v,    each split into heads of d features
        y = concatenate(softmax(q_h k_h^T / sqrt(d)) v_h  for each head h) w_o + b_o

    The input is an array x (self-attention: m = x), or a dict {"x": x, "memory": m, "mask": mask}, in which memory
    and mask are optional. Then the output is that dict with y in place of x.

    Shapes: x (batch, time, in), m (batch, source, in_m), mask (batch, source) for padding or four axes that
    broadcast to (batch, heads, time, source), True where a query may attend; y (batch, time, features);
    w_q (in, heads d), w_k and w_v (in_m, kv_heads d), w_o (heads d, features), and a bias for each.

    Args:
        heads: number of heads.
        kv_heads: number of heads of keys and values, a divisor of heads: groups of query heads share them. The
            default is heads.
        features: number of outputs. The default is that of x.
        head_features: d, the features of a head. The default is in / heads.
        causal: no time step attends to a later one.
        use_bias: whether there are b_q, b_k, b_v and b_o.
        dropout: fraction of the attention weights that is dropped in training, in [0, 1).
        rotary: True rotates q and k by their positions with `fnnet.rotary`. A function (q or k, positions) of your
            own does it another way, such as `partial(fn.rotary, base=5e5, interleaved=False)`.
        cache: number of time steps whose keys and values are kept, for decoding token by token. The state is
            {"k", "v": (batch, cache, kv_heads, d), "position": int32[]}. An evaluation appends one or more time
            steps at position, and attends to all steps in the cache; source is then cache. Training leaves the
            state unchanged and attends to x alone. A cache does not change the params.
        w_init: initializer of the weights. The default is Glorot's uniform.
        b_init: initializer of the biases. The default is zeros.

    Raises:
        TypeError: the input is not floating point, or the mask is not boolean.
        ValueError: heads does not divide the features, shapes do not match, a cache without causal or with a
            memory, rotary with a memory, params of other shapes, no key to draw with in training, or more time steps
            than the cache has room for. Under jit the position is not known, and nothing can be raised: the output is
            NaN.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; Ainslie et al. 2023, arXiv:2305.13245
    (groups).

    Example:
        >>> layer = fn.multi_head_attention(2, causal=True)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 3, 4)))
        >>> layer(params, jnp.ones((5, 3, 4))).shape
        (5, 3, 4)
        >>> y = layer(params, {"x": jnp.ones((5, 3, 4)), "mask": jnp.ones((5, 3), bool)})
        >>> y["x"].shape, y["mask"].shape
        ((5, 3, 4), (5, 3))
    """
    kv_heads = heads if kv_heads is None else kv_heads
    _check_arguments(heads, kv_heads, features, head_features, causal, dropout, cache)
    check.flag(NAME, "use_bias", use_bias)
    if not callable(rotary):
        check.flag(NAME, "rotary", rotary)
    check_initializers(NAME, {"w_init": w_init, "b_init": b_init})
    drop = dropout_if_any(dropout)
    rotate = position.rotary if rotary is True else rotary

    def sequences(x: Any) -> tuple[Any, Any, Any]:
        """x, memory and mask, checked."""
        inputs = attention_inputs(NAME, x, ("memory", "mask"))
        memory = inputs.get("memory")
        if memory is not None and (cache is not None or rotate):
            raise ValueError(
                f"{NAME}: a memory and {f'cache={cache}' if cache else 'rotary'}, wanted one of them: "
                "both are for the attention of a sequence to itself"
            )
        return inputs["x"], inputs["x"] if memory is None else memory, inputs.get("mask")

    def features_of_a_head(x: Any) -> int:
        return _head_features(x, heads) if head_features is None else head_features

    def shapes(x: Any, memory: Any) -> dict[str, dict[str, Any]]:
        """Of w and b of each projection."""
        d = features_of_a_head(x)
        weights = {
            "q": (x.shape[-1], heads * d),
            "k": (memory.shape[-1], kv_heads * d),
            "v": (memory.shape[-1], kv_heads * d),
            "o": (heads * d, x.shape[-1] if features is None else features),
        }
        return {p: {f"w_{p}": w} | ({f"b_{p}": (w[1],)} if use_bias else {}) for p, w in weights.items()}

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        x, memory, _ = sequences(x)
        dtype = jnp.result_type(x)
        params: Params = {}
        for (p, wb), child_key in zip(shapes(x, memory).items(), jax.random.split(key, 4), strict=True):
            params |= draw(NAME, child_key, wb, {f"w_{p}": w_init, f"b_{p}": b_init}, dtype)
        if cache is None:
            return params, {}
        has_room(NAME, 0, x.shape[1], cache)
        return params, empty_cache(x.shape[0], cache, kv_heads, features_of_a_head(x), dtype)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        given = x
        x, memory, mask = sequences(x)
        wanted = {name: shape for wb in shapes(x, memory).values() for name, shape in wb.items()}
        # The second axis of w_q depends on x, too, unless head_features is given.
        inputs = [("w_q", [0], "input", x), ("w_q", [0, 1], "input", x), ("w_k", [0], "memory", memory)]
        check.has_shapes(NAME, "params", params, wanted, features=inputs)
        x, memory = jnp.asarray(x), jnp.asarray(memory)
        d = features_of_a_head(x)
        check.has_shapes(NAME, "state", state, {} if cache is None else cache_shapes(cache, kv_heads, d))
        q = _project(params, "q", x).reshape(*x.shape[:2], heads, d)
        k, v = (_project(params, p, memory).reshape(*memory.shape[:2], kv_heads, d) for p in "kv")

        decoding = cache is not None and not train
        start = state["position"] if decoding else 0
        if rotate:
            positions = start + jnp.arange(x.shape[1])
            q, k = rotate(q, positions), rotate(k, positions)
        if decoding:
            fits, state = append(NAME, state, k, v)
            k, v = state["k"], state["v"]
            offset = start
        else:
            offset = k.shape[1] - x.shape[1] if causal else None

        check_heads(NAME, q, k, v)
        mask = attention_mask(NAME, mask, offset, scores_shape(q, k))
        y = attend(q, k, v, mask, None, lambda w: drop.apply({}, {}, w, key=key, train=train)[0])
        y = _project(params, "o", y.reshape(*x.shape[:2], heads * d))
        if decoding:
            y = jnp.where(fits, y, jnp.nan)
        return {**given, "x": y} if isinstance(given, Mapping) else y, state if cache is not None else {}

    return Layer(init, apply, NAME)


def _project(params: Params, p: str, x: jax.Array) -> jax.Array:
    """x w_p + b_p."""
    wb = {kind: params[f"{kind}_{p}"] for kind in "wb" if f"{kind}_{p}" in params}
    return add_bias(product(x, wb["w"]), wb)


def _head_features(x: Any, heads: int) -> int:
    """The features of a head, in / heads."""
    if x.shape[-1] % heads or not x.shape[-1]:
        raise ValueError(
            f"{NAME}: input is {check.describe(x)}, wanted a multiple of heads={heads} features; or give "
            "head_features"
        )
    return x.shape[-1] // heads


def _check_arguments(
    heads: int,
    kv_heads: int,
    features: int | None,
    head_features: int | None,
    causal: bool,
    dropout: chex.Numeric,
    cache: int | None,
) -> None:
    for argument, size in (("heads", heads), ("kv_heads", kv_heads)):
        check.is_positive(NAME, argument, size)
    for argument, given in (("features", features), ("head_features", head_features), ("cache", cache)):
        if given is not None:
            check.is_positive(NAME, argument, given)
    if heads % kv_heads:
        raise ValueError(f"{NAME}: heads={heads}, kv_heads={kv_heads}, wanted a divisor of heads")
    if cache is not None and not causal:
        raise ValueError(
            f"{NAME}: cache={cache} and causal=False, wanted causal=True: later keys are not there yet"
        )
    check.flag(NAME, "causal", causal)
    check.number(NAME, "dropout", dropout, "[0, 1)")
