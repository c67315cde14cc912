"""Layers, one kind per file. `fnnet` has all of their names: `fnnet.dense`, `fnnet.conv`."""
