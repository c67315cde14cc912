"""The compiled program of `fit`: its first state, its steps, its evaluation, and the search for what is at fault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fnnet import check
from fnnet.layer import Params, State
from fnnet.losses import class_weighted
from fnnet.train.checkpoint.arrays import describe_leaf, differences
from fnnet.train.compiler import options
from fnnet.train.devices.processes import local_copy
from fnnet.train.devices.sharding import shardings
from fnnet.train.fit.diagnose import find_nonfinite
from fnnet.train.fit.evaluation import make_evaluation
from fnnet.train.fit.guarded_step import IsBad, Keys, LoopState, make_guarded_step
from fnnet.train.fit.identity import program_parts
from fnnet.train.fit.learning_rate import make_optimizer
from fnnet.train.fit.settings import Settings
from fnnet.train.fit.source import Source
from fnnet.train.step import TrainState, make_step, start


@dataclass(frozen=True)
class Program:
    """The compiled functions of a run."""

    begin: Callable[[], LoopState]  # the state before the first step
    shapes: LoopState  # of the state, with shardings: what a checkpoint is read into
    advance: Callable[
        [LoopState, int], tuple[LoopState, dict[str, np.ndarray]]
    ]  # (state, steps) -> (state, numbers)
    evaluate: Callable[[Params, State], dict[str, Any]]
    find_fault: Callable[[LoopState, int], str]  # (state, step) -> where that step goes wrong, or ""
    parts: Callable[[], dict[str, str]]  # digests of what it computes


def make_program(settings: Settings, source: Source) -> Program:
    """Puts the program together. It is compiled when it is first called."""
    net, keys, mesh, augment = settings.net, settings.keys, settings.mesh, settings.augment
    optimizer = make_optimizer(
        settings.optimizer, settings.learning_rate, settings.accumulate, settings.reduce_on_plateau
    )
    loss = settings.loss
    if settings.class_weights is not None:
        loss = class_weighted(loss, settings.class_weights)

    # The step, which leaves out a bad update.
    is_bad = make_is_bad(settings.largest_norm)
    step = make_step(
        net,
        loss,
        optimizer,
        metrics=settings.metrics,
        penalty=settings.penalty,
        gradient_norm=settings.measures_gradient_norm,
        skip_if=is_bad,
    )
    # Inline, it is traced once for the digest and for the program, and leaves no trace in it.
    step = jax.jit(step, inline=True)
    guarded_step = make_guarded_step(step, is_bad, settings.skips_bad_steps, augment)

    # The first state: its shapes, where each array is, and how it is computed.
    batch = source.shapes if augment is None else jax.eval_shape(augment, keys.augment, source.shapes)

    def begin(keys: Keys, order: jax.Array, initial: Any) -> LoopState:
        if initial is None:
            now = start(net, optimizer, keys.init, batch["x"])
        else:
            params, state = initial
            now = TrainState(params, state, optimizer.init(params), jnp.zeros([], jnp.int32))
        return LoopState(now, order, skipped=jnp.zeros([], jnp.int32), halted=jnp.zeros([], bool))

    initial = settings.initial
    if initial is not None:
        _check_initial(initial, jax.eval_shape(begin, keys, source.order, None).now)
    shapes = jax.eval_shape(begin, keys, source.order, initial)
    placed = None
    if mesh is not None:
        replicated = NamedSharding(mesh, PartitionSpec())
        placed = jax.tree.map(lambda _: replicated, shapes)
        placed = placed._replace(now=shardings(shapes.now, mesh, settings.rules))
        shapes = jax.tree.map(
            lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes, placed
        )
        if initial is not None:  # from the devices that it is on
            initial = jax.device_put(tuple(initial), (placed.now.params, placed.now.state))
    compiled_begin = jax.jit(begin, out_shardings=placed, compiler_options=options())
    compiled_advance = source.compile(guarded_step, placed)

    def find_fault(loop: LoopState, step: int) -> str:
        batch = source.batch_at(keys, step)
        if batch is None:
            return ""
        batch = jax.tree.map(jnp.asarray, dict(batch))
        if augment is not None:
            batch = augment(jax.random.fold_in(keys.augment, step), batch)
        params, state = local_copy((loop.now.params, loop.now.state), mesh)
        return find_nonfinite(net, loss, params, state, batch, jax.random.fold_in(keys.step, step))

    return Program(
        begin=lambda: compiled_begin(keys, source.order, initial),
        shapes=shapes,
        advance=lambda loop, steps: compiled_advance(loop, keys, steps),
        evaluate=make_evaluation(
            net, {"loss": settings.loss, **settings.metrics}, settings.valid, settings.eval_batch_size, mesh
        ),
        find_fault=find_fault,
        parts=lambda: program_parts(settings, loss, step, shapes, source.shapes),
    )


def _check_initial(initial: Any, drawn: TrainState) -> None:
    """Raises unless the params and state to start with have the shapes and dtypes of those that init draws."""
    if not isinstance(initial, list | tuple) or len(initial) != 2:
        raise TypeError(f"fit: initial is {check.describe(initial)}, wanted a pair (params, state)")

    def described(tree: Any) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): describe_leaf(
                jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a))
            )
            for path, a in leaves
        }

    for name, got, wanted in zip(("params", "state"), initial, (drawn.params, drawn.state), strict=True):
        if differs := differences(described(got), described(wanted)):
            raise ValueError(
                f"fit: initial is of another network, or for another input: of its {name} {differs}. Pass those of "
                "this network, in the dtypes that its init gives them"
            )


def make_is_bad(largest_norm: float | None) -> IsBad:
    """A function of a step's numbers: whether one of them is not finite, or the gradient's norm is too large."""

    def is_bad(measured: dict[str, jax.Array]) -> jax.Array:
        checked = [measured[name] for name in ("loss", "penalty", "gradient_norm") if name in measured]
        bad = ~jnp.isfinite(sum(checked))
        return bad if largest_norm is None else bad | (measured["gradient_norm"] > largest_norm)

    return is_bad
