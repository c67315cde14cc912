"""`fit` in trouble: each fault has a clear error, and the run resumes from its last checkpoint with the same bits."""

import contextlib
import errno
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from fnnet.train import CheckpointError, DivergedError, Evaluation, Fitted
from fnnet.train import fit as fit_function
from tests.arrays import cast, equal, normal

LOSS = fn.losses.softmax_cross_entropy
NET = fn.dense(2)
X = normal(24, 3)
INITIAL = {"w": normal(3, 2), "b": np.zeros(2, np.float32)}, {}
DATA = {"x": X, "y": (X.sum(1) > 0).astype(np.int32)}


def fit(**given: Any) -> Fitted:
    """A run of 9 steps, three per epoch, unless it is said otherwise."""
    settings: dict[str, Any] = {
        "net": NET, "loss": LOSS, "optimizer": fn.optim.sgd(0.5), "train": DATA, "steps": 9, "progress": False,
    }  # fmt: skip
    settings |= {"batch_size": 8} if isinstance(given.get("train", DATA), dict) else {}
    settings |= {} if "net" in given else {"initial": INITIAL}  # compiles faster than a draw
    return fit_function(**(settings | given))


def at(step: int, act: Callable[[], Any]) -> Callable[[Evaluation], None]:
    """A callback that acts at one step."""

    def callback(evaluation: Evaluation) -> None:
        if evaluation.step == step:
            act()

    return callback


@pytest.fixture(scope="module")
def unbroken() -> Fitted:
    return fit()


