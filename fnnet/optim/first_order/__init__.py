"""Optimizers that use the gradient alone."""
