"""Transformations of gradients, updates and params, to combine in `optax.chain`."""
