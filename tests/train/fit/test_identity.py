"""A run resumes with what it was started with, or not at all; and its folder has one run at a time."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from fnnet.train import CheckpointError
from fnnet.train import fit as fit_function
from fnnet.train.fingerprint import digest, fingerprint
from fnnet.train.fit import identity
from tests.arrays import equal, normal

X = normal(40, 3)
DATA = {"x": X, "y": (X.sum(1) > 0).astype(np.int32)}
FLIPPED = {**DATA, "y": np.concatenate([DATA["y"][:18], 1 - DATA["y"][18:22], DATA["y"][22:]])}
NET = fn.serial(fn.dense(4), fn.tanh, fn.dense(2))
INITIAL = (
    {
        "dense_0": {"w": normal(3, 4), "b": np.zeros(4, np.float32)},
        "dense_1": {"w": normal(4, 2), "b": np.zeros(2, np.float32)},
    },
    {},
)  # fmt: skip
TABLE = normal(3, seed=1)


def scaled_by(table: Any) -> fn.Layer:
    """The network, with its input times an array that a compiled function inside closes over."""
    times = jax.jit(lambda x: x * table[None])
    return fn.serial(times, fn.dense(4), fn.tanh, fn.dense(2))


def backwards(scale: float) -> fn.Layer:
    """The network, with the gradient of its input times a number, which the forward pass does not show."""

    @jax.custom_vjp
    def same(x: Any) -> Any:
        return x

    same.defvjp(lambda x: (x, None), lambda _, g: (scale * g,))
    return fn.serial(fn.dense(4), same, fn.tanh, fn.dense(2))


def noisy(scale: float) -> Any:
    return lambda key, batch: {**batch, "x": batch["x"] + scale * jax.random.normal(key, batch["x"].shape)}


def fit(**given: Any) -> fn.train.Fitted:
    settings: dict[str, Any] = {
        "net": NET, "loss": fn.losses.softmax_cross_entropy, "optimizer": fn.optim.adam, "learning_rate": 0.01,
        "train": DATA, "steps": 2, "batch_size": 8, "progress": False,
    }  # fmt: skip
    settings |= {} if "net" in given else {"initial": INITIAL}  # compiles faster than a draw
    return fit_function(**(settings | given))


def penalty(strength: float) -> Any:
    return lambda params: strength * fn.losses.l2(params)


def squared(prediction: Any, target: Any) -> Any:
    return jnp.mean(prediction**2, axis=1) * (target >= 0)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("started")
    fit(folder=folder, steps=1)
    return folder


NETWORK, LOSS, OPTIMIZER = (
    r"the network \(or dtype\) is another one",
    r"the loss \(or class_weights\) is another one",
    r"the optimizer \(or learning_rate\) is another one",
)


@pytest.mark.parametrize(
    "first, then, message",
    [
        ({}, {"net": fn.serial(fn.dense(4), fn.relu, fn.dense(2))}, NETWORK),
        ({}, {"dtype": jnp.bfloat16}, NETWORK),
        ({"net": scaled_by(TABLE)}, {"net": scaled_by(TABLE * 2)}, NETWORK),
        ({}, {"net": fn.serial(fn.freeze(fn.dense(4)), fn.tanh, fn.dense(2))}, NETWORK),
        ({"net": backwards(1.0)}, {"net": backwards(2.0)}, "the gradient is another one"),
        ({}, {"optimizer": fn.optim.adamw}, OPTIMIZER),
        ({}, {"optimizer": fn.optim.adam(0.01, b1=0.8), "learning_rate": None}, OPTIMIZER),
        ({}, {"learning_rate": 0.02}, OPTIMIZER),
        ({}, {"learning_rate": lambda step: 0.01 / (1 + step)}, OPTIMIZER),
        ({}, {"loss": squared}, LOSS),
        ({"class_weights": [1.0, 2.0]}, {"class_weights": [1.0, 3.0]}, LOSS),
        ({"penalty": penalty(0.1)}, {"penalty": penalty(0.2)}, "penalty is another one"),
        ({"augment": noisy(0.1)}, {"augment": noisy(0.2)}, "augment is another one"),
        ({"augment": noisy(0.1)}, {}, "augment is another one"),
        (
            {"metrics": {"m": fn.metrics.accuracy}},
            {"metrics": {"m": fn.losses.softmax_cross_entropy}, "maximize": False},
            "metrics is another one",
        ),
        (
            {"reduce_on_plateau": fn.optim.reduce_on_plateau(0.5, 2)},
            {"reduce_on_plateau": fn.optim.reduce_on_plateau(0.4, 2)},
            "reduce_on_plateau is another one",
        ),
        ({"largest_norm": 10.0}, {"largest_norm": 20.0}, "largest_norm was 10.0, and is 20.0"),
        ({}, {"train": FLIPPED}, "of another run: train has other numbers"),
        ({}, {"train": {"x": X.astype(np.float16).astype(np.float32), "y": DATA["y"]}}, "train has other numbers"),
        ({"valid": DATA}, {"valid": FLIPPED}, "of another run: valid has other numbers"),
    ],
)  # fmt: skip
def test_another_run_does_not_resume(
    first: dict[str, Any], then: dict[str, Any], message: str, tmp_path: Path, started: Path
) -> None:
    if first:
        fit(folder=tmp_path, steps=1, **first)
    with pytest.raises(CheckpointError, match=message):
        fit(folder=tmp_path if first else started, resume=True, **then)


def test_several_differences_are_all_named(started: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"train has other .*; {NETWORK}; {LOSS}; {OPTIMIZER}"):
        fit(folder=started, resume="auto", train=FLIPPED, net=fn.serial(fn.dense(4), fn.sigmoid, fn.dense(2)),
            loss=squared, optimizer=fn.optim.sgd)  # fmt: skip


@pytest.mark.parametrize(
    "then, message",
    [
        ({"batch_size": 4}, r"another run: batch_size was 8, and is 4\. Pass"),
        ({"train": {**DATA, "x": X[:, :2]}}, r"another run: examples was .*; train has other numbers\. Pass"),
        ({"net": fn.serial(fn.dense(5), fn.tanh, fn.dense(2))}, rf"another run: {NETWORK}\. Pass"),
        ({"net": fn.serial(fn.dense(4), fn.tanh, fn.dense(3))}, rf"another run: {NETWORK}\. Pass"),
        ({"accumulate": 2}, r"another run: accumulate was 1, and is 2\. Pass"),
        ({"largest_norm": 5.0}, r"another run: largest_norm was None, and is 5.0; measures was .*_norm'.\. Pass"),
        ({"reduce_on_plateau": fn.optim.reduce_on_plateau(0.5, 2)}, r"run: reduce_on_plateau is another one\. Pass"),
        ({"dtype": jnp.bfloat16, "loss": squared}, rf"another run: {NETWORK}; {LOSS}\. Pass"),
    ],
)  # fmt: skip
def test_what_follows_from_a_difference_is_not_named(
    then: dict[str, Any], message: str, started: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        fit(folder=started, resume=True, initial=None, **then)


def test_the_same_run_resumes_though_its_parts_are_made_again(tmp_path: Path) -> None:
    def again(steps: int, **given: Any) -> fn.train.Fitted:
        net = fn.serial(lambda x: x * TABLE[None], fn.dense(4), fn.tanh, fn.dropout(0.1), fn.dense(2))
        return fit(
            net=net, augment=noisy(0.1), penalty=penalty(0.1), class_weights=[1.0, 2.0], steps=steps,
            valid=dict(DATA), learning_rate=lambda step: 0.1 / (1 + step), train=jax.tree.map(np.copy, DATA), **given,
        )  # fmt: skip

    wanted = again(4)
    again(2, folder=tmp_path)
    equal(again(4, folder=tmp_path, resume=True).now, wanted.now)


def test_params_to_start_with_are_no_part_of_it(tmp_path: Path) -> None:
    params = {"w": normal(3, 2), "b": np.zeros(2, np.float32)}
    given = {"net": fn.dense(2), "folder": tmp_path}
    fit(initial=(params, {}), **given)
    fit(initial=({**params, "b": params["b"] + 1}, {}), resume=True, steps=4, **given)


def test_a_step_is_traced_once(tmp_path: Path) -> None:
    traced = []

    def loss(prediction: Any, target: Any) -> Any:
        traced.append(None)
        return fn.losses.softmax_cross_entropy(prediction, target)

    fit(loss=loss)
    without, traced[:] = len(traced), []
    fit(loss=loss, folder=tmp_path)
    assert len(traced) == without + 1  # the loss by itself


HASHED = """
import sys
import jax, jax.numpy as jnp, numpy as np
import fnnet as fn
from fnnet.train.fingerprint import fingerprint

