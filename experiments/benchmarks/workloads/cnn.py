"""A step of training of a LeNet-like CNN on images 28x28x1: cross-entropy, Adam, batch 128.

    conv 5x5, 32 - relu - max_pool 2 - conv 5x5, 64 - relu - max_pool 2 - dense 256 - relu - dense 10

Both convolutions keep the size of the image.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn

RATE = 1e-3


class Sizes(NamedTuple):
    batch: int = 128
    size: int = 28  # of the image, a multiple of 4
    channels: tuple[int, int] = (32, 64)
    hidden: int = 256
    classes: int = 10
    batches: int = 20  # of a scan


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, Any]:
    """Images x (batch, height, width, 1), labels y, weights w, HWIO and (in, out), and biases b."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    first, second = sizes.channels
    flat = (sizes.size // 4) ** 2 * second
    shapes = ((5, 5, 1, first), (5, 5, first, second), (flat, sizes.hidden), (sizes.hidden, sizes.classes))
    return {
        "w": [normal(*shape) * np.float32((2 / np.prod(shape[:-1])) ** 0.5) for shape in shapes],
        "b": [normal(shape[-1]) * np.float32(0.1) for shape in shapes],
        "x": normal(sizes.batch, sizes.size, sizes.size, 1),
        "y": rng.integers(sizes.classes, size=sizes.batch, dtype=np.int32),
    }


def _start(sizes: Sizes, given: Any) -> tuple[Any, Any]:
    """fnnet's step and the state before it."""
    first, second = sizes.channels
    net = fn.serial(
        *(fn.conv(first, 5), fn.relu, fn.max_pool(2)),
        *(fn.conv(second, 5), fn.relu, fn.max_pool(2)),
        *(fn.flatten, fn.dense(sizes.hidden), fn.relu, fn.dense(sizes.classes)),
    )
    optimizer = fn.optim.adam(RATE)
    params = {
        name: {"w": jnp.array(w), "b": jnp.array(b)}
        for name, w, b in zip(("conv_0", "conv_1", "dense_0", "dense_1"), given["w"], given["b"], strict=True)
    }
    now = fn.train.start(net, optimizer, jax.random.key(0), given["x"])._replace(params=params)
    return fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer), now


def fnnet(sizes: Sizes = SIZES) -> Callable[[], Any]:
    given = arrays(sizes)
    step, now = _start(sizes, given)
    step = jax.jit(step, donate_argnums=0)
    batch = {"x": jnp.array(given["x"]), "y": jnp.array(given["y"])}
    key = jax.random.key(0)

    def run() -> Any:
        nonlocal now
        now, metrics = step(now, batch, key)
        jax.block_until_ready(now)
        return metrics["loss"]

    return run


