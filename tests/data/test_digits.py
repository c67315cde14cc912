"""The digits against scikit-learn's own arrays."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from fnnet import data


def test_the_digits_are_scikit_learns_each_once():
    raw = load_digits()
    wanted = np.column_stack([raw.data, raw.target])
    parts = list(data.digits())
    got = np.column_stack(
        [
            np.concatenate([part["x"].reshape(-1, 64) * 16 for part in parts]),
            np.concatenate([part["y"] for part in parts]),
        ]
    )
    np.testing.assert_array_equal(got[np.lexsort(got.T)], wanted[np.lexsort(wanted.T)])


def test_shapes_dtypes_and_range():
    dataset = data.digits()
    for part, n in zip(dataset, (1079, 359, 359), strict=True):
        assert isinstance(part["x"], jax.Array)
        assert part["x"].shape == (n, 8, 8, 1)
        assert part["y"].shape == (n,)
        assert part["x"].dtype == jnp.float32
        assert part["y"].dtype == jnp.int32
        assert (part["x"].min(), part["x"].max()) == (0, 1)


def test_each_digit_keeps_its_share():
    whole = np.bincount(load_digits().target)
    for part in data.digits():
        counts = np.bincount(part["y"], minlength=10)
        assert np.abs(counts - whole * len(part["y"]) / 1797).max() <= 1


def test_the_seed_chooses_the_split():
    one, again, other = data.digits(seed=1), data.digits(seed=1), data.digits(seed=2)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.array_equal(one.test["y"], other.test["y"])


@pytest.mark.usefixtures("float64")
def test_double_precision_leaves_them_single():
    part = data.digits().train
    assert (part["x"].dtype, part["y"].dtype) == (jnp.float32, jnp.int32)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install scikit-learn$"):
        data.digits()
