"""A small GPT, trained on next tokens with AdamW in batches of 16 x 128 tokens.

4 blocks of width 128 with 4 heads and 512 hidden features, a vocabulary of 256 (bytes), learned positions,
norms in front, exact gelu, no dropout. The input embedding and the output layer have separate weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import Optimizer, fnnet_optimizer, normal
from experiments.benchmarks.workloads.weights import into_equinox, into_flax, into_torch

OPTIMIZER = Optimizer(learning_rate=1e-3, weight_decay=0.01)
EPS = 1e-5  # of the layer norms


class Sizes(NamedTuple):
    batch: int = 16
    tokens: int = 128
    vocabulary: int = 256
    layers: int = 4
    width: int = 128
    heads: int = 4
    hidden: int = 512


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, Any]:
    """Tokens x and y (batch, tokens), weights (in, out) and biases, those of the blocks in lists."""
    rng = np.random.default_rng(0)
    draw = partial(normal, rng)
    width = sizes.width

    def dense(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        return draw((n, m)) * np.float32(n**-0.5), draw(m) * np.float32(0.1)

    tokens = rng.integers(sizes.vocabulary, size=(sizes.batch, sizes.tokens + 1), dtype=np.int32)
    return {
        "x": tokens[:, :-1].copy(),
        "y": tokens[:, 1:].copy(),
        "embedding": draw((sizes.vocabulary, width)),
        "position": draw((sizes.tokens, width)) * np.float32(0.02),
        "blocks": [
            {part: dense(width, width) for part in "qkvo"}
            | {"up": dense(width, sizes.hidden), "down": dense(sizes.hidden, width)}
            for _ in range(sizes.layers)
        ],
        "head": dense(width, sizes.vocabulary),
    }


def network(sizes: Sizes, *, repeated: bool = False) -> fn.Layer:
    """fnnet's network; `repeated`: its blocks in `fn.repeat`."""
    block = fn.transformer_decoder_block(
        sizes.heads, cross=False, hidden=sizes.hidden, activation=lambda x: fn.gelu(x, approximate=False)
    )
    blocks = [fn.repeat(block, sizes.layers)] if repeated else [block] * sizes.layers
    return fn.serial(
        *(fn.embed(sizes.vocabulary, sizes.width), fn.learned_position(sizes.tokens)),
        *(*blocks, fn.layer_norm(eps=EPS), fn.dense(sizes.vocabulary)),
    )


