"""The names that the docstrings' examples use."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import fnnet as fn


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(fn=fn, jax=jax, jnp=jnp)
