"""`fit` in a process that is killed again and again ends with the same bits as a run that was never stopped.

FNNET_KILLS=50 kills the run on examples in memory 50 times; 6 by default.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

# A process that imports once, and forks before JAX has started. Each child resumes from the newest checkpoint and is
# killed at a random time: within its first seconds, which it spends reading, or after a random one of its
# checkpoints, when it spends much of its time saving. Together they cover the run. A child not killed in time ends it.
KILLED = """
import os, pickle, random, shutil, signal, sys, time, traceback
import jax, jax.numpy as jnp, numpy as np
import fnnet as fn
import grain, orbax.checkpoint, optax.contrib  # now, rather than in each child
from fnnet.train import checkpoint

mode, folder, kills, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)

def child(folder, **given):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    data = {"x": x, "y": (x.sum(1) + rng.normal(size=60) > 0).astype(np.int32)}
    valid = jax.tree.map(lambda a: a[40:], data)
    given |= {"folder": folder, "progress": False, "metrics": {"accuracy": fn.metrics.accuracy}}
    net = fn.serial(fn.dense(6), fn.batch_norm(), fn.tanh, fn.dropout(0.3), fn.dense(2))
    if mode == "memory":
        train = jax.tree.map(lambda a: a[:40], data)
        given |= {
            "augment": lambda key, batch: batch | {"x": batch["x"] + jax.random.normal(key, batch["x"].shape)},
            "reduce_on_plateau": fn.optim.reduce_on_plateau(0.7, patience=5), "learning_rate": 0.03,
            "steps": 2000, "batch_size": 7, "patience": 40,
        }
        fitted = fn.train.fit(net, fn.losses.softmax_cross_entropy, fn.optim.adam, train, valid=valid, **given)
    else:
        train = fn.data.stream(fn.data.open_arrays(sys.argv[5]), 8, seed=1)
        given |= {"valid": fn.data.stream(valid, 8, shuffle=False), "steps": 120, "accumulate": 2}
        fitted = fn.train.fit(net, fn.losses.softmax_cross_entropy, fn.optim.adam(0.01), train, **given)
    with open(folder + "/fitted", "wb") as file:
        pickle.dump(jax.device_get(fitted._asdict()), file)

def fork(*args, **kwargs):
    pid = os.fork()
    if pid == 0:
        try:
            child(*args, **kwargs)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return pid

def ended(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    assert not found or status == 0, status
    return bool(found)

began = time.perf_counter()
assert os.waitpid(fork(folder + "/unbroken"), 0)[1] == 0
took, last = time.perf_counter() - began, checkpoint.steps(folder + "/unbroken/checkpoints")[-1]
done, saving, runs, begun = 0, 0, 0, []
while True:  # as many runs as it takes
    stopped = f"{folder}/killed_{runs}"
    runs += 1
    while True:
        steps = lambda: checkpoint.steps(stopped + "/checkpoints") or [0]
        # The last one late, when there is most to lose.
        target = 0.9 * last if done == kills - 1 else steps()[-1] + random.uniform(0, 2 * last / (kills + 1))
        pid = fork(stopped, resume="auto", checkpoint_every=3)
        if done == kills:
            assert os.waitpid(pid, 0)[1] == 0
            break
        begins, over = time.perf_counter(), False
        if random.random() < 0.15 and done != kills - 1:
            wait = random.uniform(0, took / 2)
        else:
            while not (over := ended(pid)) and steps()[-1] <= target:
                time.sleep(0.001)
            wait = time.perf_counter() - begins + random.uniform(0, 0.05)
        while not (over := over or ended(pid)) and time.perf_counter() - begins < wait:
            time.sleep(0.001)
        if over:
            break
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        done += 1
        begun.append(steps()[-1])
        hidden = stopped + "/checkpoints"
        saving += os.path.isdir(hidden) and any(name.startswith(".") for name in os.listdir(hidden))
    if done == kills:
        break
print(f"{done} kills, {saving} of them while saving, {runs} runs, killed behind step {begun} of {last}")
"""


def killed(mode: str, folder: Path, kills: int, *arguments: Path) -> list[Path]:
    """The folders of the runs: the one that was never stopped, and those that were."""
    seed = random.randrange(2**32)
    program = [sys.executable, "-c", KILLED, mode, str(folder), str(kills), str(seed), *map(str, arguments)]
    cache = {  # of compiled programs, which would take each child seconds; the first run fills it
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | cache
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (seed, done.stdout, done.stderr)
    print(done.stdout)
    return [folder / "unbroken", *sorted(folder.glob("killed_*"))]


def bits(value: Any) -> Any:
    """Every array as its dtype, shape and bytes."""
    if isinstance(value, dict):
        return {name: bits(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [bits(child) for child in value]
    return (str(value.dtype), value.shape, value.tobytes()) if hasattr(value, "tobytes") else value


TIMES = ("seconds", "examples_per_second")


def result(folder: Path) -> Any:
    """What a run ended with, and the lines of its history, without the times."""
    fitted = np.load(folder / "fitted", allow_pickle=True)
    fitted["history"] = {name: values for name, values in fitted["history"].items() if name not in TIMES}
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return bits(fitted), [{name: line[name] for name in line if name not in TIMES} for line in lines]


def test_on_examples_in_memory(tmp_path: Path) -> None:
    unbroken, *stopped = killed("memory", tmp_path, int(os.environ.get("FNNET_KILLS", "6")))
    (fitted, lines) = wanted = result(unbroken)
    assert fitted["stopped"] == "patience"
    assert 40 < len(lines) < 400
    assert len({line["learning_rate"] for line in lines}) > 3
    for folder in stopped:
        assert result(folder) == wanted


def test_on_a_stream_of_files(tmp_path: Path) -> None:
    pytest.importorskip("grain")
    import fnnet as fn

    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    fn.data.save_arrays(tmp_path / "data", {"x": x, "y": (x[:, 0] > 0).astype(np.int32)})
    unbroken, *stopped = killed("stream", tmp_path, 2, tmp_path / "data")
    wanted = result(unbroken)
    assert wanted[0]["stopped"] == "finished"
    assert len(wanted[1]) == 20
    for folder in stopped:
        assert result(folder) == wanted