def _batches(sizes: Sizes, given: Any) -> dict[str, jax.Array]:
    """Other images for every step of a scan, on a leading axis; the labels are shifted."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((sizes.batches, *given["x"].shape), dtype=np.float32)
    y = np.stack([np.roll(given["y"], i) for i in range(sizes.batches)])
    return {"x": jnp.array(x), "y": jnp.array(y)}


def fnnet_inside_scan(sizes: Sizes = SIZES) -> Callable[[], Any]:
    """As many steps as there are batches, in one `lax.scan`; the loss of the last one."""
    given = arrays(sizes)
    step, now = _start(sizes, given)
    batches = _batches(sizes, given)
    key = jax.random.key(0)

    def steps(now: Any, batches: Any, key: Any) -> Any:
        return jax.lax.scan(lambda now, batch: step(now, batch, key), now, batches)

    scan = jax.jit(steps, donate_argnums=0)

    def run() -> Any:
        nonlocal now
        now, metrics = scan(now, batches, key)
        jax.block_until_ready(now)
        return metrics["loss"][-1]

    return run


def fnnet_outside_scan(sizes: Sizes = SIZES) -> Callable[[], Any]:
    """The same steps one after the other, in a loop of Python."""
    given = arrays(sizes)
    step, now = _start(sizes, given)
    step = jax.jit(step, donate_argnums=0)
    stacked = _batches(sizes, given)
    batches = [{name: a[i] for name, a in stacked.items()} for i in range(sizes.batches)]
    key = jax.random.key(0)

    def run() -> Any:
        nonlocal now
        for batch in batches:
            now, metrics = step(now, batch, key)
        jax.block_until_ready(now)
        return metrics["loss"]

    return run


def torch(sizes: Sizes = SIZES, *, compiled: bool = False) -> Callable[[], Any]:
    import torch
    from torch import nn

    given = arrays(sizes)
    first, second = sizes.channels
    size = sizes.size // 4
    net: Any = nn.Sequential(
        *(nn.Conv2d(1, first, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(size * size * second, sizes.hidden), nn.ReLU()),
        nn.Linear(sizes.hidden, sizes.classes),
    )
    # Its kernels are OIHW and (out, in), and it flattens CHW.
    w_1, w_2, w_3, w_4 = given["w"]
    w_3 = w_3.reshape(size, size, second, -1).transpose(2, 0, 1, 3).reshape(w_3.shape)
    weights = (w_1.transpose(3, 2, 0, 1), w_2.transpose(3, 2, 0, 1), w_3.T, w_4.T)
    with torch.no_grad():
        for layer, w, b in zip((net[0], net[3], net[7], net[9]), weights, given["b"], strict=True):
            layer.weight.copy_(torch.from_numpy(w.copy()))
            layer.bias.copy_(torch.from_numpy(b))
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)  # faster than the default
    x = torch.from_numpy(given["x"]).permute(0, 3, 1, 2)
    y = torch.from_numpy(given["y"]).long()

    def objective() -> Any:
        return nn.functional.cross_entropy(net(x), y)

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
    first, second = sizes.channels

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv_1 = nnx.Conv(1, first, kernel_size=(5, 5), rngs=rngs)
            self.conv_2 = nnx.Conv(first, second, kernel_size=(5, 5), rngs=rngs)
            self.linear_1 = nnx.Linear((sizes.size // 4) ** 2 * second, sizes.hidden, rngs=rngs)
            self.linear_2 = nnx.Linear(sizes.hidden, sizes.classes, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(nnx.relu(self.conv_1(x)), window_shape=(2, 2), strides=(2, 2))
            x = nnx.max_pool(nnx.relu(self.conv_2(x)), window_shape=(2, 2), strides=(2, 2))
            x = x.reshape(x.shape[0], -1)
            return self.linear_2(nnx.relu(self.linear_1(x)))

    net = Net(nnx.Rngs(0))
    layers: tuple[Any, ...] = (net.conv_1, net.conv_2, net.linear_1, net.linear_2)
    for layer, w, b in zip(layers, given["w"], given["b"], strict=True):
        layer.kernel[...] = jnp.array(w)
        layer.bias[...] = jnp.array(b)
    optimizer = nnx.Optimizer(net, optax.adam(RATE), wrt=nnx.Param)
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
    (first, second), size = sizes.channels, sizes.size // 4
    # Its kernels are OIHW and (out, in), and it flattens CHW.
    w_1, w_2, w_3, w_4 = given["w"]
    w_3 = w_3.reshape(size, size, second, -1).transpose(2, 0, 1, 3).reshape(w_3.shape)

    class Net(eqx.Module):
        layers: list[Any]

        def __init__(self, key: Any) -> None:
            self.layers = [
                eqx.nn.Conv2d(1, first, 5, padding="SAME", key=key),
                eqx.nn.MaxPool2d(2, 2),
                eqx.nn.Conv2d(first, second, 5, padding="SAME", key=key),
                eqx.nn.MaxPool2d(2, 2),
                eqx.nn.Linear(size * size * second, sizes.hidden, key=key),
                eqx.nn.Linear(sizes.hidden, sizes.classes, key=key),
            ]

        def __call__(self, x: Any) -> Any:
            conv_1, pool_1, conv_2, pool_2, linear_1, linear_2 = self.layers
            x = pool_1(jax.nn.relu(conv_1(x)))
            x = pool_2(jax.nn.relu(conv_2(x)))
            return linear_2(jax.nn.relu(linear_1(x.ravel())))

    kernels = [w_1.transpose(3, 2, 0, 1), w_2.transpose(3, 2, 0, 1), w_3.T, w_4.T]
    biases = [b.reshape(-1, 1, 1) if i < 2 else b for i, b in enumerate(given["b"])]
    net = eqx.tree_at(
        lambda net: [a for i in (0, 2, 4, 5) for a in (net.layers[i].weight, net.layers[i].bias)],
        Net(jax.random.key(0)),
        [jnp.array(a) for wb in zip(kernels, biases, strict=True) for a in wb],
    )
    optimizer = optax.adam(RATE)
    opt_state = optimizer.init(eqx.filter(net, eqx.is_array))
    batch = jnp.array(given["x"].transpose(0, 3, 1, 2)), jnp.array(given["y"])

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
