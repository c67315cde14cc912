"""Convolutions, pools and what changes the size of an image."""
