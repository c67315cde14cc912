"""Attention, positions and the blocks of a transformer."""
