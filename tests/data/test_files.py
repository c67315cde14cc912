"""Arrays in a folder: NumPy reads what is written, and what is damaged says so."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from fnnet import data
from fnnet.data import files

rng = np.random.default_rng(0)
N = 23
EXAMPLES = {
    "x": {
        "picture": rng.random((N, 4, 3, 1), dtype=np.float32),
        "tokens": rng.integers(0, 99, (N, 5), dtype=np.uint8),
    },
    "y": rng.integers(0, 9, N, dtype=np.int32),
    "weight": rng.random(N) < 0.5,
    "empty": np.zeros((N, 0), np.float64),
}
PATHS = {"x/picture", "x/tokens", "y", "weight", "empty"}


def at(examples, path):
    for name in path.split("/"):
        examples = examples[name]
    return examples


def rows(examples, start, stop):
    return {
        name: rows(child, start, stop) if isinstance(child, dict) else child[start:stop]
        for name, child in examples.items()
    }


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sizes", [None, [N], [1, 0, 7, 15]])
def test_numpy_reads_the_same_arrays(tmp_path, sizes):
    folder = tmp_path / "new" / "data"
    if sizes is None:
        data.save_arrays(folder, EXAMPLES)
    else:
        stops = np.cumsum(sizes)
        parts = (rows(EXAMPLES, stop - n, stop) for n, stop in zip(sizes, stops, strict=True))
        data.save_arrays(str(folder), parts)
    opened = data.open_arrays(folder)
    assert opened.keys() == EXAMPLES.keys()
    for path in PATHS:
        alone, wanted = np.load(folder / f"{path}.npy"), at(EXAMPLES, path)
        for got in (alone, at(opened, path)):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
        assert isinstance(at(opened, path), np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            at(opened, path)[...] = 0
    assert left(folder.parent) == ["data"]


def test_chunks_smaller_than_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 100)  # two rows of picture, and not all of tokens
    data.save_arrays(tmp_path / "data", EXAMPLES)
    for path in PATHS:
        np.testing.assert_array_equal(np.load(tmp_path / "data" / f"{path}.npy"), at(EXAMPLES, path))


def test_layouts_and_dtypes_that_a_file_does_not_have(tmp_path):
    strided = np.arange(24.0).reshape(4, 6)[:, ::2]
    examples = {
        "half": jnp.arange(4, dtype=jnp.bfloat16) / 3,
        "eighth": jnp.arange(4, dtype=jnp.float8_e4m3fn),
        "nibble": jnp.arange(4, dtype=jnp.int4),
        "big": np.arange(4, dtype=">f4"),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(4, 3)),
        "strided": strided,
    }
    data.save_arrays(tmp_path / "data", examples)
    opened = data.open_arrays(tmp_path / "data")
    assert [opened[name].dtype.name for name in examples] == [
        "bfloat16",
        "float8_e4m3fn",
        "int4",
        "float32",
        "float64",
        "float64",
    ]
    for name, wanted in examples.items():
        np.testing.assert_array_equal(np.asarray(opened[name], np.float64), np.asarray(wanted, np.float64))
    bits = np.load(tmp_path / "data" / "half.npy")
    np.testing.assert_array_equal(bits, np.asarray(examples["half"]).view(np.uint16))


def test_only_a_batch_is_in_memory(tmp_path):
    batches = ({"x": np.full((250, 1024), i, np.float32)} for i in range(64))  # 64 of 1 MB
    tracemalloc.start()
    data.save_arrays(tmp_path / "data", batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "x.npy")[::250, 0], np.arange(64))


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_folder(tmp_path):
    code = """
import os, signal, sys
import numpy as np
from fnnet import data
def batches():
    yield {"x": np.ones((1000, 100))}
    os.kill(os.getpid(), signal.SIGKILL)
