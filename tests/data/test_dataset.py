"""Splits and standardization, and what importing the data sets costs."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from fnnet import data
from fnnet.data import Dataset
from tests.arrays import array, zeros

shares = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.4])


def examples_of(class_sizes, seed=0):
    """Examples that know their number, their labels in any order."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(class_sizes)), class_sizes))
    return {"x": np.arange(len(y), dtype=np.float32)[:, None], "y": y.astype(np.int32)}


def parts_of(dataset):
    return [{"x": np.zeros((0, 1)), "y": np.zeros(0, int)} if part is None else part for part in dataset]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), shares, shares, st.booleans(), st.integers(0, 99)
)
def test_every_example_is_in_one_part_with_its_label(class_sizes, valid, test, stratify, seed):
    examples = examples_of(class_sizes)
    try:
        parts = parts_of(data.split(examples, valid=valid, test=test, seed=seed, stratify=stratify))
    except ValueError:
        return  # when that may happen is tested below
    numbers = np.concatenate([part["x"][:, 0] for part in parts]).astype(np.int32)
    labels = np.concatenate([part["y"] for part in parts])
    assert sorted(numbers) == list(range(sum(class_sizes)))
    np.testing.assert_array_equal(labels, examples["y"][numbers])


@pytest.mark.slow
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), shares, shares)
def test_each_class_keeps_its_share_to_within_one(class_sizes, valid, test):
    n = sum(class_sizes)
    sizes = [n - round(valid * n) - round(test * n), round(valid * n), round(test * n)]
    wanted = np.outer(class_sizes, sizes) / n
    asked = np.array([True, valid > 0, test > 0])
    try:
        parts = parts_of(data.split(examples_of(class_sizes), valid=valid, test=test))
    except ValueError:
        assert wanted[:, asked].min() < 1  # only where a class has less than one example for a part
        return
    got = np.array([np.bincount(part["y"], minlength=len(class_sizes)) for part in parts]).T
    assert [len(part["y"]) for part in parts] == sizes
    assert np.abs(got - wanted).max() <= 1
    assert got[:, asked].min() >= 1


def test_many_small_classes_fill_every_part():
    # Rounding class by class would leave one of the parts empty.
    dataset = data.split(examples_of([4] * 50), valid=0.25, test=0.25)
    for part, each in zip(dataset, (2, 1, 1), strict=True):
        np.testing.assert_array_equal(np.bincount(part["y"]), [each] * 50)


