"""The benchmarks as a user runs them, tiny and without peers; no time is asserted."""

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fnnet as fn
from experiments.benchmarks import agreement, forward_backward, layers, side_by_side, train_step, training
from experiments.benchmarks.forward_backward import Pass
from experiments.benchmarks.workloads import cnn, gpt, gpt2, gru, lstm, max_pool, mlp, resnet18, resnet_block
from experiments.benchmarks.workloads.weights import into_fnnet
from experiments.timing import compare, in_turn
from tests.arrays import normal
from tests.experiments.run_command import exit_status

TRAINING: list[tuple[Any, Any]] = [
    (mlp, mlp.Sizes(batch=4, features=(6, 5, 3))),
    (cnn, cnn.Sizes(batch=2, size=8, channels=(3, 4), hidden=5, classes=3)),
    (gpt, gpt.Sizes(batch=2, tokens=5, vocabulary=11, layers=1, width=8, heads=2, hidden=12)),
]
ACCELERATOR: list[tuple[Any, Any]] = [  # fnnet and PyTorch only
    (resnet18, resnet18.Sizes(batch=2, size=32, channels=4, classes=5)),
    (gpt2, gpt2.Sizes(batch=2, tokens=5, vocabulary=11, layers=2, width=8, heads=2)),
]
LAYERS: list[tuple[Any, Any]] = [
    (resnet_block, resnet_block.Sizes(batch=2, size=4, channels=3)),
    (lstm, lstm.Sizes(batch=2, time=3, features=4, hidden=5)),
    (gru, gru.Sizes(batch=2, time=3, features=4, hidden=5)),
    (max_pool, max_pool.Sizes(batch=2, size=4, channels=3)),
]


def name_of(value: Any) -> str:
    return value.__name__.rpartition(".")[2] if hasattr(value, "SIZES") else ""


