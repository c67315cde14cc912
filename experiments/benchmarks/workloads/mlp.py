"""A step of training of an MLP, 784-512-512-10 with relu: cross-entropy, Adam, batch 128."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn

RATE = 1e-3


class Sizes(NamedTuple):
    batch: int = 128
    features: tuple[int, ...] = (784, 512, 512, 10)


SIZES = Sizes()


def arrays(sizes: Sizes) -> dict[str, Any]:
    """Examples x, labels y, weights w (in, out) and biases b."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    pairs = list(itertools.pairwise(sizes.features))
    return {
        "x": normal(sizes.batch, sizes.features[0]),
        "y": rng.integers(sizes.features[-1], size=sizes.batch, dtype=np.int32),
        "w": [normal(n, m) * np.float32((2 / n) ** 0.5) for n, m in pairs],
        "b": [normal(m) * np.float32(0.1) for _, m in pairs],
    }


def fnnet(sizes: Sizes = SIZES) -> Callable[[], Any]:
    given = arrays(sizes)
    *hidden, classes = sizes.features[1:]
    net = fn.serial(*(layer for n in hidden for layer in (fn.dense(n), fn.relu)), fn.dense(classes))
    optimizer = fn.optim.adam(RATE)
    batch = {"x": jnp.array(given["x"]), "y": jnp.array(given["y"])}
    key = jax.random.key(0)
    params = {
        f"dense_{i}": {"w": jnp.array(w), "b": jnp.array(b)}
        for i, (w, b) in enumerate(zip(given["w"], given["b"], strict=True))
    }
    now = fn.train.start(net, optimizer, key, batch["x"])._replace(params=params)
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

    given = arrays(sizes)
    layers: list[Any] = []
    for w, b in zip(given["w"], given["b"], strict=True):
        linear = nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w.T))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)  # faster than the default
    x, y = torch.from_numpy(given["x"]), torch.from_numpy(given["y"]).long()

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

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.layers = nnx.List([nnx.Linear(*w.shape, rngs=rngs) for w in given["w"]])

        def __call__(self, x: Any) -> Any:
            *hidden, last = self.layers
            for layer in hidden:
                x = nnx.relu(layer(x))
            return last(x)

    net: Any = Net(nnx.Rngs(0))
    for layer, w, b in zip(net.layers, given["w"], given["b"], strict=True):
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

    class Net(eqx.Module):
        layers: list[eqx.nn.Linear]

        def __init__(self, key: Any) -> None:
            self.layers = [eqx.nn.Linear(*w.shape, key=key) for w in given["w"]]

        def __call__(self, x: Any) -> Any:
            *hidden, last = self.layers
            for layer in hidden:
                x = jax.nn.relu(layer(x))
            return last(x)

    net = eqx.tree_at(
        lambda net: [a for layer in net.layers for a in (layer.weight, layer.bias)],
        Net(jax.random.key(0)),
        [jnp.array(a) for w, b in zip(given["w"], given["b"], strict=True) for a in (w.T, b)],
    )
    optimizer = optax.adam(RATE)
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
