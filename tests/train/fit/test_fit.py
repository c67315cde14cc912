"""`fit` beside `make_run`, beside loops by hand, and in trouble."""

import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.train import Evaluation
from fnnet.train import fit as fit_function

LOSS = fn.losses.softmax_cross_entropy
ACCURACY = {"accuracy": fn.metrics.accuracy}
NET = fn.serial(fn.dense(8), fn.tanh, fn.dropout(0.2), fn.dense(2))
DATA = fn.data.split(fn.data.two_moons(jax.random.key(0), 100), test=0.0)  # 80 and 20


def fit(**given: Any) -> fn.train.Fitted:
    """A run of 25 steps, five an epoch, unless it is said otherwise."""
    settings: dict[str, Any] = {
        "net": NET, "loss": LOSS, "optimizer": fn.optim.adam(0.05), "train": DATA.train, "valid": DATA.valid,
        "steps": 25, "batch_size": 16, "metrics": ACCURACY, "progress": False,
    }  # fmt: skip
    return fit_function(**(settings | given))


def same(a: Any, b: Any) -> None:
    """The same bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def whole() -> fn.train.Fitted:
    return fit()


def test_it_computes_what_make_run_does(whole: fn.train.Fitted) -> None:
    run = fn.train.make_run(NET, LOSS, fn.optim.adam, steps=25, batch_size=16, metrics=ACCURACY, eval_every=5)
    wanted = jax.jit(run)(jax.random.key(0), DATA, {"learning_rate": 0.05})
    close = {"rtol": 1e-6, "atol": 1e-7}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), whole.params, wanted.params)
    for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "eval_step"):
        np.testing.assert_allclose(whole.history[name], wanted.history[name], **close, err_msg=name)
    assert whole.stopped == "finished"
    assert int(whole.now.step) == 25
    np.testing.assert_array_equal(whole.history["epoch"], [1, 2, 3, 4, 5])
    assert np.all(np.diff(whole.history["seconds"]) > 0)
    assert np.all(whole.history["examples_per_second"] > 0)
    norm = math.sqrt(sum(np.sum(np.square(p)) for p in jax.tree.leaves(whole.params)))
    np.testing.assert_allclose(whole.history["params_norm"][-1], norm, rtol=1e-6)


def test_same_seed_same_bits_however_the_steps_are_cut(
    whole: fn.train.Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fnnet.train.fit.source

    monkeypatch.setattr(fnnet.train.source, "CAPACITY", 2)
    again = fit(key=jax.random.key(0))
    same(again.now, whole.now)
    same(again.history["train_loss"], whole.history["train_loss"])
    with pytest.raises(AssertionError):
        same(fit(key=1).params, whole.params)


def by_hand(batches: list[Any], step: Any, optimizer: Any) -> Any:
    now = fn.train.start(NET, optimizer, jax.random.split(jax.random.key(0), 3)[0], batches[0]["x"])
    step, key = jax.jit(step), jax.random.split(jax.random.key(0), 3)[2]
    for i, batch in enumerate(batches):
        now, _ = step(now, batch, jax.random.fold_in(key, i))
    return now


def batches_of(size: int, count: int) -> list[Any]:
    order = np.random.default_rng(0).integers(0, 80, (count, size))
    return [jax.tree.map(lambda a, i=i: np.asarray(a)[i], DATA.train) for i in order]


def test_batches_of_an_iterable_beside_a_loop_by_hand() -> None:
    batches, optimizer = batches_of(16, 7), fn.optim.adam(0.05)
    wanted = by_hand(batches, fn.train.make_step(NET, LOSS, optimizer), optimizer)
    given = {"batch_size": None, "eval_every": 3, "valid": [DATA.valid, DATA.valid]}
    got = fit(train=batches, steps=7, **given)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got.params, wanted.params
    )
    np.testing.assert_array_equal(got.history["eval_step"], [3, 6, 7])
    assert np.isnan(got.history["epoch"]).all()
    # An iterator gives each batch once, the first included; an iterable begins anew.
    same(fit(train=iter(batches), steps=7, **given).params, got.params)
    same(fit(train=batches, steps=9, **given).now, fit(train=[*batches, *batches[:2]], steps=9, **given).now)
    with pytest.raises(ValueError, match="train ended after 7 batches"):
        fit(train=iter(batches), steps=8, **given)
    # Batches of two sizes.
    assert int(fit(train=[*batches, batches_of(3, 1)[0]], steps=8, **given).now.step) == 8


def test_options_of_the_step_beside_a_loop_by_hand() -> None:
    batches, weights = batches_of(8, 6), np.array([1.0, 3.0])

    def augment(key: Any, batch: Any) -> Any:
        return {**batch, "x": batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)}

    def weighted(prediction: Any, target: Any) -> Any:
        return (
            optax.softmax_cross_entropy_with_integer_labels(prediction, target)
            * jnp.asarray(weights, jnp.float32)[target]
        )

    def penalty(params: Any) -> Any:
        return 1e-2 * fn.losses.l2(params)

    optimizer = optax.MultiSteps(optax.adam(0.05), 2)
    plain = fn.train.make_step(NET, weighted, optimizer, penalty=penalty)
    noise = jax.random.fold_in(jax.random.key(0), 3)

    def step(now: Any, batch: Any, key: Any) -> Any:
        return plain(now, augment(jax.random.fold_in(noise, now.step), batch), key)

    wanted = by_hand(batches, step, optimizer)
    got = fit(
        train=batches, batch_size=None, steps=6, valid=None, class_weights=weights, augment=augment, accumulate=2,
        penalty=penalty, optimizer=fn.optim.adam, learning_rate=lambda update: 0.05 + 0 * update,
    )  # fmt: skip
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got.params, wanted.params
    )
    assert got.best is None
    np.testing.assert_allclose(got.history["learning_rate"], 0.05)
    assert got.history["train_penalty"].shape == (6,)


def test_half_precision_keeps_float32_params(whole: fn.train.Fitted) -> None:
    half = fit(dtype=jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves((half.params, half.now.opt_state))} == {
        np.dtype("float32"),
        np.dtype("int32"),
    }
    difference = np.abs(half.history["train_loss"] - whole.history["train_loss"])
    assert 1e-4 < difference.max() < 0.1


def test_initial_params() -> None:
    params, state = NET.init(jax.random.key(5), DATA.train["x"])
    same(fit(initial=(params, state), optimizer=fn.optim.sgd(0.0), steps=1).params, params)
    fit(initial=(params, state), steps=1)
    assert not any(p.is_deleted() for p in jax.tree.leaves(params))  # what was given is not donated


def test_patience_restores_the_best() -> None:
    rate = 2.0  # too large: the loss goes up and down
    got = fit(optimizer=fn.optim.sgd(rate), steps=500, eval_every=1, patience=4)
    losses = got.history["valid_loss"]
    best = int(np.argmin(losses))
    assert got.stopped == "patience"
    assert len(losses) == best + 1 + 4 < 500
    assert got.best is not None
    assert (got.best.step, got.best.value) == (best + 1, losses[best])
    same(got.params, got.best.params)
    same(got.params, fit(optimizer=fn.optim.sgd(rate), steps=best + 1, eval_every=1).params)
    # Of accuracy, more is better; the best is kept without patience, too, and the last is returned.
    got = fit(eval_every=1, monitor="valid_accuracy")
    assert got.best is not None
    assert got.best.step == 1 + int(np.argmax(got.history["valid_accuracy"]))
    same(got.params, got.now.params)


def test_the_rate_falls_on_a_plateau() -> None:
    plateau = fn.optim.reduce_on_plateau(0.5, patience=2)
    got = fit(
        optimizer=fn.optim.sgd, learning_rate=4.0, steps=30, eval_every=1, reduce_on_plateau=plateau,
        metrics=None,
    )  # fmt: skip
    # As optax's rule does, fed with the validation losses.
    rule = optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    state, scales = rule.init({}), [1.0]
    for loss in got.history["valid_loss"]:
        _, state = rule.update({}, state, value=jnp.float32(loss))
        scales.append(float(state.scale))
    assert min(scales) < 0.5
    np.testing.assert_allclose(got.history["learning_rate"], 4.0 * np.array(scales[:-1]))
    np.testing.assert_allclose(got.now.opt_state[1].scale, scales[-1])
    # And the updates are scaled.
    halved = fit(
        optimizer=fn.optim.sgd(4.0), steps=1, reduce_on_plateau=plateau, eval_every=1, metrics=None
    ).params
    same(halved, fit(optimizer=fn.optim.sgd(4.0), steps=1, metrics=None).params)


def test_a_rate_in_the_optimizers_state_is_shown() -> None:
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    got = fit(optimizer=optax.inject_hyperparams(fn.optim.adam)(schedule), steps=10, eval_every=5)
    np.testing.assert_allclose(got.history["learning_rate"], [schedule(4), schedule(9)], rtol=1e-6)
    assert "learning_rate" not in fit(steps=1).history


def test_callbacks_are_functions_of_the_state(whole: fn.train.Fitted) -> None:
    seen: list[Evaluation] = []
    got = fit(callbacks=[seen.append, lambda evaluation: evaluation.step == 15])
    assert got.stopped == "callback"
    assert [evaluation.step for evaluation in seen] == [5, 10, 15]
    assert seen[1].epoch == 2
    assert seen[1].row["valid_loss"] == whole.history["valid_loss"][1]
    same(seen[-1].params, got.params)  # not overwritten by the steps that followed
    assert all(math.isfinite(p.sum()) for p in jax.tree.leaves(seen[0].params))


def test_a_loss_that_is_not_finite_stops_with_step_and_layer() -> None:
    def log(x: Any) -> Any:
        return jnp.log(x + 0.5)  # NaN once a unit is below -1/2

    net = fn.serial(fn.dense(4), log, fn.dense(2))
    with pytest.raises(fn.train.DivergedError, match=r"at step \d+ the loss is nan: the first NaN comes out of serial\['log_0'\]") as stop:  # fmt: skip # noqa: E501
        fit(net=net, initial=({"dense_0": {"w": jnp.zeros((2, 4)), "b": jnp.zeros(4)}, "dense_1": {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)}}, {}), optimizer=fn.optim.sgd(1.0), metrics=None)  # fmt: skip # noqa: E501
    fitted = stop.value.fitted
    losses = fitted.history["train_loss"]
    assert len(losses) == int(fitted.now.step) + 1
    assert np.isfinite(losses[:-1]).all()
    assert np.isnan(losses[-1])
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(fitted.params))


def test_bad_batches_are_skipped_and_counted() -> None:
    batches = batches_of(16, 6)
    spoilt = [*batches[:2], {**batches[2], "x": batches[2]["x"] * np.nan}, *batches[2:]]
    given = {"batch_size": None, "optimizer": fn.optim.sgd(0.1), "net": fn.dense(2), "metrics": None}
    got = fit(train=spoilt, steps=7, eval_every=7, not_finite="skip", **given)
    assert got.history["skipped"][-1] == 1
    same(got.params, fit(train=batches, steps=6, eval_every=6, **given).params)
    assert np.isfinite(got.history["valid_loss"]).all()
    with pytest.raises(
        fn.train.DivergedError, match=r"at step 2 the loss is nan: the batch came with numbers.* x\."
    ):
        fit(train=spoilt, steps=7, **given)
    with pytest.raises(fn.train.DivergedError, match="none of the last 3 losses is finite"):
        fit(train=[spoilt[2]], steps=3, eval_every=3, not_finite="skip", **given)
    # A gradient that is too large counts as one that is not finite.
    far = [*batches[:2], {**batches[2], "x": batches[2]["x"] * 1e6}, *batches[2:]]
    got = fit(train=far, steps=7, eval_every=7, not_finite="skip", largest_norm=100.0, **given)
    assert got.history["skipped"][-1] == 1
    assert got.history["train_gradient_norm"].argmax() == 2
    with pytest.raises(
        fn.train.DivergedError, match=r"at step 2 the gradient norm is .*, more than largest_norm"
    ):
        fit(train=far, steps=7, largest_norm=100.0, **given)


def test_debug_finds_a_nan_that_the_loss_does_not_see() -> None:
    def hidden(x: Any) -> Any:
        return x + jnp.nan_to_num(jax.lax.stop_gradient(jnp.sqrt(x - 9.0)))

    net = fn.serial(fn.dense(4), hidden, fn.dense(2))
    assert np.isfinite(fit(net=net, steps=2).history["train_loss"]).all()
    with pytest.raises(fn.train.DivergedError, match=r"the first NaN comes out of serial\['hidden_0'\]"):
        fit(net=net, steps=2, debug=True)
    same(fit(steps=2, debug=True).now, fit(steps=2).now)


def test_warnings_for_what_goes_nowhere_or_everywhere() -> None:
    with pytest.warns(fn.train.TrainingWarning, match="the loss has not moved in 3 evaluations"):
        fit(optimizer=fn.optim.sgd(0.0), steps=15)
    with pytest.warns(fn.train.TrainingWarning, match="the norm of the params has grown to"):
        fit(net=fn.dense(1), loss=fn.losses.mean_squared_error, optimizer=fn.optim.sgd(3.0), steps=20, eval_every=10,
            train={"x": DATA.train["x"], "y": DATA.train["x"][:, :1]}, valid=None, metrics=None)  # fmt: skip


def test_ctrl_c_stops_between_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def press(evaluation: Evaluation) -> None:
        if evaluation.step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    got = fit(callbacks=[press])
    assert (got.stopped, int(got.now.step)) == ("interrupted", 10)
    assert capsys.readouterr().err == "fit: stopped at step 10 of 25; nothing was saved\n"
    assert signal.getsignal(signal.SIGINT) is before

    def press_twice(evaluation: Evaluation) -> None:
        press(evaluation)
        press(evaluation)

    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[press_twice])
    assert signal.getsignal(signal.SIGINT) is before
    # Outside the main thread there is no Ctrl-C, and no error.
    ends: list[str] = []
    thread = threading.Thread(target=lambda: ends.append(fit(steps=2).stopped))
    thread.start()
    thread.join()
    assert ends == ["finished"]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_a_run_that_was_stopped_ends_with_the_same_bits(
    whole: fn.train.Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, given = (
        tmp_path / "runs" / "a",
        {"patience": 9, "reduce_on_plateau": fn.optim.reduce_on_plateau(0.5, 1)},
    )
    wanted = fit(**given)

    def press(evaluation: Evaluation) -> None:
        if evaluation.step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    def break_down(evaluation: Evaluation) -> None:
        if evaluation.step == 20:
            raise RuntimeError("power cut")

    stopped = fit(folder=folder, callbacks=[press], **given)
    assert (stopped.stopped, fn.train.checkpoint.steps(folder / "checkpoints")) == ("interrupted", [0, 10])
    assert f"fit(..., folder='{folder}', resume=True) goes on there" in capsys.readouterr().err
    with pytest.raises(fn.train.CheckpointError, match=r"has a checkpoint of step 10: pass resume=True"):
        fit(folder=folder)
    # It breaks down behind a checkpoint in the middle of an epoch, and behind a line of history that is to come again.
    with pytest.raises(RuntimeError, match="power cut"):
        fit(folder=folder, callbacks=[break_down], checkpoint_every=18, resume=True, **given)
    assert [line["step"] for line in lines(folder)] == [5, 10, 15, 20]
    got = fit(folder=folder, resume="auto", **given)
    same((got.now, got.params, got.best), (wanted.now, wanted.params, wanted.best))
    for name in ("train_loss", "train_accuracy", "valid_loss", "eval_step", "params_norm"):
        np.testing.assert_array_equal(got.history[name], wanted.history[name], err_msg=name)
    assert [line["step"] for line in lines(folder)] == [5, 10, 15, 20, 25]
    assert [line["valid_loss"] for line in lines(folder)] == got.history["valid_loss"].tolist()
    mean = got.history["train_loss"][15:20].mean()
    assert lines(folder)[3]["train_loss"] == pytest.approx(mean, rel=1e-6)
    # Finished: nothing is left to do, but more steps may be asked for.
    same(fit(folder=folder, resume=True, **given).now, wanted.now)
    assert int(fit(folder=folder, resume=True, **(given | {"steps": 30})).now.step) == 30


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(folder=tmp_path, steps=5)
    again = {"folder": tmp_path, "resume": True, "steps": 6}
    other = {**DATA.train, "x": DATA.train["x"] + 1}
    for given, message in (
        ({"key": 1}, "is of another run: key was"),
        ({"batch_size": 8}, "another run: batch_size was 16, and is 8"),
        ({"train": other}, "another run: digest was"),
        ({"optimizer": fn.optim.sgd(0.1)}, "another network or optimizer wrote it"),
        ({"net": fn.dense(2)}, "another network or optimizer wrote it"),
    ):
        with pytest.raises(fn.train.CheckpointError, match=message):
            fit(**again, **given)
    with pytest.raises(fn.train.CheckpointError, match=r"resume=True, and .* has no checkpoint"):
        fit(folder=tmp_path / "new", resume=True)
    assert int(fit(**again).now.step) == 6


def test_the_position_in_a_stream_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    fn.data.save_arrays(tmp_path / "data", DATA.train)

    def stream() -> Any:
        return fn.data.stream(fn.data.open_arrays(tmp_path / "data"), 16, seed=3)

    given = {
        "batch_size": None, "steps": None, "eval_every": 4,
        "valid": fn.data.stream(DATA.valid, 7, shuffle=False, epochs=1),
    }  # fmt: skip
    wanted = fit(train=stream(), epochs=3, **given)
    np.testing.assert_allclose(wanted.history["epoch"], [0.8, 1.6, 2.4, 3])
    scores = fn.train.evaluate(NET, {"loss": LOSS}, wanted.params, wanted.state, DATA.valid)
    assert wanted.history["valid_loss"][-1] == pytest.approx(float(scores["loss"]), rel=1e-5)

    def break_down(evaluation: Evaluation) -> None:
        if evaluation.step == 12:
            raise RuntimeError("power cut")

    given |= {"folder": tmp_path / "run"}
    with pytest.raises(RuntimeError, match="power cut"):
        fit(train=stream(), epochs=3, callbacks=[break_down], checkpoint_every=7, **given)
    got = fit(train=stream(), epochs=3, resume=True, **given)
    same(got.now, wanted.now)
    # Plain iterables have no position to come back to.
    with pytest.raises(ValueError, match="get_state"):
        fit(train=batches_of(16, 3), **(given | {"steps": 3, "folder": tmp_path / "other"}))


def test_tensorboard_has_the_numbers(whole: fn.train.Fitted, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    fit(callbacks=[fn.train.tensorboard(tmp_path)])
    content, found = next(tmp_path.iterdir()).read_bytes(), {}
    while content:  # length, checksum, event, checksum
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        content = content[16 + size :]
    got = [found["valid_loss", step] for step in whole.history["eval_step"]]
    np.testing.assert_allclose(got, whole.history["valid_loss"], rtol=1e-6)


def test_a_bar_with_what_one_wants_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    fit(progress=True, optimizer=fn.optim.adam, learning_rate=0.05)
    shown = capsys.readouterr().err
    for part in (
        "epoch 5.0",
        "25/25",
        "loss 0.",
        "valid_loss 0.",
        "learning_rate 0.05",
        "examples/s",
        "left",
    ):
        assert part in shown
    fit(steps=1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"epochs": 3}, ValueError, "epochs=3, steps=25, wanted one of the two"),
        ({"steps": None}, ValueError, "epochs=None, steps=None, wanted one"),
        ({"steps": 0}, ValueError, "steps=0, wanted at least 1"),
        ({"batch_size": 1.5}, TypeError, "batch_size=1.5, wanted a positive int"),
        ({"batch_size": 81}, ValueError, "batch_size=81, wanted 80 at most"),
        ({"patience": 0}, ValueError, "patience=0"),
        ({"accumulate": 0}, ValueError, "accumulate=0"),
        ({"eval_batch_size": 0}, ValueError, "eval_batch_size=0"),
        ({"not_finite": "ignore"}, ValueError, 'not_finite=\'ignore\', wanted "stop" or "skip"'),
        ({"resume": True}, ValueError, "want a folder"),
        ({"resume": "maybe"}, ValueError, "resume='maybe', wanted True, False or \"auto\""),
        ({"checkpoint_every": 5}, ValueError, "want a folder"),
        ({"dtype": jnp.float16}, ValueError, "float16 wants a scaled loss"),
        (
            {"monitor": "valid_f1"},
            ValueError,
            "monitor='valid_f1', wanted one of train_loss, train_accuracy, valid_",
        ),
        (
            {"monitor": "valid_f", "metrics": {"f": fn.metrics.accuracy}},
            ValueError,
            "pass maximize=True or maximize=False",
        ),
        ({"monitor": "valid_loss", "valid": None}, ValueError, "wanted one of train_loss, train_accuracy"),
        ({"optimizer": fn.optim.adam}, TypeError, "pass learning_rate="),
        ({"learning_rate": 0.1}, TypeError, "learning_rate is for a maker of an optimizer"),
        ({"optimizer": 0.1}, TypeError, "optimizer=0.1, wanted"),
        ({"train": 3, "batch_size": None}, TypeError, "train is 3, wanted a dict of x and y, or an iterable"),
        ({"train": []}, ValueError, "batch_size is for train in memory"),
        ({"train": [], "batch_size": None}, ValueError, "train has no batches"),
        ({"train": [1], "batch_size": None}, ValueError, "a batch of train is 1, wanted a dict with x and y"),
        ({"train": [DATA.train], "batch_size": None, "steps": None, "epochs": 1}, ValueError, "pass steps="),
        ({"valid": {"x": 1}}, ValueError, "valid is"),
        ({"valid": iter([])}, ValueError, "valid has no batches left"),
        ({"metrics": {"loss": fn.metrics.accuracy}}, ValueError, "metrics has"),
        ({"class_weights": [-1.0, 1.0]}, ValueError, "class_weighted: weights"),
    ],
)
def test_arguments_that_make_no_sense(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(**given)
