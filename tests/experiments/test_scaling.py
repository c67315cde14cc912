"""The scaling experiment as a user runs it, tiny; no time is asserted."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fnnet as fn
from experiments import scaling
from tests.experiments.run_command import exit_status


def run(monkeypatch: pytest.MonkeyPatch, *args: Any) -> int:
    return exit_status(monkeypatch, scaling.main, *args)


@pytest.mark.slow
def test_every_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling, "network", lambda model: fn.serial(fn.flatten, fn.dense(10)))
    sizes = ("--batch-size", 4, "--batch-sizes", 2, "--runs", 1, "--runs-batch-size", 2, "--steps", 1)
    assert run(monkeypatch, *sizes, "--devices", 1, "--out", tmp_path / "out") == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("scaling.json", "scaling.csv", "scaling.png"),
    }
    found = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert found["config"]["batch_sizes"] == [2]
    assert found["versions"]["jax"] == jax.__version__
    assert [(row["what"], row["value"]) for row in found["results"]] == [
        *(("devices", 1), ("batch_size", 2), ("runs", 1)),
    ]
    assert all(row["examples_per_second"] > 0 for row in found["results"])


class TestManyDevices:
    @pytest.fixture(autouse=True)
    def _speeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Four devices that are 1, 1.5 and 2 times as fast as one; 10 examples a second for each of a batch."""
        speeds = {1: 100.0, 2: 150.0, 4: 200.0}
        monkeypatch.setattr(scaling, "devices", lambda *args, **options: 4 * jax.devices()[:1])

        def by_fit(config: Any, batch_size: int, found: Any) -> tuple[float, np.ndarray]:
            losses = np.array([2.0, 1.0]) + (self.off if len(found) == 4 else 0.0)
            return speeds[len(found)] if batch_size == config.batch_size else 10.0 * batch_size, losses

        monkeypatch.setattr(scaling, "by_fit", by_fit)
        monkeypatch.setattr(scaling, "by_vmap", lambda config, runs: 7.0)

    off = 0.0

    def test_numbers(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(monkeypatch, "--out", tmp_path / "out") == 0
        with (tmp_path / "out" / "scaling.csv").open() as f:
            rows = list(csv.DictReader(f))
        shares = {(row["what"], int(row["value"])): float(row["share_of_ideal"]) for row in rows}
        assert [shares["devices", n] for n in (1, 2, 4)] == [1, 0.75, 0.5]
        assert [shares["batch_size", n] for n in (16, 64, 1024)] == [1, 1, 1]
        assert shares["runs", 4] == 0.25
        assert {row["off_by"] for row in rows if row["what"] == "devices"} == {"0.0"}
        assert "the devices share one CPU: this shows correctness, not speed" in capsys.readouterr().out

    @pytest.mark.parametrize("off", [1e-3, np.nan])
    def test_losses_that_differ(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], off: float
    ) -> None:
        monkeypatch.setattr(TestManyDevices, "off", off)
        assert run(monkeypatch, "--out", tmp_path / "out") == 1
        assert "on 4 devices the losses differ from those on one device by" in capsys.readouterr().out
        assert (tmp_path / "out" / "scaling.png").is_file()

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("--steps", 0), "--steps 0 is too small"),
            (("--batch-sizes", 8, 0), "--batch-sizes 0 is too small"),
            (("--runs", -1), "--runs -1 is too small"),
            (("--batch-size", 6), "--batch-size 6 is not a multiple of 4 devices"),
            (("--out", "/dev/null"), "--out /dev/null exists already"),
        ],
    )
    def test_a_bad_value_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: Any, said: str
    ) -> None:
        assert run(monkeypatch, *args) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
