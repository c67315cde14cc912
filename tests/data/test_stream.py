"""Streams of batches beside NumPy on the same arrays: order, position, processes, and files that vanish."""

import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import data
from tests.arrays import equal

grain = pytest.importorskip("grain")

N = 23
rng = np.random.default_rng(0)
EXAMPLES = {"x": rng.random((N, 3, 2), dtype=np.float32), "y": np.arange(N, dtype=np.int32)}
ROWS = [{"x": EXAMPLES["x"][i], "y": EXAMPLES["y"][i]} for i in range(N)]


class Sized:
    """A random access source of one's own."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return ROWS[i]


@pytest.fixture
def folder(tmp_path):
    data.save_arrays(tmp_path / "data", EXAMPLES)
    return tmp_path / "data"


def labels(batches, count=None):
    return [batch["y"].tolist() for batch in itertools.islice(batches, count)]


# The order.


@pytest.mark.parametrize("prefetch", [0, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 5, N])
def test_each_epoch_is_a_permutation(batch_size, prefetch):
    epochs, whole = 4, N // batch_size
    stream = data.stream(EXAMPLES, batch_size, epochs=epochs, prefetch=prefetch)
    assert stream.batches_per_epoch == whole
    seen = []
    for batch in stream:
        assert batch["y"].shape == (batch_size,)
        equal(batch, {"x": EXAMPLES["x"][batch["y"]], "y": batch["y"]})
        seen.append(batch["y"])
    assert len(seen) == epochs * whole
    orders = np.concatenate(seen).reshape(epochs, whole * batch_size)
    for order in orders:
        assert len(set(order.tolist())) == whole * batch_size  # none twice
    assert len({tuple(order) for order in orders.tolist()}) == epochs
    if whole * batch_size < N:
        dropped = {tuple(sorted({*range(N)} - {*order})) for order in orders.tolist()}
        assert len(dropped) > 1  # others each time


def test_every_place_has_every_example():
    # Of 2,300 epochs each example is first in about 100, give or take a standard deviation of 10.
    stream = data.stream({"y": np.arange(N)}, N, epochs=2300, prefetch=0)
    orders = np.array(labels(stream))
    counts = np.array([np.bincount(orders[:, place], minlength=N) for place in range(N)])
    assert np.abs(counts - 100).max() < 50


def test_seeds():
    orders = [labels(data.stream(EXAMPLES, 5, seed=seed, epochs=3)) for seed in (0, 0, 1, 2**40)]
    assert orders[0] == orders[1]
    assert len({str(order) for order in orders}) == 3
    # No epoch of one seed is another epoch of the next.
    epochs = [str(labels(data.stream(EXAMPLES, N, seed=seed), 20)) for seed in range(3)]
    flat = [epoch for order in epochs for epoch in json.loads(order)]
    assert len({str(epoch) for epoch in flat}) == 60


def test_the_order_stays_what_it_was():
    # A run that is resumed under a newer NumPy or fnnet would go through other examples unless this holds.
    orders = labels(data.stream({"y": np.arange(7)}, 7, seed=5, epochs=2))
    assert orders == [[1, 4, 2, 3, 6, 5, 0], [4, 2, 0, 6, 5, 3, 1]]


def test_without_shuffling_nothing_is_lost():
    stream = data.stream(EXAMPLES, 5, shuffle=False, epochs=2)
    assert (stream.batches_per_epoch, stream.epochs) == (5, 2)
    assert labels(stream) == 2 * [[*range(i, min(i + 5, N))] for i in range(0, N, 5)]
    equal(next(iter(data.stream(EXAMPLES, 99, shuffle=False))), EXAMPLES)


def test_what_is_left_over_as_asked_for():
    assert [len(y) for y in labels(data.stream(EXAMPLES, 5, epochs=2, drop_last=False))] == 2 * [
        5,
        5,
        5,
        5,
        3,
    ]
    kept = labels(data.stream(EXAMPLES, 5, epochs=1, drop_last=False))
    assert sorted(itertools.chain(*kept)) == [*range(N)]
    assert kept[:4] == labels(data.stream(EXAMPLES, 5, epochs=1))
    dropped = data.stream(EXAMPLES, 5, shuffle=False, epochs=1, drop_last=True)
    assert labels(dropped) == np.arange(20).reshape(4, 5).tolist()


def test_iterated_again_it_is_the_same_and_without_epochs_it_does_not_end():
    stream = data.stream(EXAMPLES, 5)
    one, other = iter(stream), iter(stream)
    assert iter(one) is one
    first = labels(one, 3)
    assert labels(other, 100)[:3] == first
    assert labels(one, 97)[-1] == labels(stream, 100)[-1]
    with pytest.raises(StopIteration):
        ended = iter(data.stream(EXAMPLES, N, epochs=1))
        next(ended), next(ended)


# Where examples come from.


def test_sources_agree(folder):
    maps = data.open_arrays(folder)
    wanted = list(data.stream(EXAMPLES, 4, seed=3, epochs=2))
    sources = [
        {"x": jnp.asarray(EXAMPLES["x"]), "y": EXAMPLES["y"]},
        maps,
        {name: np.asarray(array) for name, array in maps.items()},
        ROWS,
        Sized(),
        grain.MapDataset.source(ROWS),
        grain.MapDataset.range(N).map(lambda i: ROWS[i]),
    ]
    for source in sources:
        got = list(data.stream(source, 4, seed=3, epochs=2))
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            equal(a, b)
            assert not any(
                isinstance(leaf, np.memmap) for leaf in a.values()
            )  # read, and not a promise to read


def test_batches_of_unshuffled_files_are_in_memory(folder):
    batch = next(iter(data.stream(data.open_arrays(folder), 4, shuffle=False, prefetch=0)))
    os.truncate(folder / "x.npy", 0)  # a look at the map would now kill the process
    equal(batch, {"x": EXAMPLES["x"][:4], "y": EXAMPLES["y"][:4]})


def test_nested_examples():
    nested = {"x": {"tokens": np.arange(12).reshape(6, 2), "lengths": np.arange(6)}, "y": np.arange(6)}
    rows = [{"x": {k: v[i] for k, v in nested["x"].items()}, "y": nested["y"][i]} for i in range(6)]
    for source in (nested, rows):
        batch = next(iter(data.stream(source, 3)))
        np.testing.assert_array_equal(batch["x"]["lengths"], batch["y"])
        np.testing.assert_array_equal(batch["x"]["tokens"], nested["x"]["tokens"][batch["y"]])


# The position.


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"epochs": 3, "drop_last": False}])
def test_a_position_goes_on_with_the_next_batch(prefetch, options):
    def make():
        return iter(data.stream(EXAMPLES, 5, seed=1, prefetch=prefetch, **options))

    wanted = list(itertools.islice(make(), 13))  # three epochs of four, or two and a half
    running = make()
    for k in range(13):
        state = running.get_state()
        assert json.loads(json.dumps(state)) == state
        resumed = make()
        resumed.set_state(json.loads(json.dumps(state)))
        assert resumed.get_state() == state
        for batch in wanted[k : k + 3]:
            equal(next(resumed), batch)
        running.set_state(state)  # on itself, too, where batches were read ahead
        equal(next(running), wanted[k])
        assert state != running.get_state()  # and was not changed by going on


def test_a_position_goes_back_and_forth():
    batches = iter(data.stream(EXAMPLES, 5))
    begin, wanted = batches.get_state(), labels(batches, 9)
    far = batches.get_state()
    batches.set_state(begin)
    assert labels(batches, 2) == wanted[:2]
    batches.set_state(far)
    assert labels(batches, 1) == labels(iter(data.stream(EXAMPLES, 5)), 10)[9:]


def test_the_end_is_a_position():
    stream = data.stream(EXAMPLES, 5, epochs=1)
    batches = iter(stream)
    assert len(list(batches)) == 4
    again = iter(stream)
    again.set_state(batches.get_state())
    assert list(again) == []
    # With more epochs it goes on: how many there are is no part of the order.
    longer = iter(data.stream(EXAMPLES, 5, epochs=2))
    longer.set_state(batches.get_state())
    assert labels(longer) == labels(data.stream(EXAMPLES, 5, epochs=2))[4:]


@pytest.mark.slow
def test_another_process_goes_on(folder):
    batches = iter(data.stream(data.open_arrays(folder), 5, seed=7))
    for _ in range(6):
        next(batches)
    code = """
