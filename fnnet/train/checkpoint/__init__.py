"""Checkpoints: what a run needs to go on, whole on disk or not there at all."""

from fnnet.train.checkpoint.checkpoint import restore, save, steps
from fnnet.train.checkpoint.files import CheckpointError

__all__ = ["CheckpointError", "restore", "save", "steps"]