def step_to_compile(sizes: Sizes, *, repeated: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """fnnet's step and the shapes of its arguments, for measuring how long it takes to compile."""
    net, optimizer = network(sizes, repeated=repeated), fnnet_optimizer(OPTIMIZER)
    tokens = jax.ShapeDtypeStruct((sizes.batch, sizes.tokens), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    now = jax.eval_shape(lambda key: fn.train.start(net, optimizer, key, tokens), key)
    step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer)
    return step, (now, {"x": tokens, "y": tokens}, key)


def fnnet(sizes: Sizes, given: dict[str, Any]) -> tuple[fn.Layer, dict[str, Any]]:
    params: dict[str, Any] = {
        "embed_0": {"w": given["embedding"]},
        "learned_position_0": {"w": given["position"]},
        "dense_0": dict(zip("wb", given["head"], strict=True)),
    }
    for i, block in enumerate(given["blocks"]):
        params[f"transformer_decoder_block_{i}"] = {
            "attention": {f"{kind}_{p}": a for p in "qkvo" for kind, a in zip("wb", block[p], strict=True)},
            "mlp": {
                name: dict(zip("wb", block[part], strict=True))
                for name, part in (("dense_0", "up"), ("dense_1", "down"))
            },
        }
    return network(sizes), params


def torch(sizes: Sizes, given: dict[str, Any]) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, heads = sizes.width, sizes.heads

    def linear(*parts: tuple[np.ndarray, np.ndarray]) -> Any:
        """A layer with the outputs of all parts side by side."""
        w, b = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
        return into_torch(nn.Linear(*w.shape), w, b)

    class Block(nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
            self.qkv = linear(block["q"], block["k"], block["v"])
            self.o, self.up, self.down = linear(block["o"]), linear(block["up"]), linear(block["down"])

        def forward(self, x: Any) -> Any:
            batch, tokens, _ = x.shape
            qkv = self.qkv(self.norm_1(x)).split(width, dim=2)
            q, k, v = (a.view(batch, tokens, heads, width // heads).transpose(1, 2) for a in qkv)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.o(y.transpose(1, 2).reshape(batch, tokens, width))
            return x + self.down(F.gelu(self.up(self.norm_2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding.from_pretrained(torch.from_numpy(given["embedding"]), freeze=False)
            self.position = nn.Parameter(torch.from_numpy(given["position"]))
            self.blocks = nn.Sequential(*(Block(block) for block in given["blocks"]))
            self.norm = nn.LayerNorm(width, eps=EPS)
            self.head = linear(given["head"])

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.blocks(self.embed(x) + self.position[: x.shape[1]])))

    return GPT()


def flax(sizes: Sizes, given: dict[str, Any]) -> Any:
    from flax import nnx

    width = sizes.width

    class Block(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.norm_1 = nnx.LayerNorm(width, epsilon=EPS, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(sizes.heads, width, decode=False, rngs=rngs)
            self.norm_2 = nnx.LayerNorm(width, epsilon=EPS, rngs=rngs)
            self.up = nnx.Linear(width, sizes.hidden, rngs=rngs)
            self.down = nnx.Linear(sizes.hidden, width, rngs=rngs)

        def __call__(self, x: Any, mask: Any) -> Any:
            x = x + self.attention(self.norm_1(x), mask=mask)
            return x + self.down(nnx.gelu(self.up(self.norm_2(x)), approximate=False))

    class GPT(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.embed = nnx.Embed(sizes.vocabulary, width, rngs=rngs)
            self.position = nnx.Param(jnp.array(given["position"]))
            self.blocks = nnx.List([Block(rngs) for _ in range(sizes.layers)])
            self.norm = nnx.LayerNorm(width, epsilon=EPS, rngs=rngs)
            self.head = nnx.Linear(width, sizes.vocabulary, rngs=rngs)

        def __call__(self, tokens: Any) -> Any:
            mask = nnx.make_causal_mask(tokens)
            x = self.embed(tokens)
            x = x + jnp.broadcast_to(self.position[...][None, : tokens.shape[1]], x.shape)
            for block in self.blocks:
                x = block(x, mask)
            return self.head(self.norm(x))

    net = GPT(nnx.Rngs(0))
    net.embed.embedding[...] = jnp.array(given["embedding"])
    for block, there in zip(given["blocks"], net.blocks, strict=True):
        attention = there.attention
        layers = (attention.query, attention.key, attention.value, attention.out, there.up, there.down)
        for layer, part in zip(layers, ("q", "k", "v", "o", "up", "down"), strict=True):
            into_flax(layer, *block[part])
    into_flax(net.head, *given["head"])
    return net


def equinox(sizes: Sizes, given: dict[str, Any]) -> Any:
    import equinox as eqx

    width = sizes.width

    def linear(wb: tuple[np.ndarray, np.ndarray]) -> Any:
        return into_equinox(eqx.nn.Linear(*wb[0].shape, key=jax.random.key(0)), *wb)

    def attention(block: Any) -> Any:
        biases = {f"use_{which}_bias": True for which in ("query", "key", "value", "output")}
        layer = eqx.nn.MultiheadAttention(sizes.heads, width, **biases, key=jax.random.key(0))
        return eqx.tree_at(
            lambda layer: (layer.query_proj, layer.key_proj, layer.value_proj, layer.output_proj),
            layer,
            tuple(linear(block[part]) for part in "qkvo"),
        )

    class Block(eqx.Module):
        norm_1: Any
        attention: Any
        norm_2: Any
        up: Any
        down: Any

        def __init__(self, block: Any) -> None:
            self.norm_1, self.norm_2 = eqx.nn.LayerNorm(width, eps=EPS), eqx.nn.LayerNorm(width, eps=EPS)
            self.attention = attention(block)
            self.up, self.down = linear(block["up"]), linear(block["down"])

        def __call__(self, x: Any, mask: Any) -> Any:
            h = jax.vmap(self.norm_1)(x)
            x = x + self.attention(h, h, h, mask=mask)
            h = jax.vmap(self.up)(jax.vmap(self.norm_2)(x))
            return x + jax.vmap(self.down)(jax.nn.gelu(h, approximate=False))

    class GPT(eqx.Module):
        embed: Any
        position: Any
        blocks: list[Any]
        norm: Any
        head: Any

        def __init__(self) -> None:
            self.embed = eqx.nn.Embedding(weight=jnp.array(given["embedding"]))
            self.position = jnp.array(given["position"])
            self.blocks = [Block(block) for block in given["blocks"]]
            self.norm = eqx.nn.LayerNorm(width, eps=EPS)
            self.head = linear(given["head"])

        def __call__(self, tokens: Any) -> Any:
            mask = jnp.tril(jnp.ones((len(tokens), len(tokens)), bool))
            x = jax.vmap(self.embed)(tokens) + self.position[: len(tokens)]
            for block in self.blocks:
                x = block(x, mask)
            return jax.vmap(self.head)(jax.vmap(self.norm)(x))

    return GPT()