def test_the_split_shuffles_by_its_seed():
    examples = examples_of([50, 50])
    one, again, other = (data.split(examples, seed=seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.array_equal(one.train["x"], other.train["x"])
    assert not np.array_equal(one.train["x"], np.sort(one.train["x"], axis=0))
    assert 0 < np.mean(one.train["y"][:30]) < 1  # the classes are mixed


def test_labels_are_any_integers():
    examples = {"x": np.zeros((20, 1)), "y": np.repeat([-7, 1000], 10)}
    dataset = data.split(examples)
    np.testing.assert_array_equal(np.unique(dataset.valid["y"], return_counts=True), [[-7, 1000], [2, 2]])


def test_parts_of_no_share_are_none():
    dataset = data.split(examples_of([10]), valid=0, test=0)
    assert dataset.valid is None
    assert dataset.test is None
    assert len(dataset.train["y"]) == 10


def test_targets_that_are_no_labels_and_trees_of_inputs():
    examples = {
        "x": {"a": np.arange(10), "b": zeros((10, 3))},
        "y": np.linspace(0, 1, 10),
        "w": np.ones(10),
    }
    dataset = data.split(examples, stratify=False)
    assert [len(part["y"]) for part in dataset] == [6, 2, 2]
    for part in dataset:
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(part))
        np.testing.assert_allclose(part["y"], part["x"]["a"] / 9, rtol=1e-6)


@pytest.mark.parametrize(
    "examples, options, message",
    [
        (
            {"x": np.zeros((3, 2)), "y": np.zeros(4, int)},
            {},
            r"float64\[3,2\], y: int64\[4\].*equal leading axes",
        ),
        ({"x": np.zeros((3, 2)), "y": 1}, {}, "equal leading axes"),
        ({}, {}, "equal leading axes"),
        (examples_of([10]), {"valid": 1.0}, r"valid=1.0, wanted in \[0, 1\)"),
        (examples_of([10]), {"test": -0.1}, r"test=-0.1, wanted in \[0, 1\)"),
        (examples_of([10]), {"test": float("nan")}, "test=nan"),
        (examples_of([10]), {"valid": 0.5, "test": 0.5}, "leave none of 10 examples to train on"),
        (examples_of([10]), {"valid": 0.01}, "valid=0.01 of 10 examples is none"),
        (examples_of([]), {}, "of 0 examples"),
        ({"x": np.zeros((10, 2))}, {}, "y is None, wanted integer labels.*stratify=False"),
        ({"x": np.zeros(10), "y": np.zeros(10)}, {}, r"y is float64\[10\], wanted integer labels"),
        ({"x": np.zeros(10), "y": np.zeros((10, 1), int)}, {}, r"y is int64\[10,1\], wanted integer labels"),
        (
            {"x": np.zeros(9), "y": np.repeat([0, 1, 2**32 + 1], 3)},
            {"stratify": False},
            r"split: int64\[\d\] has numbers from 0 to 4294967297",
        ),
        (examples_of([10]), {"seed": -1}, "split: seed=-1, wanted at least 0"),
        (examples_of([50, 1]), {}, r"class 1 has too few examples \(1\) for one in \w+; wanted at least 6"),
    ],
)
def test_split_says_what_is_wrong(examples, options, message):
    with pytest.raises(ValueError, match=message):
        data.split(examples, **options)


def random_dataset(shape=(7, 4), dtype=np.float32, seed=0):
    generator = np.random.default_rng(seed)
    draw = (
        generator.normal(50, 3, (n, *shape[1:])).astype(dtype) for n in (3 * shape[0], shape[0], shape[0])
    )
    return Dataset(*({"x": jnp.asarray(x), "y": jnp.zeros(len(x), jnp.int32)} for x in draw))


def test_standardize_is_standard_scaler_on_the_training_part():
    dataset = random_dataset()
    scaler = StandardScaler().fit(np.asarray(dataset.train["x"], np.float64))
    for before, after in zip(dataset, data.standardize(dataset), strict=True):
        assert after["x"].dtype == jnp.float32
        np.testing.assert_allclose(
            after["x"], scaler.transform(np.asarray(before["x"])), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(after["y"], before["y"])


def test_standardize_by_channel():
    dataset = random_dataset((5, 3, 3, 2))
    scaled = data.standardize(dataset, axis=(0, 1, 2))
    np.testing.assert_allclose(scaled.train["x"].mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.train["x"].std(axis=(0, 1, 2)), 1, rtol=1e-5)
    scaler = StandardScaler().fit(np.asarray(dataset.train["x"], np.float64).reshape(-1, 2))
    wanted = scaler.transform(np.asarray(dataset.test["x"]).reshape(-1, 2)).reshape(5, 3, 3, 2)
    np.testing.assert_allclose(scaled.test["x"], wanted, rtol=1e-5, atol=1e-6)
    negative = data.standardize(dataset, axis=(-4, -3, -2))
    jax.tree.map(np.testing.assert_array_equal, scaled, negative)


def test_what_is_constant_is_only_shifted():
    dataset = Dataset({"x": array(np.full((9, 2), 0.1))}, None, {"x": array(np.full((1, 2), 2.1))})
    scaled = data.standardize(dataset)
    assert scaled.valid is None
    np.testing.assert_array_equal(scaled.train["x"], np.zeros((9, 2)))
    np.testing.assert_allclose(scaled.test["x"], [[2, 2]], rtol=1e-6)


def test_standardize_keeps_double_precision(float64):
    # The mean of 9 times 0.1 is not 0.1, so that a trace of variance is left by rounding.
    x = np.stack([np.full(9, 0.1), np.arange(9) * 1e-9 + 1], axis=1)
    scaled = data.standardize(Dataset({"x": jnp.asarray(x)}, None, {"x": jnp.asarray(x + 1)}))
    assert scaled.train["x"].dtype == jnp.float64
    np.testing.assert_allclose(scaled.train["x"][:, 0], 0, atol=1e-15)
    np.testing.assert_allclose(scaled.train["x"][:, 1].std(), 1, rtol=1e-6)
    np.testing.assert_allclose(scaled.test["x"][:, 0], 1, rtol=1e-12)


def test_a_large_mean_costs_no_precision():
    x = np.random.default_rng(0).normal(1e6, 1, (1000, 1)).astype(np.float32)
    scaled = data.standardize(Dataset({"x": jnp.asarray(x)})).train["x"]
    np.testing.assert_allclose(np.asarray(scaled, np.float64).mean(), 0, atol=1e-6)


def test_half_precision_comes_back_in_single():
    x = array(np.arange(8, dtype=jnp.bfloat16))[:, None]
    scaled = data.standardize(Dataset({"x": x})).train["x"]
    assert scaled.dtype == jnp.float32
    wide = np.arange(8.0)[:, None]
    np.testing.assert_allclose(scaled, (wide - wide.mean()) / wide.std(), rtol=1e-6)


def test_standardize_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"uint8\[2,2\], wanted floating point"):
        data.standardize(Dataset({"x": zeros((2, 2), jnp.uint8)}))
    with pytest.raises(TypeError, match="wanted floating point"):
        data.standardize(Dataset({"x": zeros((2, 2))}, {"x": zeros((2, 2), int)}))
    with pytest.raises(ValueError, match="axis=1, wanted the examples' axis 0"):
        data.standardize(random_dataset(), axis=1)
    with pytest.raises(ValueError, match=r"axis=\(\), wanted the examples' axis 0"):
        data.standardize(random_dataset(), axis=())
    with pytest.raises(TypeError, match="standardize: axis=None, wanted an int"):
        data.standardize(random_dataset(), axis=None)
    with pytest.raises(ValueError, match=r"standardize: axis=5, wanted in \[-2, 2\)"):
        data.standardize(random_dataset(), axis=(0, 5))


def test_a_data_set_is_a_pytree():
    dataset = random_dataset()
    doubled = jax.jit(lambda d: jax.tree.map(lambda a: 2 * a, d))(dataset)
    assert isinstance(doubled, Dataset)
    np.testing.assert_array_equal(doubled.valid["x"], 2 * dataset.valid["x"])


@pytest.mark.slow
def test_importing_the_data_sets_loads_nothing_heavy():
    code = (
        "import sys, chex, jax, optax; before = set(sys.modules); import fnnet.data; "
        "print(sorted({'sklearn', 'rich', 'urllib.request', 'http.client'} & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
