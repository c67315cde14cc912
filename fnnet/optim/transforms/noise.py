"""Gradient noise that decays over time (Neelakantan et al. 2015, arXiv:1511.06807)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.keys import as_key
from fnnet.optim.hyperparameters import times


class AddNoiseState(NamedTuple):
    """The state of the noise."""

    step: jax.Array  # int32[], updates taken
    key: jax.Array  # key[], for the noise to come


def add_noise(
    eta: chex.Numeric,
    gamma: chex.Numeric,
    key: chex.PRNGKey | int | None = None,
    *,
    seed: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds Gaussian noise to the gradient, less at each step.

        g <- g + N(0, sigma_t^2)        sigma_t^2 = eta / t^gamma

    Args:
        eta: variance at the first step. The paper uses 0.01, 0.3 and 1.
        gamma: how fast the variance decays. The paper's is 0.55.
        key: a key or a seed for the noise. It is required. (optax uses 0 without one, and warns.)
        seed: optax's old name for `key`.

    Twin: `optax.add_noise`, equal bit for bit with the same key. The paper counts t from 0 and uses (1 + t)^gamma.

    Raises:
        TypeError, ValueError: eta is negative; both or neither of key and seed are given; the key is no key, and no
            seed from 0 to 2**32 - 1.

    Source: Neelakantan et al. 2015, arXiv:1511.06807.

    Example:
        >>> optimizer = optax.chain(fn.optim.add_noise(0.01, 0.55, key=0), fn.optim.sgd(0.1))
        >>> grads = jnp.zeros(1000)
        >>> updates, state = optimizer.update(grads, optimizer.init(grads))
        >>> f"{jnp.std(updates):.3f}"
        '0.010'
    """
    check.number("add_noise", "gamma", gamma)
    check.number("add_noise", "eta", eta, "[0, inf)")
    if (key is None) == (seed is None):
        raise ValueError(f"add_noise: key={key}, seed={seed}, wanted a key: add_noise(eta, gamma, key=0)")
    given: Any = seed if key is None else key
    as_key("add_noise", given)  # raises here, rather than in init

    def init(params: optax.Params) -> AddNoiseState:
        return AddNoiseState(jnp.zeros([], jnp.int32), as_key("add_noise", given))

    def update(
        grads: optax.Updates, state: AddNoiseState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AddNoiseState]:
        t = optax.safe_increment(state.step)
        sigma = jnp.sqrt(eta / t**gamma)
        key, draw = jax.random.split(state.key)
        leaves, tree = jax.tree.flatten(grads)
        keys = jax.tree.unflatten(tree, jax.random.split(draw, len(leaves)))
        noisy = jax.tree.map(
            lambda g, k: g + times(sigma, jax.random.normal(k, g.shape, g.dtype)), grads, keys
        )
        return noisy, AddNoiseState(t, key)

    return optax.GradientTransformationExtraArgs(init, update)
