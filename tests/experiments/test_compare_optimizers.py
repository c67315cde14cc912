"""The comparison with optax, run as a user runs it but small."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import fnnet as fn
from experiments import compare_optimizers
from experiments.comparison.twins import report, twin_run
from fnnet.optim import Twin
from tests.experiments.run_command import exit_status
from tests.experiments.test_report import differing, make_result


def run(monkeypatch: pytest.MonkeyPatch, *args: Any) -> int:
    return exit_status(monkeypatch, compare_optimizers.main, *args)


SMALL = ("--seeds", 2, "--steps", 20, "--learning-rates", 0.1, 0.01, "--optimizers", "adam")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small run."""
    out = tmp_path_factory.mktemp("runs") / "report"
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, *SMALL, "--out", out) == 0
    return out


@pytest.mark.xdist_group("compare_optimizers")  # one run for all of them
class TestRun:
    @pytest.mark.slow
    def test_files(self, out: Path) -> None:
        names = {file.name for file in out.iterdir()}
        assert {"report.html", "results.json", "curves.csv", "race.gif"} < names
        assert (
            len([n for n in names if n.endswith(".png")])
            == len([n for n in names if n.endswith(".svg")])
            == 7
        )
        assert list(out.parent.iterdir()) == [out]  # nothing half-written is left beside it

    def test_results(self, out: Path) -> None:
        results = json.loads((out / "results.json").read_text())
        assert results["config"]["steps"] == 20
        assert results["config"]["seeds"] == 2
        assert results["versions"]["jax"] == jax.__version__
        assert results["device"].endswith(f"({jax.devices()[0].platform})")
        (row,) = results["results"]
        assert row["optimizer"] == "adam"
        assert row["best_rate"] in (pytest.approx(0.1), pytest.approx(0.01))
        assert row["ulp"] == 0
        assert row["ours"] == row["baseline"]
        assert row["update"]["ours"] > 0
        assert row["step_seconds"] > 0
        assert row["compile_ours"] > 0
        assert 0 < row["target_error"] < 1
        assert row["steps_to_target"] <= 20  # the only optimizer gets to twice its own error
        assert row["seconds_to_target"] == pytest.approx(row["steps_to_target"] * row["step_seconds"])

    @pytest.mark.slow
    def test_curves(self, out: Path) -> None:
        with (out / "curves.csv").open() as f:
            lines = list(csv.DictReader(f))
        assert len(lines) == 2 * 2 * 2 * 20  # implementations, rates, seeds, evaluations
        assert {line["learning_rate"] for line in lines} == {"0.01", "0.1"}
        for measure in ("valid_accuracy", "test_accuracy"):
            assert all(0 <= float(line[measure]) <= 1 for line in lines)
        first, last = (
            np.mean([float(r["valid_loss"]) for r in lines if r["step"] == s]) for s in ("1", "20")
        )
        assert last < first

    @pytest.mark.slow
    def test_accuracy_is_that_of_make_run(self, out: Path) -> None:
        """The same seed, data and rate give the same network as the library's own run."""
        config = compare_optimizers.Config(steps=20)
        train = fn.train.make_run(
            compare_optimizers.network(config),
            fn.losses.softmax_cross_entropy,
            fn.optim.adam,
            steps=20,
            batch_size=64,
            metrics={"accuracy": fn.metrics.accuracy},
            eval_every=1,
        )
        history = jax.jit(train)(
            jax.random.key(1), compare_optimizers.load(config), {"learning_rate": 0.1}
        ).history
        with (out / "curves.csv").open() as f:
            lines = [
                r
                for r in csv.DictReader(f)
                if (r["seed"], r["learning_rate"], r["implementation"]) == ("1", "0.1", "fnnet")
            ]
        np.testing.assert_allclose(
            [float(r["test_accuracy"]) for r in lines], history["test_accuracy"], atol=0.006
        )
        np.testing.assert_allclose([float(r["valid_loss"]) for r in lines], history["valid_loss"], rtol=1e-3)


@pytest.mark.slow
def test_two_spirals_the_default_folder_and_a_bound_that_allows_for_differences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = Twin(fn.optim.adam, lambda learning_rate: optax.adam(learning_rate, eps=1e-6))
    monkeypatch.setitem(fn.optim.TWINS, "adam", wrong)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *SMALL, "--data", "two-spirals", "--max-ulp", 1e30) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("compare_optimizers-")


