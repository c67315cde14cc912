"""The installed jaxlib computes right numbers: release 0.10.2 does not (jax issue #39103)."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROWS = 32_769


def test_not_the_release_that_computes_wrong_numbers() -> None:
    for package in ("jax", "jaxlib"):
        version = importlib.metadata.version(package)
        assert version != "0.10.2", (
            f"{package} 0.10.2 returns silently wrong numbers on CPU (jax issue #39103). Install another release: "
            "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'; 0.10.1 runs on Python 3.11, newer ones from 3.12 on"
        )


@pytest.mark.optimized
def test_the_known_wrong_result() -> None:
    """A product of each row with a matrix, squared and summed: at 32,769 rows 0.10.2 mixes them up."""
    rows = jnp.zeros((ROWS, 3)).at[:, 0].set(jnp.arange(ROWS))
    matrix = jnp.eye(3)

    @jax.jit
    def f(rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda row: jnp.sum(jnp.square(matrix @ row)))(rows)

    np.testing.assert_array_equal(f(rows), np.arange(ROWS, dtype=np.float32) ** 2)
