"""A step of training of a small GPT: next-token cross-entropy, AdamW, batch 16 of 128 tokens.

4 blocks of width 128 with 4 heads and 512 hidden features, a vocabulary of 256 (bytes), learned positions,
norms in front, exact gelu, no dropout, input and output embedding apart.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn

RATE, DECAY, EPS = 1e-3, 0.01, 1e-5


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
    width = sizes.width

    def dense(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        w = rng.standard_normal((n, m), dtype=np.float32) * np.float32(n**-0.5)
        return w, rng.standard_normal(m, dtype=np.float32) * np.float32(0.1)

    tokens = rng.integers(sizes.vocabulary, size=(sizes.batch, sizes.tokens + 1), dtype=np.int32)
    return {
        "x": tokens[:, :-1].copy(),
        "y": tokens[:, 1:].copy(),
        "embedding": rng.standard_normal((sizes.vocabulary, width), dtype=np.float32),
        "position": rng.standard_normal((sizes.tokens, width), dtype=np.float32) * np.float32(0.02),
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
    """fnnet's step and the shapes of its arguments: what compiling takes."""
    net, optimizer = network(sizes, repeated=repeated), fn.optim.adamw(RATE, weight_decay=DECAY)
    tokens = jax.ShapeDtypeStruct((sizes.batch, sizes.tokens), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    now = jax.eval_shape(lambda key: fn.train.start(net, optimizer, key, tokens), key)
    step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer)
    return step, (now, {"x": tokens, "y": tokens}, key)


def fnnet(sizes: Sizes = SIZES) -> Callable[[], Any]:
    given = arrays(sizes)
    net, optimizer = network(sizes), fn.optim.adamw(RATE, weight_decay=DECAY)
    batch = {"x": jnp.array(given["x"]), "y": jnp.array(given["y"])}
    key = jax.random.key(0)
    now = fn.train.start(net, optimizer, key, batch["x"])
    params = now.params
    params["embed_0"]["w"] = given["embedding"]
    params["learned_position_0"]["w"] = given["position"]
    params["dense_0"] = dict(zip("wb", given["head"], strict=True))
    for i, block in enumerate(given["blocks"]):
        there = params[f"transformer_decoder_block_{i}"]
        there["attention"] = {
            f"{kind}_{p}": a for p in "qkvo" for kind, a in zip("wb", block[p], strict=True)
        }
        there["mlp"] = {
            name: dict(zip("wb", block[part], strict=True))
            for name, part in (("dense_0", "up"), ("dense_1", "down"))
        }
    now = now._replace(params=jax.tree.map(jnp.array, params))
    step = jax.jit(fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer), donate_argnums=0)

    def run() -> Any:
        nonlocal now
        now, metrics = step(now, batch, key)
        jax.block_until_ready(now)
        return metrics["loss"]

    return run


def torch(sizes: Sizes = SIZES, *, compiled: bool = False) -> Callable[[], Any]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    given = arrays(sizes)
    width, heads = sizes.width, sizes.heads

    def linear(*parts: tuple[np.ndarray, np.ndarray]) -> Any:
        """A layer with the outputs of all parts side by side."""
        w, b = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
        layer = nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T.copy()))
            layer.bias.copy_(torch.from_numpy(b))
        return layer

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

    net = GPT()
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=RATE, weight_decay=DECAY, fused=True
    )  # faster than the default
    x, y = torch.from_numpy(given["x"]).long(), torch.from_numpy(given["y"]).long()

    def objective() -> Any:
        return F.cross_entropy(net(x).flatten(0, 1), y.flatten())

    loss_of = torch.compile(objective) if compiled else objective

    def run() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def flax(sizes: Sizes = SIZES) -> Callable[[], Any]:
    import optax
    from flax import nnx

    given = arrays(sizes)
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

    def load(layer: Any, wb: tuple[np.ndarray, np.ndarray]) -> None:
        layer.kernel[...] = jnp.array(wb[0]).reshape(layer.kernel.shape)  # attention's have an axis of heads
        layer.bias[...] = jnp.array(wb[1]).reshape(layer.bias.shape)

    net = GPT(nnx.Rngs(0))
    net.embed.embedding[...] = jnp.array(given["embedding"])
    for block, there in zip(given["blocks"], net.blocks, strict=True):
        attention = there.attention
        load(attention.query, block["q"])
        load(attention.key, block["k"])
        load(attention.value, block["v"])
        load(attention.out, block["o"])
        load(there.up, block["up"])
        load(there.down, block["down"])
    load(net.head, given["head"])
    optimizer = nnx.Optimizer(net, optax.adamw(RATE, weight_decay=DECAY), wrt=nnx.Param)
    x, y = jnp.array(given["x"]), jnp.array(given["y"])

    @nnx.jit(donate_argnums=(0, 1))
    def step(net: Any, optimizer: Any, x: Any, y: Any) -> Any:
        def objective(net: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

        loss, grads = nnx.value_and_grad(objective)(net)
        optimizer.update(net, grads)
        return loss

    def run() -> Any:
        loss = step(net, optimizer, x, y)
        jax.block_until_ready((nnx.state(net), nnx.state(optimizer)))
        return loss

    return run


def equinox(sizes: Sizes = SIZES) -> Callable[[], Any]:
    import equinox as eqx
    import optax

    given = arrays(sizes)
    width = sizes.width

    def linear(wb: tuple[np.ndarray, np.ndarray]) -> Any:
        w, b = wb
        layer = eqx.nn.Linear(*w.shape, key=jax.random.key(0))
        return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (jnp.array(w.T), jnp.array(b)))

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

    net = GPT()
    optimizer = optax.adamw(RATE, weight_decay=DECAY)
    opt_state = optimizer.init(eqx.filter(net, eqx.is_array))
    batch = jnp.array(given["x"]), jnp.array(given["y"])

    @eqx.filter_jit(donate="all-except-first")
    def step(batch: Any, net: Any, opt_state: Any) -> Any:
        x, y = batch

        @eqx.filter_value_and_grad
        def objective(net: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(net)(x), y).mean()

        loss, grads = objective(net)
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(net, eqx.is_array))
        return loss, eqx.apply_updates(net, updates), opt_state

    def run() -> Any:
        nonlocal net, opt_state
        loss, net, opt_state = jax.block_until_ready(step(batch, net, opt_state))
        return loss

    return run
