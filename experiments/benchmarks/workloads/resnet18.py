"""ResNet-18 on images 224x224x3 with 1,000 classes, trained with Adam in batches of 128: fnnet and PyTorch only.

Each library draws its own initial weights, of the same distributions or near ones.

Source: He et al. 2016, "Deep residual learning for image recognition", table 1.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fnnet as fn
from experiments.benchmarks.workloads import Optimizer, normal

OPTIMIZER = Optimizer(learning_rate=1e-3)


class Sizes(NamedTuple):
    batch: int = 128
    size: int = 224  # of the image, a multiple of 32
    channels: int = 64  # of the first stage; each later one has twice as many
    classes: int = 1000


SIZES = Sizes()
STAGES = 4  # of two blocks


def arrays(sizes: Sizes) -> dict[str, np.ndarray]:
    """Images x and labels y."""
    rng = np.random.default_rng(0)
    draw = partial(normal, rng)
    return {
        "x": draw((sizes.batch, sizes.size, sizes.size, 3)),
        "y": rng.integers(sizes.classes, size=sizes.batch, dtype=np.int32),
    }


def fnnet(sizes: Sizes, given: dict[str, np.ndarray]) -> tuple[fn.Layer, dict[str, Any]]:
    def conv(features: int, window: int, strides: int = 1) -> fn.Layer:
        half = window // 2
        return fn.conv(
            features, window, strides=strides, padding=((half, half), (half, half)), use_bias=False
        )

    def block(features: int, strides: int = 1) -> fn.Layer:
        f = fn.serial(
            *(conv(features, 3, strides), fn.batch_norm(), fn.relu),
            *(conv(features, 3), fn.batch_norm()),
        )
        if strides == 1:
            return fn.serial(fn.residual(f), fn.relu)
        shortcut = fn.serial(conv(features, 1, strides), fn.batch_norm())
        return fn.serial(fn.parallel(f, shortcut), fn.relu)

    stem = (
        conv(sizes.channels, 7, 2),
        fn.batch_norm(),
        fn.relu,
        fn.max_pool(3, strides=2, padding=((1, 1), (1, 1))),
    )
    blocks = [
        block(sizes.channels * 2**stage, strides=2 if stage and not i else 1)
        for stage in range(STAGES)
        for i in (0, 1)
    ]
    return fn.serial(*stem, *blocks, fn.global_avg_pool, fn.dense(sizes.classes)), {}


def torch(sizes: Sizes, given: dict[str, np.ndarray]) -> Any:
    import torch
    from torch import nn

    def conv(n: int, m: int, window: int, stride: int = 1) -> Any:
        layer = nn.Conv2d(n, m, window, stride, padding=window // 2, bias=False)
        nn.init.kaiming_normal_(layer.weight)
        return layer

    class Block(nn.Module):
        def __init__(self, n: int, m: int, stride: int) -> None:
            super().__init__()
            self.conv_1, self.norm_1 = conv(n, m, 3, stride), nn.BatchNorm2d(m)
            self.conv_2, self.norm_2 = conv(m, m, 3), nn.BatchNorm2d(m)
            projected = nn.Sequential(conv(n, m, 1, stride), nn.BatchNorm2d(m))
            self.shortcut = nn.Identity() if stride == 1 else projected

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.norm_1(self.conv_1(x)))
            return torch.relu(self.shortcut(x) + self.norm_2(self.conv_2(h)))

    torch.manual_seed(0)
    n = sizes.channels
    stem = (conv(3, n, 7, 2), nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    blocks = []
    for stage in range(STAGES):
        m = sizes.channels * 2**stage
        blocks += [Block(n, m, 2 if stage else 1), Block(m, m, 1)]
        n = m
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, sizes.classes))
