"""Fashion-MNIST: the files' format, where they are looked for, and the download, from a local server."""

import contextlib
import gzip
import hashlib
import itertools
import socket
import struct
import sys
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import data

module = sys.modules["fnnet.data.fashion_mnist"]  # fnnet.data.fashion_mnist is the function
DEBIAN, URL = module.DEBIAN, module.URL

# Of the authors' files, unpacked.
OFFICIAL = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}


def idx(array, code=8, letter="B"):
    """An IDX file by the book."""
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + struct.pack(f">{array.size}{letter}", *array.ravel().tolist())


def small(seed=0):
    """The four files with 60 pictures to train on and 20 to test."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for part, n in (("train", 60), ("t10k", 20)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = generator.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = generator.permutation(np.arange(n, dtype=np.uint8) % 10)
    return arrays, {name: gzip.compress(idx(array), mtime=0) for name, array in arrays.items()}


ARRAYS, FILES = small()
NAMES = list(FILES)


def fill(folder, files=FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No data set on this machine, and no network."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{unused.getsockname()[1]}/")
    monkeypatch.setattr(
        module, "MD5", {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
    )
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(module, "TIMEOUT", 5.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("FNNET_DATA", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "fnnet" / "fashion-mnist"


class Server(ThreadingHTTPServer):
    """Serves `files`, notes what was asked for; `cut` bytes are never sent, `wait` delays it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.cut, self.wait, self.redirect = dict(FILES), [], 0, 0.0, None


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        self.server.asked.append(name)
        time.sleep(self.server.wait)
        if self.server.redirect:
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[name])))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # of a client that has left
            self.wfile.write(self.server.files[name][: -self.server.cut or None])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.shutdown()
        thread.join()


def check(dataset):
    """That the data set is the small one."""
    assert [part["x"].shape for part in dataset] == [(50, 28, 28, 1), (10, 28, 28, 1), (20, 28, 28, 1)]
    for part in dataset:
        assert isinstance(part["x"], jax.Array)
        assert (part["x"].dtype, part["y"].dtype) == (jnp.float32, jnp.int32)
    pictures = ARRAYS["t10k-images-idx3-ubyte.gz"].astype(np.float32)[..., None] / np.float32(255)
    np.testing.assert_array_equal(dataset.test["x"], pictures)
    np.testing.assert_array_equal(dataset.test["y"], ARRAYS["t10k-labels-idx1-ubyte.gz"])
    np.testing.assert_array_equal(np.bincount(dataset.valid["y"]), [1] * 10)
    # Train and validation together are the official training part, each picture with its label.
    got = np.concatenate([np.asarray(part["x"][..., 0]) for part in dataset[:2]])
    labels = np.concatenate([part["y"] for part in dataset[:2]])
    wanted = ARRAYS["train-images-idx3-ubyte.gz"].astype(np.float32) / np.float32(255)
    order, wanted_order = np.lexsort(got[:, 0].T), np.lexsort(wanted[:, 0].T)
    np.testing.assert_array_equal(got[order], wanted[wanted_order])
    np.testing.assert_array_equal(labels[order], ARRAYS["train-labels-idx1-ubyte.gz"][wanted_order])


# The IDX format.

TYPES = [(8, "B", "u1"), (9, "b", "i1"), (11, "h", "i2"), (12, "i", "i4"), (13, "f", "f4"), (14, "d", "f8")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 3), ()])
@pytest.mark.parametrize("code, letter, dtype", TYPES)
def test_read_idx(tmp_path, code, letter, dtype, shape, pack):
    wanted = np.arange(-7, np.prod(shape, dtype=int) - 7).astype(dtype).reshape(shape)
    path = tmp_path / "file"
    path.write_bytes(pack(idx(wanted, code, letter)))
    got = data.read_idx(path)
    assert got.dtype == np.dtype(dtype)
    assert got.dtype.isnative
    assert got.flags.writeable
    np.testing.assert_array_equal(got, wanted)


