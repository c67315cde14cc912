"""Attention, positions and transformer blocks."""