class TestWorkloads:
    @pytest.mark.slow
    @pytest.mark.parametrize(("workload", "sizes"), TRAINING, ids=name_of)
    def test_a_step_learns(self, workload: Any, sizes: Any) -> None:
        step = train_step.fnnet(workload, sizes)
        losses = [float(step()) for _ in range(20)]
        assert losses[-1] < losses[0]  # the state is carried from step to step

    @pytest.mark.parametrize(("workload", "sizes"), LAYERS, ids=name_of)
    def test_a_pass_has_gradients_by_x_and_params(self, workload: Any, sizes: Any) -> None:
        y, slope_x, slopes = forward_backward.fnnet(workload, sizes)()
        given = workload.arrays(sizes)
        assert y.shape == given["c"].shape
        assert slope_x.shape == given["x"].shape
        assert len(slopes) == {"lstm": 3, "gru": 3, "resnet_block": 6, "max_pool": 0}[name_of(workload)]
        assert all(float(abs(a).max()) > 0 for a in (y, slope_x))
        assert all(np.isfinite(a).all() for a in (y, slope_x, *slopes))

    @pytest.mark.parametrize(("workload", "sizes"), TRAINING + LAYERS, ids=name_of)
    def test_every_library_has_its_side_and_a_bar(self, workload: Any, sizes: Any) -> None:
        runner = train_step if (workload, sizes) in TRAINING else forward_backward
        for side in (side_by_side.OURS, *side_by_side.PEERS):
            assert callable(getattr(workload, side))
            assert callable(getattr(runner, side))
        bars = (training if (workload, sizes) in TRAINING else layers).BARS
        assert set(bars[name_of(workload)]) <= set(side_by_side.PEERS)
        leaves = jax.tree.leaves(workload.arrays(sizes))
        assert all(np.any(a) and a.dtype in (np.float32, np.int32) for a in leaves)  # never zeros

    @pytest.mark.slow
    def test_steps_inside_a_scan_are_those_outside(self) -> None:
        sides = (train_step.fnnet_inside_scan, train_step.fnnet_outside_scan)
        inside, outside = (side(*TRAINING[1], 3)() for side in sides)
        assert float(inside) == pytest.approx(float(outside), rel=1e-5)

    @pytest.mark.parametrize(("workload", "sizes"), TRAINING + LAYERS, ids=name_of)
    def test_the_given_weights_are_fnnet_s_params(self, workload: Any, sizes: Any) -> None:
        given = workload.arrays(sizes)
        net, weights = workload.fnnet(sizes, given)
        shapes, _ = jax.eval_shape(net.init, jax.random.key(0), given["x"])
        params = into_fnnet(jax.tree.map(lambda a: np.full(a.shape, np.nan, a.dtype), shapes), weights)
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
        drawn = [a for name, a in given.items() if name not in ("x", "y", "c")]
        sizes_given = sum(np.size(a) for a in jax.tree.leaves(drawn))
        biases = sizes.hidden if workload is gru else 0  # its inner bias is 0
        assert sum(int(np.isfinite(a).sum()) for a in jax.tree.leaves(params)) == sizes_given + biases

    @pytest.mark.parametrize(
        ("workload", "params"), [(resnet18, 11_689_512), (gpt2, 124_475_904)], ids=name_of
    )
    def test_params_of_the_large_networks(self, workload: Any, params: int) -> None:
        """Those of torchvision's resnet18; those of GPT-2 124M, 124,439,808, and of 47 more rows of the table."""
        sizes = workload.SIZES._replace(batch=1)
        net, _ = workload.fnnet(sizes, {})
        shapes, _ = jax.eval_shape(net.init, jax.random.key(0), workload.arrays(sizes)["x"])
        assert sum(p.size for p in jax.tree.leaves(shapes)) == params

    @pytest.mark.slow
    @pytest.mark.parametrize("peer", side_by_side.PEERS)
    @pytest.mark.parametrize(("workload", "sizes"), TRAINING + LAYERS, ids=name_of)
    def test_peers_compute_the_same(self, workload: Any, sizes: Any, peer: str) -> None:
        pytest.importorskip(peer)
        runner = train_step if (workload, sizes) in TRAINING else forward_backward
        runs = [getattr(runner, side)(workload, sizes) for side in (side_by_side.OURS, peer)]
        ours, theirs = ([a for _ in range(3) for a in agreement.flat(run())] for run in runs)
        assert agreement.difference(ours, theirs) < 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize("side", ["fnnet", "torch"])
    @pytest.mark.parametrize(("workload", "sizes"), ACCELERATOR, ids=name_of)
    def test_the_accelerator_s_networks_learn_in_bfloat16(self, workload: Any, sizes: Any, side: str) -> None:
        library = pytest.importorskip({"fnnet": "jax.numpy"}.get(side, side))
        given = workload.arrays(sizes)
        step = getattr(train_step, side)(workload, sizes, dtype=library.bfloat16)
        losses = [float(step()) for _ in range(30)]
        assert losses[0] == pytest.approx(np.log(given["y"].max() + 1), rel=0.7)
        assert losses[-1] < losses[0]
        if side == "torch":
            net, _ = workload.fnnet(sizes, given)
            shapes, _ = jax.eval_shape(net.init, jax.random.key(0), given["x"])
            count = sum(p.numel() for p in workload.torch(sizes, given).parameters())
            assert count == sum(p.size for p in jax.tree.leaves(shapes))

    def test_attention_around_a_function(self) -> None:
        """The attention of GPT-2 with cuDNN, here with the functions' other implementation; it is causal."""
        x = normal(2, 5, 8)
        attends = (fn.dot_product_attention, jax.nn.dot_product_attention)
        for attend, causal in zip(attends, ({"causal": True}, {"is_causal": True}), strict=True):
            layer = gpt2.self_attention(2, 8, partial(attend, **causal))
            params, _ = jax.eval_shape(layer.init, jax.random.key(0), x)
            params = jax.tree.map(lambda a: normal(*a.shape, seed=a.size), params)
            run = jax.jit(layer)
            y = np.asarray(run(params, x))
            later = np.concatenate([x[:, :3], x[:, 3:] + 1], axis=1)
            np.testing.assert_allclose(run(params, later)[:, :3], y[:, :3], rtol=1e-5)
            if attend is attends[0]:
                first = y
        np.testing.assert_allclose(y, first, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_compile_time_by_depth(self, monkeypatch: pytest.MonkeyPatch) -> None:
        blocks = []

        def traced(step: Callable[..., Any], *args: Any) -> tuple[None, float]:
            (now, *_), (after, metrics) = args, jax.eval_shape(step, *args)
            assert jax.tree.map(np.shape, now) == jax.tree.map(np.shape, after)
            assert metrics["loss"].shape == ()
            blocks.append({name: p for name, p in now.params.items() if "mlp" in p.get("copies", p)})
            return None, 2.0 * len(blocks)

        monkeypatch.setattr(training, "compile_time", traced)
        rows = training.compile_rows((1, 3), (2,), gpt.Sizes(2, 5, 11, width=8, heads=2, hidden=12))
        assert [tuple(row.values()) for row in rows] == [
            ("repeat", 1, 2.0, 1.0),
            ("repeat", 3, 4.0, 2.0),
            ("serial", 2, 6.0, 1.0),
        ]
        assert [len(params) for params in blocks] == [1, 1, 2]


class TestTiming:
    def test_in_turn(self) -> None:
        called: list[str] = []
        sides = {name: lambda name=name: called.append(name) for name in "abc"}
        times = in_turn(sides, rounds=3, warm_up=1)  # type: ignore[arg-type]
        assert [len(seconds) for seconds in times.values()] == [3, 3, 3]
        # Twice at each turn, once untimed, and another side begins in every round.
        assert "".join(called[::2]) == "".join(called[1::2]) == "cab" + "abc" + "bca" + "cab"

    def test_compare(self) -> None:
        seen = compare(np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.array([2.0, 2.0, 2.0, 2.0, 3.0]))
        assert seen == (3.0, 2.0, 1.5, 1.0, 2.0)


class TestSideBySide:
    def test_a_row_for_each_side(self) -> None:
        sides = {"fnnet": lambda: lambda: 1.0, "torch": lambda: lambda: 1.0, "flax": lambda: lambda: 1.5}
        ours, torch, flax = side_by_side.measure("mlp", sides, {"torch": 1e9}, rounds=2)
        assert "ratio" not in ours
        assert ours["others"] >= 0
        assert torch["met"]
        assert torch["bar"] == 1e9
        assert torch["low"] <= torch["ratio"] <= torch["high"]
        assert torch["difference"] == 0
        assert flax["bar"] is flax["met"] is None
        assert flax["difference"] == pytest.approx(1 / 3)

    def test_a_bar_that_is_missed(self) -> None:
        sides = {"fnnet": lambda: lambda: 1.0, "torch": lambda: lambda: 1.0}
        _, torch = side_by_side.measure("mlp", sides, {"torch": 0.0}, rounds=1)
        assert torch["met"] is False

    def test_difference(self) -> None:
        ours = Pass(np.array([1.0, 2.0]), np.array([3.0]), [np.array([3.0]), np.array([[4.0]])])
        theirs = Pass(np.array([1.0, 2.5]), np.array([3.0]), [np.array([5.0])])  # the norm is the same
        assert agreement.difference(agreement.flat(ours), agreement.flat(theirs)) == pytest.approx(0.2)
        assert agreement.difference([np.array(np.nan)], [np.array(1.0)]) == np.inf
        with pytest.raises(ValueError, match=r"shapes \(2,\) and \(1,\), wanted equal"):
            agreement.difference([np.ones(2)], [np.ones(1)])

    def test_sides_that_differ_end_with_status_1(self, capsys: pytest.CaptureFixture[str]) -> None:
        row = {"workload": "gru", "side": "flax", "difference": 0.5, "others": 0.25}
        with pytest.raises(SystemExit, match="1"):
            side_by_side.finish(side_by_side.Console(), [row])
        said = capsys.readouterr().out
        assert "gru: fnnet and flax differ by 5.0e-01" in said
        assert "Other programs took up to 25% of the cores" in said

    def test_a_peer_that_is_missing_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        here, where = side_by_side.setup("command", ("torch", "flax"), 1)
        assert here == []
        assert where["not_installed"] == ["torch", "flax"]
        assert "torch: not installed" in side_by_side.title(where, 1)


class TestCommands:
    def test_layers(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(max_pool, "SIZES", max_pool.Sizes(batch=2, size=4, channels=3))
        file = tmp_path / "layers.json"
        args = ("--workloads", "max_pool", "--peers", "--rounds", 2, "--json", file)
        assert exit_status(monkeypatch, layers.main, *args) == 0
        found = json.loads(file.read_text())
        assert found["rounds"] == 2
        assert found["versions"]["jax"] == jax.__version__
        assert found["cores"] >= 1
        (row,) = found["results"]
        assert (row["workload"], row["side"]) == ("max_pool", "fnnet")
        assert row["ms"] > 0
        shown = capsys.readouterr().out
        assert "max_pool" in shown
        assert f"jax {jax.__version__}" in shown

    def test_training(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(mlp, "SIZES", mlp.Sizes(batch=4, features=(6, 5, 3)))
        monkeypatch.setattr(gpt, "SIZES", gpt.Sizes(2, 5, 11, width=8, heads=2, hidden=12))
        file = tmp_path / "training.json"
        args = ("--workloads", "mlp", "--peers", "--rounds", 1, "--depths", "--serial-depths", "--json", file)
        assert exit_status(monkeypatch, training.main, *args) == 0
        found = json.loads(file.read_text())
        assert [row["side"] for row in found["results"]] == ["fnnet"]
        assert found["compile"] == []
        assert "mlp" in capsys.readouterr().out

    def test_the_widest_row_fits_80_columns(self, capsys: pytest.CaptureFixture[str]) -> None:
        compared = {"ratio": 10.0, "low": 10.0, "high": 10.0, "bar": 0.95, "met": False, "difference": 1e-7}
        row = {"workload": "resnet_block", "side": side_by_side.COMPILED, "ms": 1234.5, "first_run_s": 99.9}
        shown = side_by_side.new_table("")
        for r in (row, row | compared):
            side_by_side.add_row(shown, r)
        side_by_side.Console(width=80).print(shown)
        assert "…" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("main", "args", "reason"),
        [
            (layers.main, ("--workloads", "mlp"), "--workloads mlp is unknown, wanted one of resnet_block"),
            (training.main, ("--workloads", "lstm"), "--workloads lstm is unknown, wanted one of mlp, cnn"),
            (layers.main, ("--peers", "keras"), "--peers keras is unknown, wanted one of torch, flax"),
            (training.main, ("--rounds", "0"), "--rounds 0 is too small"),
            (layers.main, ("--torch-threads", "0"), "--torch-threads 0 is too small"),
            (training.main, ("--depths", "0"), "--depths 0 is too small"),
            (training.main, ("--serial-depths", "2", "-1"), "--serial-depths -1 is too small"),
        ],
    )
    def test_bad_arguments(
        self,
        main: Callable[[], None],
        args: tuple[str, ...],
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert exit_status(monkeypatch, main, *args) == 2
        assert reason in capsys.readouterr().err
