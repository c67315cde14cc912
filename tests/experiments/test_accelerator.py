"""The accelerator's benchmark: its arithmetic, its share of the time, its files; and the whole command, tiny."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from experiments.benchmarks.accelerator import (
    __main__ as command,
)
from experiments.benchmarks.accelerator import (
    fashion_mnist,
    gpt2,
    layer_errors,
    machine,
    many_runs,
    measure,
    optimizer_parity,
    report,
    steps,
)
from experiments.benchmarks.accelerator.part import Part, Settings, reason, share, too_short
from experiments.benchmarks.workloads import gpt2 as gpt2_workload

WHERE = {"device": "card", "python": "3.12", "versions": {"jax": "0.11"}, "card": {}}


def settings(seconds: float = 1e6, tiny: bool = True, data: Path | None = None) -> Settings:
    return Settings(tiny, time.perf_counter() + seconds, data)


class TestMfu:
    def test_flops_of_a_token(self) -> None:
        """GPT-2 124M, counted by hand: 6 N + 12 L H Q T, N without the positions."""
        n = 50_304 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
        assert gpt2_workload.params_of(gpt2_workload.SIZES) == (n + 1024 * 768, 1024 * 768)
        assert gpt2.flops_per_token(gpt2_workload.SIZES) == 6 * n + 12 * 12 * 12 * 64 * 1024

    def test_share_of_the_peak(self) -> None:
        assert gpt2.mfu(100_000, 8e8, 312e12) == pytest.approx(0.2564, rel=1e-3)
        assert gpt2.mfu(100_000, 8e8, None) is None

    @pytest.mark.parametrize(
        ("name", "tflops"),
        [
            ("NVIDIA A100-SXM4-80GB", 312),
            ("NVIDIA H100 80GB HBM3", 989),
            ("NVIDIA H100 PCIe", 756),
            ("NVIDIA H200", 989),
            ("NVIDIA L4", 121),
            ("Tesla T4", 65),
            ("NVIDIA GeForce RTX 4090", 165),
            ("NVIDIA L40S", None),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
            ("cpu", None),
        ],
    )
    def test_peak_of_a_card(self, name: str, tflops: float | None) -> None:
        assert machine.peak_flops(name) == (None if tflops is None else 1e12 * tflops)


class TestTime:
    def test_share_of_what_is_left(self) -> None:
        assert share(30, 100, [60, 10]) == 30
        assert share(30, 200, [60, 10]) == 60  # time that earlier parts left
        assert share(30, 10, []) == 10
        assert share(30, -1, [60]) == 0

    def test_a_part_is_skipped_where_time_is_short(self) -> None:
        part = Part("", 40, {}, lambda _: iter(()))
        assert too_short(part, 10) is None
        assert too_short(part, 9) == "out of time: 9 s left, and it takes about 40 s"

    def test_rounds_fit_into_what_is_left(self) -> None:
        runs = {"a": lambda: time.sleep(0.01)}
        assert 3 < measure.rounds_for(runs, settings(1, tiny=False)) < 15
        assert measure.rounds_for(runs, settings(0, tiny=False)) == measure.LEAST_ROUNDS
        assert measure.rounds_for(runs, settings(1e6, tiny=False)) == measure.MOST_ROUNDS

    @pytest.mark.slow
    def test_what_is_late_is_skipped_with_a_note(self) -> None:
        late = settings(-1, tiny=False)
        for part in (layer_errors, optimizer_parity, steps, gpt2):
            notes = [row["note"] for row in part.rows(late)]
            assert notes
            assert all(note.startswith("out of time: 0 s left") for note in notes)


class TestFailures:
    def test_a_side_that_fails_is_recorded_and_the_others_go_on(self) -> None:
        def broken() -> Any:
            raise RuntimeError("\nRESOURCE_EXHAUSTED: no room\nand more")

        sides = {
            name: measure.Side(make, 0) for name, make in {"a": lambda: lambda: 1.0, "b": broken}.items()
        }
        a, b = measure.rows_of("x", sides, settings())
        assert 0 <= a["low"] <= a["ms"] <= a["high"]
        assert b == {"workload": "x", "side": "b", "note": "RuntimeError: RESOURCE_EXHAUSTED: no room"}

    def test_times_and_difference_beside_the_first(self) -> None:
        sides = {"a": measure.Side(lambda: lambda: 2.0, 0), "b": measure.Side(lambda: lambda: 3.0, 0)}
        a, b = measure.rows_of("x", sides, settings())
        assert a["over_first"] == 1
        assert b["over_first"] == b["ms"] / a["ms"]
        assert b["difference"] == 0.5
        assert "difference" not in measure.rows_of("x", sides, settings(), same=False)[1]

    def test_half_the_batch_where_memory_is_short(self) -> None:
        tried = []

        def make(sizes: gpt2_workload.Sizes) -> Any:
            tried.append(sizes.batch)
            if sizes.batch > 16:
                raise RuntimeError("CUDA out of memory")
            return lambda: 1.0

        batch, _, _ = gpt2.at_largest_batch(make, gpt2_workload.SIZES)
        assert (batch, tried) == (16, [64, 32, 16])

    def test_another_error_is_raised(self) -> None:
        def make(sizes: gpt2_workload.Sizes) -> Any:
            raise ValueError("no memory is short")

        with pytest.raises(ValueError, match="no memory"):
            gpt2.at_largest_batch(make, gpt2_workload.SIZES)

    def test_reason_is_one_line(self) -> None:
        assert reason(KeyError()) == "KeyError: no message"
        assert len(reason(ValueError("x" * 999))) < 230

    def test_a_peer_that_is_missing_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert all(list(steps.sides_of(case, tiny=True)) == ["fnnet"] for case in steps.CASES)
        assert gpt2.missing("torch.compile", tiny=False) == "PyTorch is not installed"

    def test_cudnn_needs_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jax.default_backend", lambda: "cpu")
        assert (
            gpt2.missing("fnnet, cuDNN's attention, causal", tiny=False)
            == "cuDNN needs a GPU, and JAX has cpu"
        )
        assert gpt2.missing("fnnet, XLA's attention", tiny=False) is None


class TestNumbers:
    @pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
    def test_ulps(self, dtype: Any) -> None:
        one = np.array([1.0, -1.0, 0.0], dtype)
        above = np.nextafter(one, np.array(np.inf, dtype))
        assert optimizer_parity.ulps([one], [one]) == 0
        assert optimizer_parity.ulps([one], [above]) == 1
        assert optimizer_parity.ulps([np.array([0.0], dtype)], [np.array([-0.0], dtype)]) == 0
        nan = np.array([np.nan, 1, 2], dtype)
        assert optimizer_parity.ulps([nan], [nan]) == 0
        assert optimizer_parity.ulps([nan], [np.array([0, 1, 2], dtype)]) == np.inf

    def test_largest_error(self) -> None:
        got, wanted = [np.array([1.0, 4.0]), np.array([0.5])], [np.array([1.0, 5.0]), np.array([0.5])]
        assert layer_errors.largest_error(got, wanted) == pytest.approx(0.2)
        assert layer_errors.largest_error([np.array([np.nan])], [np.array([1.0])]) == np.inf

    def test_drawn_examples_have_the_digits_shapes(self) -> None:
        parts = many_runs.drawn()
        assert parts["train"]["x"].shape == (1079, 8, 8, 1)
        assert set(parts["valid"]["y"]) == set(range(10))

    def test_missing_pictures_are_told_with_the_option(self, tmp_path: Path) -> None:
        found = list(fashion_mnist.rows(settings(tiny=False, data=tmp_path)))
        assert [row["target"] for row in found] == [0.90, 0.93]
        assert all(f"Fashion-MNIST is not in {tmp_path}" in row["note"] for row in found)
        assert all("--data" in row["note"] for row in found)

    def test_targets_that_are_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = [
            {"accuracy": a, "step": i, "seconds": 2.0 * i} for i, a in enumerate((0.8, 0.91, 0.905, 0.92))
        ]
        monkeypatch.setattr(fashion_mnist, "examples", lambda settings: ("data", None))
        monkeypatch.setattr(fashion_mnist, "training", lambda *args: iter(seen))
        first, second = fashion_mnist.rows(settings(tiny=False))
        assert (first["target"], first["step"]) == (0.90, 1)
        assert second == {"target": 0.93, "note": "not reached: 92.00% at best after 3 steps and 6.0 s"}


PARTS = {"a": Part("Numbers", 1, {"name": "name", "ms": "time, ms"}, lambda _: iter(()))}


class TestFiles:
    def test_table(self) -> None:
        rows = [{"name": "x|y", "ms": 1234.5}, {"name": "z", "ms": 0.012345, "note": "skipped"}]
        assert report.table(PARTS["a"], {"rows": rows}).splitlines() == [
            *("**Numbers**", "", "| name | time, ms |  |", "|---|---|---|"),
            *(r"| x\|y | 1,234 |  |", "| z | 0.0123 | skipped |"),
        ]
        assert report.table(PARTS["a"], {"rows": [], "note": "failed"}) == "**Numbers**\n\nfailed"

    def test_values(self) -> None:
        values = (None, True, False, 124_475_904, 3.14159, np.inf, "a\nb")
        assert [report.shown(v) for v in values] == ["", "yes", "NO", "124,475,904", "3.14", "inf", "a b"]

    def test_machine(self) -> None:
        card = {"driver_version": "580.1", "clocks.sm": "1980", "clocks.max.sm": "1980"}
        said = report.machine_line({"environment": WHERE | {"card": card}, "tiny": True})
        assert said.startswith(
            "card, driver 580.1, clock 1980 of 1980 MHz, Python 3.12, jax 0.11. Tiny sizes"
        )

    def test_numbers_that_json_does_not_have(self, tmp_path: Path) -> None:
        results = report.start(tmp_path, WHERE, tiny=False)
        results["parts"]["a"] = {"status": "done", "rows": [{"ms": float("nan")}, {"ms": float("inf")}]}
        report.write(tmp_path, results, PARTS)
        assert json.loads((tmp_path / report.JSON).read_text())["parts"]["a"]["rows"] == [
            {"ms": None},
            {"ms": None},
        ]

    def test_parts_that_are_done_are_kept(self, tmp_path: Path) -> None:
        results = report.start(tmp_path / "new", WHERE, tiny=False)
        assert results["parts"] == {}
        for name, status in (("a", "done"), ("b", "running"), ("c", "failed")):
            results["parts"][name] = {"status": status, "rows": []}
        report.write(tmp_path / "new", results, PARTS)
        assert list(report.start(tmp_path / "new", WHERE, tiny=False)["parts"]) == ["a"]
        for other in ({"device": "another card"}, {"versions": {"jax": "0.12"}}):
            with pytest.raises(ValueError, match=r"was .*, and is .*; name another folder"):
                report.start(tmp_path / "new", WHERE | other, tiny=False)
        with pytest.raises(ValueError, match="tiny was False, and is True"):
            report.start(tmp_path / "new", WHERE, tiny=True)

    @pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[]", "is from another program")])
    def test_another_file_is_left_alone(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / report.JSON).write_text(text)
        with pytest.raises(ValueError, match=said):
            report.start(tmp_path, WHERE, tiny=False)


class TestCommand:
    @pytest.fixture(autouse=True)
    def _parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three parts that take no time: one with rows, one that fails after its first row, one with a row."""

        def failing(settings: Settings) -> Any:
            yield {"n": 1}
            if self.broken:
                raise RuntimeError("out of memory")
            yield {"n": 2}

        self.calls: list[str] = []

        def rows(name: str) -> Any:
            def of(settings: Settings) -> Any:
                self.calls.append(name)
                yield {"n": 1}

            return of

        parts = {name: Part(name, 1, {"n": "n"}, rows(name)) for name in ("first", "last")}
        parts = {
            "first": parts["first"],
            "failing": Part("failing", 1, {"n": "n"}, failing),
            "last": parts["last"],
        }
        monkeypatch.setattr(command, "PARTS", parts)
        monkeypatch.setattr(machine, "card", dict)

    broken = True

    def test_a_part_that_fails_does_not_stop_the_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(["--out", str(tmp_path)]) == 1
        found = json.loads((tmp_path / report.JSON).read_text())
        assert {name: part["status"] for name, part in found["parts"].items()} == {
            "first": "done",
            "failing": "failed",
            "last": "done",
        }
        assert found["parts"]["failing"]["rows"] == [{"n": 1}]
        assert found["parts"]["failing"]["note"] == "RuntimeError: out of memory"
        assert found["environment"]["versions"]["jax"]
        shown, markdown = capsys.readouterr().out, (tmp_path / report.MARKDOWN).read_text()
        for text in ("**first**", "RuntimeError: out of memory", "| 1 |"):
            assert text in shown
            assert text in markdown

        self.broken = False  # the same command goes on with what is missing
        assert command.main(["--out", str(tmp_path)]) == 0
        found = json.loads((tmp_path / report.JSON).read_text())
        assert found["parts"]["failing"]["rows"] == [{"n": 1}, {"n": 2}]
        assert self.calls == ["first", "last"]

    def test_a_part_with_rows_that_came_too_late_is_measured_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = Part(
            "late", 1, {"n": "n"}, lambda settings: iter([{"n": 1}, {"note": "out of time: 0 s left"}])
        )
        monkeypatch.setattr(command, "PARTS", {"late": late})
        assert command.main(["--out", str(tmp_path)]) == 1
        assert json.loads((tmp_path / report.JSON).read_text())["parts"]["late"]["status"] == "incomplete"
        monkeypatch.setattr(command, "PARTS", {"late": late._replace(rows=lambda settings: iter([{"n": 1}]))})
        assert command.main(["--out", str(tmp_path)]) == 0

    def test_rows_are_on_disk_when_a_part_is_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(settings: Settings) -> Any:
            yield {"n": 1}
            raise KeyboardInterrupt

        monkeypatch.setitem(command.PARTS, "failing", Part("failing", 1, {"n": "n"}, stopped))
        with pytest.raises(KeyboardInterrupt):
            command.main(["--out", str(tmp_path)])
        timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
        assert all(timer.finished.is_set() for timer in timers)  # cancelled
        parts = json.loads((tmp_path / report.JSON).read_text())["parts"]
        assert [(part["status"], part["rows"]) for part in parts.values()] == [
            *(("done", [{"n": 1}]), ("running", [{"n": 1}])),
        ]

    def test_the_limit_ends_a_part_that_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ended = []
        monkeypatch.setattr("os._exit", ended.append)
        results = {
            "environment": WHERE,
            "tiny": False,
            "parts": {"first": {"status": "running", "rows": [{"n": 1}]}},
        }
        command.cut_off(tmp_path, results)
        assert ended == [1]
        (part,) = json.loads((tmp_path / report.JSON).read_text())["parts"].values()
        assert part == {"status": "cut off", "rows": [{"n": 1}], "note": "cut off: the time was over"}

    def test_time_that_is_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("threading.Timer.start", lambda self: None)
        assert command.main(["--out", str(tmp_path), "--minutes", "0.01"]) == 1
        parts = json.loads((tmp_path / report.JSON).read_text())["parts"]
        assert all(part["note"] == "out of time: 0 s left, and it takes about 1 s" for part in parts.values())

    def test_bad_arguments(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for args in (["--minutes", "0"], ["--parts", "gpt3"]):
            with pytest.raises(SystemExit, match="2"):
                command.main(args)
        (tmp_path / report.JSON).write_text("[]")
        assert command.main(["--out", str(tmp_path)]) == 2
        assert "is from another program" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path) -> None:
    """Everything at tiny sizes."""
    command.main(["--tiny", "--out", str(tmp_path)])
    parts = json.loads((tmp_path / report.JSON).read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(command.PARTS, "done")
    assert all(row["ok"] for row in parts["layers"]["rows"])
    assert all(row["float32"] == row["bfloat16"] == 0 for row in parts["optimizers"]["rows"])
    assert all(row["ms"] > 0 for row in parts["steps"]["rows"])
    assert {row["workload"] for row in parts["steps"]["rows"]} == {case.title for case in steps.CASES}
    assert all(row.get("difference", 0) < 1e-4 for row in parts["steps"]["rows"])
    (xla,) = (row for row in parts["gpt2"]["rows"] if row["side"] == "fnnet, XLA's attention")
    assert xla["tokens_per_second"] > 0
    assert xla["mfu"] is None
    assert [row["runs"] for row in parts["many_runs"]["rows"]] == [1, 8]
    assert [row["target"] for row in parts["fashion_mnist"]["rows"]] == [0.90, 0.93]


WITHOUT = ("matplotlib", "rich", "sklearn", "tyro", "grain", "torch", "flax", "equinox")


@pytest.mark.slow
def test_it_needs_nothing_but_jax_and_optax() -> None:
    """In a process of its own, where the other packages cannot be imported."""
    code = f"""
import runpy, sys
sys.modules |= dict.fromkeys({WITHOUT}, None)
sys.argv = ["accelerator", "--help"]
runpy.run_module("experiments.benchmarks.accelerator", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout
