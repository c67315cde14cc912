"""Data sets: pytrees of arrays with equal leading axes."""

from fnnet.data.dataset import Dataset, split, standardize
from fnnet.data.digits import digits
from fnnet.data.fashion_mnist import fashion_mnist, read_idx
from fnnet.data.toy import blobs, two_moons, two_spirals, xor

__all__ = [
    "Dataset",
    "blobs",
    "digits",
    "fashion_mnist",
    "read_idx",
    "split",
    "standardize",
    "two_moons",
    "two_spirals",
    "xor",
]
