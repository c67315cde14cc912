"""Time to accuracy as a user runs it, tiny; no time is asserted."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.benchmarks import time_to_accuracy
from experiments.benchmarks.time_to_accuracy import (
    SIDES,
    TASKS,
    Config,
    Task,
    batches,
    first_at,
    load,
    row,
    tasks_of,
)
from tests.experiments.run_command import exit_status

# 5 of 6 right at random examples that a linear network tells apart.
TINY = Task("digits", (), (), 4, 0.1, eval_every=3, steps=12, target=0.8)


def separable(channels: bool) -> Any:
    """Two classes that differ in the sign of every pixel."""
    rng = np.random.default_rng(0)
    y = np.arange(12, dtype=np.int32) % 2
    x = ((1 - 2 * y)[:, None] * (1 + rng.random((12, 16)))).astype(np.float32)
    part = {"x": x.reshape(12, 4, 4, 1) if channels else x, "y": y}
    return {"train": part, "valid": part}


class Here:
    """Computes in this process, as a new one takes seconds to import everything."""

    def __init__(self, *args: Any, **settings: Any) -> None: ...

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *reason: object) -> None: ...

    def submit(self, f: Any, *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(f(*args))
        return done


def run(monkeypatch: pytest.MonkeyPatch, *args: Any) -> int:
    return exit_status(monkeypatch, time_to_accuracy.main, *args)


class TestSides:
    @pytest.mark.parametrize("side", ["fit", "run", "loop", "torch", "flax", "sklearn"])
    def test_reaches_the_target_on_examples_that_are_far_apart(self, side: str) -> None:
        pytest.importorskip({"loop": "jax", "run": "jax", "fit": "jax"}.get(side, side))
        task = TINY._replace(target=1.0)
        assert SIDES[side](task, separable(channels=False))(0) in (3, 6, 9, 12)

    @pytest.mark.parametrize("side", ["loop", "torch", "flax"])
    def test_a_cnn(self, side: str) -> None:
        pytest.importorskip({"loop": "jax"}.get(side, side))
        task = TINY._replace(channels=(2,), hidden=(3,), target=0.5)
        assert SIDES[side](task, separable(channels=True))(0) in (3, 6, 9, 12)

    def test_gives_up(self) -> None:
        data = separable(channels=False)
        data["valid"] = {"x": data["valid"]["x"], "y": np.full(12, 9, np.int32)}  # a class that is never seen
        assert SIDES["loop"](TINY, data)(0) is None

    def test_the_first_evaluation_that_is_good_enough(self) -> None:
        history = {"eval_step": np.array([3, 6, 9]), "valid_accuracy": np.array([0.7, 0.8, 0.9])}
        assert first_at(TINY, history) == 6
        assert first_at(TINY._replace(target=0.95), history) is None


class TestData:
    def test_an_epoch_is_a_permutation(self) -> None:
        drawn = batches(TINY, 10, seed=0)
        first, second, other = next(drawn), next(drawn), next(drawn)
        assert len(set(np.concatenate([first, second]))) == 8
        assert other.shape == (4,)
        assert (next(batches(TINY, 10, seed=0)) == first).all()

    @pytest.mark.parametrize(("channels", "shape"), [((), (1079, 64)), ((2,), (1079, 8, 8, 1))])
    def test_standardized_in_the_network_s_shape(
        self, channels: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        x = load(TINY._replace(channels=channels))["train"]["x"]
        assert x.shape == shape
        assert np.mean(x) == pytest.approx(0, abs=1e-5)
        assert np.std(x) == pytest.approx(1, abs=1e-5)


class TestTable:
    def test_median_and_range_only_where_all_seeds_reached_the_target(self) -> None:
        found = [{"seconds": s, "steps": n} for s, n in ((3.0, 8), (1.0, 16), (2.0, 8))]
        line = row("digits", "fit", found)
        assert (line["median"], line["low"], line["high"], line["reached"]) == (2.0, 1.0, 3.0, 3)
        line = row("digits", "fit", [*found, {"seconds": 9.0, "steps": None}])
        assert "median" not in line
        assert line["reached"] == 3

    def test_what_is_asked_for_instead_of_the_task_s_own(self) -> None:
        config = Config(tasks=("fashion_mnist",), target=0.93, channels=(64, 128), hidden=(256,), steps=5)
        (task,) = tasks_of(config).values()
        assert (task.target, task.channels, task.hidden, task.steps) == (0.93, (64, 128), (256,), 5)
        assert task.batch_size == TASKS["fashion_mnist"].batch_size

    def test_the_command(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(time_to_accuracy, "ProcessPoolExecutor", Here)
        monkeypatch.setattr(time_to_accuracy, "load", lambda task: separable(channels=False))
        monkeypatch.setattr(time_to_accuracy, "TASKS", {"digits": TINY})
        file = tmp_path / "found.json"
        assert run(monkeypatch, "--tasks", "digits", "--sides", "loop", "--seeds", 1, "--json", file) == 0
        found = json.loads(file.read_text())
        assert found["tasks"]["digits"]["target"] == 0.8
        assert "jax" in found["versions"]
        (line,) = found["results"]
        assert (line["side"], line["reached"], line["seeds"]) == ("loop", 1, 1)
        assert line["median"] > 0
        assert "fnnet loop" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("args", "reason"),
        [
            (("--tasks", "cifar"), "--tasks cifar is unknown, wanted one of digits, fashion_mnist"),
            (("--sides", "keras"), "--sides keras is unknown, wanted one of fit"),
            (("--seeds", "0"), "--seeds 0 is too small, wanted at least 1"),
            (("--target", "97"), "--target 97.0 is not an accuracy, wanted one in (0, 1]"),
            (("--tasks", "fashion_mnist", "--sides", "sklearn"), "nothing is left to measure"),
        ],
    )
    def test_bad_arguments(
        self,
        args: tuple[str, ...],
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run(monkeypatch, *args) == 2
        assert reason in capsys.readouterr().err
