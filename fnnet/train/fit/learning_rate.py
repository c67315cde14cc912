"""The optimizer of `fit`, and its learning rate: given, reduced on a plateau, and read for the history."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnnet.optim.wrappers.accumulate import accumulate as accumulate_gradients
from fnnet.train.arguments import check_optimizer
from fnnet.train.step import TrainState


class PlateauState(NamedTuple):
    """What updates are multiplied by; it is set after an evaluation."""

    scale: jax.Array  # float32[]


def make_optimizer(
    optimizer: Any, learning_rate: Any, accumulate: int, reduce_on_plateau: Any
) -> optax.GradientTransformation:
    """The optimizer, made with its learning rate, that accumulates gradients and whose updates can be scaled.

    Raises:
        TypeError: the optimizer is neither an optimizer nor a function that makes one, or does not go with
            learning_rate.
    """
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        if learning_rate is not None:
            raise TypeError(
                "fit: learning_rate is for a function that makes an optimizer, such as fn.optim.adam; "
                "fn.optim.adam(1e-3) already has one: leave out learning_rate="
            )
    elif not callable(optimizer):
        check_optimizer("fit", optimizer)
    elif learning_rate is None:
        name = getattr(optimizer, "__name__", repr(optimizer))
        raise TypeError(
            f"fit: optimizer is {name}, a function that makes an optimizer: pass learning_rate=, or call it: "
            f"{name}(1e-3)"
        )
    else:
        optimizer = optimizer(learning_rate=learning_rate)
        check_optimizer("fit", optimizer)
    if accumulate > 1:
        optimizer = accumulate_gradients(optimizer, accumulate)
    return optimizer if reduce_on_plateau is None else optax.chain(optimizer, scale_updates())


def scale_updates() -> optax.GradientTransformation:
    """Updates times a number that is set by `with_scale`."""

    def init(params: optax.Params) -> PlateauState:
        return PlateauState(jnp.ones([]))

    def update(updates: Any, state: PlateauState, params: Any = None) -> tuple[Any, PlateauState]:
        return jax.tree.map(lambda u: u * state.scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def with_scale(now: TrainState, scale: Any) -> TrainState:
    """The state with that number set. It stays on its devices."""
    inner, scaled = now.opt_state
    return now._replace(opt_state=(inner, PlateauState(scaled.scale * 0 + np.float32(scale))))


def read_learning_rate(
    opt_state: Any, learning_rate: Any, updates: int, reduces_on_plateau: bool
) -> float | None:
    """The learning rate of the next update; None where it is not known.

    It is known where it was given to `fit`, or where it is in the state of `optax.inject_hyperparams`.

    Args:
        opt_state: the optimizer's state.
        learning_rate: as given to `fit`: a number, a schedule or None.
        updates: updates so far, without those that were left out.
        reduces_on_plateau: whether the state is that of an optimizer with `scale_updates`.
    """
    scale = float(opt_state[1].scale) if reduces_on_plateau else 1.0
    if learning_rate is not None:
        return scale * float(learning_rate(updates) if callable(learning_rate) else learning_rate)
    found = [value for _, value in optax.tree.get_all_with_path(opt_state, "learning_rate")]
    # A schedule's state has the same name.
    numbers = [value for value in found if getattr(value, "shape", None) == ()]
    return scale * float(numbers[0]) if numbers else None
