"""Fashion-MNIST: 70,000 greyscale images of clothes, from the four IDX files of its authors."""

import gzip
import hashlib
import importlib.util
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.data.dataset import Dataset, Examples, split

URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # from the package dataset-fashion-mnist
TIMEOUT = 30.0  # seconds without receiving a byte
LARGEST = 1 << 26  # bytes of a download; the largest file has 26 MB

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def fashion_mnist(folder: str | os.PathLike[str] | None = None, *, seed: int = 0) -> Dataset:
    """Fashion-MNIST, images of 28 by 28 pixels: 50,000 for training, 10,000 for validation, 10,000 for the test.

    The test part is the official one, in its order. The validation part has 1,000 images of each class from the
    official 60,000 training images.

    Shapes: x float32[n, 28, 28, 1], in [0, 1] in steps of 1/255; y int32[n]: 0 T-shirt, 1 trouser,
    2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.

    Args:
        folder: the folder of the four IDX files, gzipped or not. The default is the first of these that has them:
            $FNNET_DATA, $FNNET_DATA/fashion-mnist, the folder of the Debian package dataset-fashion-mnist,
            $XDG_CACHE_HOME/fnnet/fashion-mnist (without that variable, ~/.cache/fnnet/fashion-mnist).
            If none has them, they are downloaded once (30 MB, by https, checksums verified), to
            $FNNET_DATA/fashion-mnist if that variable is set, else to the cache.
        seed: seed for choosing the validation part, 0 or more.

    Raises:
        TypeError: seed is not an int.
        FileNotFoundError: a file is missing in the given folder.
        ConnectionError: the files were not found, and the download failed. The message says how else to get them.
        ValueError: a file is damaged, or is not what its name says; seed is negative.

    Source: Xiao, Rasul & Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine
    learning algorithms", arXiv:1708.07747.

    Example:
        >>> data = fn.data.fashion_mnist()  # doctest: +SKIP
        >>> data.train["x"].shape, data.valid["x"].shape, data.test["x"].shape  # doctest: +SKIP
        ((50000, 28, 28, 1), (10000, 28, 28, 1), (10000, 28, 28, 1))
    """
    check.integer("fashion_mnist", "seed", seed, "[0, inf)")
    files = _locate() if folder is None else _find(check.local_path("fashion_mnist", "folder", folder))
    missing = [name for name in MD5 if name not in files]
    if missing:
        raise FileNotFoundError(f"fashion_mnist: {folder} lacks {', '.join(missing)}, gzipped or not")
    # The images stay bytes until they are split: they take a quarter of the memory.
    train, valid, _ = split(_read(files, "train"), valid=1 / 6, test=0, seed=seed)
    return Dataset(_scaled(train), valid and _scaled(valid), _scaled(_read(files, "t10k")))


def read_idx(path: str | os.PathLike[str], *, largest: int = 1 << 30) -> np.ndarray:
    """The array in an IDX file, the format of MNIST, gzipped or not, in native byte order.

        00 00 | type, 1 byte | axes, 1 byte | size of each axis, 4 bytes | numbers        all big-endian

    Types: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64.

    Args:
        path: of the file.
        largest: bytes that a gzipped file may unpack to: a small one could fill the memory. No more is read than the
            header promises.

    Raises:
        TypeError: largest is not an int.
        ValueError: the file is not an IDX file, is shorter or longer than its header says, or is gzipped and larger
            than `largest`; or largest is not positive.

    Source: LeCun, Cortes & Burges 1998, "The MNIST database of handwritten digits".

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        ...     fn.data.read_idx(path)
        array([7, 2, 1], dtype=uint8)
    """
    check.is_positive("read_idx", "largest", largest)
    with check.local_path("read_idx", "path", path).open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not is_packed:
            return _read_array(file, path, size=size, largest=None)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read_array(unpacked, path, size=None, largest=largest)
        except (OSError, EOFError, zlib.error) as exc:
            raise ValueError(
                f"{path}: damaged gzip file ({exc}); wanted a complete one, download it again"
            ) from exc


