"""Finds what goes wrong in training: numbers that are not finite, a loss that never moves, params that explode."""

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet.layer import Layer, Params, State
from fnnet.metrics import PerExample, per_example
from fnnet.train.step import Batch


class TrainingWarning(UserWarning):
    """Training continues, but something is probably wrong."""


def not_finite_in(tree: Any) -> list[str]:
    """Paths of the arrays that hold a NaN or an infinity: `dense_0/w`."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not bool(jnp.all(jnp.isfinite(leaf))):
            found.append(jax.tree_util.keystr(path, simple=True, separator="/"))
    return found


def find_nonfinite(
    net: Layer, loss: PerExample, params: Params, state: State, batch: Batch, key: chex.PRNGKey | None
) -> str:
    """Finds the layer that the first NaN or infinity comes from, in the forward pass of a batch or its gradient.

    The forward pass is run again, operation by operation. JAX raises an error at the first NaN, or else at the first
    infinity, and that error has the names of the layers around it.

    Args:
        net: the network.
        loss: `(prediction, target) -> one value per example`.
        params: those before the step.
        state: the layers' own.
        batch: dict of x and y.
        key: for the layers that draw random numbers.

    Returns:
        A sentence, or "" if everything is finite.

    Example:
        >>> net = fn.serial(fn.dense(2), jnp.log)
        >>> params = {"dense_0": {"w": jnp.ones((1, 2)), "b": jnp.zeros(2)}}
        >>> batch = {"x": jnp.array([[-1.0]]), "y": jnp.array([0])}
        >>> fn.train.find_nonfinite(net, fn.losses.softmax_cross_entropy, params, {}, batch, None)
        "the first NaN comes out of serial['log_0'], input float32[1,2]"
    """
    for name, tree in (("params", params), ("state", state), ("the batch", dict(batch))):
        if bad := not_finite_in(tree):
            return f"{name} had numbers that are not finite before the step, in {_list_paths(bad)}"
    prediction = jax.jit(lambda params: net.apply(params, state, batch["x"], key=key, train=True)[0])(params)
    switches = [("NaN", "jax_debug_nans")]
    if not_finite_in(prediction):  # otherwise infinities, such as those of a mask, do no harm
        switches.append(("infinity", "jax_debug_infs"))
    for what, switch in switches:
        notes = _layers_of_first(net, params, state, batch["x"], key, switch)
        if notes is not None:
            inside = ", in ".join(reversed([note.removeprefix("in ") for note in notes])) or net.name
            return f"the first {what} comes out of {inside}"

    def mean_loss(params: Params) -> jax.Array:
        prediction, _ = net.apply(params, state, batch["x"], key=key, train=True)
        return jnp.mean(per_example("loss", loss, prediction, batch["y"]))

    try:
        value, grads = jax.jit(jax.value_and_grad(mean_loss))(params)
    except ValueError as exc:  # the targets are known here, so a loss can refuse them
        return f"the prediction is finite, but its loss is not: {exc}"
    if not jnp.isfinite(value):
        return "the prediction is finite, but its loss is not: look at the targets and at the loss"
    if bad := not_finite_in(grads):
        return f"the loss is finite, but its gradient is not, in {_list_paths(bad)}"
    return ""


def _layers_of_first(
    net: Layer, params: Params, state: State, x: Any, key: chex.PRNGKey | None, switch: str
) -> Sequence[str] | None:
    """The layers, innermost first, in which the forward pass fails with a debugging switch of JAX; None if none."""
    before = getattr(jax.config, switch)
    with contextlib.ExitStack() as stack:
        stack.callback(jax.config.update, switch, before)
        stack.enter_context(jax.disable_jit())  # so that the body of a scan is checked as well
        jax.config.update(switch, True)
        try:
            jax.block_until_ready(net.apply(params, state, x, key=key, train=True))
        except FloatingPointError as error:
            return [note for note in getattr(error, "__notes__", ()) if note.startswith("in ")]
    return None


def loss_never_moves(rows: Sequence[Mapping[str, Any]], evaluations: int = 3) -> bool:
    """Whether the loss was the same, to a millionth, at each of the first evaluations."""
    if len(rows) != evaluations:
        return False
    for name in ("valid_loss", "train_loss"):
        values = np.array([row.get(name, np.nan) for row in rows], float)
        if np.all(np.isfinite(values)) and np.ptp(values) <= 1e-6 * np.abs(values).max():
            return True
    return False


def norm_explodes(norms: Sequence[float], factor: float = 1e3) -> bool:
    """Whether the last norm of the params is, for the first time, `factor` times the least one so far."""
    *before, last = norms
    return bool(before) and last > factor * min(before) > 0 and max(before) <= factor * min(before)


def warn_of_trouble(rows: Sequence[Mapping[str, Any]]) -> None:
    """Warns where the last row shows that the loss never moves, or that the params explode."""
    if loss_never_moves(rows):
        warnings.warn(
            f"fit: the loss has not moved in {len(rows)} evaluations: the learning rate may be far too small, units "
            "dead, or the params frozen",
            TrainingWarning,
            stacklevel=3,
        )
    norms = [row["params_norm"] for row in rows]
    if norm_explodes(norms):
        warnings.warn(
            f"fit: the norm of the params has grown to {norms[-1]:.3g} by step {rows[-1]['step']}, a thousand times "
            f"the least so far: the learning rate may be too large",
            TrainingWarning,
            stacklevel=3,
        )


def name_bad_number(measured: Mapping[str, np.ndarray]) -> str:
    """Which number of the last step was bad, as a clause."""
    last = {
        name: float(measured[name][-1]) for name in ("loss", "penalty", "gradient_norm") if name in measured
    }
    for name, value in last.items():
        if not math.isfinite(value):
            return f"the {name.replace('_', ' ')} is {value}"
    return f"the gradient norm is {last['gradient_norm']:.3g}, more than largest_norm"


def _list_paths(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(paths[:5]) + more
