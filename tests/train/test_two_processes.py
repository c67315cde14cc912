"""Two processes of two devices each train as this one does on one device: `jax.distributed` on loopback.

This file is the program of each process, too: `python test_two_processes.py PORT ID ANSWER`.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import fnnet as fn
from fnnet.train.shard import auto

STEPS = 10
PROCESSES = 2


def examples() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"x": draw.normal(size=(32, 6)).astype(np.float32), "y": draw.integers(0, 3, 32).astype(np.int32)}


def train(names: tuple[str, ...], rules: Any) -> dict[str, Any]:
    """What every process does, with its own share of each batch."""
    n = jax.device_count()
    mesh = jax.make_mesh((n,) if len(names) == 1 else (jax.process_count(), n // jax.process_count()), names)
    net = fn.serial(fn.dense(32), fn.batch_norm(), fn.relu, fn.dropout(0.2), fn.dense(3))
    optimizer, key = fn.optim.adam(0.01), jax.random.key(0)
    everywhere = NamedSharding(auto(mesh), P())

    x = jax.ShapeDtypeStruct((32, 6), jnp.float32)
    now = fn.train.start_sharded(net, optimizer, key, x, mesh, rules)
    where = fn.train.shardings(now, mesh, rules)
    step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer)
    step = jax.jit(step, donate_argnums=0, out_shardings=(where, everywhere))
    share = 32 // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    batch = fn.train.spread({name: array[mine] for name, array in examples().items()}, mesh)
    losses = []
    for i in range(STEPS):
        now, seen = step(now, batch, jax.random.fold_in(key, i))
        losses.append(float(seen["loss"]))

    whole = jax.jit(lambda now: now.params, out_shardings=everywhere)(now)
    same = jax.device_put(np.arange(3.0), everywhere)  # host numbers, the same in each process
    if jax.process_count() > 1 and names == ("data",):
        with pytest.raises(
            ValueError, match=rf"multiple of {n // jax.process_count()} examples on the first axis"
        ):
            fn.train.spread(np.ones((share - 1, 2)), mesh)
        # Where the axis of the batch is not split over the processes, each gives all of it.
        all_of_it = fn.train.spread(examples(), jax.make_mesh((1, n), ("data", "model")))
        assert all_of_it["x"].shape == (32, 6)
    return {
        "losses": losses,
        "b": np.asarray(whole["dense_1"]["b"]).tolist(),
        "held": [shard.data.size for shard in now.params["dense_0"]["w"].addressable_shards],
        "sum": float(jnp.sum(same)),
    }


def answers() -> dict[str, Any]:
    by_hand = [("dense_0/w", P(None, "model")), ("dense_1/w", P("model"))]
    full = fn.train.fully_sharded(at_least=64, rules=by_hand)
    return {"data": train(("data",), ()), "both": train(("data", "model"), full)}


def main(port: str, i: int, answer: str) -> None:
    # Before anything else of JAX. On a cluster that JAX knows, such as Slurm's, it takes no arguments.
    jax.distributed.initialize(f"127.0.0.1:{port}", PROCESSES, i)
    Path(answer).write_text(json.dumps(answers()))  # no print: Gloo writes to stdout


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(folder: Path) -> list[dict[str, Any]]:
    """The answer of each process. All are killed, and what they said is shown, where one fails or hangs."""
    port = free_port()
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": flags}
    started = {}
    for i in range(PROCESSES):
        command = [sys.executable, __file__, str(port), str(i), str(folder / f"answer {i}")]
        # Into a file, no pipe: one that nobody reads would fill up and stop them all.
        with (folder / f"log {i}").open("w") as log:
            started[i] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    failed, until = "", time.monotonic() + 120
    try:
        for i, process in started.items():
            if code := process.wait(timeout=max(until - time.monotonic(), 0)):
                failed = f"process {i} ended with {code}"
                break
    except subprocess.TimeoutExpired:
        failed = f"process {i} hangs"
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    said = "\n".join(f"process {i}: {(folder / f'log {i}').read_text()[-4000:]}" for i in started)
    assert not failed, f"{failed}\n{said}"
    return [json.loads((folder / f"answer {i}").read_text()) for i in started]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    first, second = run(tmp_path)
    for kind, alone in answers().items():
        assert alone["losses"][-1] < alone["losses"][0] / 1.5
        assert first[kind]["losses"] == second[kind]["losses"]
        for shared in (first[kind], second[kind]):
            np.testing.assert_allclose(shared["losses"], alone["losses"], rtol=1e-5)
            np.testing.assert_allclose(shared["b"], alone["b"], rtol=1e-4, atol=1e-6)
            assert shared["sum"] == 3
            # Of the weights, 6 by 32: both of a process's two devices all, or a quarter each.
            assert shared["held"] == {"data": [6 * 32, 6 * 32], "both": [6 * 32 // 4] * 2}[kind]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
