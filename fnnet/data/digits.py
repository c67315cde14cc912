"""Handwritten digits of 8 by 8 pixels: a data set to train on within seconds, without a download."""

import numpy as np

from fnnet import check
from fnnet.data.dataset import Dataset, split


def digits(*, seed: int = 0) -> Dataset:
    """The 1,797 handwritten digits that come with scikit-learn, split 60/20/20 and stratified by digit.

    A writer may be in all three parts.

    Shapes: x float32[n, 8, 8, 1], in [0, 1] in steps of 1/16; y int32[n], 0 to 9; n is 1,079 in train, 359 in
    valid and 359 in test.

    Args:
        seed: seed of the split, 0 or more.

    Raises:
        TypeError, ValueError: seed is not such an int.
        ImportError: scikit-learn is not installed.

    Source: Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI machine learning
    repository.

    Example:
        >>> data = fn.data.digits()
        >>> data.train["x"].shape, data.valid["x"].shape, data.test["x"].shape
        ((1079, 8, 8, 1), (359, 8, 8, 1), (359, 8, 8, 1))
        >>> data.train["x"].dtype, data.train["y"].dtype, float(data.train["x"].max())
        (dtype('float32'), dtype('int32'), 1.0)
    """
    check.integer("digits", "seed", seed, "[0, inf)")
    try:
        from sklearn.datasets import load_digits
    except ImportError as exc:
        raise ImportError(
            "digits: the data set comes with scikit-learn, which is missing; pip install scikit-learn"
        ) from exc

    raw = load_digits()
    x = (raw.images[..., None] / 16).astype(np.float32)  # grey levels 0 to 16, so this is exact
    return split({"x": x, "y": raw.target.astype(np.int32)}, valid=0.2, test=0.2, seed=seed)
