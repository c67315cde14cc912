"""`fit` beside `make_run`, beside loops by hand, stopped and resumed."""

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
from fnnet.train.fit import source_in_memory
from tests.arrays import close, equal, normal

LOSS = fn.losses.softmax_cross_entropy
ACCURACY = {"accuracy": fn.metrics.accuracy}
NET = fn.serial(fn.dense(8), fn.tanh, fn.dropout(0.2), fn.dense(2))


def noisy(n: int, seed: int) -> dict[str, Any]:
    """Examples of two classes that overlap."""
    x = normal(n, 2, seed=seed)
    return {"x": x, "y": (x[:, 0] + x[:, 1] ** 2 + normal(n, seed=seed + 1) > 1).astype(np.int32)}


DATA = fn.data.Dataset(noisy(80, 0), valid=noisy(20, 5))
# Where the network does not matter: what compiles fastest.
SMALL: dict[str, Any] = {
    "net": fn.dense(2), "initial": ({"w": normal(2, 2), "b": np.zeros(2, np.float32)}, {}),
    "optimizer": fn.optim.sgd(0.1), "valid": None, "metrics": None,
}  # fmt: skip


def fit(**given: Any) -> fn.train.Fitted:
    """A run of 25 steps, five an epoch, unless it is said otherwise."""
    settings: dict[str, Any] = {
        "net": NET, "loss": LOSS, "optimizer": fn.optim.adam(0.05), "train": DATA.train, "valid": DATA.valid,
        "steps": 25, "batch_size": 16, "metrics": ACCURACY, "progress": False,
    }  # fmt: skip
    return fit_function(**(settings | given))


@pytest.fixture(scope="module")
def unbroken() -> fn.train.Fitted:
    return fit()


def test_it_computes_what_make_run_does(unbroken: fn.train.Fitted) -> None:
    run = fn.train.make_run(NET, LOSS, fn.optim.adam, steps=25, batch_size=16, metrics=ACCURACY, eval_every=5)
    wanted = jax.jit(run)(jax.random.key(0), DATA, {"learning_rate": 0.05})
    close(unbroken.params, wanted.params, rtol=1e-6, atol=1e-7)
    names = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "eval_step")
    histories = ({name: history[name] for name in names} for history in (unbroken.history, wanted.history))
    close(*histories, rtol=1e-6, atol=1e-7)
    assert unbroken.stopped == "finished"
    assert int(unbroken.now.step) == 25
    np.testing.assert_array_equal(unbroken.history["epoch"], [1, 2, 3, 4, 5])
    assert np.all(np.diff(unbroken.history["seconds"]) > 0)
    assert np.all(unbroken.history["examples_per_second"] > 0)
    norm = math.sqrt(sum(np.sum(np.square(np.asarray(p))) for p in jax.tree.leaves(unbroken.params)))
    np.testing.assert_allclose(unbroken.history["params_norm"][-1], norm, rtol=1e-6)


@pytest.mark.slow
def test_same_seed_same_bits_however_the_steps_are_cut(
    unbroken: fn.train.Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_in_memory, "CAPACITY", 2)
    again = fit(key=jax.random.key(0))
    equal(again.now, unbroken.now)
    equal(again.history["train_loss"], unbroken.history["train_loss"])


@pytest.mark.slow
def test_all_that_watches_a_run_changes_nothing(
    unbroken: fn.train.Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboardX.proto.event_pb2 import Event

    seen: list[Evaluation] = []
    watching = [fn.train.tensorboard(tmp_path), seen.append]
    got = fit(optimizer=fn.optim.adam, learning_rate=0.05, progress=True, callbacks=watching)
    equal(got.now, unbroken.now)
    np.testing.assert_allclose(got.history["learning_rate"], 0.05)
    # The bar has what one wants to know.
    shown = capsys.readouterr().err
    for part in ("epoch 5.0", "25/25", "loss 0.", "valid_loss 0.", "valid_accuracy 0.", "learning_rate 0.05",
                 "examples/s", "0:00 left"):  # fmt: skip
        assert part in shown
    # Evaluations are functions of the state, not overwritten by the steps that followed.
    assert [evaluation.step for evaluation in seen] == [5, 10, 15, 20, 25]
    assert seen[1].epoch == 2
    assert seen[1].row["valid_loss"] == unbroken.history["valid_loss"][1]
    equal(seen[-1].params, got.params)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(seen[0].params))
    # TensorBoard has the numbers.
    content, found = next(tmp_path.iterdir()).read_bytes(), {}
    while content:  # length, checksum, event, checksum
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        content = content[16 + size :]
    written = [found["valid_loss", step] for step in unbroken.history["eval_step"]]
    np.testing.assert_allclose(written, unbroken.history["valid_loss"], rtol=1e-6)


