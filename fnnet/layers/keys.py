"""Keys for a layer's initializers."""

import chex
import jax

from fnnet.initializers import Initializer, ones, zeros


def keys_for(key: chex.PRNGKey, *inits: Initializer) -> list[chex.PRNGKey]:
    """A key for each initializer, in their order.

    Only those that draw get one of their own: `zeros` and `ones` read none. XLA takes 0.1 s of a CPU to compile the
    split of a key, for every layer again, and with a bias that starts at 0 there is nothing to split it for.
    """
    drawing = [init not in (zeros, ones) for init in inits]
    own = iter(jax.random.split(key, sum(drawing)) if sum(drawing) > 1 else [key])
    return [next(own) if draws else key for draws in drawing]