@pytest.mark.slow
def test_a_cnn(tmp_path: Path) -> None:
    """In a process of its own, compiled as for a user: tests compile less, and then convolutions round differently."""
    flags = (
        "--optimizers",
        "sgd",
        "--model",
        "cnn",
        "--steps",
        "2",
        "--seeds",
        "1",
        "--learning-rates",
        "0.1",
    )
    command = [sys.executable, "-m", "experiments.compare_optimizers", *flags, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_broken_parity_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A twin with another epsilon: the report is written, and the status is 1."""
    wrong = Twin(fn.optim.adam, lambda learning_rate: optax.adam(learning_rate, eps=1e-6))
    monkeypatch.setitem(fn.optim.TWINS, "adam", wrong)
    assert run(monkeypatch, *SMALL, "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / "report.html").is_file()
    assert "parity is broken: adam" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--optimizers", "adma"), "schedule_free_adamw, muon; did you mean 'adamax' or 'adan' or 'adam'?"),
        (("--steps", "many"), "--steps: invalid literal"),
        (("--steps", 0), "--steps 0 is too small"),
        (("--seeds", -1), "--seeds -1 is too small"),
        (
            ("--batch-size", 100_000),
            "--batch-size 100000 is too large, wanted at most the 1079 training examples",
        ),
        (("--learning-rates", 0.1, -1), "--learning-rates -1.0 is not a positive number"),
        (("--learning-rates", "nan"), "--learning-rates nan is not a positive number"),
        (("--data", "mnist"), "mnist"),
        (("--model", "cnn", "--data", "two-spirals"), "--model cnn wants images"),
        (("--optimisers", "adam"), "--optimisers, adam; did you mean '--optimizers'?"),
    ],
)
def test_a_bad_value_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[Any, ...], said: str
) -> None:
    assert run(monkeypatch, *args) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_the_folder_must_be_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "--out", tmp_path) == 2
    assert "already exists" in capsys.readouterr().err


def test_help_reads_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for option in ("optimizers", "data", "model", "seeds", "learning-rates", "steps", "out"):
        assert f"--{option}" in said


class TestEnd:
    """What the command does with results; the training runs are made up."""

    @pytest.fixture(autouse=True)
    def no_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def measure_all(names: Any, *_: Any, **__: Any) -> list[Any]:
            return [differing(make_result(name)) for name in names]

        monkeypatch.setattr(compare_optimizers, "measure_all", measure_all)

    def test_nothing_is_left_when_writing_fails(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fails(*args: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(report, "draw", fails)
        assert run(monkeypatch, *SMALL, "--out", tmp_path / "out") == 2
        assert "compare_optimizers: disk full" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("args", [(), ("--problems", "banana")])
    def test_a_folder_that_cannot_be_written_ends_it_before_the_work(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        args: tuple[str, ...],
    ) -> None:
        (tmp_path / "file").touch()
        for module, name in ((compare_optimizers, "measure_all"), (compare_optimizers.ladder, "run")):
            monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("it computed"))
        assert run(monkeypatch, "--optimizers", "adam", *args, "--out", tmp_path / "file" / "out") == 2
        assert "Not a directory" in capsys.readouterr().err

    def test_differences_give_status_1(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(report, "write", lambda folder, *_: (folder / "report.html").touch())
        assert run(monkeypatch, *SMALL, "--out", tmp_path / "out") == 1
        assert (tmp_path / "out" / "report.html").is_file()
        said = capsys.readouterr()
        assert "parity is broken: adam" in said.err
        *lines, path_of_report = said.out.splitlines()
        assert max(map(len, lines)) <= 80
        assert path_of_report.endswith("report.html")


class TestDifference:
    difference = staticmethod(jax.jit(twin_run.difference))

    def test_equal_trees(self) -> None:
        tree = {"a": np.array([1.0, np.nan, np.inf, 0.0], np.float32)}
        assert self.difference(tree, tree) == (0, 0)

    def test_one_unit_in_the_last_place(self) -> None:
        a = np.array([1.0, -3.0, 1e-30], np.float32)
        b = np.nextafter(a, np.full_like(a, np.inf))
        distance, ulp = self.difference(a, b)
        assert ulp == 1
        np.testing.assert_allclose(
            distance, np.linalg.norm(np.float64(a) - np.float64(b)) / np.linalg.norm(b), rtol=1e-5
        )

    def test_nan_beside_a_number_is_no_parity(self) -> None:
        _, ulp = self.difference(np.array([1.0, np.nan], np.float32), np.array([1.0, 2.0], np.float32))
        assert not ulp <= 1e30


def test_rosenbrock_is_lowest_at_1_1() -> None:
    points = np.array([[1.0, 1.0], [-1.2, 1.0]], np.float32)
    values = jax.jit(jax.vmap(twin_run.rosenbrock))(points)
    np.testing.assert_allclose(values, [0, 24.2], rtol=1e-6)


def test_paths_end_where_optax_says() -> None:
    paths = twin_run.surface_paths(fn.optim.TWINS["adam"], np.float32([0.01, 0.1]), steps=50)
    optimizer = optax.adam(paths.rate)

    @jax.jit
    def walk(theta: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            theta, state = carry
            updates, state = optimizer.update(jax.grad(twin_run.rosenbrock)(theta), state)
            return optax.apply_updates(theta, updates), state

        return jax.lax.fori_loop(0, 50, step, (theta, optimizer.init(theta)))[0]

    np.testing.assert_allclose(paths.ours[-1], walk(np.float32([-1.2, 1.0])), rtol=1e-4)
    assert paths.ours.shape == paths.baseline.shape == (51, 2)
