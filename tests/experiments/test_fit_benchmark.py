"""The benchmark of fit as a user runs it, tiny; no time is asserted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fnnet as fn
from experiments.benchmarks import fit
from tests.experiments.run_command import exit_status


def run(monkeypatch: pytest.MonkeyPatch, *args: Any) -> int:
    return exit_status(monkeypatch, fit.main, *args)


@pytest.mark.slow
def test_fit_beside_the_bare_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = fn.serial(fn.flatten, fn.dense(10))
    tiny = fit.Workload(net, (2, 2, 1), train=9, valid=3, batch_size=4, epochs=5)
    monkeypatch.setattr(fit, "workloads", lambda: {"digits": tiny})
    args = ("--workloads", "digits", "--sides", fit.EVERY, "--rounds", 1, "--epochs", 2)
    assert run(monkeypatch, *args, "--json", tmp_path / "fit.json") == 0
    found = json.loads((tmp_path / "fit.json").read_text())
    bare, ours = found["results"]
    assert bare["side"] == "bare loop"
    assert bare["steps"] == ours["steps"] == 4
    assert ours["low"] <= ours["ratio"] <= ours["high"]
    assert ours["shown_bytes"] > 300  # a bar was drawn
    assert ours["ms_a_save"] > 0
    assert ours["difference"] < 1e-6  # the same steps
    assert "bare loop" in capsys.readouterr().out


def test_fits_own_checkpoints_count_as_a_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short measurement that had one is charged what a long one would have been."""
    losses = np.ones(10)
    monkeypatch.setattr(fit, "bare_loop", lambda work, data: lambda: fit.Timed(1.0, losses, [], 0))
    monkeypatch.setattr(fit, "fit_as", lambda side, work, data: lambda: fit.Timed(3.0, losses, [1.5, 0.5], 0))
    work = fit.workloads()["digits"]._replace(train=64, valid=1)
    rows = list(fit.measure("digits", work, (fit.DEFAULT, fit.EVERY), rounds=1))
    assert [row.get("ratio") for row in rows] == [None, pytest.approx(1.01), pytest.approx(3.0)]
    assert [row.get("met") for row in rows] == [None, True, None]
    assert rows[1]["ms_a_save"] == 1000.0


def test_losses_that_differ_end_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"workload": "mlp", "side": fit.DEFAULT, "us_a_step": 1.0, "difference": np.nan}
    monkeypatch.setattr(fit, "measure", lambda *args: [row])
    assert run(monkeypatch, "--workloads", "mlp") == 1
    assert "mlp, bar, folder: the losses differ by nan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--workloads", "gpt"), "--workloads gpt is unknown, wanted one of mlp, cnn, digits"),
        (("--sides", "none"), "--sides none is unknown, wanted one of alone, "),
        (("--rounds", 0), "--rounds 0 is too small"),
        (("--epochs", 0), "--epochs 0 is too small"),
    ],
)
def test_a_bad_value_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: Any, said: str
) -> None:
    assert run(monkeypatch, *args) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
