"""The parts of `experiments.compare_optimizers`: runs of twins, problems, pictures, report."""
