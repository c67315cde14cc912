"""A forward and backward pass of a layer, in each library: y, and for a given gradient by y those by x and the params.

Each function returns one without arguments, which computes that, waits for it, and returns a `Pass`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.torch_device import image_layout, network_on, wait
from experiments.benchmarks.workloads.weights import into_fnnet


class Pass(NamedTuple):
    """What a forward and backward pass computed, images NHWC, sequences (batch, time, features)."""

    y: Any
    slope_x: Any  # gradient by x
    slopes: list[Any]  # gradients by the params, in any order and layout


def fnnet(workload: Any, sizes: Any) -> Callable[[], Pass]:
    given = workload.arrays(sizes)
    net, weights = workload.fnnet(sizes, given)
    params, state = jax.jit(net.init)(jax.random.key(0), given["x"])
    params = into_fnnet(params, weights)
    x, c = jnp.array(given["x"]), jnp.array(given["c"])

    @jax.jit
    def forward_backward(params: Any, state: Any, x: Any, c: Any) -> Any:
        def forward(params: Any, x: Any) -> Any:
            return net.apply(params, state, x, train=True)

        y, backward, state = jax.vjp(forward, params, x, has_aux=True)
        return state, y, *backward(c)

    def run() -> Pass:
        nonlocal state
        state, y, slopes, slope_x = jax.block_until_ready(forward_backward(params, state, x, c))
        return Pass(y, slope_x, compared(workload, named(slopes)))

    return run


def torch(workload: Any, sizes: Any, *, compiled: bool = False, device: str = "cpu") -> Callable[[], Pass]:
    import torch

    given = workload.arrays(sizes)
    net = network_on(workload.torch(sizes, given), device)
    forward = torch.compile(net) if compiled else net
    x, c = (image_layout(given[name], device) for name in "xc")
    x = x.detach().requires_grad_()

    def run() -> Pass:
        net.zero_grad(set_to_none=True)
        x.grad = None
        y = forward(x)
        y = y[0] if isinstance(y, tuple) else y  # a recurrent layer returns its last state, too
        y.backward(c)
        assert x.grad is not None
        wait(device)
        y, slope_x = (a.permute(0, 2, 3, 1) if a.ndim == 4 else a for a in (y.detach(), x.grad))
        return Pass(y, slope_x, compared(workload, ((name, p.grad) for name, p in net.named_parameters())))

    return run


def flax(workload: Any, sizes: Any) -> Callable[[], Pass]:
    from flax import nnx

    given = workload.arrays(sizes)
    net = workload.flax(sizes, given)
    x, c = jnp.array(given["x"]), jnp.array(given["c"])

    @nnx.jit
    def forward_backward(net: Any, x: Any, c: Any) -> Any:
        def objective(net: Any, x: Any) -> Any:
            y = net(x)
            return jnp.sum(y * c), y

        (slopes, slope_x), y = nnx.grad(objective, argnums=(0, 1), has_aux=True)(net, x)
        return y, slopes, slope_x

    def run() -> Pass:
        y, slopes, slope_x = jax.block_until_ready(forward_backward(net, x, c))
        return Pass(y, slope_x, compared(workload, named(slopes)))

    return run


def equinox(workload: Any, sizes: Any) -> Callable[[], Pass]:
    import equinox as eqx

    given = workload.arrays(sizes)
    made = workload.equinox(sizes, given)
    net, state = made if isinstance(made, tuple) else (made, None)
    image = given["x"].ndim == 4
    x, c = (jnp.array(a.transpose(0, 3, 1, 2) if image else a) for a in (given["x"], given["c"]))

    @eqx.filter_jit
    def forward_backward(net: Any, state: Any, x: Any, c: Any) -> Any:
        def forward(net: Any, x: Any) -> Any:
            if state is None:
                return jax.vmap(net)(x), None
            batched = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            return batched(x, state)

        y, backward, after = eqx.filter_vjp(forward, net, x, has_aux=True)
        return after, y, *backward(c)

    def run() -> Pass:
        nonlocal state
        state, y, slopes, slope_x = jax.block_until_ready(forward_backward(net, state, x, c))
        if image:  # views: nothing is copied on a CPU
            y, slope_x = (np.moveaxis(np.asarray(a), 1, -1) for a in (y, slope_x))
        return Pass(y, slope_x, compared(workload, named(slopes)))

    return run


def named(tree: Any) -> list[tuple[str, Any]]:
    """The arrays of a tree, each with its name, such as b_h."""
    key = partial(jax.tree_util.keystr, simple=True, separator=".")
    return [(key(path).rpartition(".")[2], leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def compared(workload: Any, slopes: Iterable[tuple[str, Any]]) -> list[Any]:
    """The gradients by those params that all libraries have."""
    left_out = getattr(workload, "NOT_COMPARED", ())
    return [slope for name, slope in slopes if name not in left_out]
