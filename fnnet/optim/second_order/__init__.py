"""Optimizers with a line search or with curvature."""