np.set_printoptions(precision=2)
layers = fn.conv(4, 3), fn.batch_norm(), fn.relu, fn.max_pool(2), fn.flatten, fn.gelu, fn.dropout(0.5), fn.dense(2)
net = fn.serial(*layers)
step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, fn.optim.adam(1e-3), metrics={"a": fn.metrics.accuracy})
batch = {"x": jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32), "y": jax.ShapeDtypeStruct((2,), jnp.int32)}
now = jax.eval_shape(lambda: fn.train.start(net, fn.optim.adam(1e-3), jax.random.key(0), batch["x"]))
print(fingerprint(jax.make_jaxpr(step)(now, batch, jax.random.key(0))))
"""


@pytest.mark.slow
def test_digests_are_the_same_in_each_process() -> None:
    def run(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", HASHED], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("1") == run("2") != ""


def test_what_a_digest_sees() -> None:
    def of(f: Any) -> str:
        return fingerprint(jax.make_jaxpr(f)(jax.ShapeDtypeStruct((3,), np.float32)))

    def named(x: Any) -> Any:
        return jnp.tanh(x) + 1.0

    assert of(named) == of(lambda y: jnp.tanh(y) + 1.0)
    programs = [
        named, lambda x: jnp.tanh(x) + 1.0000001, lambda x: jnp.sin(x) + 1.0, lambda x: 1.0 - jnp.tanh(x),
        lambda x: jax.lax.stop_gradient(jnp.tanh(x)) + 1.0, lambda x: jnp.tanh(x) + TABLE,
        lambda x: jax.jit(lambda x: jnp.tanh(x) + TABLE)(x), lambda x: jax.jit(lambda x: jnp.tanh(x) + 2 * TABLE)(x),
        lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c), None), x, length=3)[0],
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=3)[0],
        lambda x: jax.lax.cond(x[0] > 0, jnp.tanh, jnp.sin, x), lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.tanh, x),
        lambda x: jnp.sum(x, axis=0), lambda x: jnp.sum(x, axis=0, keepdims=True),
    ]  # fmt: skip
    assert len({of(f) for f in programs}) == len(programs)
    # Arrays: each byte, the dtype, the shape, the names.
    a = np.arange(100_000, dtype=np.float32)
    b = a.copy()
    b[50_000] += 1
    trees = [{"x": a}, {"x": b}, {"z": a}, {"x": a.astype(np.int32)}, {"x": a.reshape(2, -1)}, {"x": a[:0]}]
    assert len({digest(tree) for tree in trees}) == len(trees)
    assert digest({"x": a}) == digest({"x": jnp.asarray(a)}) == digest({"x": a.reshape(2, -1).T.T.ravel()})


def test_another_release_is_not_compared_but_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(folder=tmp_path, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(identity, "_releases", lambda: {"fnnet": "9", "jax": "9.9", "optax": "9"})
        with pytest.raises(CheckpointError, match="train has other numbers"):
            fit(folder=tmp_path, resume=True, train=FLIPPED)
        with pytest.warns(fn.train.TrainingWarning, match=r"'jax': '9.9'.*could not be compared"):
            fit(folder=tmp_path, resume=True)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    nested: list[str] = []

    def another(evaluation: fn.train.Evaluation) -> None:
        for resume in (True, "auto", False):
            with pytest.raises(
                CheckpointError, match=rf"in use by another run, process {os.getpid()} on .*; wait"
            ):
                fit(folder=tmp_path / "run", resume=resume)
        nested.append(fit(folder=tmp_path / "another").stopped)

    wanted = fit(steps=5)
    got = fit(folder=tmp_path / "run", callbacks=[another], steps=5, eval_every=5)
    equal(got.now, wanted.now)
    assert nested == ["finished"]
    # One after the other, and after an error.
    with pytest.raises(RuntimeError, match="power cut"):
        fit(folder=tmp_path / "run", resume=True, steps=10, callbacks=[broken])
    assert fit(folder=tmp_path / "run", resume=True, steps=10).stopped == "finished"
    assert not list((tmp_path / "run").glob(".*"))


def broken(evaluation: Any) -> None:
    raise RuntimeError("power cut")


def test_threads_share_no_folder(tmp_path: Path) -> None:
    inside, over, ends = threading.Event(), threading.Event(), []

    def wait(evaluation: Any) -> None:
        inside.set()
        over.wait(30)

    thread = threading.Thread(target=lambda: ends.append(fit(folder=tmp_path, callbacks=[wait]).stopped))
    thread.start()
    assert inside.wait(60)
    with pytest.raises(CheckpointError, match="in use by another run"):
        fit(folder=tmp_path, resume="auto")
    over.set()
    thread.join()
    assert ends == ["finished"]


LOCKING = """
import os, sys, time
from pathlib import Path
from fnnet.train.lock import locked
with locked("fit", Path(sys.argv[1]), ValueError):
    if os.fork() == 0:  # a reader that outlives its parent does not hold the lock
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match=rf"in use by another run, process {process.pid} on"):
            fit(folder=tmp_path)
        process.kill()
        process.wait()
        fit(folder=tmp_path)
        os.killpg(process.pid, 9)
    assert not list(tmp_path.glob(".*"))


def test_about_json_of_an_older_fnnet_is_not_compared_but_said(tmp_path: Path) -> None:
    fit(folder=tmp_path, steps=1)
    about = max((tmp_path / "checkpoints").iterdir()) / "about.json"
    record = json.loads(about.read_text())
    for name in ("program", "train", "valid"):
        del record["about"]["settings"][name]
    sign(about, record)
    with pytest.warns(fn.train.TrainingWarning, match="an older fnnet"):
        assert int(fit(folder=tmp_path, resume=True).now.step) == 2


def sign(path: Path, record: dict[str, Any]) -> None:
    """Writes a record whose digest is right."""
    from fnnet.train.checkpoint.files import _sha256_of_record

    record["sha256"] = _sha256_of_record(record)
    path.write_text(json.dumps(record))
