"""Every optimizer beside its optax twin: the same network, weights and batches."""
