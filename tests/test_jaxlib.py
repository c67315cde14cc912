"""The installed jaxlib computes right numbers: release 0.10.2 does not (jax issue #39103)."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np

ROWS = 32_769


def test_not_the_release_that_computes_wrong_numbers() -> None:
    for package in ("jax", "jaxlib"):
        version = importlib.metadata.version(package)
        assert version != "0.10.2", (
            f"{package} 0.10.2 returns silently wrong numbers on CPU (jax issue #39103). Install another release: "
            "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'; 0.10.1 runs on Python 3.11, newer ones from 3.12 on"
        )


def test_the_known_wrong_result() -> None:
    """A sum over the rows of a vmapped, squared product: at 32,769 rows 0.10.2 loses some of them."""
    x, w = jnp.ones((ROWS, 128)), jnp.full((128, 2), 2.0**-7)

    @jax.jit
    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(lambda row: jnp.sum(jnp.square(row @ w)))(x))

    # Each row gives 2 * 1^2, all of it exact in float32 up to the last additions.
    np.testing.assert_allclose(f(x), 2.0 * ROWS, rtol=1e-6)
