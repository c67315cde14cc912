"""The sweep of digits and the benchmark of sweeps as a user runs them, tiny; no time is asserted."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import sweep
from experiments.benchmarks import sweeps
from tests.experiments.run_command import exit_status

SMALL = ("--widths", 2, 3, "--trials", 4, "--seeds", 2, "--steps", 2, "--batch-size", 8)


def run(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *args: Any) -> int:
    return exit_status(monkeypatch, main, *args, columns=120)


@pytest.mark.slow
def test_a_small_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--widths", 2, "--trials", 1, "--seeds", 1, "--steps", 1, "--batch-size", 8)
    assert run(monkeypatch, sweep.main, *sizes, "--out", tmp_path / "out") == 0
    assert "width 2: vmap" in capsys.readouterr().out
    names = {
        "config.json",
        "parallel_coordinates.png",
        "runs.csv",
        "sensitivity.png",
        "sweep.json",
        "width-2",
    }
    assert {p.name for p in (tmp_path / "out").iterdir()} == names


@pytest.mark.slow
def test_a_sweep_and_its_resumption(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, sweep.main, *SMALL, "--out", out) == 0
    assert "width 3: vmap" in capsys.readouterr().out
    names = {
        "config.json",
        "parallel_coordinates.png",
        "runs.csv",
        "sensitivity.png",
        "sweep.json",
        "width-2",
        "width-3",
    }
    assert {p.name for p in out.iterdir()} == names
    with (out / "runs.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 2 * 4 * 2
    assert [int(row["width"]) for row in rows] == [2] * 8 + [3] * 8
    said = json.loads((out / "sweep.json").read_text())
    means = np.array([float(row["score"]) for row in rows]).reshape(8, 2).mean(axis=1)
    assert said["best"]["trial"] == means.argmin()
    assert said["best"]["mean"] == pytest.approx(means.min(), rel=1e-6)
    assert said["config"]["steps"] == 2
    assert {"device", "versions", "git_revision"} <= said["environment"].keys()

    before = (out / "runs.csv").read_bytes()
    (out / "width-2" / "rung0-chunk00003.npz").unlink()
    assert run(monkeypatch, sweep.main, *SMALL, "--resume", out) == 0
    assert (out / "runs.csv").read_bytes() == before
    assert run(monkeypatch, sweep.main, *SMALL, "--steps", 3, "--resume", out) == 2
    assert "holds another sweep" in capsys.readouterr().err


def test_a_grid_of_the_next_smaller_square() -> None:
    values, trials = sweep.space(sweep.Config(search="grid", trials=8, learning_rates=(0.01, 1.0)))
    assert trials is None
    np.testing.assert_allclose(values["learning_rate"], [0.01, 1.0])
    values, trials = sweep.space(sweep.Config(trials=8))
    assert trials == 8
    assert values["weight_decay"].kind == "log_uniform"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--widths", 8, 0), "--widths 0 is too small"),
        (("--seeds", 0), "--seeds 0 is too small"),
        (("--learning-rates", 0.1, 0.1), "--learning-rates 0.1 0.1, wanted two positive numbers"),
        (("--weight-decays", 0, 0.1), "--weight-decays 0.0 0.1, wanted two positive numbers"),
        (("--halving", 21), "--halving 21, wanted at least 2, and at most the 20 trials"),
        (("--devices", 1000), "--devices 1000 are more than the"),
        (("--batch-size", 5000), "--batch-size 5000 is more than the 1079 training examples"),
        (("--resume", "not/there"), "--resume not/there is not a folder"),
        (
            ("--resume", "tests"),
            "--resume tests has no config.json, wanted the folder of an interrupted sweep",
        ),
        (("--resume", ".", "--out", "new"), "got --out and --resume, wanted one of them"),
        (("--out", "."), "--out . exists already"),
        (("--out", "README.md/new"), "Not a directory"),
        (("--out", "gs://bucket/new"), "--out='gs:/bucket/new' is an address, wanted a path of this machine"),
        (("--search", "bayes"), "--search"),
    ],
)
def test_a_bad_value_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[Any, ...], said: str
) -> None:
    assert run(monkeypatch, sweep.main, *args) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


class TestBenchmark:
    @pytest.mark.slow
    def test_tables_and_json(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sweeps, "fresh_seconds", lambda config, runs: 0.5)
        args = (
            "--runs",
            4,
            "--counts",
            1,
            "--epochs",
            1,
            "--rounds",
            1,
            "--no-torch",
            "--json",
            tmp_path / "out",
        )
        assert run(monkeypatch, sweeps.main, *args, "--optimizer", "sgd") == 0
        said = json.loads((tmp_path / "out").read_text())
        assert said["beside_torch"]["runs"] == 4
        assert 0 < said["beside_torch"]["median_valid_loss"]["fnnet"] < 2.5
        assert [row["runs"] for row in said["growth"]] == [1]
        assert "By the number of runs" in capsys.readouterr().out

    def test_the_fresh_process_runs_the_same_sweep(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        calls = []
        monkeypatch.setattr(sweeps.fn.train, "sweep", lambda *args, **more: calls.append((args, more)))
        assert run(monkeypatch, sweeps.main, "--fresh", "--runs", 9) == 0
        assert float(capsys.readouterr().out) >= 0
        ((_, _, rates), more), *_ = calls
        assert (len(rates["learning_rate"]), more["seeds"]) == (3, 3)

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("--runs", 8), "--runs 8 is not a square"),
            (("--counts", 1, 3), "--counts 3 is not a square"),
            (("--epochs", 0), "--epochs 0 is too small"),
        ],
    )
    def test_a_bad_value_is_one_line(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        args: tuple[Any, ...],
        said: str,
    ) -> None:
        assert run(monkeypatch, sweeps.main, *args) == 2
        assert said in capsys.readouterr().err
