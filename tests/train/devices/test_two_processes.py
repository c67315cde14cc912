"""Two processes of two devices each train as this one does on one device: `jax.distributed` on loopback.

This file is the program of each process, too: `python test_two_processes.py PORT ID FOLDER PROGRAM`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import fnnet as fn
from fnnet.train import Evaluation
from fnnet.train.devices.sharding import with_auto_axes

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
    everywhere = NamedSharding(with_auto_axes(mesh), P())

    x = jax.ShapeDtypeStruct((32, 6), jnp.float32)
    now = fn.train.start_sharded(net, optimizer, key, x, mesh, rules)
    where = fn.train.shardings(now, mesh, rules)
    step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer)
    step = jax.jit(step, donate_argnums=0, out_shardings=(where, everywhere))
    share = 32 // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    batch = fn.train.shard_batch({name: array[mine] for name, array in examples().items()}, mesh)
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
            fn.train.shard_batch(np.ones((share - 1, 2)), mesh)
        # Where the axis of the batch is not split over the processes, each gives all of it.
        all_of_it = fn.train.shard_batch(examples(), jax.make_mesh((1, n), ("data", "model")))
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


def noisy(key: Any, batch: Any) -> Any:
    return {**batch, "x": batch["x"] + 0.1 * jax.random.uniform(key, batch["x"].shape)}


def fit(**given: Any) -> fn.train.Fitted:
    """Twelve steps, an evaluation every second; validation on 10 examples, which four devices do not divide."""
    settings: dict[str, Any] = {
        "net": fn.serial(fn.dense(32, use_bias=False), fn.batch_norm(), fn.relu, fn.dropout(0.2), fn.dense(3)),
        "loss": fn.losses.softmax_cross_entropy, "optimizer": fn.optim.adam, "learning_rate": 0.02,
        "train": examples(), "valid": {name: array[:10] for name, array in examples().items()},
        "steps": 12, "eval_every": 2, "batch_size": 8, "augment": noisy, "patience": 9,
        "mesh": jax.make_mesh((jax.device_count(),), ("data",)), "rules": fn.train.fully_sharded(at_least=64),
    }  # fmt: skip
    return fn.train.fit(**(settings | given))


def streams() -> dict[str, Any]:
    """Each process reads its own share of the batches; those for validation have 4, 4 and 2 examples."""
    shard = jax.process_index(), jax.process_count()
    part = {name: array[:10] for name, array in examples().items()}
    return {
        "train": fn.data.stream(examples(), 8, seed=1, shard=shard),
        "batch_size": None,
        "valid": fn.data.stream(part, 4, shuffle=False, epochs=1, shard=shard),
    }


def told(fitted: fn.train.Fitted) -> dict[str, Any]:
    """What there is to compare, the params' bits among it."""
    everywhere = NamedSharding(with_auto_axes(jax.make_mesh((jax.device_count(),), ("data",))), P())
    whole = jax.jit(lambda params: params, out_shardings=everywhere)(fitted.params)
    return {
        "stopped": fitted.stopped,
        "steps": int(fitted.now.step),
        "train_loss": fitted.history["train_loss"].tolist(),
        "valid_loss": fitted.history["valid_loss"].tolist(),
        "params": [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(whole)],
    }


def killed(folder: Path) -> dict[str, Any]:
    """Both processes are gone at step 6, with checkpoints of step 0 and 4."""

    def kill(evaluation: Evaluation) -> None:
        if evaluation.step == 6:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(folder=folder / "run", checkpoint_every=4, callbacks=[kill])
    return {}


def resumed(folder: Path) -> dict[str, Any]:
    """On from there, stopped by a signal to one of the two, on again; and runs that were never stopped."""
    second = jax.process_index() == 1

    def press(evaluation: Evaluation) -> None:
        if evaluation.step == 8 and second:
            os.kill(os.getpid(), signal.SIGINT)

    def fail(evaluation: Evaluation) -> None:
        if second:
            raise KeyError("a callback fails in one process")

    def ends(batches: Any) -> Any:
        for i, batch in enumerate(batches):
            if i == 5 and second:
                raise OSError("the disk of one process is gone")
            yield batch

    def different() -> None:
        fit(train={**examples(), "x": examples()["x"] + second})

    answer = {"pressed": told(fit(folder=folder / "run", resume=True, callbacks=[press]))}
    answer["again"] = told(fit(folder=folder / "run", resume=True))
    answer["whole"] = told(fit())
    answer["streamed"] = told(fit(**streams()))
    small: dict[str, Any] = {"net": fn.dense(3), "augment": None, "valid": None}  # quickly compiled
    for name, trouble in {
        "callback": lambda: fit(**small, callbacks=[fail]),
        "stream": lambda: fit(**(streams() | small | {"train": ends(streams()["train"])})),
        "key": lambda: fit(key=jax.process_index()),
        "rate": lambda: fit(learning_rate=0.1 + second),
        "data": different,
        "mesh": lambda: fit(mesh=jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])),
        "no mesh": lambda: fit(mesh=None, rules=()),
    }.items():
        with pytest.raises(Exception, match="") as caught:
            trouble()
        answer[name] = f"{type(caught.value).__name__}: {caught.value}"  # type: ignore[assignment]
    return answer


PROGRAMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "steps": lambda folder: answers(),
    "killed": killed,
    "resumed": resumed,
}


def main(port: str, i: int, folder: Path, program: str) -> None:
    # Before anything else of JAX. On a cluster that JAX knows, such as Slurm's, it takes no arguments.
    jax.distributed.initialize(f"127.0.0.1:{port}", PROCESSES, i)
    (folder / f"answer {i}").write_text(
        json.dumps(PROGRAMS[program](folder))
    )  # no print: Gloo writes to stdout


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(folder: Path, program: str, code_wanted: int = 0) -> list[dict[str, Any]]:
    """The answer of each process. All are killed, and what they said is shown, where one fails or hangs."""
    port = free_port()
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": flags}
    started = {}
    for i in range(PROCESSES):
        command = [sys.executable, __file__, str(port), str(i), str(folder), program]
        # Into a file, no pipe: one that nobody reads would fill up and stop them all.
        with (folder / f"log {i}").open("w") as log:
            started[i] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    failed, until = "", time.monotonic() + 240
    try:
        for i, process in started.items():
            if (code := process.wait(timeout=max(until - time.monotonic(), 0))) != code_wanted:
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
    return [] if code_wanted else [json.loads((folder / f"answer {i}").read_text()) for i in started]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    first, second = run(tmp_path, "steps")
    for kind, alone in answers().items():
        assert alone["losses"][-1] < 0.8 * alone["losses"][0]
        assert first[kind]["losses"] == second[kind]["losses"]
        for shared in (first[kind], second[kind]):
            np.testing.assert_allclose(shared["losses"], alone["losses"], rtol=1e-5)
            np.testing.assert_allclose(shared["b"], alone["b"], rtol=1e-4, atol=1e-6)
            assert shared["sum"] == 3
            # Of the weights, 6 by 32: both of a process's two devices all, or a quarter each.
            assert shared["held"] == {"data": [6 * 32, 6 * 32], "both": [6 * 32 // 4] * 2}[kind]


@pytest.mark.slow
def test_two_processes_fit_as_one(tmp_path: Path) -> None:
    run(tmp_path, "killed", -signal.SIGKILL)
    assert fn.train.checkpoint.steps(tmp_path / "run" / "checkpoints") == [0, 4]
    first, second = run(tmp_path, "resumed")
    assert (first["pressed"]["stopped"], first["pressed"]["steps"]) == ("interrupted", 8)
    for name in ("pressed", "again", "whole", "streamed"):
        assert first[name] == second[name]
    assert first["again"] == first["whole"]  # to the last bit
    # One device alone computes the same, to rounding.
    one = {"mesh": None, "rules": ()}
    for name, alone in {"whole": told(fit(**one)), "streamed": told(fit(**streams(), **one))}.items():
        got = first[name]
        assert (got["stopped"], got["steps"]) == ("finished", 12)
        np.testing.assert_allclose(got["train_loss"], alone["train_loss"], rtol=1e-5)
        np.testing.assert_allclose(got["valid_loss"], alone["valid_loss"], rtol=1e-5)
        for wanted, param in zip(alone["params"], got["params"], strict=True):
            np.testing.assert_allclose(param, wanted, rtol=1e-3, atol=1e-4)
    # A line for each evaluation, by one of the two.
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert [line["valid_loss"] for line in lines] == first["whole"]["valid_loss"]
    said = [
        (tmp_path / f"log {i}").read_text().count("fit: stopped at step 8 of 12") for i in range(PROCESSES)
    ]
    assert said == [1, 0]
    # What goes wrong in one stops both.
    for name, by_second, by_first in (
        (
            "callback",
            "KeyError: 'a callback fails in one process'",
            "RuntimeError: fit: it failed in process 1",
        ),
        (
            "stream",
            "OSError: the disk of one process is gone",
            "RuntimeError: fit: another process has no batch",
        ),
        ("key", "ValueError: fit: key is not the same in all processes", ""),
        (
            "rate",
            "ValueError: fit: learning_rate is not the same in all processes, 1.1 in process 1",
            "ValueError: ",
        ),
        ("data", "ValueError: fit: train is not the same in all processes", ""),
        ("mesh", "ValueError: fit: there are 2 processes, and the mesh has no device of process 1", ""),
        ("no mesh", "ValueError: fit: there are 2 processes, and the mesh has no device of process 0", ""),
    ):
        assert second[name].startswith(by_second), second[name]
        assert first[name].startswith(by_first or by_second), first[name]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
