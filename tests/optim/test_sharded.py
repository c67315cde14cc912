"""Params sharded over eight devices: every optimizer's state is sharded like them, and its updates are the same."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from fnnet.optim import TWINS

mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
params = {"w": jnp.cos(jnp.arange(64.0)).reshape(16, 4), "b": jnp.ones(8)}
spread = {name: jax.device_put(p, NamedSharding(mesh, P("devices"))) for name, p in params.items()}

@jax.jit
def two_steps(params):
    ends = {}
    for name, twin in TWINS.items():
        optimizer = twin.ours(learning_rate=0.1)
        state, p = optimizer.init(params), params
        for _ in range(2):
            updates, state = optimizer.update(jax.tree.map(jnp.sin, p), state, p)
            p = optax.apply_updates(p, updates)
        ends[name] = p, state
    return ends

alone, shared = two_steps(params), two_steps(spread)
for name in TWINS:
    for one, many in zip(*(jax.tree.leaves(ends[name]) for ends in (alone, shared)), strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-6, err_msg=name)
    for part in params:
        assert shared[name][0][part].sharding.is_equivalent_to(spread[part].sharding, params[part].ndim), name
    state = shared[name][1]
    like_w = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (16, 4)]
    assert all(leaf.sharding.is_equivalent_to(spread["w"].sharding, 2) for leaf in like_w), name
print(len(TWINS), "optimizers on", len(jax.devices()), "devices")
"""


@pytest.mark.slow
def test_every_optimizer_on_eight_devices() -> None:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("optimizers on 8 devices\n")