def resumes(folder: Path, unbroken: Fitted, **given: Any) -> None:
    """The run that failed resumes, and ends with the same bits as the unbroken one."""
    got = fit(folder=folder, resume=True, **given)
    equal(got.now, unbroken.now)
    np.testing.assert_array_equal(got.history["train_loss"], unbroken.history["train_loss"])
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9]
    assert not list(folder.glob(".*"))


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[Callable[[], None]]:
    """A function that makes each file end at a limit of bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk(unbroken: Fitted, tmp_path: Path) -> None:
    for limit, every, good, message in (
        (10, 100, 0, r"fit: cannot write .*history.jsonl: File too large; make room.*resume=True"),
        (1000, 3, 0, "the checkpoint of step 3 could not be written .*; that of step 0 is intact"),
        (1000, 2, 2, "the checkpoint of step 4 could not be written .*; that of step 2 is intact"),
    ):
        folder = tmp_path / str(limit * every)
        with full_disk(limit) as fill, pytest.raises(OSError, match=message) as raised:
            fit(folder=folder, checkpoint_every=every, callbacks=[at(3, fill)])
        assert raised.value.errno == errno.EFBIG
        assert fn.train.checkpoint.steps(folder / "checkpoints")[-1] == good
        resumes(folder, unbroken)
    # Already at the start.
    with full_disk(5) as fill, pytest.raises(OSError, match=r"cannot write .*history.jsonl: File too large"):
        fill()
        fit(folder=folder, resume=True, steps=12)
    equal(fit(folder=folder, resume=True).now, unbroken.now)


@pytest.mark.slow
def test_folders_that_cannot_be_written(unbroken: Fitted, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"fit: cannot make the folder .*/file: File exists"):
        fit(folder=tmp_path / "file")
    with pytest.raises(OSError, match=r"fit: cannot make the folder .*/in: Not a directory"):
        fit(folder=tmp_path / "file" / "in")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises(FileExistsError, match=r"checkpoint of step 0 could not be written .*: File exists"):
        fit(folder=tmp_path / "run")
    # Nothing was written, so nothing is in the way.
    (tmp_path / "run" / "checkpoints").unlink()
    equal(fit(folder=tmp_path / "run", resume="auto").now, unbroken.now)

    def no_file() -> None:
        (tmp_path / "other" / "history.jsonl").unlink()
        (tmp_path / "other" / "history.jsonl").mkdir()

    with pytest.raises(
        IsADirectoryError, match=r"fit: cannot write .*history.jsonl: Is a directory; make room"
    ):
        fit(folder=tmp_path / "other", checkpoint_every=3, callbacks=[at(3, no_file)])
    with pytest.raises(IsADirectoryError, match=r"fit: cannot write .*history.jsonl"):
        fit(folder=tmp_path / "other", resume=True)
    (tmp_path / "other" / "history.jsonl").rmdir()
    resumes(tmp_path / "other", unbroken)


@pytest.mark.slow
def test_a_folder_that_vanishes(unbroken: Fitted, tmp_path: Path) -> None:
    folder, away = tmp_path / "run", tmp_path / "away"
    with pytest.raises(FileNotFoundError, match=r"checkpoint of step 3 .*: No such file or directory"):
        fit(folder=folder, checkpoint_every=3, callbacks=[at(3, lambda: folder.rename(away))])
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        fit(folder=folder, resume=True)
    resumes(away, unbroken)
    # Its checkpoints alone: the run never silently starts again.
    shutil.rmtree(away / "checkpoints")
    for resume in (False, "auto"):
        with pytest.raises(
            CheckpointError, match=r"history.jsonl has the lines of a run, but .* has no checkpoint"
        ):
            fit(folder=away, resume=resume)


def test_a_damaged_checkpoint_is_not_passed_over(unbroken: Fitted, tmp_path: Path) -> None:
    fit(folder=tmp_path, steps=6, checkpoint_every=3)
    last = tmp_path / "checkpoints" / "step_000000000006"
    shutil.copytree(last, tmp_path / "kept")
    about = (last / "about.json").read_text()
    for harm, message in (
        (lambda: os.truncate(last / "about.json", 100), "about.json is not JSON"),
        (
            lambda: (last / "about.json").write_text(about.replace('"format": 1', '"format": 9')),
            "is of format 9",
        ),
        (lambda: (last / "about.json").unlink(), "has no about.json"),
    ):
        harm()
        for resume in (True, "auto"):
            with pytest.raises(CheckpointError, match=message) as raised:
                fit(folder=tmp_path, resume=resume)
            assert "move later ones out of" in str(raised.value.__notes__)
        shutil.rmtree(last)
        shutil.copytree(tmp_path / "kept", last)
    shutil.rmtree(last)
    resumes(tmp_path, unbroken)  # from step 3


def test_what_else_makes_it_another_run(tmp_path: Path) -> None:
    given = {"folder": tmp_path, "valid": DATA, "metrics": {"accuracy": fn.metrics.accuracy}}
    fit(**given)
    for other, message in (
        ({"metrics": None}, r"measures was \['loss', 'accuracy'\], and is \['loss'\]"),
        (
            {"monitor": "valid_accuracy", "maximize": True},
            r"monitor was \['valid_loss', False\], and is \['valid_acc",
        ),
        ({"accumulate": 2}, "accumulate was 1, and is 2"),
        (
            {"train": fn.data.stream(DATA, 8), "batch_size": None},
            "examples was .*, and is batches of an iterable",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            fit(**given | {"resume": True} | other)


@pytest.mark.slow
def test_an_end_that_no_longer_holds(tmp_path: Path) -> None:
    given = {"valid": DATA, "optimizer": fn.optim.sgd(50.0), "eval_every": 1, "folder": tmp_path}
    early = fit(patience=2, **given)
    assert (early.stopped, int(early.now.step) < 9) == ("patience", True)
    assert fit(patience=2, resume=True, **given).stopped == "patience"
    longer = fit(patience=90, resume=True, callbacks=[lambda evaluation: evaluation.step == 8], **given)
    assert (longer.stopped, int(longer.now.step)) == ("callback", 8)
    assert fit(resume=True, callbacks=[lambda evaluation: False], **given).stopped == "callback"
    assert fit(resume=True, **given).stopped == "finished"


def broken(batches: list[Any], count: int) -> Iterator[Any]:
    yield from batches[:count]
    raise RuntimeError("no such tape")


class Faulty:
    """A stream whose iterator raises at one of its batches."""

    def __init__(self, stream: Any, at: int):
        self.stream, self.at, self.batches_per_epoch = stream, at, stream.batches_per_epoch

    def __iter__(self) -> "Faulty":
        self.it, self.count = iter(self.stream), 0
        return self

    def __next__(self) -> Any:
        self.count += 1
        if self.count == self.at:
            raise RuntimeError("no such tape")
        return next(self.it)

    def get_state(self) -> Any:
        return self.it.get_state()

    def set_state(self, state: Any) -> None:
        self.it.set_state(state)


def prefetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fnnet-prefetch")]


@pytest.mark.slow
def test_data_that_fails(tmp_path: Path) -> None:
    fn.data.save_arrays(tmp_path / "data", DATA)

    def stream(**given: Any) -> Any:
        return fn.data.stream(fn.data.open_arrays(tmp_path / "data"), **{"batch_size": 8, "seed": 3} | given)

    wanted = fit(train=stream())
    given = {"folder": tmp_path / "run", "checkpoint_every": 2}
    with pytest.raises(RuntimeError, match="no such tape"):
        fit(train=Faulty(stream(), 5), **given)
    assert not prefetching()
    assert fn.train.checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] >= 2
    # Files that are cut off, or vanish.
    file = next((tmp_path / "data").glob("x*"))
    content = file.read_bytes()

    def cut_off() -> None:
        os.truncate(file, 200)

    with pytest.raises(OSError, match=r"has become shorter, 200 bytes of .*; restore the file, and resume"):
        fit(train=stream(prefetch=0), callbacks=[at(6, cut_off)], resume=True, **given)
    file.write_bytes(content)
    file.rename(tmp_path / "x")
    with pytest.raises(OSError):
        fit(train=stream(), resume=True, **given)
    (tmp_path / "x").rename(file)
    assert not prefetching()
    # Another order.
    for other, message in (
        ({"seed": 4}, "seed=3, here seed=4"),
        ({"drop_last": False}, "drop_last=True, here"),
    ):
        with pytest.raises(CheckpointError, match=f"does not resume where the checkpoint is: .*{message}"):
            fit(train=stream(**other), resume=True, **given)
    with pytest.raises(CheckpointError, match="batch_size was 8, and is 12"):
        fit(train=stream(batch_size=12), resume=True, **given)
    resumes(tmp_path / "run", wanted, train=stream())
    # A stream's iterator starts where it is, and the batch that was looked at is not lost.
    equal(fit(train=iter(stream()), eval_every=3).now, wanted.now)
    with pytest.raises(ValueError, match=r"shuffled stream of epochs=2, 3 batches each, and 9 are wanted"):
        fit(train=stream(epochs=2))
    equal(fit(train=stream(epochs=3)).now, wanted.now)


def test_an_iterator_that_fills_its_arrays_again() -> None:
    def batches() -> Iterator[Any]:
        x, y = np.empty((8, 4096), np.float32), np.zeros(8, np.int32)
        for i in range(12):
            x[...] = i
            yield {"x": x, "y": y}

    net = fn.dense(1, w_init=fn.initializers.ones)
    got = fit(net=net, loss=lambda p, y: jnp.mean(p, axis=-1), optimizer=fn.optim.sgd(0.0), train=batches())
    np.testing.assert_allclose(got.history["train_loss"] / 4096, range(9))


def test_double_precision_reaches_the_thread(float64: None) -> None:
    seen = []

    def augment(key: Any, batch: Any) -> Any:
        seen.append(batch["x"].dtype)
        return batch

    fit(train=[{"x": X.astype(float), "y": DATA["y"]}] * 3, augment=augment, initial=cast(INITIAL, float))
    assert set(seen) == {np.dtype("float64")}


@pytest.mark.slow
def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    def root(x: Any) -> Any:
        return jnp.sqrt(jnp.abs(x - jax.lax.stop_gradient(x)))  # 0, and its derivative infinite

    # Only a gradient: the step after it is the first to see it, or the end of the run.
    spoilt = {"net": fn.serial(fn.dense(2), root), "eval_every": 9}
    with pytest.raises(
        DivergedError,
        match=r"at step 1 the loss is nan: params had numbers .* The update before it caused this",
    ):
        fit(**spoilt)
    with pytest.raises(DivergedError, match=r"at step 1 the norm of the params is nan: params had numbers"):
        fit(folder=tmp_path, **(spoilt | {"steps": 1}))
    assert fn.train.checkpoint.steps(tmp_path / "checkpoints") == [0]
    got = fit(not_finite="skip", accumulate=2, **spoilt)
    assert got.history["skipped"].tolist() == [9]
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(got.params))
    # A penalty.
    with pytest.raises(DivergedError, match=r"at step 0 the penalty is nan\. That update was left out"):
        fit(penalty=lambda params: jnp.sqrt(-1.0 - fn.losses.l2(params)))
    # Where every step is evaluated, a single bad step is skipped as well.
    bad = {**DATA, "x": X * np.nan}
    got = fit(train=[DATA, bad, DATA], steps=6, eval_every=1, not_finite="skip", monitor="train_loss")
    assert got.history["skipped"].tolist() == [0, 1, 1, 1, 2, 2]
    # Masks are infinite inside, which is not at fault.
    masked = fn.serial(fn.dense(2), lambda x: jnp.where(jnp.isneginf(jnp.full_like(x, -jnp.inf)), x, 0.0))
    with pytest.raises(
        DivergedError,
        match=r"prediction is finite, but its loss is not: softmax_.*: target\[.\]=2, wanted a label",
    ):
        fit(net=masked, train={"x": X, "y": DATA["y"] + 1})
    with pytest.raises(
        DivergedError, match="the prediction is finite, but its loss is not: look at the targets"
    ):
        fit(net=masked, loss=lambda y, t: jnp.sqrt(-1.0 - jnp.sum(y**2, axis=1)))


def test_the_best_is_no_nan() -> None:
    def at_first(prediction: Any, target: Any) -> Any:
        return jnp.where(jnp.sum(prediction**2) < first * 1.0001, jnp.nan, LOSS(prediction, target))

    after_one = jax.device_get(fit(steps=1).params)
    first = float(np.sum((X @ after_one["w"] + after_one["b"]) ** 2))
    got = fit(valid=DATA, eval_every=1, metrics={"m": at_first}, monitor="valid_m", maximize=False)
    scores = got.history["valid_m"]
    assert np.isnan(scores[0])
    assert got.best is not None
    assert got.best.value == np.nanmin(scores)


PRESSED = """
import os, signal, sys, time
import jax, numpy as np
import fnnet as fn

