"""Training: one step for a loop of one's own, and a whole run as a pure function."""

from fnnet.train import checkpoint
from fnnet.train.checkpoint import CheckpointError
from fnnet.train.evaluate import evaluate
from fnnet.train.fit import DivergedError, Fitted, Moment, fit
from fnnet.train.guard import TrainingWarning, blame
from fnnet.train.host import Best
from fnnet.train.learning_rate_range import LearningRateRange, learning_rate_range
from fnnet.train.run import Run, make_run, raise_if_diverged
from fnnet.train.safetensors import load_safetensors, save_safetensors
from fnnet.train.search import choice, log_uniform, uniform
from fnnet.train.shard import fully_sharded, gathered, shardings, spread, start_sharded, tensor_parallel
from fnnet.train.step import TrainState, make_step, start
from fnnet.train.sweep import Sweep, sweep
from fnnet.train.sweep_pictures import parallel_coordinates, sensitivity
from fnnet.train.tensorboard import tensorboard

__all__ = [
    "Best",
    "CheckpointError",
    "DivergedError",
    "Fitted",
    "LearningRateRange",
    "Moment",
    "Run",
    "Sweep",
    "TrainState",
    "TrainingWarning",
    "blame",
    "checkpoint",
    "choice",
    "evaluate",
    "fit",
    "fully_sharded",
    "gathered",
    "learning_rate_range",
    "load_safetensors",
    "log_uniform",
    "make_run",
    "make_step",
    "parallel_coordinates",
    "raise_if_diverged",
    "save_safetensors",
    "sensitivity",
    "shardings",
    "spread",
    "start",
    "start_sharded",
    "sweep",
    "tensor_parallel",
    "tensorboard",
    "uniform",
]
