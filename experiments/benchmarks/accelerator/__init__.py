"""fnnet on an accelerator, measured in minutes: `python -m experiments.benchmarks.accelerator --help`.

There is one file per part, with a `PART` that yields rows. `__main__` gives each part its share of the time, and writes
each row to disk when it arrives.
"""
