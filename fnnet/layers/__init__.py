"""Layers, one kind a file. `fnnet` names each of them: `fnnet.dense`, `fnnet.conv`."""
