"""Convolution, pooling, and layers that change the size of an image."""
