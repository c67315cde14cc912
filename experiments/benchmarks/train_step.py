"""A step of training, in each library: the same loss, optimizer and batch around a workload's network.

The loss is softmax cross-entropy with integer labels. Each function returns one without arguments, which takes a step
from where the last one ended, waits for it, and returns its loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnnet as fn
from experiments.benchmarks.torch_device import half_precision, image_layout, network_on, wait
from experiments.benchmarks.workloads import Optimizer, fnnet_optimizer
from experiments.benchmarks.workloads.weights import into_fnnet

Step = Callable[[], Any]


def fnnet(workload: Any, sizes: Any, *, dtype: Any = None) -> Step:
    """Compiled, the state donated. `dtype`: of the computation, such as bfloat16; the params stay in float32."""
    given = workload.arrays(sizes)
    step, now = _fnnet_step(workload, sizes, given, dtype)
    step = jax.jit(step, donate_argnums=0)
    batch = {"x": jnp.array(given["x"]), "y": jnp.array(given["y"])}
    key = jax.random.key(0)

    def run() -> Any:
        nonlocal now
        now, metrics = step(now, batch, key)
        jax.block_until_ready(now)
        return metrics["loss"]

    return run


def fnnet_inside_scan(workload: Any, sizes: Any, batches: int) -> Step:
    """Steps on several batches, in one `lax.scan`; the loss of the last one."""
    given = workload.arrays(sizes)
    step, now = _fnnet_step(workload, sizes, given)
    stacked = _batches(given, batches)
    key = jax.random.key(0)

    def steps(now: Any, batches: Any, key: Any) -> Any:
        return jax.lax.scan(lambda now, batch: step(now, batch, key), now, batches)

    scan = jax.jit(steps, donate_argnums=0)

    def run() -> Any:
        nonlocal now
        now, metrics = scan(now, stacked, key)
        jax.block_until_ready(now)
        return metrics["loss"][-1]

    return run


def fnnet_outside_scan(workload: Any, sizes: Any, batches: int) -> Step:
    """The same steps, one after the other in a Python loop."""
    given = workload.arrays(sizes)
    step, now = _fnnet_step(workload, sizes, given)
    step = jax.jit(step, donate_argnums=0)
    stacked = _batches(given, batches)
    apart = [{name: a[i] for name, a in stacked.items()} for i in range(batches)]
    key = jax.random.key(0)

    def run() -> Any:
        nonlocal now
        for batch in apart:
            now, metrics = step(now, batch, key)
        jax.block_until_ready(now)
        return metrics["loss"]

    return run


def _fnnet_step(workload: Any, sizes: Any, given: dict[str, Any], dtype: Any = None) -> tuple[Any, Any]:
    """fnnet's step and the state before it."""
    net, weights = workload.fnnet(sizes, given)
    net = net if dtype is None else fn.cast(net, dtype)
    optimizer = fnnet_optimizer(workload.OPTIMIZER)
    now = jax.jit(partial(fn.train.start, net, optimizer))(jax.random.key(0), given["x"])
    now = now._replace(params=into_fnnet(now.params, weights))
    return fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer), now


def _batches(given: dict[str, Any], batches: int) -> dict[str, jax.Array]:
    """A batch of other examples for every step, on a leading axis; the labels are shifted."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batches, *given["x"].shape), dtype=np.float32)
    y = np.stack([np.roll(given["y"], i) for i in range(batches)])
    return {"x": jnp.array(x), "y": jnp.array(y)}


def torch(
    workload: Any, sizes: Any, *, compiled: bool = False, device: str = "cpu", dtype: Any = None
) -> Step:
    """`compiled`: by torch.compile. `dtype`: of autocast, such as torch.bfloat16."""
    import torch
    from torch.nn import functional as F

    given = workload.arrays(sizes)
    net = network_on(workload.torch(sizes, given), device)
    rate, decay = workload.OPTIMIZER
    # fused=True is faster than the default.
    if decay is None:
        optimizer: Any = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay, fused=True)
    x, y = image_layout(given["x"], device), torch.from_numpy(given["y"]).long().to(device)
    x = x.long() if given["x"].dtype == np.int32 else x

    def objective() -> Any:
        return F.cross_entropy(net(x).flatten(0, -2), y.flatten())

    loss_of = torch.compile(objective) if compiled else objective

    def run() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with half_precision(device, dtype):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        wait(device)
        return loss.detach()

    return run


def flax(workload: Any, sizes: Any) -> Step:
    import optax
    from flax import nnx

    given = workload.arrays(sizes)
    net = workload.flax(sizes, given)
    optimizer = nnx.Optimizer(net, optax_optimizer(workload.OPTIMIZER), wrt=nnx.Param)
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


def equinox(workload: Any, sizes: Any) -> Step:
    import equinox as eqx
    import optax

    given = workload.arrays(sizes)
    net = workload.equinox(sizes, given)
    optimizer = optax_optimizer(workload.OPTIMIZER)
    opt_state = optimizer.init(eqx.filter(net, eqx.is_array))
    x = given["x"].transpose(0, 3, 1, 2) if given["x"].ndim == 4 else given["x"]
    batch = jnp.array(x), jnp.array(given["y"])

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


def optax_optimizer(optimizer: Optimizer) -> Any:
    """The optimizer of Flax's and Equinox's sides."""
    import optax

    rate, decay = optimizer
    return optax.adam(rate) if decay is None else optax.adamw(rate, weight_decay=decay)
