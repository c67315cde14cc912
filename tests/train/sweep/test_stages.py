"""The stages of a sweep as functions of their arguments, without a compiler."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fnnet.train import Run
from fnnet.train.sweep.halving import (
    choose_survivors,
    count_rungs,
    count_survivors,
    rank_by_rung,
    rank_trials,
)
from fnnet.train.sweep.plan import Plan, choose_mapping
from fnnet.train.sweep.program import Summary, arrange, merge_summaries, summarize
from fnnet.train.sweep.record import Chunk, Record, make_chunk
from fnnet.train.sweep.settings import Settings, resolve_settings

NAN = np.nan


class TestHalving:
    def test_survivors_and_ranks(self) -> None:
        scores = np.array([[3.0, 1.0], [NAN, 0.0], [1.0, 1.0], [0.0, 9.0], [NAN, NAN], [2.0, 2.0]])
        assert rank_trials(scores, False).tolist() == [2, 0, 5, 3, 1, 4]
        assert rank_trials(scores, True).tolist() == [3, 0, 5, 2, 1, 4]
        assert choose_survivors(scores, False, 2).tolist() == [0, 2, 5]
        assert choose_survivors(scores, False, 7).tolist() == [2]
        assert rank_trials(np.array([[np.inf], [1e30]]), True).tolist() == [1, 0]

    def test_who_got_further_comes_first(self) -> None:
        scores = np.array([[1.0], [2.0], [3.0], [0.0]])
        assert rank_by_rung(scores, np.array([1, 2, 2, 1]), False).tolist() == [1, 2, 3, 0]

    def test_rungs(self) -> None:
        assert [count_rungs(n, 2) for n in (2, 3, 4, 8, 1000)] == [2, 2, 3, 4, 10]
        assert [count_rungs(n, 10) for n in (10, 999, 1000)] == [2, 3, 4]
        assert count_rungs(5, None) == 1
        assert [count_survivors(5, 2, rung) for rung in range(3)] == [5, 2, 1]


def settings(**arguments: Any) -> Settings:
    defaults: dict[str, Any] = {
        "trials": 20, "seeds": 2, "score": "valid_loss", "maximize": None, "halving": None, "mapping": "auto",
        "chunk": None, "mesh": None, "keep": "best", "histories": False, "folder": False,
    }  # fmt: skip
    return resolve_settings({"train": np.ones(3)}, **defaults | arguments)


class TestSettings:
    def test_defaults(self) -> None:
        plain = settings()
        assert (plain.maximize, plain.eta, plain.rungs, plain.work) == (False, 1, 1, [20])
        assert settings(score="valid_accuracy").maximize
        assert settings(seeds=[3, 1]).seeds.tolist() == [3, 1]

    def test_the_largest_chunk(self) -> None:
        assert settings().largest_chunk == 20
        assert settings(folder=True).largest_chunk == settings(mapping="fastest").largest_chunk == 3
        assert settings(chunk=7, folder=True).largest_chunk == 7
        assert settings(chunk=70).largest_chunk == 20

    def test_which_ends_are_kept(self) -> None:
        halved = settings(halving=3)
        assert (halved.rungs, halved.work) == (3, [20, 6, 2])
        assert [halved.keeps_all(rung) for rung in range(3)] == [True, True, False]
        assert settings(keep="all").keeps_all(0)
        assert not settings().keeps_all(0)


def test_the_mapping_of_the_next_chunk() -> None:
    asked: Any = Plan("map", "as asked for", 4, None)  # type: ignore[arg-type]
    assert choose_mapping(asked, [1.0]) == ("map", "as asked for")
    fastest = asked._replace(mapping="fastest")
    assert choose_mapping(fastest, []) == ("vmap", "is timed")
    assert choose_mapping(fastest, [2.0]) == ("map", "is timed")
    assert choose_mapping(fastest, [2.0, 1.0, 9.0]) == ("map", "a chunk took 2 s by vmap and 1 s by map")
    assert choose_mapping(fastest, [1.0, 1.0])[0] == "vmap"


def test_devices_share_trials_or_seeds() -> None:
    four: Any = SimpleNamespace(axis_names=("a", "b"), devices=np.empty((2, 2)))
    seeds = np.array([5, 6, 7])
    assert arrange(10, seeds, None)[:2] == (10, seeds)
    by_trials = arrange(7, seeds, four)
    assert (by_trials.trials, by_trials.seeds.tolist()) == (8, [5, 6, 7])
    by_seeds = arrange(1, seeds, four)
    assert (by_seeds.trials, by_seeds.seeds.tolist()) == (1, [5, 6, 7, 5])


def test_a_summary_leaves_out_what_is_no_curve() -> None:
    history = {
        "loss": np.array([[[3.0, 1.0, NAN]]]),
        "count": np.ones((1, 1, 3), int),
        "confusion": np.ones((1, 1, 3, 2)),
        "diverged_at": np.array([[2]]),
    }
    got = summarize(history, False)
    assert got.last.keys() == {"loss"}
    assert (got.lowest["loss"], got.highest["loss"], got.history) == (1.0, 3.0, {})
    more = Summary({"loss": 5.0}, {"loss": 0.5}, {"loss": 2.0}, np.array([[7]]), {})
    merged = merge_summaries(got, more)
    assert (merged.last["loss"], merged.lowest["loss"], merged.highest["loss"]) == (5.0, 0.5, 3.0)
    assert merged.diverged_at == 2


def chunk(losses: list[float], *, keep_all: bool, diverged: tuple[int, ...] = ()) -> Chunk:
    """Of trials with one seed, whose weight is their loss."""
    last = np.array(losses)[:, None]
    at = np.where(np.isin(np.arange(len(losses)), diverged), 0, -1)[:, None]
    summary = Summary({"loss": last}, {"loss": last}, {"loss": last}, at, {})
    ends = Run({"w": last}, {}, {}, (), np.zeros(last.shape, np.int32))  # type: ignore[arg-type]
    return make_chunk(summary, ends, 0.5, score="loss", maximize=False, keep_all=keep_all)


class TestRecord:
    def test_of_one_rung_the_best_end_is_kept(self) -> None:
        record = Record("loss", False, 5)
        record.add(chunk([3.0, 2.0], keep_all=False), np.array([0, 1]), 0, False)
        assert (record.order[0], record.best_mean, list(record.ends)) == (1, 2.0, [1])
        record.add(chunk([4.0, 0.0], keep_all=False, diverged=(1,)), np.array([2, 3]), 0, False)
        assert list(record.ends) == [1]
        record.add(chunk([1.0], keep_all=False), np.array([4]), 0, False)
        assert list(record.ends) == [4]
        assert record.ends[4].params["w"].tolist() == [1.0]
        assert record.order.tolist() == [4, 1, 0, 2, 3]
        np.testing.assert_array_equal(record.scores[:, 0], [3, 2, 4, NAN, 1])
        assert record.seconds == [0.5] * 3

    def test_of_several_rungs(self) -> None:
        record = Record("loss", False, 4)
        for part in ([0, 1], [2, 3]):
            record.add(chunk([float(i) for i in part], keep_all=True), np.array(part), 0, True)
        assert sorted(record.ends) == [0, 1, 2, 3]
        previous = record.start_rung(False)
        assert (sorted(previous), record.ends) == ([0, 1, 2, 3], {})
        record.add(chunk([9.0, 8.0], keep_all=False), np.array([0, 1]), 1, False)
        assert list(record.ends) == [1]
        assert record.order.tolist() == [1, 0, 2, 3]
        assert record.rungs.tolist() == [2, 2, 1, 1]
        assert record.summary is not None
        assert record.summary.lowest["loss"][:, 0].tolist() == [0, 1, 2, 3]
        assert record.summary.highest["loss"][:, 0].tolist() == [9, 8, 2, 3]

    def test_all_ends_of_all_rungs(self) -> None:
        record = Record("loss", False, 2)
        record.add(chunk([1.0, 2.0], keep_all=True), np.array([0, 1]), 0, True)
        record.start_rung(True)
        record.add(chunk([5.0], keep_all=True), np.array([0]), 1, True)
        assert [record.ends[i].params["w"].item() for i in range(2)] == [5.0, 2.0]


def test_a_record_without_chunks_has_no_scores() -> None:
    with pytest.raises(AssertionError, match="no chunk has run"):
        _ = Record("loss", False, 2).scores
