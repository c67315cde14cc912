"""The toy problems against their formulas and scikit-learn's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import make_moons

from fnnet import data
from tests.arrays import array

key = jax.random.key(0)


def test_xor():
    examples = data.xor()
    assert (examples["x"].dtype, examples["y"].dtype) == (jnp.float32, jnp.int32)
    table = {tuple(map(int, x)): int(y) for x, y in zip(examples["x"], examples["y"], strict=True)}
    assert table == {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}


def test_two_spirals_are_the_194_points_of_the_benchmark():
    points, labels = [], []
    for i in range(97):
        angle = i * math.pi / 16.0
        radius = 6.5 * (104 - i) / 104.0
        x, y = radius * math.sin(angle), radius * math.cos(angle)
        points += [(x, y), (-x, -y)]
        labels += [1, 0]
    spirals = data.two_spirals()
    assert (spirals["x"].dtype, spirals["y"].dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(spirals["x"], np.array(points, np.float32))
    np.testing.assert_array_equal(spirals["y"], labels)


def test_more_points_lie_on_the_same_spirals():
    classic, dense = data.two_spirals()["x"].reshape(97, 2, 2), data.two_spirals(193)["x"].reshape(193, 2, 2)
    np.testing.assert_allclose(dense[::2], classic, atol=1e-6)
    assert data.two_spirals(1)["x"].shape == (2, 2)


def test_turns_wind_the_spirals():
    x = data.two_spirals(97, turns=1)["x"][::2]  # of one spiral
    angle = np.unwrap(np.arctan2(x[:, 0], x[:, 1]))
    np.testing.assert_allclose(angle, np.linspace(0, 2 * np.pi, 97), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 6.5 * (104 - np.arange(97)) / 104, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 100, 101])
def test_two_moons_without_noise_are_scikit_learns(n):
    x, y = make_moons(n, shuffle=False, noise=None)
    moons = data.two_moons(None, n, noise=0.0)
    assert (moons["x"].dtype, moons["y"].dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_allclose(moons["x"], x, atol=1e-6)
    np.testing.assert_array_equal(moons["y"], y)


@pytest.mark.parametrize(
    "draw",
    [
        lambda noise, key: data.two_moons(key, 4000, noise=noise),
        lambda noise, key: data.two_spirals(2000, noise=noise, key=key),
    ],
)
def test_noise_is_normal_of_its_standard_deviation(draw):
    exact = draw(0.0, None)
    noise = np.asarray(draw(0.25, key)["x"] - exact["x"])
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(noise.std(axis=0), 0.25, rtol=0.05)
    np.testing.assert_allclose(np.mean(np.abs(noise) < 0.25), 0.6827, atol=0.02)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.05
    np.testing.assert_array_equal(draw(0.0, key)["x"], exact["x"])
    assert not np.array_equal(draw(0.25, jax.random.key(1))["x"], draw(0.25, key)["x"])


def test_blobs_are_normal_clouds_about_their_centres():
    wide = data.blobs(key, 9000, classes=3, features=2, spread=0.5)
    centres = data.blobs(key, 9000, classes=3, features=2, spread=0.0)
    assert (wide["x"].dtype, wide["y"].dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(np.bincount(wide["y"]), [3000] * 3)
    for k in range(3):
        of_class = np.asarray(wide["y"]) == k
        centre = np.unique(np.asarray(centres["x"])[of_class], axis=0)
        assert centre.shape == (1, 2)
        noise = np.asarray(wide["x"])[of_class] - centre
        np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.05)
        np.testing.assert_allclose(noise.std(axis=0), 0.5, rtol=0.05)
        assert abs(np.corrcoef(noise.T)[0, 1]) < 0.07


def test_centres_are_uniform_in_the_box():
    centres = np.asarray(data.blobs(key, 2000, classes=2000, features=3, spread=0.0, box=4.0)["x"])
    assert centres.shape == (2000, 3)
    assert np.abs(centres).max() <= 4
    np.testing.assert_allclose(centres.std(axis=0), 4 / np.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(centres.mean(axis=0), 0, atol=0.2)


def test_the_first_classes_have_one_point_more():
    np.testing.assert_array_equal(data.blobs(key, 11, classes=4)["y"], np.repeat(range(4), [3, 3, 3, 2]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda key, noise: data.two_moons(key, 20, noise=noise),
        lambda key, noise: data.two_spirals(20, noise=noise, key=key),
        lambda key, noise: data.blobs(key, 20, spread=noise),
    ],
)
def test_the_draws_jit_and_vmap(draw):
    keys, noises = jax.random.split(key, 3), array([0.1, 0.2, 0.3])
    many = jax.jit(jax.vmap(draw))(keys, noises)
    assert many["x"].shape == (3, *draw(key, 0.1)["x"].shape)
    for i in range(3):
        one = draw(keys[i], float(noises[i]))
        np.testing.assert_allclose(many["x"][i], one["x"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(many["y"][i], one["y"])


@pytest.mark.usefixtures("float64")
def test_double_precision_leaves_them_single():
    for examples in (
        data.xor(),
        data.two_spirals(),
        data.two_moons(key),
        data.blobs(key, spread=jnp.float64(2)),
    ):
        assert (examples["x"].dtype, examples["y"].dtype) == (jnp.float32, jnp.int32)


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: data.two_moons(None), "two_moons: noise=0.1 needs a key"),
        (lambda: data.two_spirals(noise=0.5), "two_spirals: noise=0.5 needs a key"),
        (lambda: data.two_spirals(noise=np.float32(0.5)), "two_spirals: noise=0.5 needs a key"),
        (lambda: jax.jit(lambda noise: data.two_spirals(noise=noise))(0.0), "needs a key"),
        (lambda: data.two_spirals(turns=np.nan), "two_spirals: turns=nan, wanted a number"),
        (lambda: data.two_moons(key, noise=-0.1), "two_moons: noise=-0.1, wanted at least 0"),
        (lambda: data.two_moons(key, 0), "n=0, wanted at least 1"),
        (lambda: data.two_spirals(-1), "n=-1, wanted at least 1"),
        (lambda: data.blobs(key, 2, classes=3), "n=2, wanted at least one point for each of 3 classes"),
        (lambda: data.blobs(key, features=0), "features=0, wanted at least 1"),
        (lambda: data.blobs(key, classes=0), "classes=0, wanted at least 1"),
        (lambda: data.blobs(key, spread=-1.0), "spread=-1.0, wanted at least 0"),
        (lambda: data.blobs(key, box=-1.0), "box=-1.0, wanted at least 0"),
    ],
)
def test_a_wrong_argument_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_no_noise_needs_no_key():
    for noise in (0, np.float32(0), jnp.array(0.0)):
        np.testing.assert_array_equal(data.two_spirals(noise=noise)["x"], data.two_spirals()["x"])


def test_a_size_is_an_int():
    with pytest.raises(TypeError, match=r"n=2\.0, wanted a positive int"):
        data.two_spirals(2.0)
