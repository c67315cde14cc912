"""One file per workload: its data, its weights, and its network in each library.

A workload states

    SIZES                      its sizes, a NamedTuple
    arrays(sizes)              "x", "y" (labels) or "c" (the gradient of a loss by the output), and the weights; NumPy
    fnnet(sizes, given)        the layer, and its params as far as they are given
    torch(sizes, given)        the module, with the given weights
    flax(sizes, given)
    equinox(sizes, given)      the module of one example
    OPTIMIZER                  where it is trained

and `train_step` or `forward_backward` does the rest, in the same way for all of them. Each network is written as its
library's own documentation advises. Peers are imported inside their functions.

Images are NHWC. PyTorch's and Equinox's modules get NCHW, which in PyTorch is channels_last in memory.
"""

from typing import Any, NamedTuple

import numpy as np

import fnnet as fn


class Optimizer(NamedTuple):
    """Adam; or AdamW, where there is a weight decay."""

    learning_rate: float
    weight_decay: float | None = None


def fnnet_optimizer(optimizer: Optimizer) -> Any:
    """The optimizer of fnnet's side."""
    rate, decay = optimizer
    return fn.optim.adam(rate) if decay is None else fn.optim.adamw(rate, weight_decay=decay)


def normal(rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers in float32."""
    return np.asarray(rng.standard_normal(shape, dtype=np.float32))