ONE = idx(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    "content, message",
    [
        (ONE[:-1], r"got 17 bytes, wanted 18 for uint8 of shape \(2, 3\)"),
        (ONE + b"\0", "got 19 bytes, wanted 18"),
        (b"", "got 0 bytes that begin with nothing, wanted 00 00"),
        (ONE[:3], "got 3 bytes that begin with 00 00 08"),
        (ONE[:10], "got 10 bytes that begin with 00 00 08 02"),
        (b"\1" + ONE[1:], "begin with 01 00 08 02, wanted 00 00"),
        (b"\0\0\x0a" + ONE[3:], "begin with 00 00 0a 02, wanted 00 00, a type among 08, 09, 0b"),
        (b"<html>not found</html>", "begin with 3c 68 74 6d"),
        (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "got 16 bytes, wanted 792281"),
        (gzip.compress(ONE, mtime=0)[:-9], "damaged gzip file"),
        (gzip.compress(ONE, mtime=0)[:-8] + bytes(8), "damaged gzip file"),
        (gzip.compress(ONE, mtime=0)[:12] + b"\xff" * 20, "damaged gzip file"),
        (gzip.compress(ONE, mtime=0) + b"more", "damaged gzip file"),
        (gzip.compress(ONE[:-1], mtime=0), "got 17 bytes, wanted 18"),
        (gzip.compress(ONE + b"\0", mtime=0), "got more than 18 bytes, wanted 18"),
        (gzip.compress(ONE[:10], mtime=0), "got 10 bytes that begin with 00 00 08 02"),
        (gzip.compress(b"<html>not found</html>", mtime=0), "begin with 3c 68 74 6d"),
        (
            gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)),
            "promises 7922816.*1073741824 at most",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        data.read_idx(path)
    assert str(path) in str(error.value)


def test_a_gzipped_file_is_not_unpacked_beyond_what_its_header_promises(tmp_path):
    """50 KB that would fill 50 MB: too many numbers for the header, or more than is allowed."""
    zeros, path = bytes(1 << 20), tmp_path / "file"

    def bomb(head):
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(head)
            for _ in range(50):
                file.write(zeros)

    bomb(ONE)
    tracemalloc.start()
    with pytest.raises(ValueError, match="got more than 18 bytes, wanted 18 for uint8"):
        data.read_idx(path)
    bomb(struct.pack(">HBBI", 0, 8, 1, 50 << 20))
    with pytest.raises(
        ValueError, match=r"promises 52428800 bytes.*, wanted 1000000 at most; .* largest=52428800"
    ):
        data.read_idx(path, largest=1_000_000)
    bomb(struct.pack(">HBBI", 0, 8, 1, 2**30))  # fewer than promised, of which no memory is taken
    with pytest.raises(ValueError, match="got 52428808 bytes, wanted 1073741832"):
        data.read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 130e6
    tracemalloc.stop()
    with pytest.raises(TypeError, match="read_idx: largest=None, wanted a positive int"):
        data.read_idx(path, largest=None)


# A folder that is given.


def test_a_folder_with_the_files_gzipped_or_not(tmp_path):
    check(data.fashion_mnist(fill(tmp_path / "packed")))
    plain = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in FILES.items()}
    check(data.fashion_mnist(str(fill(tmp_path / "plain", plain))))
    mixed = dict(itertools.islice(FILES.items(), 2)) | dict(itertools.islice(plain.items(), 2, None))
    check(data.fashion_mnist(fill(tmp_path / "home" / "mixed", mixed)))
    check(data.fashion_mnist("~/mixed"))


