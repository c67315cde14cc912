"""The keys a layer draws with: one for each of its initializers, and the one for noise in training."""

import chex
import jax

from fnnet.initializers import Initializer, ones, zeros


def keys_for(key: chex.PRNGKey, *inits: Initializer) -> list[chex.PRNGKey]:
    """A key for each initializer, in order.

    Only initializers that draw get a key of their own. `zeros` and `ones` ignore theirs, so a layer whose bias
    starts at 0 does not split its key. (XLA takes 0.1 s on a CPU to compile a split, once for every layer.)
    """
    drawing = [init not in (zeros, ones) for init in inits]
    own = iter(jax.random.split(key, sum(drawing)) if sum(drawing) > 1 else [key])
    return [next(own) if draws else key for draws in drawing]


def required_key(layer: str, key: chex.PRNGKey | None) -> chex.PRNGKey:
    """The key of a layer that draws in training. Raises ValueError if there is none."""
    if key is None:
        raise ValueError(
            f"{layer}: train=True and no key, wanted one to draw with: apply(..., key=jax.random.key(0))"
        )
    return key
