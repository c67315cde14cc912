"""A callback of `fit` that writes TensorBoard's event files."""

import os
import time
import weakref
from collections.abc import Callable

from fnnet import check
from fnnet.train.fit.results import Evaluation


def tensorboard(folder: str | os.PathLike[str]) -> Callable[[Evaluation], None]:
    """A callback that writes the numbers of each evaluation as TensorBoard scalars, by tensorboardX.

    Args:
        folder: for the event files; `tensorboard --logdir folder` shows them.

    Raises:
        ImportError: tensorboardX is not installed.

    Example:
        >>> import tempfile
        >>> data = fn.data.two_moons(jax.random.key(0), 100)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fitted = fn.train.fit(fn.dense(2), fn.losses.softmax_cross_entropy, fn.optim.sgd(0.1), data, steps=10,
        ...                           callbacks=[fn.train.tensorboard(folder)], progress=False)
    """
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
    except ImportError as exc:
        raise ImportError(
            "tensorboard: tensorboardX, which writes the files, is not installed: pip install tensorboardX"
        ) from exc
    folder = check.local_path("tensorboard", "folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Not tensorboardX's SummaryWriter: its thread may write the last numbers after the program has ended, or never.
    writer = EventsWriter(str(folder / "events"))

    def write(evaluation: Evaluation) -> None:
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in evaluation.row.items()
            if name != "step" and not isinstance(value, list)  # a confusion matrix is not a scalar
        ]
        writer.write_event(Event(wall_time=time.time(), step=evaluation.step, summary=Summary(value=values)))
        writer.flush()

    weakref.finalize(write, writer.close)
    return write
