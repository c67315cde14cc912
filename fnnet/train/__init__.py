"""Training: one step for your own training loop, and a whole run as a pure function."""

from fnnet.train import checkpoint
from fnnet.train.checkpoint.checkpoint import CheckpointError
from fnnet.train.checkpoint.safetensors import load_safetensors, save_safetensors
from fnnet.train.devices.sharding import (
    fully_sharded,
    gather_params,
    shard_batch,
    shardings,
    start_sharded,
    tensor_parallel,
)
from fnnet.train.evaluate import evaluate
from fnnet.train.fit.diagnose import TrainingWarning, find_nonfinite
from fnnet.train.fit.fit import fit
from fnnet.train.fit.results import Best, DivergedError, Evaluation, Fitted
from fnnet.train.fit.tensorboard import tensorboard
from fnnet.train.learning_rate_range import LearningRateRange, learning_rate_range
from fnnet.train.plot import plot
from fnnet.train.run import Run, TrainingRun, make_run, raise_if_diverged
from fnnet.train.step import TrainingStep, TrainState, make_step, start
from fnnet.train.sweep.plots import parallel_coordinates, sensitivity
from fnnet.train.sweep.results import BestTrial, Sweep
from fnnet.train.sweep.sweep import sweep
from fnnet.train.sweep.trials import choice, log_uniform, uniform

__all__ = [
    "Best",
    "BestTrial",
    "CheckpointError",
    "DivergedError",
    "Evaluation",
    "Fitted",
    "LearningRateRange",
    "Run",
    "Sweep",
    "TrainState",
    "TrainingRun",
    "TrainingStep",
    "TrainingWarning",
    "checkpoint",
    "choice",
    "evaluate",
    "find_nonfinite",
    "fit",
    "fully_sharded",
    "gather_params",
    "learning_rate_range",
    "load_safetensors",
    "log_uniform",
    "make_run",
    "make_step",
    "parallel_coordinates",
    "plot",
    "raise_if_diverged",
    "save_safetensors",
    "sensitivity",
    "shard_batch",
    "shardings",
    "start",
    "start_sharded",
    "sweep",
    "tensor_parallel",
    "tensorboard",
    "uniform",
]