import json, sys
from fnnet import data
batches = iter(data.stream(data.open_arrays(sys.argv[1]), 5, seed=7, prefetch=0))
batches.set_state(json.loads(sys.argv[2]))
print([[batch["y"].tolist(), batch["x"].tobytes().hex()] for batch in (next(batches) for _ in range(4))])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, folder, json.dumps(batches.get_state())],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(data.__file__).parents[2],
    )
    wanted = [[batch["y"].tolist(), batch["x"].tobytes().hex()] for batch in itertools.islice(batches, 4)]
    assert done.stdout.strip() == str(wanted)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "message, options",
    [
        (
            "with batch_size=5, here batch_size=4; use the same arguments as then",
            {"batch_size": 4},
        ),
        ("with seed=0, here seed=1", {"seed": 1}),
        (
            "with shuffle=True, drop_last=True, here shuffle=False, drop_last=False",
            {"shuffle": False},
        ),
        ("with examples=23, here examples=22", {"examples": {"y": np.arange(22)}}),
    ],
)
def test_a_position_of_another_stream(message, options):
    batches = iter(data.stream(EXAMPLES, 5))
    next(batches)
    other = iter(data.stream(**{"examples": EXAMPLES, "batch_size": 5, **options}))
    first = labels(iter(data.stream(**{"examples": EXAMPLES, "batch_size": 5, **options})), 1)
    with pytest.raises(ValueError, match=message):
        other.set_state(batches.get_state())
    assert labels(other, 1) == first  # as if it had not been tried


