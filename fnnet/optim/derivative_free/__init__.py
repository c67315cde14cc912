"""Optimizers that use the value of the objective alone."""
