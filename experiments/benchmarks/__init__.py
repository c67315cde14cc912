"""Measurements: all sides in one process, interleaved; medians and ratios."""