def test_what_is_no_position():
    batches = iter(data.stream(EXAMPLES, 5, epochs=1))
    wanted = labels(data.stream(EXAMPLES, 5, epochs=1))
    mixed = {"grain": {"next_index": 2}, "order": {"seed": 0}}
    right = batches.get_state()
    for state in ({}, 3, {"next_index": 2}, b"12", mixed, {**right, "grain": {}}, {**right, "order": 3}):
        with pytest.raises(ValueError, match=r"the position is .*, wanted what the get_state of"):
            batches.set_state(state)
    longer = iter(data.stream(EXAMPLES, 5))
    for _ in range(5):
        next(longer)
    with pytest.raises(ValueError, match="is after the last epoch; make the stream with more epochs"):
        batches.set_state(longer.get_state())
    assert labels(batches) == wanted


# Several processes.


@pytest.mark.parametrize("options", [{}, {"batch_size": 8, "shuffle": False, "drop_last": True}])
def test_the_shares_of_a_batch_are_the_batch(options):
    options = {"batch_size": 6, "epochs": 3, **options}
    whole = list(data.stream(EXAMPLES, **options))
    for count in (1, 2):
        shares = [list(data.stream(EXAMPLES, **options, shard=(i, count))) for i in range(count)]
        for batch, *parts in zip(whole, *shares, strict=True):
            equal(batch, {name: np.concatenate([part[name] for part in parts]) for name in batch})
            assert {len(part["y"]) for part in parts} == {len(batch["y"]) // count}


def test_a_short_last_batch_is_shared_where_it_can_be():
    examples = {"y": np.arange(22)}
    shares = [labels(data.stream(examples, 6, shuffle=False, epochs=1, shard=(i, 2))) for i in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == [
        [*range(i, min(i + 6, 22))] for i in range(0, 22, 6)
    ]
    with pytest.raises(
        ValueError, match="batches of 5 and 6 examples, wanted multiples of 2, the number of processes"
    ):
        data.stream(EXAMPLES, 6, shuffle=False, shard=(0, 2))


def test_a_position_fits_another_number_of_processes():
    one = iter(data.stream(EXAMPLES, 6))
    for _ in range(4):
        next(one)
    two = [iter(data.stream(EXAMPLES, 6, shard=(i, 2))) for i in (0, 1)]
    for batches in two:
        batches.set_state(one.get_state())
    parts = [next(batches) for batches in two]
    equal(next(one), {name: np.concatenate([part[name] for part in parts]) for name in EXAMPLES})


# What goes wrong.


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_file_that_vanishes(folder, prefetch):
    batches = iter(data.stream(data.open_arrays(folder), 5, prefetch=prefetch))
    wanted = list(itertools.islice(data.stream(EXAMPLES, 5), 12))
    for batch in wanted[:2]:
        equal(next(batches), batch)
    (folder / "x.npy").rename(folder / "away.npy")
    served = 2
    with pytest.raises(FileNotFoundError, match=r"restore the file, and resume: .*x\.npy'"):
        for served in range(2, 12):  # what was read ahead may still come
            equal(next(batches), wanted[served])
    assert served <= 2 + prefetch + 1
    state = batches.get_state()
    with pytest.raises(FileNotFoundError):
        next(batches)
    assert batches.get_state() == state  # an error does not move it
    (folder / "away.npy").rename(folder / "x.npy")
    equal(next(batches), wanted[served])


@pytest.mark.parametrize(
    "opened", [data.open_arrays, lambda folder: {"x": np.asarray(data.open_arrays(folder)["x"])[2:]}]
)
def test_a_file_that_is_cut_off(folder, opened):
    batches = iter(data.stream(opened(folder), 5, prefetch=0))
    next(batches)
    os.truncate(folder / "x.npy", 200)
    with pytest.raises(OSError, match=r"x\.npy has become shorter, 200 bytes of 680; restore the file"):
        next(batches)


def test_a_file_that_was_cut_off_before(folder):
    maps = data.open_arrays(folder)
    os.truncate(folder / "x.npy", 200)
    with pytest.raises(OSError, match=r"has become shorter, 200 bytes of 680"):
        next(iter(data.stream(maps, 5)))
    (folder / "x.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"restore the file"):
        data.stream(maps, 5)


@pytest.mark.parametrize("error", [OSError("a bad block"), KeyboardInterrupt()])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_reading_error_loses_no_batch(error, prefetch):
    bad = {"left": 2}
    lock = threading.Lock()

    class Flaky(Sized):
        def __getitem__(self, i):
            with lock:
                if i == 11 and bad["left"]:
                    bad["left"] -= 1
                    if not bad["left"]:
                        raise error
            return ROWS[i]

    wanted = labels(data.stream(EXAMPLES, 5), 12)
    batches, got, errors = iter(data.stream(Flaky(), 5, prefetch=prefetch)), [], 0
    while len(got) < 12:
        try:
            got.append(next(batches)["y"].tolist())
        except type(error):
            errors += 1
    assert (got, errors) == (wanted, 1)


def test_the_threads_end():
    before = set(threading.enumerate())
    batches = iter(data.stream(EXAMPLES, 5, prefetch=3))
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


nothing = {"x": np.zeros((0, 2))}


@pytest.mark.parametrize(
    "error, message, args",
    [
        (
            ValueError,
            r"examples are {x: float64\[0,2\]}, wanted arrays with equal leading axes",
            (nothing, 1),
        ),
        (ValueError, "wanted arrays with equal leading axes", ({"x": np.zeros(3), "y": np.zeros(4)}, 1)),
        (ValueError, "wanted arrays with equal leading axes", ({"x": 1.0}, 1)),
        (ValueError, "wanted arrays with equal leading axes", ({}, 1)),
        (TypeError, "wanted a dict of arrays, such as data.train", (data.Dataset(EXAMPLES), 1)),
        (TypeError, "wanted a dict of arrays", (iter(ROWS), 1)),
        (TypeError, r"example 0 is float32\[3,2\], wanted a dict of arrays", (EXAMPLES["x"], 1)),
        (TypeError, "example 0 is None", ([None], 1)),
        (ValueError, "0 examples, wanted at least one", ([], 1)),
        (
            ValueError,
            r"wanted at least one, and no endless \.repeat\(\)",
            (grain.MapDataset.source(ROWS).repeat(), 1),
        ),
        (
            ValueError,
            "batch_size=24, wanted at most 23, the number of examples, or drop_last=False",
            (EXAMPLES, 24),
        ),
        (ValueError, "batch_size=0, wanted at least 1", (EXAMPLES, 0)),
        (TypeError, r"batch_size=5\.0, wanted a positive int", (EXAMPLES, 5.0)),
    ],
)
def test_examples_and_sizes_that_do_not_fit(error, message, args):
    with pytest.raises(error, match=message):
        data.stream(*args)


@pytest.mark.parametrize(
    "error, message, options",
    [
        (ValueError, "epochs=0, wanted at least 1", {"epochs": 0}),
        (ValueError, "seed=-1, wanted at least 0", {"seed": -1}),
        (TypeError, r"seed=1\.5, wanted an int", {"seed": 1.5}),
        (ValueError, "prefetch=-1, wanted at least 0", {"prefetch": -1}),
        (ValueError, r"shard=\(2, 2\), wanted \(index, count\) with 0 <= index < count", {"shard": (2, 2)}),
        (ValueError, r"shard=\(-1, 2\), wanted", {"shard": (-1, 2)}),
        (ValueError, "shard=2, wanted", {"shard": 2}),
        (ValueError, r"shard=\(False, True\), wanted", {"shard": (False, True)}),
        (TypeError, "shuffle='no', wanted True or False", {"shuffle": "no"}),
        (TypeError, r"shuffle=.*True.*, wanted True or False", {"shuffle": np.True_}),
        (TypeError, "drop_last=0, wanted True or False", {"drop_last": 0}),
        (ValueError, "seed=-1, wanted at least 0", {"seed": np.int64(-1)}),
        (ValueError, r"shard=\(0\.0, 1\), wanted", {"shard": (0.0, 1)}),
        (
            ValueError,
            "batches of 5 examples, wanted multiples of 2, the number of processes",
            {"shard": (0, 2)},
        ),
    ],
)
def test_options_that_do_not_fit(error, message, options):
    with pytest.raises(error, match=message):
        data.stream(EXAMPLES, 5, **options)


def test_numbers_of_numpy_are_numbers():
    batches = iter(data.stream(EXAMPLES, np.int64(5), seed=np.int32(3)))
    assert labels(batches, 2) == labels(data.stream(EXAMPLES, 5, seed=3), 2)
    json.dumps(batches.get_state())


def test_examples_that_differ():
    rows = [*ROWS[:3], {"x": np.zeros((9, 9)), "y": np.int32(0)}]
    with pytest.raises(ValueError) as raised:
        next(iter(data.stream(rows, 4, shuffle=False, prefetch=0)))
    assert "examples [0 1 2 3] have different shapes or names" in raised.value.__notes__[0]
    with pytest.raises(TypeError, match="example 1 is None, wanted a dict"):
        next(iter(data.stream([ROWS[0], None], 2, shuffle=False)))


def test_without_grain(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"grain, which reads the batches, is missing.*pip install grain$"):
        data.stream(EXAMPLES, 5)
