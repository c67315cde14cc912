"""What goes wrong in training, found and named: numbers that are not finite, a loss that never moves, an explosion."""

import contextlib
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
    """Training goes on, but hardly as it was meant to."""


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
    """Where the first number that is not finite comes from, in the forward pass of a batch and its gradient.

    The pass is run once more, operation by operation, and the error that JAX raises at the first NaN (or else at the
    first infinity) carries the names of the layers it went through.

    Returns:
        A sentence, or "" if all is finite.

    Example:
        >>> net = fn.serial(fn.dense(2), jnp.log)
        >>> params = {"dense_0": {"w": jnp.ones((1, 2)), "b": jnp.zeros(2)}}
        >>> batch = {"x": jnp.array([[-1.0]]), "y": jnp.array([0])}
        >>> fn.train.find_nonfinite(net, fn.losses.softmax_cross_entropy, params, {}, batch, None)
        "the first NaN comes out of serial['log_0'], input float32[1,2]"
    """
    for name, tree in (("params", params), ("state", state), ("the batch", dict(batch))):
        if bad := not_finite_in(tree):
            return f"{name} came with numbers that are not finite, in {_listed(bad)}"
    prediction = jax.jit(lambda params: net.apply(params, state, batch["x"], key=key, train=True)[0])(params)
    switches = [("NaN", "jax_debug_nans")]
    if not_finite_in(prediction):  # else infinities, such as those of a mask, do no harm
        switches.append(("infinity", "jax_debug_infs"))
    for what, switch in switches:
        notes = _first(net, params, state, batch["x"], key, switch)
        if notes is not None:
            inside = ", in ".join(reversed([note.removeprefix("in ") for note in notes])) or net.name
            return f"the first {what} comes out of {inside}"

    def mean_loss(params: Params) -> jax.Array:
        prediction, _ = net.apply(params, state, batch["x"], key=key, train=True)
        return jnp.mean(per_example("loss", loss, prediction, batch["y"]))

    value, grads = jax.jit(jax.value_and_grad(mean_loss))(params)
    if not jnp.isfinite(value):
        return "the prediction is finite, the loss of it is not: look at the targets and at the loss"
    if bad := not_finite_in(grads):
        return f"the loss is finite, its gradient is not, in {_listed(bad)}"
    return ""


def _first(
    net: Layer, params: Params, state: State, x: Any, key: chex.PRNGKey | None, switch: str
) -> Sequence[str] | None:
    """The layers, innermost first, in which the forward pass fails under a switch of JAX's; None if it does not."""
    before = getattr(jax.config, switch)
    with contextlib.ExitStack() as stack:
        stack.callback(jax.config.update, switch, before)
        stack.enter_context(jax.disable_jit())  # so that a scan's body is gone through, too
        jax.config.update(switch, True)
        try:
            jax.block_until_ready(net.apply(params, state, x, key=key, train=True))
        except FloatingPointError as error:
            return [note for note in getattr(error, "__notes__", ()) if note.startswith("in ")]
    return None


def never_moves(rows: Sequence[Mapping[str, Any]], evaluations: int = 3) -> bool:
    """Whether the loss has been the same, to a millionth, at each of the first evaluations."""
    if len(rows) != evaluations:
        return False
    for name in ("valid_loss", "train_loss"):
        values = np.array([row.get(name, np.nan) for row in rows], float)
        if np.all(np.isfinite(values)) and np.ptp(values) <= 1e-6 * np.abs(values).max():
            return True
    return False


def explodes(norms: Sequence[float], factor: float = 1e3) -> bool:
    """Whether the last norm of the params is that many times the least so far, for the first time."""
    *before, last = norms
    return bool(before) and last > factor * min(before) > 0 and max(before) <= factor * min(before)


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(paths[:5]) + more
