"""GPT-2 124M, trained with AdamW in batches of 64 x 1,024 tokens, as llm.c does on one GPU: fnnet and PyTorch only.

12 blocks of width 768 with 12 heads, gelu by tanh, learned positions, one table for input and output. The vocabulary
of 50,257 is padded to 50,304, as in llm.c and nanoGPT. Each library draws its own initial weights.

Source: Radford et al. 2019, "Language models are unsupervised multitask learners"; llm.c's
scripts/run_gpt2_124M.sh (-b 64 -t 1024 -l 0.0006 -c 0.1).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import Optimizer

OPTIMIZER = Optimizer(learning_rate=6e-4, weight_decay=0.1)
EPS = 1e-5  # of the layer norms

Attention = Literal["block", "cudnn", "cudnn causal"]


class Sizes(NamedTuple):
    batch: int = 64
    tokens: int = 1024
    vocabulary: int = 50_304
    layers: int = 12
    width: int = 768
    heads: int = 12
    attention: Attention = "block"  # of fnnet: see `fnnet`


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Tokens x and y (batch, tokens)."""
    shape = (sizes.batch, sizes.tokens + 1)
    tokens = np.random.default_rng(0).integers(sizes.vocabulary, size=shape, dtype=np.int32)
    return {"x": tokens[:, :-1].copy(), "y": tokens[:, 1:].copy()}


def fnnet(sizes: Sizes, given: dict[str, np.ndarray]) -> tuple[fn.Layer, dict[str, Any]]:
    """The network. Its attention is one of three.

    - "block": `fn.transformer_decoder_block`, which XLA compiles.
    - "cudnn": cuDNN's fused kernel by `fn.dot_product_attention(..., implementation="cudnn")`, which gives it a mask.
    - "cudnn causal": the same kernel by `jax.nn.dot_product_attention(..., is_causal=True)`, without a mask.
    """
    attend: dict[str, Callable[..., jax.Array]] = {
        "cudnn": partial(fn.dot_product_attention, causal=True, implementation="cudnn"),
        "cudnn causal": partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn"),
    }
    if sizes.attention == "block":
        block = fn.transformer_decoder_block(sizes.heads, cross=False)
    else:
        attention = self_attention(sizes.heads, sizes.width, attend[sizes.attention])
        block = fn.serial(
            fn.residual(fn.layer_norm(eps=EPS), attention),
            fn.residual(fn.layer_norm(eps=EPS), fn.dense(4 * sizes.width), fn.gelu, fn.dense(sizes.width)),
        )
    body = fn.serial(
        fn.learned_position(sizes.tokens), fn.repeat(block, sizes.layers), fn.layer_norm(eps=EPS)
    )
    return fn.tied_embed(sizes.vocabulary, sizes.width, body), {}


def self_attention(heads: int, width: int, attend: Callable[..., jax.Array]) -> fn.Layer:
    """Self-attention around a function of q, k and v (batch, time, heads, width / heads)."""
    qkv, out = fn.dense(3 * width), fn.dense(width)

    def init(key: jax.Array, x: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        keys = jax.random.split(key)
        return {"qkv": qkv.init(keys[0], x)[0], "out": out.init(keys[1], x)[0]}, {}

    def apply(
        params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False
    ) -> tuple[jax.Array, Any]:
        shape = (*x.shape[:2], 3, heads, width // heads)
        q, k, v = (qkv(params["qkv"], x).reshape(shape)[:, :, i] for i in range(3))
        return out(params["out"], attend(q, k, v).reshape(x.shape)), state

    return fn.Layer(init, apply, "self_attention")


def torch(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    width, heads = sizes.width, sizes.heads

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            batch, tokens, _ = x.shape
            qkv = self.qkv(self.norm_1(x)).split(width, dim=2)
            q, k, v = (a.view(batch, tokens, heads, width // heads).transpose(1, 2) for a in qkv)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, width))
            return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(sizes.vocabulary, width)
            self.position = nn.Parameter(0.02 * torch.randn(sizes.tokens, width))
            self.blocks = nn.Sequential(*(Block() for _ in range(sizes.layers)))
            self.norm = nn.LayerNorm(width, eps=EPS)
            nn.init.normal_(self.embed.weight, std=0.02)

        def forward(self, x: Any) -> Any:
            h = self.norm(self.blocks(self.embed(x) + self.position[: x.shape[1]]))
            return F.linear(h, self.embed.weight)

    torch.manual_seed(0)
    return GPT2()


def params_of(sizes: Sizes) -> tuple[int, int]:
    """Params of fnnet's network, all of them and those of the positions."""
    net, _ = fnnet(sizes._replace(attention="block"), {})
    tokens = jax.ShapeDtypeStruct((1, sizes.tokens), np.int32)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), tokens)
    return sum(p.size for p in jax.tree.leaves(params)), sizes.tokens * sizes.width
