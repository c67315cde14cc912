"""Measurements: both sides in one process, interleaved, medians and ratios."""
