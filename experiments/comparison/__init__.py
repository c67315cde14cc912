"""The parts of `experiments.compare_optimizers`: `twins/` (beside optax) and `ladder/` (one another)."""
