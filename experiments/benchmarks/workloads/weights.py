"""Puts given weights into a layer of each library: w (in, out) or HWIO, and the bias b."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


def into_fnnet(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The params, with those that are given in their place, by name."""
    return {
        name: into_fnnet(old, given.get(name, {}))
        if isinstance(old, Mapping)
        else jnp.array(given.get(name, old))
        for name, old in params.items()
    }


def into_torch(layer: Any, w: np.ndarray, b: np.ndarray | None = None) -> Any:
    """A layer of PyTorch, whose kernels are OIHW and whose matrices are (out, in)."""
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(_outputs_first(w)))
        if b is not None:
            layer.bias.copy_(torch.from_numpy(b))
    return layer


def into_flax(layer: Any, w: np.ndarray, b: np.ndarray | None = None) -> Any:
    """A layer of Flax, whose attention has an axis for the heads."""
    layer.kernel[...] = jnp.array(w).reshape(layer.kernel.shape)
    if b is not None:
        layer.bias[...] = jnp.array(b).reshape(layer.bias.shape)
    return layer


def into_equinox(layer: Any, w: np.ndarray, b: np.ndarray | None = None) -> Any:
    """A layer of Equinox, whose kernels are OIHW and whose matrices are (out, in)."""
    import equinox as eqx

    layer = eqx.tree_at(lambda layer: layer.weight, layer, jnp.array(_outputs_first(w)))
    if b is None:
        return layer
    return eqx.tree_at(lambda layer: layer.bias, layer, jnp.array(b).reshape(layer.bias.shape))


def _outputs_first(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w.transpose(3, 2, 0, 1) if w.ndim == 4 else w.T)