@pytest.mark.slow
def test_a_line_for_each_evaluation_without_a_terminal(
    unbroken: fn.train.Fitted, capsys: pytest.CaptureFixture[str]
) -> None:
    other = fit(key=1, progress=None)
    losses = other.history["train_loss"].reshape(5, 5).mean(1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5
    for i, line in enumerate(said):
        assert line.startswith(f"step {5 * i + 5}/25  epoch {i + 1}.0  loss {losses[i]:.4f}  valid_loss ")
        assert f"valid_accuracy {other.history['valid_accuracy'][i]:.4f}" in line
        assert " passed, " in line
        assert line.endswith(" left")
    with pytest.raises(AssertionError):  # another key, another run
        equal(other.params, unbroken.params)
    fit(steps=1, **SMALL)  # progress=False
    assert capsys.readouterr().err == ""


def by_hand(batches: list[Any], step: Any, optimizer: Any) -> Any:
    """A loop of compiled steps."""

    def begin(key: Any) -> Any:
        init, _, steps = jax.random.split(key, 3)
        return fn.train.start(NET, optimizer, init, batches[0]["x"]), steps

    now, key = jax.jit(begin)(jax.random.key(0))
    compiled = jax.jit(lambda now, batch: step(now, batch, jax.random.fold_in(key, now.step))[0])
    for batch in batches:
        now = compiled(now, batch)
    return now


def batches_of(size: int, count: int) -> list[Any]:
    order = np.random.default_rng(0).integers(0, 80, (count, size))
    return [{name: a[i] for name, a in DATA.train.items()} for i in order]


@pytest.mark.slow
def test_batches_of_an_iterable_beside_a_loop_by_hand() -> None:
    batches, optimizer = batches_of(16, 7), fn.optim.adam(0.05)
    twice = [*batches, *batches[:3]]
    wanted = by_hand(twice, fn.train.make_step(NET, LOSS, optimizer), optimizer)
    given = {"batch_size": None, "eval_every": 3, "valid": [DATA.valid, DATA.valid]}
    got = fit(train=batches, steps=10, **given)  # an iterable starts again
    close(got.params, wanted.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.history["eval_step"], [3, 6, 9, 10])
    assert np.isnan(got.history["epoch"]).all()
    # An iterator gives each batch once, the first included.
    equal(fit(train=iter(twice), steps=10, **given).now, got.now)
    with pytest.raises(ValueError, match="train ended after 7 batches"):
        fit(train=iter(batches), steps=8, batch_size=None, **SMALL)
    # Batches of two sizes.
    two_sizes = fit(train=[*batches, batches_of(3, 1)[0]], steps=8, batch_size=None, **SMALL)
    assert int(two_sizes.now.step) == 8


@pytest.mark.slow
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
    close(got.params, wanted.params, rtol=1e-4, atol=1e-6)
    assert got.best is None
    np.testing.assert_allclose(got.history["learning_rate"], 0.05)
    assert got.history["train_penalty"].shape == (6,)


@pytest.mark.slow
def test_half_precision_keeps_float32_params(unbroken: fn.train.Fitted) -> None:
    half = fit(dtype=jnp.bfloat16)
    assert {p.dtype for p in jax.tree.leaves((half.params, half.now.opt_state))} == {
        np.dtype("float32"),
        np.dtype("int32"),
    }
    difference = np.abs(half.history["train_loss"] - unbroken.history["train_loss"])
    assert 1e-4 < difference.max() < 0.1


def test_initial_params(unbroken: fn.train.Fitted) -> None:
    initial = (unbroken.params, unbroken.state)
    got = fit(initial=initial, optimizer=fn.optim.sgd(0.0), steps=1, valid=None, metrics=None)
    equal(got.params, unbroken.params)
    assert not any(p.is_deleted() for p in jax.tree.leaves(initial))  # what was given is not donated


def test_patience_restores_the_best() -> None:
    seen: list[Evaluation] = []
    # Too large a rate: the loss goes up and down.
    given = {"optimizer": fn.optim.sgd(2.0), "callbacks": [seen.append]}
    got = fit(steps=500, eval_every=1, patience=4, **given)
    losses = got.history["valid_loss"]
    best = int(np.argmin(losses))
    assert got.stopped == "patience"
    assert len(losses) == best + 1 + 4 < 500
    assert got.best is not None
    assert (got.best.step, got.best.value) == (best + 1, losses[best])
    equal(got.params, got.best.params)
    equal(got.params, seen[best].params)
    # Of accuracy, more is better; the best is kept without patience, too, and the last is returned.
    got = fit(eval_every=1, monitor="valid_accuracy")
    assert got.best is not None
    assert got.best.step == 1 + int(np.argmax(got.history["valid_accuracy"]))
    equal(got.params, got.now.params)


@pytest.mark.slow
def test_the_rate_falls_on_a_plateau() -> None:
    plateau = fn.optim.reduce_on_plateau(0.5, patience=2)
    got = fit(
        optimizer=fn.optim.sgd, learning_rate=4.0, steps=30, eval_every=1, reduce_on_plateau=plateau,
        metrics=None,
    )  # fmt: skip
    rule = optax.contrib.reduce_on_plateau(factor=0.5, patience=2)
    scales = scales_of(rule, got.history["valid_loss"])
    assert min(scales) < 0.5
    np.testing.assert_allclose(got.history["learning_rate"], 4.0 * np.array(scales[:-1]))
    np.testing.assert_allclose(got.now.opt_state[1].scale, scales[-1])
    # The updates are scaled: the gradient is 1, and the validation loss rises.
    rising, falling = ({"x": np.full((16, 1), a, np.float32), "y": np.zeros(16)} for a in (-1, 1))
    got = fit(
        net=fn.dense(1, use_bias=False, w_init=fn.initializers.zeros), loss=lambda p, y: p[:, 0], train=falling,
        valid=rising, optimizer=fn.optim.sgd(1.0), steps=9, eval_every=1, reduce_on_plateau=plateau, metrics=None,
    )  # fmt: skip
    scales = scales_of(rule, got.history["valid_loss"])
    assert min(scales) < 0.5
    np.testing.assert_allclose(got.history["train_loss"], -np.cumsum([0, *scales[:-2]]))


def scales_of(rule: Any, losses: Any) -> list[float]:
    """The scales of optax's rule before the first loss and after each."""
    state, scales = rule.init({}), [1.0]
    for loss in losses:
        _, state = rule.update({}, state, value=np.float32(loss))
        scales.append(float(state.scale))
    return scales


def test_a_rate_in_the_optimizers_state_is_shown(unbroken: fn.train.Fitted) -> None:
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    optimizer = optax.inject_hyperparams(fn.optim.adam)(schedule)
    got = fit(**SMALL | {"optimizer": optimizer, "steps": 10, "eval_every": 5})
    np.testing.assert_allclose(got.history["learning_rate"], [0.06, 0.01], rtol=1e-6)  # of steps 4 and 9
    assert "learning_rate" not in unbroken.history


def test_a_callback_ends_the_training() -> None:
    called: list[int] = []
    stop = [lambda evaluation: evaluation.step == 15, lambda evaluation: called.append(evaluation.step)]
    got = fit(callbacks=stop, **SMALL)
    assert (got.stopped, int(got.now.step)) == ("callback", 15)
    assert called == [5, 10, 15]  # all are called, the last time too


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


@pytest.mark.slow
def test_bad_batches_are_skipped_and_counted() -> None:
    batches = batches_of(16, 6)
    nan, far = ({**batches[2], "x": batches[2]["x"] * factor} for factor in (np.float32("nan"), 1e6))
    given = {**SMALL, "batch_size": None, "valid": DATA.valid}
    wanted = fit(train=batches, steps=6, eval_every=6, **given)
    # A gradient that is too large counts as one that is not finite.
    spoilt = [*batches[:2], nan, far, *batches[2:]]
    got = fit(train=spoilt, steps=8, eval_every=8, not_finite="skip", largest_norm=100.0, **given)
    assert got.history["skipped"][-1] == 2
    equal(got.params, wanted.params)
    assert np.isfinite(got.history["valid_loss"]).all()
    assert np.nanargmax(got.history["train_gradient_norm"]) == 3
    assert np.isnan(got.history["train_gradient_norm"][2])
    with pytest.raises(
        fn.train.DivergedError,
        match=r"at step 2 the loss is nan: the batch had numbers .* before the step, in x\.",
    ):
        fit(train=[*batches[:2], nan], steps=3, **given)
    with pytest.raises(
        fn.train.DivergedError, match=r"at step 2 the gradient norm is .*, more than largest_norm"
    ):
        fit(train=[*batches[:2], far], steps=3, largest_norm=100.0, **given)
    with pytest.raises(fn.train.DivergedError, match="none of the last 3 losses is finite"):
        fit(train=[nan], steps=3, eval_every=3, not_finite="skip", **given)


@pytest.mark.slow
def test_debug_finds_a_nan_that_the_loss_does_not_see() -> None:
    def hidden(x: Any) -> Any:
        return x + jnp.nan_to_num(jax.lax.stop_gradient(jnp.sqrt(x - 9.0)))

    given = SMALL | {"net": fn.serial(fn.dense(2), hidden), "initial": None, "steps": 2}
    assert np.isfinite(fit(**given).history["train_loss"]).all()
    with pytest.raises(fn.train.DivergedError, match=r"the first NaN comes out of serial\['hidden_0'\]"):
        fit(debug=True, **given)
    given = SMALL | {"steps": 2}
    equal(fit(debug=True, **given).now, fit(**given).now)


@pytest.mark.slow
def test_warnings_for_what_goes_nowhere_or_everywhere() -> None:
    with pytest.warns(fn.train.TrainingWarning, match="the loss has not moved in 3 evaluations"):
        fit(**SMALL | {"optimizer": fn.optim.sgd(0.0), "steps": 15})
    with pytest.warns(fn.train.TrainingWarning, match="the norm of the params has grown to"):
        fit(net=fn.dense(1), loss=fn.losses.mean_squared_error, optimizer=fn.optim.sgd(3.0), steps=20, eval_every=10,
            train={"x": DATA.train["x"], "y": DATA.train["x"][:, :1]}, valid=None, metrics=None)  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_stops_between_two_steps(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def press(evaluation: Evaluation) -> None:
        if evaluation.step == 10:
            os.kill(os.getpid(), signal.SIGINT)

    got = fit(callbacks=[press], **SMALL)
    assert (got.stopped, int(got.now.step)) == ("interrupted", 10)
    assert capsys.readouterr().err == "fit: stopped at step 10 of 25; nothing was saved\n"
    assert signal.getsignal(signal.SIGINT) is before

    def press_twice(evaluation: Evaluation) -> None:
        press(evaluation)
        press(evaluation)

    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[press_twice], **SMALL)
    assert signal.getsignal(signal.SIGINT) is before
    # Outside the main thread there is no Ctrl-C, and no error.
    ends: list[str] = []
    thread = threading.Thread(target=lambda: ends.append(fit(**SMALL | {"steps": 2}).stopped))
    thread.start()
    thread.join()
    assert ends == ["finished"]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_a_run_that_was_stopped_ends_with_the_same_bits(
    unbroken: fn.train.Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert f"fit(..., folder='{folder}', resume=True) resumes there" in capsys.readouterr().err
    with pytest.raises(fn.train.CheckpointError, match=r"has a checkpoint of step 10: pass resume=True"):
        fit(folder=folder)
    # It breaks down after a checkpoint in the middle of an epoch, and after a line of history that it will write again.
    with pytest.raises(RuntimeError, match="power cut"):
        fit(folder=folder, callbacks=[break_down], checkpoint_every=18, resume=True, **given)
    assert [line["step"] for line in lines(folder)] == [5, 10, 15, 20]
    got = fit(folder=folder, resume="auto", **given)
    equal((got.now, got.params, got.best), (wanted.now, wanted.params, wanted.best))
    for name in ("train_loss", "train_accuracy", "valid_loss", "eval_step", "params_norm"):
        np.testing.assert_array_equal(got.history[name], wanted.history[name], err_msg=name)
    assert [line["step"] for line in lines(folder)] == [5, 10, 15, 20, 25]
    assert [line["valid_loss"] for line in lines(folder)] == got.history["valid_loss"].tolist()
    mean = got.history["train_loss"][15:20].mean()
    assert lines(folder)[3]["train_loss"] == pytest.approx(mean, rel=1e-6)
    # Finished: nothing is left to do, but it may be given more steps.
    equal(fit(folder=folder, resume=True, **given).now, wanted.now)
    assert int(fit(folder=folder, resume=True, **(given | {"steps": 30})).now.step) == 30


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    first = SMALL | {"optimizer": fn.optim.adam(0.05), "folder": tmp_path}
    fit(steps=5, **first)
    again = first | {"resume": True, "steps": 6}
    other = {**DATA.train, "x": DATA.train["x"] + 1}
    for given, message in (
        ({"key": 1}, "is of another run: key was"),
        ({"batch_size": 8}, "another run: batch_size was 16, and is 8"),
        ({"train": other}, "another run: train has other numbers"),
        ({"optimizer": fn.optim.sgd(0.1)}, r"another run: the optimizer \(or learning_rate\) is another one"),
        (
            {"net": fn.dense(2, use_bias=False), "initial": None},
            r"another run: the network \(or dtype\) is another",
        ),
    ):
        with pytest.raises(fn.train.CheckpointError, match=message):
            fit(**again | given)
    with pytest.raises(fn.train.CheckpointError, match=r"resume=True, but .* has no checkpoint"):
        fit(**again | {"folder": tmp_path / "new"})
    assert int(fit(**again).now.step) == 6


@pytest.mark.slow
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
    evaluate = jax.jit(lambda now: fn.train.evaluate(NET, {"loss": LOSS}, now.params, now.state, DATA.valid))
    scores = evaluate(wanted.now)
    assert wanted.history["valid_loss"][-1] == pytest.approx(float(scores["loss"]), rel=1e-5)

    def break_down(evaluation: Evaluation) -> None:
        if evaluation.step == 12:
            raise RuntimeError("power cut")

    given |= {"folder": tmp_path / "run"}
    with pytest.raises(RuntimeError, match="power cut"):
        fit(train=stream(), epochs=3, callbacks=[break_down], checkpoint_every=7, **given)
    got = fit(train=stream(), epochs=3, resume=True, **given)
    equal(got.now, wanted.now)
    # Plain iterables have no position to return to.
    with pytest.raises(ValueError, match="get_state"):
        fit(train=batches_of(16, 3), **(given | {"steps": 3, "folder": tmp_path / "other"}))


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"epochs": 3}, ValueError, "epochs=3, steps=25, wanted one of the two"),
        ({"steps": None}, ValueError, "epochs=None, steps=None, wanted one"),
        ({"steps": 0}, ValueError, "steps=0, wanted at least 1"),
        ({"batch_size": 1.5}, TypeError, "batch_size=1.5, wanted a positive int"),
        ({"batch_size": 81}, ValueError, "batch_size=81, wanted at most 80, the number of examples"),
        ({"patience": 0}, ValueError, "patience=0"),
        ({"accumulate": 0}, ValueError, "accumulate=0"),
        ({"eval_batch_size": 0}, ValueError, "eval_batch_size=0"),
        ({"not_finite": "skipp"}, ValueError, "not_finite='skipp', wanted .*; did you mean 'skip'"),
        ({"resume": True}, ValueError, "need a folder"),
        ({"resume": "maybe"}, ValueError, "resume='maybe', wanted one of True, False, 'auto'"),
        ({"checkpoint_every": 5}, ValueError, "need a folder"),
        ({"dtype": jnp.float16}, ValueError, "float16 needs loss scaling"),
        (
            {"monitor": "valid_f1"},
            ValueError,
            "monitor='valid_f1', wanted one of 'train_loss', 'train_accuracy', 'valid_",
        ),
        (
            {"monitor": "valid_f", "metrics": {"f": fn.metrics.accuracy}},
            ValueError,
            "pass maximize=True or maximize=False",
        ),
        ({"monitor": "valid_loss", "valid": None}, ValueError, "wanted one of 'train_loss', 'train_acc"),
        ({"optimizer": fn.optim.adam}, TypeError, "pass learning_rate="),
        ({"learning_rate": 0.1}, TypeError, "learning_rate is for a function that makes an optimizer"),
        ({"optimizer": 0.1}, TypeError, "optimizer=0.1, wanted"),
        ({"train": 3, "batch_size": None}, TypeError, "train is 3, wanted a dict of x and y, or an iterable"),
        ({"train": []}, ValueError, "batch_size is for train in memory"),
        ({"train": [], "batch_size": None}, ValueError, "train has no batches"),
        ({"train": [1], "batch_size": None}, ValueError, "a batch of train is 1, wanted a dict with x and y"),
        ({"train": [DATA.train], "batch_size": None, "steps": None, "epochs": 1}, ValueError, "pass steps="),
        ({"valid": {"x": 1}}, ValueError, "valid is"),
        ({"valid": iter([])}, ValueError, "valid has no batches left after one evaluation"),
        ({"metrics": {"loss": fn.metrics.accuracy}}, ValueError, "metrics has"),
        ({"class_weights": [-1.0, 1.0]}, ValueError, "class_weighted: weights"),
    ],
)
def test_arguments_that_make_no_sense(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(**given)
