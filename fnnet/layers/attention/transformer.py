"""Transformer blocks: attention and a two-layer network, each with a shortcut and a layer norm."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import chex
import jax

from fnnet import check, initializers
from fnnet.activations import gelu
from fnnet.children import apply_child, child_keys
from fnnet.combinators import serial
from fnnet.initializers import Initializer
from fnnet.layer import Layer, Params, State, printable
from fnnet.layers.attention.inputs import attention_inputs
from fnnet.layers.attention.multi_head import multi_head_attention
from fnnet.layers.dense import dense
from fnnet.layers.draw import check_activation
from fnnet.layers.dropout import dropout_if_any
from fnnet.layers.normalization.norm import layer_norm


@printable
def transformer_encoder_block(
    heads: int,
    *,
    kv_heads: int | None = None,
    hidden: int | None = None,
    norm: Literal["pre", "post"] = "pre",
    activation: Callable[[jax.Array], jax.Array] = gelu,
    dropout: chex.Numeric = 0.0,
    attention_dropout: chex.Numeric = 0.0,
    use_bias: bool = True,
    rotary: bool | Callable[[jax.Array, jax.Array], jax.Array] = False,
    w_init: Initializer = initializers.glorot_uniform(),
) -> Layer:
    """Transformer encoder block: every time step attends to all others, then passes through a two-layer network.

        norm="pre":   x <- x + attention(norm_0(x)),    y = x + mlp(norm_1(x))
        norm="post":  x <- norm_0(x + attention(x)),    y = norm_1(x + mlp(x))
        mlp(x) = activation(x w_0 + b_0) w_1 + b_1

    The input is an array x, or a dict {"x": x, "mask": mask}. For a dict, the output is that dict with y in place of
    x, so that `serial` passes the mask on from block to block.

    Shapes: x and y (batch, time, features), mask as in `multi_head_attention`, (batch, time) for padding;
    params norm_0, attention, norm_1, mlp.

    Args:
        heads: number of attention heads, a divisor of the features.
        kv_heads: number of heads of keys and values. The default is heads.
        hidden: features inside the mlp. The default is 4 times those of x.
        norm: "pre", which trains without a warm-up and needs a `layer_norm` after the last block, or "post", as in
            Vaswani et al.
        activation: activation of the mlp.
        dropout: fraction of each part's output that is dropped in training, before it is added to x, in [0, 1).
        attention_dropout: fraction of the attention weights that is dropped in training, in [0, 1).
        use_bias: whether attention and mlp have biases.
        rotary: rotate queries and keys by their positions, as in `multi_head_attention`.
        w_init: initializer of all weights. The default is Glorot's uniform.

    Raises:
        TypeError: the input is not floating point, or the mask is not boolean.
        ValueError: heads does not divide the features, shapes do not match, the norm is unknown, or there is no key
            to draw with in training.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3; Xiong et al. 2020, arXiv:2002.04745 (pre-norm).

    Example:
        >>> encoder = fn.serial(fn.transformer_encoder_block(2), fn.transformer_encoder_block(2))
        >>> x = {"x": jnp.ones((5, 3, 4)), "mask": jnp.ones((5, 3), bool)}
        >>> params, state = encoder.init(jax.random.key(0), x)
        >>> list(params["transformer_encoder_block_0"])
        ['norm_0', 'attention', 'norm_1', 'mlp']
        >>> encoder(params, x)["x"].shape
        (5, 3, 4)
    """
    check.number("transformer_encoder_block", "attention_dropout", attention_dropout, "[0, 1)")
    attention = multi_head_attention(
        heads, kv_heads=kv_heads, dropout=attention_dropout, use_bias=use_bias, rotary=rotary, w_init=w_init
    )
    return _block(
        "transformer_encoder_block",
        {"attention": attention},
        ("mask",),
        hidden=hidden,
        norm=norm,
        activation=activation,
        dropout=dropout,
        use_bias=use_bias,
        w_init=w_init,
    )


@printable
def transformer_decoder_block(
    heads: int,
    *,
    cross: bool = True,
    kv_heads: int | None = None,
    hidden: int | None = None,
    norm: Literal["pre", "post"] = "pre",
    activation: Callable[[jax.Array], jax.Array] = gelu,
    dropout: chex.Numeric = 0.0,
    attention_dropout: chex.Numeric = 0.0,
    use_bias: bool = True,
    rotary: bool | Callable[[jax.Array, jax.Array], jax.Array] = False,
    cache: int | None = None,
    w_init: Initializer = initializers.glorot_uniform(),
) -> Layer:
    """Transformer decoder block: causal attention, attention to a memory, then a two-layer network.

        norm="pre":   x <- x + attention(norm_0(x)),    x <- x + cross_attention(norm_1(x), memory),
                      y = x + mlp(norm_2(x))
        norm="post":  x <- norm_0(x + attention(x)),    x <- norm_1(x + cross_attention(x, memory)),
                      y = norm_2(x + mlp(x))

    With cross=False there is no attention to a memory and no norm for it, which is the block of GPT.

    The input is a dict {"x": x, "memory": m, "mask": mask of x, "memory_mask": mask of the memory}, in which the
    masks are optional. The output is that dict with y in place of x, so that `serial` passes memory and masks on
    from block to block. With cross=False the input may be an array x, which gives an array y.

    Shapes: x and y (batch, time, features), m (batch, source, any features), masks as in
    `multi_head_attention`, (batch, time) and (batch, source) for padding; params norm_0, attention, norm_1,
    cross_attention, norm_2, mlp.

    Args:
        heads: number of heads of each attention, a divisor of the features.
        cross: whether there is a memory to attend to.
        kv_heads: number of heads of keys and values. The default is heads.
        hidden: features inside the mlp. The default is 4 times those of x.
        norm: "pre" or "post", as in `transformer_encoder_block`.
        activation: activation of the mlp.
        dropout: fraction of each part's output that is dropped in training, before it is added to x, in [0, 1).
        attention_dropout: fraction of the attention weights that is dropped in training, in [0, 1).
        use_bias: whether attention and mlp have biases.
        rotary: rotate the queries and keys of x by their positions, as in `multi_head_attention`.
        cache: number of time steps whose keys and values are kept, for decoding token by token, as in
            `multi_head_attention`. Those of the memory are computed at each call. A `learned_position` or
            `sinusoidal_position` before the blocks needs `cache=True`, too.
        w_init: initializer of all weights. The default is Glorot's uniform.

    Raises:
        TypeError: the input is not floating point, or a mask is not boolean.
        ValueError: heads does not divide the features, shapes do not match, the norm is unknown, there is no memory
            with cross=True, no key to draw with in training, or no room in the cache.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3; Radford et al. 2019, "Language models are
    unsupervised multitask learners" (GPT-2: pre-norm).

    Example:
        >>> gpt = fn.serial(
        ...     *(fn.embed(11, 4), fn.learned_position(8)),
        ...     *(fn.transformer_decoder_block(2, cross=False), fn.layer_norm(), fn.dense(11)),
        ... )
        >>> tokens = jnp.zeros((5, 3), int)
        >>> params, state = gpt.init(jax.random.key(0), tokens)
        >>> gpt(params, tokens).shape
        (5, 3, 11)
    """
    check.flag("transformer_decoder_block", "cross", cross)
    check.number("transformer_decoder_block", "attention_dropout", attention_dropout, "[0, 1)")
    options: dict[str, Any] = {"kv_heads": kv_heads, "dropout": attention_dropout, "use_bias": use_bias}
    attentions = {
        "attention": multi_head_attention(
            heads, **options, causal=True, rotary=rotary, cache=cache, w_init=w_init
        )
    }
    if cross:
        attentions["cross_attention"] = multi_head_attention(heads, **options, w_init=w_init)
    return _block(
        "transformer_decoder_block",
        attentions,
        ("memory", "mask", "memory_mask"),
        hidden=hidden,
        norm=norm,
        activation=activation,
        dropout=dropout,
        use_bias=use_bias,
        w_init=w_init,
    )


def _block(
    name: str,
    attentions: Mapping[str, Layer],
    optional: tuple[str, ...],
    *,
    hidden: int | None,
    norm: str,
    activation: Callable[[jax.Array], jax.Array],
    dropout: chex.Numeric,
    use_bias: bool,
    w_init: Initializer,
) -> Layer:
    """Attentions and an mlp in series, each with a shortcut and a norm."""
    if hidden is not None:
        check.is_positive(name, "hidden", hidden)
    check.one_of(name, "norm", norm, ("pre", "post"))
    check_activation(name, activation)
    check.number(name, "dropout", dropout, "[0, 1)")
    drop = dropout_if_any(dropout)

    def parts(features: int) -> dict[str, Layer]:
        def linear(n: int) -> Layer:
            return dense(n, use_bias=use_bias, w_init=w_init)

        return {**attentions, "mlp": serial(linear(hidden or 4 * features), activation, linear(features))}

    def check_inputs(x: Any) -> dict[str, Any]:
        inputs = attention_inputs(name, x, optional)
        if "cross_attention" in attentions and "memory" not in inputs:
            raise ValueError(
                f"{name}: input is {check.describe(x)}, wanted a dict with 'x' and 'memory'; or cross=False, "
                "a block without attention to a memory"
            )
        return inputs

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        inputs = check_inputs(x)
        x = inputs["x"]
        params: Params = {}
        state: State = {}
        layers = parts(x.shape[-1])
        keys = child_keys(key, layers)
        for i, (part, layer) in enumerate(layers.items()):
            # All parts get the input of the block: none of them changes the shape of x.
            with check.at(f"{name}[{part!r}]", x):
                params[f"norm_{i}"], _ = layer_norm().init(key, x)
                params[part], s = layer.init(keys[part], _part_input(part, x, inputs))
            state |= {part: s} if s else {}
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        inputs = check_inputs(x)
        given, x = x, inputs["x"]
        layers = parts(x.shape[-1])
        # Each part and each norm checks its own entry. The state has entries of those parts that have one.
        entries = (*layers, *(f"norm_{i}" for i in range(len(layers))))
        check.has_shapes(name, "params", params, dict.fromkeys(entries, ...))
        check.is_dict(name, "state", state)
        check.has_shapes(name, "state", state, {part: ... for part in layers if part in state})
        keys = child_keys(key, (*layers, *(f"dropout_{i}" for i in range(len(layers)))))

        def normalized(i: int, x: Any) -> Any:
            return apply_child(f"norm_{i}", layer_norm(), params[f"norm_{i}"], {}, x, None, train)[0]

        new_state: State = {}
        for i, (part, layer) in enumerate(layers.items()):
            with check.at(f"{name}[{part!r}]", x):
                h = _part_input(part, normalized(i, x) if norm == "pre" else x, inputs)
                h, s = apply_child(part, layer, params[part], state.get(part, {}), h, keys[part], train)
                h = h["x"] if isinstance(h, Mapping) else h
                h, _ = drop.apply({}, {}, h, key=keys[f"dropout_{i}"], train=train)
                x = normalized(i, x + h) if norm == "post" else x + h
            new_state |= {part: s} if s else {}
        return {**given, "x": x} if isinstance(given, Mapping) else x, new_state

    return Layer(init, apply, name)


def _part_input(part: str, h: Any, inputs: Mapping[str, Any]) -> Any:
    """What a part of a block reads: h, with the mask or the memory that belongs to it."""
    if part == "attention":
        return {"x": h, "mask": inputs.get("mask")}
    if part == "cross_attention":
        return {"x": h, "memory": inputs["memory"], "mask": inputs.get("memory_mask")}
    return h
