"""The training recipes as a user runs them, small: files, resuming, Ctrl-C, devices, bad arguments."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import fnnet as fn
from experiments import curves, fashion_mnist, recipe, train_digits, train_fashion_mnist
from tests.arrays import normal
from tests.experiments.run_command import exit_status

SMALL = ("--epochs", 2, "--batch-size", 256)


def run(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *args: Any) -> int:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    return exit_status(monkeypatch, main, *args)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one small run."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, train_digits.main, *SMALL, "--folder", folder) == 0
    return folder


class TestRun:
    @pytest.mark.slow
    def test_files(self, folder: Path) -> None:
        names = {file.name for file in folder.iterdir()}
        assert names == {
            *(
                "config.json",
                "history.jsonl",
                "checkpoints",
                "params.safetensors",
                "results.json",
                "curves.png",
            ),
        }
        assert [row["step"] for row in rows(folder)] == [4, 8]

    def test_config(self, folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        assert found["config"]["seed"] == 0
        assert found["config"]["epochs"] == 2
        assert found["versions"]["jax"] == jax.__version__
        assert found["device"]
        assert "git_revision" in found
        assert found["earlier"] == []

    @pytest.mark.slow
    def test_results_are_those_of_the_weights(self, folder: Path) -> None:
        """The file's weights, in NumPy, have the accuracy that is told."""
        params = load_file(folder / "params.safetensors")
        data = fn.data.digits()
        x = np.asarray(data.train["x"], np.float64)
        mean, std = x.mean(), x.std()
        x = ((np.asarray(data.test["x"]) - mean) / std).reshape(-1, 64)
        hidden = np.maximum(x @ params["dense_0/w"] + params["dense_0/b"], 0)
        right = np.argmax(hidden @ params["dense_1/w"] + params["dense_1/b"], 1) == data.test["y"]
        told = json.loads((folder / "results.json").read_text())
        assert told["test_accuracy"] == pytest.approx(float(right.mean()), abs=0.003)
        assert told["valid_accuracy"] == pytest.approx(rows(folder)[-1]["valid_accuracy"])
        assert told["steps"] == 8

    def test_an_existing_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(monkeypatch, train_digits.main, *SMALL, "--folder", folder) == 2
        err = capsys.readouterr().err
        assert "exists already: resume the run there with --resume" in err
        assert err.count("\n") == 1

    def test_resuming_with_another_batch_is_refused_and_forgotten(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (folder / "config.json").read_text()
        args = ("--folder", folder, "--resume", "--batch-size", 128)
        assert run(monkeypatch, train_digits.main, *args) == 2
        err = capsys.readouterr().err
        assert "batch_size was 256, and is 128" in err
        assert err.count("\n") == 1
        assert (folder / "config.json").read_text() == before


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped as by Ctrl-C after the first epoch; --resume alone knows the other flags."""
    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        real = fn.train.evaluate

        def ctrl_c(*args: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return real(*args)

        patch.setattr(
            sys.modules["fnnet.train.fit.evaluation"], "evaluate", ctrl_c
        )  # traced in the first evaluation, after step 4
        assert run(monkeypatch, train_digits.main, *SMALL, "--folder", part) == 130
    assert f"python -m experiments.train_digits --folder {part} --resume" in capsys.readouterr().out
    assert [row["step"] for row in rows(part)] == [4]
    assert not (part / "results.json").exists()

    assert run(monkeypatch, train_digits.main, "--folder", part, "--resume") == 0
    for name, value in load_file(folder / "params.safetensors").items():
        np.testing.assert_array_equal(load_file(part / "params.safetensors")[name], value)
    config = json.loads((part / "config.json").read_text())
    assert config["config"] == json.loads((folder / "config.json").read_text())["config"]
    assert len(config["earlier"]) == 1


@pytest.mark.slow
def test_two_devices_of_a_cpu(folder: Path, tmp_path: Path) -> None:
    """In a new process, as JAX counts its devices only once. The losses are those of one device."""
    args = (*SMALL, "--devices", 2, "--folder", tmp_path / "two")
    command = [sys.executable, "-m", "experiments.train_digits", *map(str, args)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mlp on digits: test accuracy" in done.stdout
    assert json.loads((tmp_path / "two" / "config.json").read_text())["devices"] == 2
    for one, two in zip(rows(folder), rows(tmp_path / "two"), strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)


class TestFashionMnist:
    @pytest.fixture(autouse=True)
    def _few_pictures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        draw = np.random.default_rng(0)

        def part(n: int) -> dict[str, Any]:
            x = draw.uniform(size=(n, 8, 8, 1)).astype(np.float32)
            return {"x": x, "y": draw.integers(0, 10, n).astype(np.int32)}

        monkeypatch.setattr(fn.data, "fashion_mnist", lambda: fn.data.Dataset(part(12), part(4), part(4)))

    @pytest.mark.slow
    def test_a_cnn_in_half_precision(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = ("--examples", 8, "--batch-size", 4, "--epochs", 1, "--half", "--folder", tmp_path / "out")
        assert run(monkeypatch, train_fashion_mnist.main, *args) == 0
        assert "cnn on Fashion-MNIST: test accuracy" in capsys.readouterr().out
        assert rows(tmp_path / "out")[-1]["step"] == 2
        averages = load_file(tmp_path / "out" / "state.safetensors")
        assert any(name.startswith("batch_norm_0/") for name in averages)
        assert all(a.dtype == np.float32 for a in averages.values())

    @pytest.mark.slow
    def test_an_mlp(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = ("--model", "mlp", "--batch-size", 4, "--epochs", 1, "--folder", tmp_path / "out")
        assert run(monkeypatch, train_fashion_mnist.main, *args) == 0
        assert "mlp on Fashion-MNIST: test accuracy" in capsys.readouterr().out
        assert rows(tmp_path / "out")[-1]["step"] == 3

    @pytest.mark.parametrize(
        ("main", "args", "said"),
        [
            (train_digits, ("--model", "resnet"), "invalid choice 'resnet' for argument '--model'"),
            (train_digits, ("--epochs", 0), "--epochs 0 is too small"),
            (
                train_digits,
                ("--batch-size", 5000),
                "--batch-size 5000 is more than the 1079 training examples",
            ),
            (train_digits, ("--learning-rate", "nan"), "--learning-rate nan is not a positive number"),
            (train_digits, ("--weight-decay", -1), "--weight-decay -1.0 is negative"),
            (train_digits, ("--devices", 0), "--devices 0 is too small"),
            (train_digits, ("--devices", 1000), "--devices 1000 is too many: JAX sees"),
            (train_digits, ("--resume",), "--resume is without --folder, wanted --folder"),
            (train_digits, ("--resume", "--folder", "no/such"), "--resume: there is no no/such/config.json"),
            (train_digits, ("--folder", "/dev/null"), "--folder /dev/null exists already"),
            (train_digits, ("--folder", "/dev/null/x"), "Not a directory"),
            (train_fashion_mnist, ("--examples", 0), "--examples 0 is too small"),
            (train_fashion_mnist, ("--batch-size", 13), "--batch-size 13 is more than the 12 training"),
        ],
    )
    def test_a_bad_value_is_one_line(
        self,
        main: Any,
        args: tuple[Any, ...],
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run(monkeypatch, main.main, *args) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1

    def test_missing_pictures(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def missing() -> None:
            raise ConnectionError("fashion_mnist: no network,\nput the files somewhere")

        monkeypatch.setattr(fn.data, "fashion_mnist", missing)
        assert run(monkeypatch, train_fashion_mnist.main) == 2
        assert capsys.readouterr().err == (
            "train_fashion_mnist: fashion_mnist: no network, put the files somewhere (--help lists the options)\n"
        )

    def test_shift_and_mirror(self) -> None:
        x = np.arange(1.0, 17.0, dtype=np.float32).reshape(1, 4, 4, 1)
        batch = {"x": np.repeat(x, 200, 0), "y": np.zeros(200, int)}
        moved = np.asarray(jax.jit(fashion_mnist.shift_and_mirror)(jax.random.key(0), batch)["x"])
        padded = np.pad(x[0, :, :, 0], 2, constant_values=1.0)
        windows = [padded[i : i + 4, j : j + 4] for i in range(5) for j in range(5)]
        possible = {w.tobytes() for window in windows for w in (window, window[:, ::-1])}
        seen = {picture[:, :, 0].tobytes() for picture in moved}
        assert seen <= possible
        assert len(seen) > 40  # of 50, and 200 draws

    def test_smoothing(self) -> None:
        logits = normal(3, 10)
        log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
        wanted = -0.9 * log_p[np.arange(3), [1, 2, 3]] - 0.1 * log_p.mean(1)
        got = jax.jit(fashion_mnist.smoothed_cross_entropy)(logits, np.array([1, 2, 3]))
        np.testing.assert_allclose(got, wanted, rtol=1e-5)

    @pytest.mark.parametrize(("model", "count"), [("mlp", 269_322), ("cnn", 421_834), ("resnet", 2_847_370)])
    def test_params(self, model: str, count: int) -> None:
        net = fashion_mnist.network(model)
        x = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)
        params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
        assert sum(p.size for p in jax.tree.leaves(params)) == pytest.approx(count, rel=0.1)


@pytest.mark.slow
def test_a_run_that_diverges_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (*SMALL, "--learning-rate", 1e37, "--folder", tmp_path / "out")
    assert run(monkeypatch, train_digits.main, *args) == 1
    err = capsys.readouterr().err
    assert "train_digits: fit: at step" in err
    assert err.count("\n") == 1


def test_a_config_of_another_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in (
        ("{", "cannot be read"),
        ("[]", "is from another program"),
        ('{"config": {"colour": 1}, "earlier": []}', "is from another command: it has ['colour']"),
    ):
        (tmp_path / recipe.CONFIG).write_text(text)
        assert run(monkeypatch, train_digits.main, "--folder", tmp_path, "--resume") == 2
        assert said in capsys.readouterr().err
        assert (tmp_path / recipe.CONFIG).read_text() == text


@pytest.mark.slow
def test_a_run_that_was_stopped_before_its_first_checkpoint_resumes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fn.train, "fit", interrupted)
        assert run(patch, train_digits.main, *SMALL, "--folder", tmp_path / "out") == 130
    assert run(monkeypatch, train_digits.main, "--folder", tmp_path / "out", "--resume") == 0
    assert (tmp_path / "out" / "results.json").is_file()


def test_curves_of_one_evaluation_without_an_error(tmp_path: Path) -> None:
    """Nothing to connect, and an error of 0, for which a log axis has no place."""
    history = {name: np.array([1.0]) for name in ("epoch", "valid_loss", "valid_accuracy")}
    history |= {"eval_step": np.array([2]), "train_loss": np.ones(2), "train_accuracy": np.ones(2)}
    curves.draw_curves(history, tmp_path / "curves.png", "title")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
