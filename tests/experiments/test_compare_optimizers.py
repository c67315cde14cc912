"""The main job as a user runs it, small."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from experiments import compare_optimizers
from experiments.comparison import twins
from fnnet.optim import Twin
from tests.experiments.run_command import exit_status


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
    def test_files(self, out: Path) -> None:
        names = {file.name for file in out.iterdir()}
        assert {"report.html", "results.json", "curves.csv"} < names
        assert (
            len([n for n in names if n.endswith(".png")])
            == len([n for n in names if n.endswith(".svg")])
            == 4
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


def test_two_spirals_the_default_folder_and_a_bound_that_allows_for_differences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = Twin(fn.optim.adam, lambda learning_rate: optax.adam(learning_rate, eps=1e-6))
    monkeypatch.setitem(fn.optim.TWINS, "adam", wrong)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *SMALL, "--data", "two-spirals", "--max-ulp", 1e30) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("compare_optimizers-")


def test_a_cnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    args = ("--optimizers", "sgd", "--model", "cnn", "--steps", 2, "--seeds", 1, "--learning-rates", 0.1)
    assert run(monkeypatch, *args, "--out", tmp_path / "out") == 0


def test_broken_parity_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A twin with another epsilon: the report is written, and the status is 1."""
    wrong = Twin(fn.optim.adam, lambda learning_rate: optax.adam(learning_rate, eps=1e-6))
    monkeypatch.setitem(fn.optim.TWINS, "adam", wrong)
    assert run(monkeypatch, *SMALL, "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / "report.html").is_file()
    assert "parity broken: adam" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--optimizers", "adma"), "--optimizers adma is unknown, wanted some of sgd, "),
        (("--steps", "many"), "--steps: invalid literal"),
        (("--steps", 0), "--steps 0 is too small"),
        (("--seeds", -1), "--seeds -1 is too small"),
        (("--batch-size", 100_000), "--batch-size 100000 is more than the 1079 training examples"),
        (("--learning-rates", 0.1, -1), "--learning-rates -1.0 is not a positive number"),
        (("--learning-rates", "nan"), "--learning-rates nan is not a positive number"),
        (("--data", "mnist"), "mnist"),
        (("--model", "cnn", "--data", "two-spirals"), "--model cnn wants images"),
        (("--optimisers", "adam"), "--optimisers"),
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
    assert "exists already" in capsys.readouterr().err


def test_help_reads_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for option in ("optimizers", "data", "model", "seeds", "learning-rates", "steps", "out"):
        assert f"--{option}" in said


def test_nothing_is_left_when_writing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(compare_optimizers.pictures, "draw", fails)
    with pytest.raises(OSError, match="disk full"):
        compare_optimizers.write(tmp_path / "out", compare_optimizers.Config(), [])
    assert list(tmp_path.iterdir()) == []


class TestDifference:
    def test_equal_trees(self) -> None:
        tree = {"a": jnp.array([1.0, jnp.nan, jnp.inf, 0.0])}
        assert twins.difference(tree, tree) == (0, 0)

    def test_one_unit_in_the_last_place(self) -> None:
        a = jnp.array([1.0, -3.0, 1e-30])
        b = jnp.nextafter(a, jnp.full_like(a, jnp.inf))
        distance, ulp = twins.difference(a, b)
        assert ulp == 1
        np.testing.assert_allclose(
            distance, np.linalg.norm(np.float64(a) - np.float64(b)) / np.linalg.norm(b), rtol=1e-5
        )

    def test_nan_beside_a_number_is_no_parity(self) -> None:
        _, ulp = twins.difference(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 2.0]))
        assert not ulp <= 1e30


def test_rosenbrock_is_lowest_at_1_1() -> None:
    assert twins.rosenbrock(jnp.array([1.0, 1.0])) == 0
    assert twins.rosenbrock(jnp.array([-1.2, 1.0])) == pytest.approx(24.2)


def test_paths_end_where_optax_says() -> None:
    path = twins.paths(fn.optim.TWINS["adam"], jnp.array([0.01, 0.1]), steps=50)
    theta, optimizer = jnp.array([-1.2, 1.0]), optax.adam(path.rate)
    state = optimizer.init(theta)
    for _ in range(50):
        updates, state = optimizer.update(jax.grad(twins.rosenbrock)(theta), state)
        theta = optax.apply_updates(theta, updates)
    np.testing.assert_allclose(path.ours[-1], theta, rtol=1e-4)
    assert path.ours.shape == path.baseline.shape == (51, 2)