def test_the_seed_chooses_the_validation_part(tmp_path):
    fill(tmp_path)
    one, again, other = (data.fashion_mnist(tmp_path, seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.array_equal(one.valid["x"], other.valid["x"])
    np.testing.assert_array_equal(one.test["x"], other.test["x"])


def test_a_folder_that_lacks_files_raises_at_once(tmp_path, monkeypatch, server):
    monkeypatch.setenv("FNNET_DATA", str(fill(tmp_path / "complete")))
    folder = fill(tmp_path / "some", {NAMES[0]: FILES[NAMES[0]]})
    with pytest.raises(FileNotFoundError) as error:
        data.fashion_mnist(folder)
    assert str(folder) in str(error.value)
    assert NAMES[0] not in str(error.value)
    assert all(name in str(error.value) for name in NAMES[1:])
    with pytest.raises(FileNotFoundError, match="no-such-folder lacks"):
        data.fashion_mnist(tmp_path / "no-such-folder")
    assert server.asked == []


@pytest.mark.parametrize(
    "name, array, message",
    [
        (NAMES[0], np.zeros((60, 28, 27), np.uint8), r"uint8\[60,28,27\], wanted images uint8\[n,28,28\]"),
        (NAMES[0], ARRAYS[NAMES[1]], r"uint8\[60\], wanted images"),
        (NAMES[1], np.zeros(59, np.uint8), r"uint8\[59\].*wanted a label from 0 to 9.*uint8\[60\]"),
        (NAMES[1], np.arange(60, dtype=np.uint8), "the largest 59, wanted a label from 0 to 9"),
        (NAMES[3], np.zeros((20, 1), np.uint8), r"uint8\[20,1\]"),
    ],
)
def test_a_file_that_is_another_is_named(tmp_path, name, array, message):
    fill(tmp_path, FILES | {name: idx(array)})
    with pytest.raises(ValueError, match=message) as error:
        data.fashion_mnist(tmp_path)
    assert str(error.value).startswith(str(tmp_path / name))


# Where the files are looked for.


def test_the_places_in_their_order(tmp_path, monkeypatch, cache, server):
    own = tmp_path / "own"
    places = [own, own / "fashion-mnist", tmp_path / "debian", cache]
    monkeypatch.setenv("FNNET_DATA", str(own))
    for place in reversed(places):
        # The others are in the way, and damaged.
        for other in places:
            fill(other, dict.fromkeys(FILES, b"damaged"))
        fill(place)
        for earlier in places[: places.index(place)]:
            (earlier / NAMES[2]).unlink()  # a folder that lacks one is passed over
        check(data.fashion_mnist())
    assert server.asked == []


def test_without_variables_the_cache_is_in_the_home(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    fill(tmp_path / "home" / ".cache" / "fnnet" / "fashion-mnist")
    check(data.fashion_mnist())


# The download.


def test_it_downloads_once(cache, server, capfd):
    check(data.fashion_mnist())
    assert server.asked == NAMES
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == FILES
    check(data.fashion_mnist())
    assert server.asked == NAMES
    assert "".join(capfd.readouterr()) == ""  # no bar where there is no terminal


def test_it_downloads_to_the_folder_of_the_variable(tmp_path, monkeypatch, cache, server):
    monkeypatch.setenv("FNNET_DATA", str(tmp_path / "own"))
    check(data.fashion_mnist())
    assert sorted(path.name for path in (tmp_path / "own" / "fashion-mnist").iterdir()) == sorted(NAMES)
    assert not cache.exists()


def test_a_damaged_download_leaves_nothing_behind_and_is_taken_up_again(cache, server):
    server.files[NAMES[2]] = FILES[NAMES[2]][:-1] + b"?"
    with pytest.raises(
        ConnectionError, match=rf"got {len(FILES[NAMES[2]])} bytes of MD5 \w+, wanted MD5"
    ) as error:
        data.fashion_mnist()
    assert module.URL + NAMES[2] in str(error.value)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == {
        name: FILES[name] for name in NAMES[:2]
    }
    server.files[NAMES[2]] = FILES[NAMES[2]]
    server.asked.clear()
    check(data.fashion_mnist())
    assert server.asked == NAMES[2:]


def three_ways(error, folder):
    message = str(error.value)
    assert "package dataset-fashion-mnist" in message
    assert "$FNNET_DATA" in message
    assert all(name in message for name in NAMES)
    assert f"network connection, which fills {folder}" in message


def test_only_https_and_no_more_than_the_files_have(monkeypatch, cache, server):
    assert URL.startswith("https://")
    server.redirect = f"{module.URL}elsewhere"
    with pytest.raises(ConnectionError, match=r"redirected to http://127.*, wanted https"):
        data.fashion_mnist()
    server.redirect = None
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(ConnectionError, match="it has more than 1000 bytes") as error:
        data.fashion_mnist()
    three_ways(error, cache)
    assert not cache.exists()


def test_a_connection_that_ends_early_leaves_nothing_behind(cache, server):
    server.cut = 10
    with pytest.raises(ConnectionError) as error:
        data.fashion_mnist()
    three_ways(error, cache)
    assert not cache.exists()


def test_a_file_that_is_not_there_any_more(cache, server):
    server.files.clear()
    with pytest.raises(ConnectionError, match="404") as error:
        data.fashion_mnist()
    three_ways(error, cache)
    assert not cache.exists()


def test_no_network(cache):
    with pytest.raises(ConnectionError, match="refused") as error:
        data.fashion_mnist()
    three_ways(error, cache)
    assert not cache.exists()


def test_a_server_that_is_silent_is_given_up(monkeypatch, cache, server):
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    server.wait = 0.5
    with pytest.raises(ConnectionError, match="timed out") as error:
        data.fashion_mnist()
    three_ways(error, cache)


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_disk_that_fills_up_leaves_nothing_behind(monkeypatch, cache, server, step):
    write_bytes = Path.write_bytes

    def fail(path, content):
        if step == "write_bytes":
            write_bytes(path, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(OSError, match="No space left") as error:
        data.fashion_mnist()
    assert f"{cache} could not be written" in error.value.__notes__[0]
    assert list(cache.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path, server):
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(OSError) as error:
        data.fashion_mnist()
    assert "could not be written; there are three ways" in error.value.__notes__[0]


def test_a_bar_on_a_terminal(monkeypatch, server, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    check(data.fashion_mnist())
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err


def test_without_rich_there_is_no_bar(monkeypatch, server):
    monkeypatch.setitem(sys.modules, "rich", None)
    check(data.fashion_mnist())


# The real files.


@pytest.mark.skipif(not DEBIAN.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_files(monkeypatch):
    monkeypatch.setattr(module, "DEBIAN", DEBIAN)
    raw = {name: gzip.decompress((DEBIAN / name).read_bytes()) for name in NAMES}
    assert {name: hashlib.md5(content).hexdigest() for name, content in raw.items()} == OFFICIAL
    dataset = data.fashion_mnist()
    for part, each in zip(dataset, (5000, 1000, 1000), strict=True):
        assert part["x"].shape == (10 * each, 28, 28, 1)
        np.testing.assert_array_equal(np.bincount(part["y"]), [each] * 10)
        assert (part["x"].min(), part["x"].max()) == (0, 1)
    pictures = np.frombuffer(raw[NAMES[2]], np.uint8, offset=16).reshape(10000, 28, 28, 1)
    np.testing.assert_array_equal(dataset.test["x"], pictures.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(dataset.test["y"], np.frombuffer(raw[NAMES[3]], np.uint8, offset=8))
