"""Data sets: pytrees of arrays with equal leading axes."""

from fnnet.data.dataset import Dataset, split, standardize
from fnnet.data.digits import digits
from fnnet.data.fashion_mnist import fashion_mnist, read_idx
from fnnet.data.files import open_arrays, save_arrays
from fnnet.data.stream import Stream, stream
from fnnet.data.toy import blobs, two_moons, two_spirals, xor

__all__ = [
    "Dataset",
    "Stream",
    "blobs",
    "digits",
    "fashion_mnist",
    "open_arrays",
    "read_idx",
    "save_arrays",
    "split",
    "standardize",
    "stream",
    "two_moons",
    "two_spirals",
    "xor",
]
