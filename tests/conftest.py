"""Strict settings for every test: a shape that broadcasts by accident raises, and so does any warning."""

from collections.abc import Iterator

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run, and no limit on time: the first example of a shape compiles.
hypothesis.settings.register_profile("fnnet", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("fnnet")


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
