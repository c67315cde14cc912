"""`fit` at its limits: skipped steps, numbers whose squares overflow, a clock that stands still, damaged records."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.train import CheckpointError, DivergedError
from fnnet.train.checkpoint.files import _sha256_of_record
from tests.arrays import equal, normal

X = normal(24, 3)
DATA = {"x": X, "y": (X.sum(1) > 0).astype(np.int32)}
INITIAL = {"w": normal(3, 2), "b": np.zeros(2, np.float32)}, {}


def fit(**given: Any) -> fn.train.Fitted:
    settings: dict[str, Any] = {
        "net": fn.dense(2), "loss": fn.losses.softmax_cross_entropy, "optimizer": fn.optim.sgd(0.5), "train": DATA,
        "steps": 6, "progress": False, "initial": INITIAL,
    }  # fmt: skip
    settings |= {"batch_size": 8} if isinstance(given.get("train", DATA), dict) else {}
    return fn.train.fit(**(settings | given))


def test_skipped_steps_take_no_step_of_the_schedule() -> None:
    bad = {**DATA, "x": X * np.nan}

    def recording(learning_rate: Any) -> optax.GradientTransformation:
        """SGD whose state has the rate of its next update."""

        def init(params: Any) -> Any:
            return jnp.zeros([], jnp.int32), jnp.float32(learning_rate(0))

        def update(grads: Any, state: Any, params: Any = None) -> Any:
            step, rate = state
            return jax.tree.map(lambda g: -rate * g, grads), (step + 1, jnp.float32(learning_rate(step + 1)))

        return optax.GradientTransformation(init, update)

    def schedule(step: Any) -> Any:
        return 0.5 / (1 + step)

    given = {"optimizer": recording, "learning_rate": schedule, "not_finite": "skip", "eval_every": 1}
    got = fit(train=[DATA, bad, DATA, bad, bad, DATA], monitor="train_loss", **given)
    np.testing.assert_array_equal(got.history["skipped"], [0, 1, 1, 2, 3, 3])
    np.testing.assert_allclose(got.history["learning_rate"], [0.5 / (1 + n) for n in (1, 1, 2, 2, 2, 3)])
    np.testing.assert_allclose(got.history["learning_rate"][-1], float(got.now.opt_state[1]), rtol=1e-6)
    got = fit(train=[DATA, bad, DATA, bad, bad, DATA], accumulate=2, monitor="train_loss", **given)
    np.testing.assert_allclose(got.history["learning_rate"][-1], 0.25)  # of three gradients one update


def test_an_update_there_would_never_be() -> None:
    with pytest.raises(ValueError, match="accumulate=3 and 2 steps in all, wanted at least as many steps"):
        fit(accumulate=3, steps=2)
    # A rest waits in the optimizer's state.
    equal(fit(accumulate=4, steps=6).params, fit(accumulate=4, steps=4).params)


def test_a_rest_of_accumulated_gradients_is_used_when_the_run_goes_on(tmp_path: Path) -> None:
    wanted = fit(accumulate=4, steps=8)
    fit(accumulate=4, steps=6, folder=tmp_path)
    equal(fit(accumulate=4, steps=8, folder=tmp_path, resume=True).now, wanted.now)


def test_norms_whose_squares_overflow() -> None:
    def loss(prediction: Any, target: Any) -> Any:
        return 1e20 * prediction[:, 0]

    got = fit(loss=loss, largest_norm=1e30, optimizer=fn.optim.sgd(0.0), steps=1)
    np.testing.assert_allclose(got.history["train_gradient_norm"], 1e20 * norm_of_mean(), rtol=0.5)
    assert np.isfinite(got.history["train_gradient_norm"]).all()
    got = fit(loss=loss, not_finite="skip", optimizer=fn.optim.sgd(1.0), steps=1)
    assert got.history["skipped"].tolist() == [0]
    assert 1e19 < got.history["params_norm"][0] < 1e21
    with pytest.raises(
        DivergedError, match=r"the gradient norm is .*e\+\d+, more than largest_norm\. That update was"
    ):
        fit(loss=loss, largest_norm=1e10)


def norm_of_mean() -> float:
    """The gradient of the mean of the first output: of w the mean of x, of b 1."""
    return float(np.sqrt(1 + np.sum(X.mean(0) ** 2)))


def test_a_run_that_diverged_says_so(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="That update was left out") as raised:
        fit(train={**DATA, "x": X * np.nan})
    assert raised.value.fitted.stopped == "diverged"
    # The update was taken: the params are finite, and their norm is not.
    huge = INITIAL[0] | {"w": np.full((3, 2), 3e38, np.float32)}
    flat = {"loss": lambda p, y: 0 * p[:, 0], "train": {**DATA, "x": 0 * X}}
    with pytest.raises(
        DivergedError, match=r"norm of the params is inf\. The params are finite, but too large"
    ) as raised:
        fit(initial=(huge, {}), **flat)
    assert raised.value.fitted.stopped == "diverged"
    with pytest.raises(DivergedError) as raised:
        fit(train=[{**DATA, "x": X * np.nan}], not_finite="skip", steps=3)
    assert raised.value.fitted.stopped == "diverged"


@pytest.mark.parametrize(
    "params, state, message",
    [
        ({"w": normal(3, 3), "b": np.zeros(3)}, {}, r"of its params b is float32\[3\], wanted .*\[2\], w is float32"),
        ({"w": normal(3, 2), "b": np.zeros(1)}, {}, r"b is float32\[1\], wanted float32\[2\]"),
        ({"w": normal(3, 2)}, {}, r"it lacks b float32\[2\]"),
        ({"w": normal(3, 2), "b": np.zeros(2), "c": np.zeros(1)}, {}, r"it has, not asked for, c float32\[1\]"),
        ({"w": normal(3, 2), "b": np.zeros(2, int)}, {}, r"b is int32\[2\], wanted float32\[2\]"),
        ({"w": normal(3, 2, dtype=np.float16), "b": np.zeros(2)}, {}, r"w is float16\[3,2\], wanted float32\[3,2\]"),
        ({"w": normal(3, 2), "b": np.zeros(2)}, {"mean": np.zeros(2)}, "of its state it has, not asked for, mean"),
    ],
)  # fmt: skip
def test_params_of_another_network(params: Any, state: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"fit: initial is of another network.*{message}"):
        fit(initial=(params, state))


def test_initial_is_a_pair() -> None:
    for initial in (INITIAL[0], (INITIAL[0],), INITIAL[0]["w"]):
        with pytest.raises(TypeError, match=r"initial is .*, wanted a pair \(params, state\)"):
            fit(initial=initial)
    net = fn.serial(fn.batch_norm(), fn.dense(2))
    params, state = jax.device_get(jax.jit(lambda key: net.init(key, X))(jax.random.key(0)))
    assert fit(net=net, initial=(params, state)).stopped == "finished"
    state["batch_norm_0"]["mean"] = np.zeros(1, np.float32)
    with pytest.raises(
        ValueError, match=r"of its state batch_norm_0/mean is float32\[1\], wanted float32\[3\]"
    ):
        fit(net=net, initial=(params, state))


@pytest.mark.parametrize("clock", [lambda: 5.0, lambda: -time.time(), iter(range(10**6, 0, -1)).__next__])
def test_a_clock_that_stands_still_or_goes_back(
    clock: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = fit(steps=6)
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", clock)
        got = fit(steps=6, folder=tmp_path, valid=DATA, progress=None)
    equal(got.now, wanted.now)
    assert (np.diff(got.history["seconds"]) >= 0).all()
    assert np.isfinite(got.history["examples_per_second"]).all()


def test_a_record_damaged_in_its_types(tmp_path: Path) -> None:
    fit(folder=tmp_path, valid=DATA, steps=3)
    about = max((tmp_path / "checkpoints").iterdir()) / "about.json"
    text = about.read_text()

    def resume() -> None:
        fit(folder=tmp_path, valid=DATA, resume=True)

    for path, value in (
        (("format",), "1"), (("format",), True), (("step",), "3"), (("step",), None), (("files",), []),
        (("leaves",), {}), (("leaves", 0), []), (("leaves", 0, "path"), []), (("about",), None), (("about",), []),
        (("about", "settings"), []), (("about", "rows"), None), (("about", "rows", 0), 3),
        (("about", "rows", 0, "step"), "3"), (("about", "rows", 0, "valid_loss"), "0.5"), (("about", "steps"), []),
        (("about", "steps", "loss"), 3), (("about", "steps", "loss"), [-1, "float32"]),
        (("about", "steps", "loss"), [3, "float"]), (("about", "best"), []), (("about", "best", "step"), "3"),
        (("about", "best", "value"), "0.5"), (("about", "waited"), "0"), (("about", "seconds"), None),
        (("about", "stopped"), 3), (("about", "position"), 3),
    ):  # fmt: skip
        record = json.loads(text)
        inner = record
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        for digest in (
            record["sha256"],
            _sha256_of_record(record),
        ):  # as a disk changes it, and as a person does
            about.write_text(json.dumps(record | {"sha256": digest}))
            with pytest.raises(CheckpointError):
                resume()
    for bad in (
        "[" * 200_000,
        '{"a":' * 200_000,
        "[" * 200_000 + "]" * 200_000,
        "null",
        "3",
        '"a"',
        "\x00",
        "[]",
    ):
        about.write_text(bad)
        with pytest.raises(CheckpointError, match=r"about.json"):
            resume()
    about.write_text(text)
    resume()


def test_ctrl_c_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first checkpoint is written, nothing is trained, and the run resumes there."""
    wanted = fit()

    def begins(*args: Any, **given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **given)

    saving: Any = sys.modules["fnnet.train.fit.fit"]
    real = saving.has_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "has_checkpoint", begins)
        got = fit(folder=tmp_path)
    assert (got.stopped, int(got.now.step)) == ("interrupted", 0)
    assert "stopped at step 0 of 6; fit(" in capsys.readouterr().err
    assert fn.train.checkpoint.steps(tmp_path / "checkpoints") == [0]
    assert "Fitted(" in repr(got)
    equal(fit(folder=tmp_path, resume=True).now, wanted.now)


def test_what_a_run_stopped_before_its_first_checkpoint_leaves(tmp_path: Path) -> None:
    """Both a fresh start and resume="auto" work in the folder."""
    for resume in (False, "auto"):
        folder = tmp_path / str(resume)

        def stop(*args: Any, **given: Any) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["fnnet.train.fit.saving"].checkpoint, "save", stop)
            with pytest.raises(KeyboardInterrupt):
                fit(folder=folder)
        (folder / ".lock").write_text("left by a killed process")
        assert fit(folder=folder, resume=resume).stopped == "finished"