data.save_arrays(sys.argv[1], batches())
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "data"], cwd=Path(data.__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    [rest] = left(tmp_path)
    assert rest.startswith(".data.")
    assert rest.endswith(".part")


def refused(tmp_path, error, message, examples):
    with pytest.raises(error, match=message) as raised:
        data.save_arrays(tmp_path / "data", examples)
    assert left(tmp_path) == []
    return raised


x, y = np.zeros((4, 2), np.float32), np.zeros(4, np.int32)


@pytest.mark.parametrize(
    "error, message, examples",
    [
        (TypeError, r"got float32\[4,2\], wanted a dict of arrays or batches of them", x),
        (TypeError, "got 3, wanted a dict", 3),
        (TypeError, r"a batch is float32\[4,2\], wanted a dict", [x]),
        (TypeError, r"y is <U1\[1\], wanted numbers or booleans", {"y": ["a"]}),
        (TypeError, r"y is object\[1\], wanted numbers", {"y": [None]}),
        (
            ValueError,
            r"batch 0 is .*float32\[4,2\].*, wanted arrays with equal leading axes",
            {"x": x, "y": y[:3]},
        ),
        (ValueError, "wanted arrays with equal leading axes", {"x": np.float32(1)}),
        (ValueError, "batch 0 is {}, wanted arrays", {}),
        (ValueError, "got no example, wanted at least one", {"x": x[:0]}),
        (ValueError, "got no example, wanted at least one", []),
        (ValueError, "the name '../x' cannot be that of a file", {"../x": x}),
        (ValueError, "the name 0 cannot be that of a file", {0: x}),
        (
            ValueError,
            r"batch 1 is .*names, dtypes and other axes as in the first batch",
            [{"x": x}, {"x": x[:, :1]}],
        ),
        (ValueError, r"batch 1 is {x: int32\[4\]}.*first batch: {x: float32\[0,2\]}", [{"x": x}, {"x": y}]),
        (ValueError, "batch 1 is", [{"x": x}, {"x": x, "y": y}]),
        (ValueError, "batch 2 is", [{"x": x, "y": y}, {"x": x, "y": y}, {"x": x}]),
    ],
)
def test_what_cannot_be_saved(tmp_path, error, message, examples):
    raised = refused(tmp_path, error, message, examples)
    if not isinstance(examples, np.ndarray | int):
        assert "nothing was written" in raised.value.__notes__[0]


def test_an_iterator_that_fails_leaves_nothing(tmp_path):
    def batches():
        yield {"x": x}
        raise KeyboardInterrupt("stop")

    refused(tmp_path, KeyboardInterrupt, "stop", batches())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    refused(tmp_path, OSError, "No space left", {"x": x})


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "data"
    data.save_arrays(folder, {"x": x})
    with pytest.raises(FileExistsError, match="data exists; choose another folder, or remove it first"):
        data.save_arrays(folder, {"x": x + 1})
    np.testing.assert_array_equal(np.load(folder / "x.npy"), x)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        data.save_arrays(dangling, {"x": x})


@pytest.fixture
def folder(tmp_path):
    data.save_arrays(tmp_path / "data", {"x": x, "in": {"y": y}})
    return tmp_path / "data"


def rewrite(folder, change):
    index = json.loads((folder / "arrays.json").read_text())
    change(index)
    (folder / "arrays.json").write_text(json.dumps(index))


def test_files_that_are_missing(folder):
    with pytest.raises(
        FileNotFoundError, match="nowhere is not a folder; wanted a folder that save_arrays wrote"
    ):
        data.open_arrays(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"in has no arrays\.json"):
        data.open_arrays(folder / "in")
    (folder / "in" / "y.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"in/y\.npy is missing; restore it"):
        data.open_arrays(folder)


@pytest.mark.parametrize("size", [0, 60, 159, 161])
def test_a_file_of_another_length(folder, size):
    os.truncate(folder / "x.npy", size)  # 128 bytes of head, 32 of data
    with pytest.raises(ValueError, match=rf"x\.npy has {size} bytes, wanted 160; write the folder again"):
        data.open_arrays(folder)


def test_a_file_of_another_content(folder):
    (folder / "x.npy").write_bytes(bytes(160))
    with pytest.raises(ValueError, match=r"x\.npy is damaged"):
        data.open_arrays(folder)
    np.save(folder / "x.npy", x.view(np.int32))
    with pytest.raises(
        ValueError, match=r"x\.npy is int32\[4,2\], wanted float32\[4,2\], as in arrays\.json"
    ):
        data.open_arrays(folder)


def test_pickles_are_not_read(folder):
    np.save(folder / "x.npy", np.array([print], object), allow_pickle=True)
    rewrite(folder, lambda index: index["arrays"]["x"].update(bytes=(folder / "x.npy").stat().st_size))
    with pytest.raises(ValueError, match=r"x\.npy is damaged"):
        data.open_arrays(folder)


@pytest.mark.parametrize(
    "message, change",
    [
        ("was not written by save_arrays", lambda index: index.pop("format")),
        ("has version 2, this fnnet reads 1; update fnnet", lambda index: index.update(version=2)),
        ("has version None", lambda index: index.pop("version")),
        (r"damaged \(KeyError", lambda index: index.pop("arrays")),
        (r"damaged \(ValueError\('no names", lambda index: index.update(arrays={})),
        (r"damaged \(KeyError", lambda index: index["arrays"]["x"].pop("bytes")),
        (r"damaged \(TypeError", lambda index: index["arrays"]["x"].update(dtype="float33")),
        (r"damaged \(TypeError", lambda index: index["arrays"]["x"].update(shape=4)),
        (r"damaged \(ValueError\('no names", lambda index: index.update(arrays=[1])),
        (r"\('no names", lambda index: index["arrays"].update({"../x": index["arrays"]["x"]})),
    ],
)
def test_an_index_that_is_damaged_foreign_or_newer(folder, message, change):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        data.open_arrays(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_an_index_that_is_no_json(folder, content):
    (folder / "arrays.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"arrays\.json is damaged .*; write the folder again"):
        data.open_arrays(folder)


@pytest.mark.parametrize("content", ["[]", "3", '{"version": 1}'])
def test_a_foreign_json(folder, content):
    (folder / "arrays.json").write_text(content)
    with pytest.raises(ValueError, match="was not written by save_arrays"):
        data.open_arrays(folder)


def test_an_address_is_no_path():
    """It would become the folder "gs:" here."""
    address = "gs://bucket/run"
    for read in (
        lambda: fn.data.save_arrays(address, {"x": np.ones(1)}),
        lambda: fn.data.open_arrays(address),
        lambda: fn.data.fashion_mnist(address),
        lambda: fn.data.read_idx(address),
    ):
        with pytest.raises(
            ValueError, match=r"='gs://bucket/run' is an address, wanted a path of this machine"
        ):
            read()
