"""fnnet: neural networks as pure functions, on JAX. `import fnnet as fn`."""

from fnnet import activations, check, data, initializers, layer, losses, metrics, optim, train
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
from fnnet.combine import parallel, residual, serial
from fnnet.layer import Layer, as_layer
from fnnet.layers.conv import conv
from fnnet.layers.dense import dense, flatten
from fnnet.layers.dropout import dropout
from fnnet.layers.embed import embed
from fnnet.layers.norm import batch_norm, layer_norm
from fnnet.layers.pool import avg_pool, max_pool

__version__ = "0.1.0"

__all__ = [
    "Layer",
    "activations",
    "as_layer",
    "avg_pool",
    "batch_norm",
    "bipolar_sigmoid",
    "check",
    "conv",
    "data",
    "dense",
    "dropout",
    "elu",
    "embed",
    "flatten",
    "gelu",
    "hardlim",
    "hardlims",
    "identity",
    "initializers",
    "layer",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "losses",
    "max_pool",
    "metrics",
    "optim",
    "parallel",
    "relu",
    "residual",
    "selu",
    "serial",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
    "train",
]