folder, where = sys.argv[1], sys.argv[2]
x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
data = {"x": x, "y": (x.sum(1) > 0).astype(np.int32)}

def press(*args):
    os.kill(os.getpid(), signal.SIGINT)

traced = []

def augment(key, batch):  # for its shapes, for its digest, and then in the first call
    traced.append(where)
    if traced[2:] == ["compiling"]:
        press()
    return batch

write_record = fn.train.checkpoint.checkpoint.write_record
def sealed(saving, record):
    if where == "saving" and record["step"] == 4:
        press()
    if where == "twice" and record["step"] == 4:
        press(), press()
    write_record(saving, record)
fn.train.checkpoint.checkpoint.write_record = sealed

class Valid(list):
    def __iter__(self):
        if where == "evaluating":
            press()
        return super().__iter__()

train = fn.data.stream(data, 8, seed=3)
fitted = fn.train.fit(
    fn.dense(2), fn.losses.softmax_cross_entropy, fn.optim.sgd(0.5), train, valid=Valid([data]), steps=9,
    folder=folder, resume="auto", checkpoint_every=2, augment=augment, progress=False,
)
print(fitted.stopped, int(fitted.now.step), np.asarray(fitted.params["w"]).tobytes().hex())
"""


@pytest.mark.slow
def test_ctrl_c_in_a_process(tmp_path: Path) -> None:
    def run(where: str, folder: str) -> tuple[int, list[str], str]:
        program = [sys.executable, "-W", "error", "-c", PRESSED, str(tmp_path / folder), where]
        done = subprocess.run(
            program, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
        )
        return done.returncode, done.stdout.split(), done.stderr

    code, wanted, err = run("nowhere", "unbroken")
    assert (code, wanted[:2], err) == (0, ["finished", "9"], "")
    for where, step in (("compiling", 1), ("saving", 5), ("evaluating", 3)):
        code, (stopped, got, _), err = run(where, "run")
        assert (code, stopped) == (0, "interrupted"), err
        assert step <= int(got) < 9
        folder = str(tmp_path / "run")
        assert (
            err
            == f"fit: stopped at step {got} of 9; fit(..., folder={folder!r}, resume=True) resumes there\n"
        )
        if where != "evaluating":
            shutil.rmtree(folder)
    assert run("nowhere", "run")[1] == wanted
    code, _, err = run("twice", "other")
    assert code != 0
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert run("nowhere", "other")[1] == wanted


@pytest.mark.parametrize(
    "given, error, message",
    [
        (
            {"train": fn.data.Dataset(DATA)},
            TypeError,
            "train is a Dataset, wanted one part of it: pass data.train",
        ),
        ({"valid": fn.data.Dataset(DATA)}, TypeError, "valid is a Dataset, .*: pass data.valid"),
        (
            {"valid": iter([DATA])},
            ValueError,
            "no batches left after one evaluation, since it is an iterator",
        ),
        ({"largest_norm": -1.0}, ValueError, "largest_norm=-1.0, wanted more than 0"),
    ],
)
def test_arguments_that_make_no_sense(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(**given)


def test_a_missing_package_is_noticed_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match="progress=True wanted a bar, and rich is not installed: pip install rich"
    ):
        fit(progress=True, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_it_is_no_part_of_a_program() -> None:
    message = "called inside jit, vmap or grad, .*; wanted make_run"
    for call in (
        lambda: jax.jit(lambda: fit().params)(),
        lambda: jax.vmap(lambda key: fit(key=key).params)(jax.random.split(jax.random.key(0), 2)),
        lambda: jax.grad(lambda rate: fit(optimizer=fn.optim.sgd, learning_rate=rate).params["w"][0, 0])(0.1),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_ordinary_sizes(unbroken: Fitted, tmp_path: Path) -> None:
    sizes = {"steps": np.int64(9), "batch_size": np.int64(8), "eval_every": np.int32(3), "key": np.int64(0)}
    equal(
        fit(folder=tmp_path, checkpoint_every=np.int64(2), accumulate=np.int64(1), **sizes).now, unbroken.now
    )
    resumes(tmp_path, unbroken)
