"""Checkpoints: what a run needs to resume, written completely or not at all."""

from fnnet.train.checkpoint.checkpoint import restore, save, steps
from fnnet.train.checkpoint.files import CheckpointError

__all__ = ["CheckpointError", "restore", "save", "steps"]
