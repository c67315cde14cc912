"""fnnet: neural networks as pure functions, on JAX. `import fnnet as fn`."""

import importlib
from typing import TYPE_CHECKING, Any

from fnnet import activations, check, initializers, layer, losses
from fnnet.activations import (
    bipolar_sigmoid,
    elu,
    gelu,
    hardlim,
    hardlims,
    identity,
    leaky_relu,
    log_softmax,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    softsign,
    tanh,
)
from fnnet.combinators import on_x, parallel, residual, serial
from fnnet.copies import copy_axes
from fnnet.layer import Layer, as_layer
from fnnet.layers.attention.alignment import additive_attention, multiplicative_attention
from fnnet.layers.attention.dot_product import dot_product_attention
from fnnet.layers.attention.multi_head import multi_head_attention
from fnnet.layers.attention.position import learned_position, rotary, sinusoidal_position
from fnnet.layers.attention.transformer import transformer_decoder_block, transformer_encoder_block
from fnnet.layers.convolution.conv import conv
from fnnet.layers.convolution.conv_transpose import conv_transpose
from fnnet.layers.convolution.pool import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
)
from fnnet.layers.convolution.resize import depth_to_space, pad, space_to_depth, upsample
from fnnet.layers.convolution.separable_conv import depthwise_conv, separable_conv
from fnnet.layers.dense import dense, flatten
from fnnet.layers.dropout import drop_connect, dropout, spatial_dropout, stochastic_depth
from fnnet.layers.embed import embed, tied_embed
from fnnet.layers.highway import highway
from fnnet.layers.maxout import maxout
from fnnet.layers.mixture import mixture_of_experts
from fnnet.layers.noise import gaussian_dropout, gaussian_noise
from fnnet.layers.normalization.batch_norm import batch_norm
from fnnet.layers.normalization.local_response_norm import local_response_norm
from fnnet.layers.normalization.norm import group_norm, instance_norm, layer_norm, rms_norm
from fnnet.layers.normalization.spectral_norm import spectral_norm
from fnnet.layers.normalization.weight_norm import weight_norm
from fnnet.layers.radial_basis import radial_basis
from fnnet.layers.recurrent.cell import Cell, stack_cells
from fnnet.layers.recurrent.gru import gru, gru_cell
from fnnet.layers.recurrent.lstm import lstm, lstm_cell
from fnnet.layers.recurrent.recurrent import bidirectional, recurrent
from fnnet.layers.recurrent.simple_rnn import simple_rnn, simple_rnn_cell
from fnnet.layers.recurrent.unroll import unroll
from fnnet.sample import sample
from fnnet.summary import summary
from fnnet.wrappers import cast, freeze, remat, repeat

if TYPE_CHECKING:
    from fnnet import data, metrics, optim, train
else:
    # Half of the files are in these. They are imported when they are first used, so that `import fnnet` is fast.
    def __getattr__(name: str) -> Any:
        if name in ("data", "metrics", "optim", "train"):
            return importlib.import_module(f"fnnet.{name}")
        raise AttributeError(f"module 'fnnet' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "Cell",
    "Layer",
    "activations",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "additive_attention",
    "as_layer",
    "avg_pool",
    "batch_norm",
    "bidirectional",
    "bipolar_sigmoid",
    "cast",
    "check",
    "conv",
    "conv_transpose",
    "copy_axes",
    "data",
    "dense",
    "depth_to_space",
    "depthwise_conv",
    "dot_product_attention",
    "drop_connect",
    "dropout",
    "elu",
    "embed",
    "flatten",
    "freeze",
    "gaussian_dropout",
    "gaussian_noise",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "gru",
    "gru_cell",
    "hardlim",
    "hardlims",
    "highway",
    "identity",
    "initializers",
    "instance_norm",
    "layer",
    "layer_norm",
    "leaky_relu",
    "learned_position",
    "local_response_norm",
    "log_softmax",
    "losses",
    "lstm",
    "lstm_cell",
    "max_pool",
    "maxout",
    "metrics",
    "mixture_of_experts",
    "multi_head_attention",
    "multiplicative_attention",
    "on_x",
    "optim",
    "pad",
    "parallel",
    "radial_basis",
    "recurrent",
    "relu",
    "remat",
    "repeat",
    "residual",
    "rms_norm",
    "rotary",
    "sample",
    "selu",
    "separable_conv",
    "serial",
    "sigmoid",
    "silu",
    "simple_rnn",
    "simple_rnn_cell",
    "sinusoidal_position",
    "softmax",
    "softplus",
    "softsign",
    "space_to_depth",
    "spatial_dropout",
    "spectral_norm",
    "stack_cells",
    "stochastic_depth",
    "summary",
    "tanh",
    "tied_embed",
    "train",
    "transformer_decoder_block",
    "transformer_encoder_block",
    "unroll",
    "upsample",
    "weight_norm",
]