def _read_array(
    file: IO[bytes] | gzip.GzipFile, path: str | os.PathLike[str], *, size: int | None, largest: int | None
) -> np.ndarray:
    """The array in an open file: of so many bytes if this is known, and of `largest` at most if that is given."""
    head = _read_at_most(file, 4)
    head += _read_at_most(file, 4 * head[3]) if len(head) == 4 else b""
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_DTYPES or len(head) < 4 + 4 * head[3]:
        types = ", ".join(f"{code:02x}" for code in IDX_DTYPES)
        raise ValueError(
            f"{path}: not an IDX file: got {len(head) if size is None else size} bytes that begin with "
            f"{head[:4].hex(' ') or 'nothing'}, wanted 00 00, a type among {types}, the number of axes and their sizes"
        )
    dtype = np.dtype(IDX_DTYPES[head[2]])
    shape = tuple(int(n) for n in np.frombuffer(head[4:], ">u4"))
    promised = math.prod(shape) * dtype.itemsize
    if largest is not None and promised > largest:
        raise ValueError(
            f"{path}: gzipped IDX file whose header promises {promised} bytes, {dtype.name} of shape {shape}, wanted "
            f"{largest} at most; if that is right, pass largest={promised}"
        )
    # One byte more than promised shows that there are too many.
    enough = size is None or size == len(head) + promised
    raw = _read_at_most(file, promised + 1) if enough else b""
    if len(raw) != promised:
        more = "more than " if len(raw) > promised else ""
        got = len(head) + min(len(raw), promised) if size is None else size
        raise ValueError(
            f"{path}: damaged IDX file: got {more}{got} bytes, wanted {len(head) + promised} for {dtype.name} of shape "
            f"{shape}; download it again"
        )
    return np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_at_most(file: IO[bytes] | gzip.GzipFile, n: int) -> bytes:
    """The next n bytes, or what there is. Read in pieces: at once, memory would be taken for what is promised."""
    pieces = []
    while n > 0 and (piece := file.read(min(n, 1 << 20))):
        pieces.append(piece)
        n -= len(piece)
    return b"".join(pieces)


def _read(files: dict[str, Path], part: str) -> Examples:
    """The images and the labels of one part, as bytes."""
    x_path, y_path = files[f"{part}-images-idx3-ubyte.gz"], files[f"{part}-labels-idx1-ubyte.gz"]
    x, y = read_idx(x_path), read_idx(y_path)
    if x.dtype != np.uint8 or x.shape[1:] != (28, 28):
        raise ValueError(f"{x_path}: got {check.describe(x)}, wanted images uint8[n,28,28]")
    if y.dtype != np.uint8 or y.shape != x.shape[:1] or y.max(initial=0) > 9:
        raise ValueError(
            f"{y_path}: got {check.describe(y)}, the largest {y.max(initial=0)}, wanted a label from 0 to 9 "
            f"for each image of {x_path}, uint8[{len(x)}]"
        )
    return {"x": x[..., None], "y": y}


def _scaled(part: Examples) -> Examples:
    x = np.divide(part["x"], 255, dtype=np.float32)  # XLA would multiply by 1/255, and so round twice
    return {"x": jnp.asarray(x), "y": jnp.asarray(part["y"], jnp.int32)}


def _find(folder: Path) -> dict[str, Path]:
    """The files, of the four, that are in the folder, gzipped or not."""
    paths = ((name, path) for name in MD5 for path in (folder / name, folder / name.removesuffix(".gz")))
    return {name: path for name, path in paths if path.is_file()}


def _locate() -> dict[str, Path]:
    """The files in the first folder that has all four. If none has, downloads the missing ones to the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fnnet" / "fashion-mnist"
    folders = [DEBIAN, cache]
    if os.environ.get("FNNET_DATA"):
        own = Path(os.environ["FNNET_DATA"]).expanduser()
        folders = [own, own / "fashion-mnist", DEBIAN, cache]
        cache = own / "fashion-mnist"
    for folder in folders:
        files = _find(folder)
        if len(files) == len(MD5):
            return files
    for name in MD5:
        if name not in _find(cache):
            _download(name, cache)
    return _find(cache)


def _download(name: str, folder: Path) -> None:
    """Downloads one file into the folder. It is verified, and written completely or not at all."""
    import http.client
    import urllib.error
    import urllib.request

    class OnlyHttps(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: Any) -> urllib.request.Request | None:
            if not args[-1].startswith("https://"):
                raise urllib.error.URLError(f"redirected to {args[-1]}, wanted https")
            return super().redirect_request(*args)

    ways = (
        "there are three ways to get Fashion-MNIST: install the Debian package dataset-fashion-mnist; pass a "
        f"folder, or set $FNNET_DATA to one, that has the files {', '.join(MD5)}; or call this once on a "
        f"machine with a network connection, which fills {folder}"
    )
    content = bytearray()
    try:
        with (
            urllib.request.build_opener(OnlyHttps).open(URL + name, timeout=TIMEOUT) as response,
            _progress(name, response.length) as advance,
        ):
            while chunk := response.read(1 << 16):
                content += chunk
                if len(content) > LARGEST:
                    raise OSError(f"it has more than {LARGEST} bytes")
                advance(len(chunk))
    except (OSError, http.client.HTTPException) as exc:
        if isinstance(exc, urllib.error.HTTPError):
            exc.close()  # it holds the connection open
        raise ConnectionError(f"fashion_mnist: could not download {URL + name} ({exc}); {ways}") from exc
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if got != MD5[name]:
        raise ConnectionError(
            f"fashion_mnist: damaged download from {URL + name}: got {len(content)} bytes of MD5 {got}, "
            f"wanted MD5 {MD5[name]}; try again; {ways}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, lambda part: part.write_bytes(content))
    except OSError as exc:
        exc.add_note(f"fashion_mnist: {folder} could not be written; {ways}")
        raise


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar, if rich is installed and stderr is a terminal. Yields the function that counts bytes."""
    if importlib.util.find_spec("rich") is None:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total)
        yield lambda n: progress.advance(task, n)
