"""The norm of a tree, beside NumPy's in double precision."""

import jax
import ml_dtypes  # noqa: F401
import numpy as np
import pytest

from fnnet.train.norm import euclidean_norm
from tests.arrays import normal

TREE = {"a": normal(3, 4), "b": [normal(5), np.float32(0.5)]}
compiled = jax.jit(euclidean_norm)


@pytest.mark.parametrize(
    "scale, dtype",
    [(s, "float32") for s in (1.0, 2e19, 1e30, 1e-25, 1e-36)]
    + [(300.0, "float16"), (1e30, "bfloat16"), (1e-5, "float16")],
)  # fmt: skip
def test_it_neither_overflows_nor_vanishes(scale: float, dtype: str) -> None:
    tree = jax.tree.map(lambda a: (np.asarray(a, np.float64) * scale).astype(dtype), TREE)
    flat = np.concatenate([np.ravel(a).astype(np.float64) for a in jax.tree.leaves(tree)])
    got = compiled(tree)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.linalg.norm(flat), rtol=1e-6)


def test_what_has_no_norm_or_none_but_0() -> None:
    for value, wanted in ((np.nan, np.nan), (np.inf, np.inf), (-np.inf, np.inf), (0.0, 0.0)):
        tree = {"a": np.zeros(3, np.float32), "b": np.full(2, value, np.float32)}
        np.testing.assert_array_equal(compiled(tree), wanted)
    assert float(euclidean_norm({})) == 0
    assert float(compiled({"a": np.zeros((0, 2), np.float32), "b": np.array([3.0, 4.0], np.float32)})) == 5
