"""What `fit` decides as it trains, each decision a function of its arguments. Nothing is compiled here."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import optax
import pytest

from fnnet.train.fit.evaluation import make_row
from fnnet.train.fit.journal import Journal
from fnnet.train.fit.learning_rate import PlateauState, read_learning_rate
from fnnet.train.fit.pace import next_steps_per_call, steps_in_call
from fnnet.train.fit.saving import checkpoint_due
from fnnet.train.fit.settings import resolve_length, resolve_monitor
from fnnet.train.fit.stopping import is_better, still_stopped, stop_reason


@pytest.mark.parametrize(
    "given, wanted",
    [
        ({}, ""),
        ({"step": 10}, "finished"),
        ({"interrupted": True}, "interrupted"),
        ({"callback_stops": True}, "callback"),
        ({"since_best": 2}, ""),
        ({"since_best": 3}, "patience"),
        ({"since_best": 3, "evaluated": False}, ""),
        ({"since_best": 3, "patience": None}, ""),
        # The first that applies.
        ({"since_best": 3, "callback_stops": True, "step": 10, "interrupted": True}, "patience"),
        ({"callback_stops": True, "step": 10, "interrupted": True}, "callback"),
        ({"step": 10, "interrupted": True}, "finished"),
    ],
)
def test_why_training_stops(given: dict[str, Any], wanted: str) -> None:
    asked: dict[str, Any] = {
        "step": 4, "steps": 10, "evaluated": True, "since_best": 0, "patience": 3, "callback_stops": False,
        "interrupted": False,
    }  # fmt: skip
    assert stop_reason(**asked | given) == wanted


@pytest.mark.parametrize(
    "stopped, given, wanted",
    [
        ("", {}, False),
        ("interrupted", {}, False),
        ("finished", {}, True),
        ("finished", {"steps": 11}, False),
        ("patience", {}, True),
        ("patience", {"patience": 4}, False),
        ("patience", {"patience": None}, False),
        ("callback", {}, False),
        ("callback", {"has_callbacks": True}, True),
    ],
)
def test_whether_a_resumed_run_is_over(stopped: str, given: dict[str, Any], wanted: bool) -> None:
    asked: dict[str, Any] = {"step": 10, "steps": 10, "since_best": 3, "patience": 3, "has_callbacks": False}
    assert still_stopped(stopped, **asked | given) == wanted


def test_which_evaluation_is_the_best() -> None:
    nan = math.nan
    assert is_better(1.0, nan, maximize=False)
    assert is_better(1.0, 2.0, maximize=False)
    assert is_better(2.0, 1.0, maximize=True)
    for value, best, maximize in ((nan, 1.0, False), (nan, nan, True), (1.0, 1.0, True), (2.0, 1.0, False)):
        assert not is_better(value, best, maximize)


def test_the_journal_keeps_the_best_and_counts_the_others() -> None:
    journal = Journal()
    nothing: Any = SimpleNamespace(params={}, state={})
    for step, value in enumerate((math.nan, 3.0, 1.0, 2.0, math.nan)):
        journal.record_best(value, maximize=False, step=step, now=nothing)
    assert journal.best is not None
    assert (journal.best.step, journal.best.value, journal.since_best) == (2, 1.0, 2)


def test_the_journal_gives_the_steps_since_the_last_row() -> None:
    journal = Journal(chunks=[{"loss": np.array([1.0, 2.0])}, {"loss": np.array([3.0])}])
    assert journal.take_since_row()["loss"].tolist() == [1.0, 2.0, 3.0]
    journal.chunks.append({"loss": np.array([4.0])})
    assert journal.take_since_row()["loss"].tolist() == [4.0]


def test_when_a_checkpoint_is_due() -> None:
    times = {"unsaved_seconds": 1000.0, "saving_seconds": 0.1}
    assert [step for step in range(1, 10) if checkpoint_due(step, 4, **times)] == [4, 8]
    # Without a number of steps, a hundredth of the time goes into saving.
    assert not checkpoint_due(4, None, unsaved_seconds=9.9, saving_seconds=0.1)
    assert checkpoint_due(5, None, unsaved_seconds=10.1, saving_seconds=0.1)


def test_how_many_steps_a_call_takes() -> None:
    def steps(step: int, **given: Any) -> int:
        asked: dict[str, Any] = {"steps": 100, "every": (30, None), "steps_per_call": 64, "capacity": 50}
        return steps_in_call(step, **asked | given)

    assert steps(0) == 30  # up to the evaluation
    assert steps(7) == 23
    assert steps(30) == 30  # to the next one
    assert steps(95) == 5  # to the end
    assert steps(7, every=(30, 12)) == 5  # up to the checkpoint
    assert steps(0, every=(1000, None)) == 50  # what the program can take
    assert steps(0, steps_per_call=8) == 8


def test_calls_become_as_long_as_they_should_take() -> None:
    assert next_steps_per_call(1, 5.0) == 1  # the first one compiles
    assert next_steps_per_call(1, 1e-5) == 8  # not too long at once
    assert next_steps_per_call(100, 0.1) == 200
    assert next_steps_per_call(200, 0.4) == 100
    assert next_steps_per_call(200, 1000.0) == 1
    # A constant speed is found in a few calls.
    calls = [1]
    while calls[-1] != (calls[-2] if len(calls) > 1 else 0):
        calls.append(next_steps_per_call(calls[-1], 1e-3 * calls[-1]))
    assert calls == [1, 8, 64, 200, 200]


def test_how_long_to_train_and_how_often_to_evaluate() -> None:
    assert resolve_length(7, epochs=3, steps=None, eval_every=None) == (21, 7)
    assert resolve_length(7, epochs=None, steps=30, eval_every=None) == (30, 7)
    assert resolve_length(None, epochs=None, steps=30, eval_every=None) == (30, 3)
    assert resolve_length(None, epochs=None, steps=5, eval_every=None) == (5, 1)
    assert resolve_length(7, epochs=3, steps=None, eval_every=4) == (21, 4)
    with pytest.raises(ValueError, match=r"does not say how long an epoch is .*; pass steps="):
        resolve_length(None, epochs=3, steps=None, eval_every=None)


def test_what_is_monitored() -> None:
    def resolve(monitor: str | None = None, maximize: bool | None = None, has_valid: bool = True) -> Any:
        return resolve_monitor(monitor, maximize, ["accuracy", "f1"], has_valid=has_valid)

    assert resolve() == ("valid_loss", False)
    assert resolve(has_valid=False) == ("train_loss", False)
    assert resolve("valid_accuracy") == ("valid_accuracy", True)
    assert resolve("train_f1", maximize=True) == ("train_f1", True)
    assert resolve("valid_loss", maximize=True) == ("valid_loss", True)
    with pytest.raises(ValueError, match=r"monitor='valid_f1', .*: pass maximize=True or maximize=False"):
        resolve("valid_f1")
    with pytest.raises(ValueError, match="monitor='valid_accuracy', wanted one of 'train_loss', 'train_acc"):
        resolve("valid_accuracy", has_valid=False)


def test_the_learning_rate_that_is_recorded() -> None:
    half = (None, PlateauState(np.float32(0.5)))
    assert read_learning_rate(None, 0.1, 0, False) == 0.1
    assert read_learning_rate(None, lambda update: 1.0 / (1 + update), 3, False) == 0.25
    assert read_learning_rate(half, 0.1, 0, True) == 0.05
    assert read_learning_rate({"m": np.zeros(2)}, None, 0, False) is None
    # That of optax.inject_hyperparams, and not a schedule's state, which has the same name.
    injected = optax.InjectStatefulHyperparamsState(
        np.int32(0), {"learning_rate": np.float32(0.25)}, {"learning_rate": (np.int32(0),)}, None
    )
    assert read_learning_rate(injected, None, 0, False) == 0.25
    assert read_learning_rate((injected, half[1]), None, 0, True) == 0.125


def test_a_row_of_the_history() -> None:
    row = make_row(
        step=6,
        steps_per_epoch=4,
        seconds=3.0,
        examples_per_second=20.0,
        learning_rate=None,
        measured={
            "loss": np.array([1.0, np.nan, 3.0]),
            "f1": np.array([np.nan] * 3),
            "matrix": np.ones((3, 2)),
        },
        scores={"valid_loss": 2.0, "params_norm": 1.0},
        skipped=1,
    )
    assert row == {
        "step": 6, "epoch": 1.5, "seconds": 3.0, "examples_per_second": 20.0, "train_loss": 2.0, "valid_loss": 2.0,
        "params_norm": 1.0, "skipped": 1,
    }  # fmt: skip
