"""Scripts for people to run: `python -m experiments.compare_optimizers --help`."""
