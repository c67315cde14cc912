"""A whole training run as a pure function of its seed, its data and its hyperparameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnnet import check
from fnnet.keys import as_key
from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample
from fnnet.train.arguments import check_loss, check_maker, check_metrics, check_network
from fnnet.train.batches import count_examples, epoch_order, next_batch
from fnnet.train.evaluate import evaluate
from fnnet.train.step import (
    TrainState,
    describe_array,
    describe_fields,
    describe_tree,
    make_step,
    start,
)

Carry = tuple[TrainState, jax.Array]  # of the scan: the state, and the order of the epoch's examples
History = dict[str, jax.Array]


class Run(NamedTuple):
    """The result of a training run."""

    params: Params
    state: State  # of the layers, such as running averages
    history: History
    opt_state: optax.OptState  # to continue the run, and for averaged weights
    step: jax.Array  # int32[], steps taken since the weights were drawn

    def __repr__(self) -> str:
        text = str(self.history)
        if isinstance(self.history, dict) and self.history:
            text = ", ".join(f"{name} {describe_array(a)}" for name, a in self.history.items())
        return describe_fields(
            "Run",
            params=describe_tree(self.params),
            state=describe_tree(self.state),
            history=text,
            opt_state=describe_tree(self.opt_state),
            step=describe_array(self.step),
        )


class TrainingRun(Protocol):
    """The function that `make_run` returns."""

    def __call__(
        self, key: chex.PRNGKey, data: Any, hparams: Mapping[str, Any], after: Run | None = None
    ) -> Run:
        """Trains from the start, or continues the run `after`."""
        ...


def make_run(
    net: Layer,
    loss: PerExample,
    make_optimizer: Callable[..., optax.GradientTransformation],
    *,
    steps: int,
    batch_size: int,
    metrics: Mapping[str, PerExample | Metric] | None = None,
    eval_every: int | None = None,
    eval_batch_size: int = 1000,
    penalties: Mapping[str, Callable[[Params], jax.Array]] | None = None,
) -> TrainingRun:
    """A training run as a pure function. `jit` makes it one program; `vmap` trains many networks at once.

        run(key, data, hparams, after=None) -> Run(params, state, history, opt_state, step)

    Args:
        net: the network.
        loss: `(prediction, target) -> one value per example`.
        make_optimizer: called inside the run as `make_optimizer(**hparams)`, such as `fn.optim.adam`.
        steps: updates.
        batch_size: examples per batch. Each epoch is a permutation of the training part. The examples left over at
            its end, fewer than a batch, are different ones each time.
        metrics: by name, functions `(prediction, target) -> one value per example`, such as
            `{"accuracy": fn.metrics.accuracy}`, or `fn.metrics.Metric`s.
        eval_every: steps between two evaluations. There is always one after the last step; by default it is the
            only one.
        eval_batch_size: examples per batch of an evaluation; it bounds the memory.
        penalties: functions of the params, by name, that are added to the loss. Each is multiplied by the
            hyperparameter of the same name, which is then not passed to make_optimizer:
            `penalties={"l2": fn.losses.l2}` with `{"learning_rate": 1e-3, "l2": 1e-4}`.

    Returns:
        `run(key, data, hparams)`. `data` has `train`, and may have `valid` and `test` (or None), as attributes or as
        keys. Each is a dict of "x" and "y": arrays, or trees of arrays, with one leading axis. `hparams` is a dict of
        numbers. The history holds, by name:

        - "train_loss", "train_accuracy", ...: float[steps], means over the batch of each step, before its
          update and without penalties; "train_penalty" if there are penalties;
        - "valid_loss", "test_loss", "valid_accuracy", ...: float[evaluations], means over the part;
        - "eval_step": int32[evaluations], the number of steps taken before each evaluation;
        - "diverged_at": int32[], the first step at which the loss, a penalty or an evaluation's loss was not finite.
          If only the final params are not finite, it is the number of steps. It is -1 if all are finite. See
          `raise_if_diverged`.

        With `after`, the result of an earlier run with the same key and data, the run continues from there for
        `steps` more steps. Weights, random draws and training history are those of one long run, bit for bit. Steps
        and diverged_at count from the start of the first run, eval_every from the start of this one. Under `vmap`,
        leave the step unmapped, with `in_axes=(0, None, 0, fn.train.Run(0, 0, 0, 0, None))` and
        `after._replace(step=after.step[0])`. Otherwise each step of each run sorts an epoch.

    Raises:
        TypeError: a size is not an int; metrics, penalties or hparams is not a dict; net, loss or make_optimizer is not
            as described; make_optimizer does not accept a hyperparameter.
        ValueError: steps, a size or eval_every is not positive; the batch is larger than the training part; a
            part is not a dict with x and y alone, or its arrays differ in length; a penalty has no hyperparameter, or
            is not a scalar; a metric is called "loss" or "penalty"; the loss or a metric does not return one value
            per example; `after` is from another network or optimizer.

    Example:
        >>> data = fn.data.split(fn.data.two_moons(jax.random.key(0), 300))
        >>> net = fn.serial(fn.dense(16), fn.tanh, fn.dense(2))
        >>> run = fn.train.make_run(net, fn.losses.softmax_cross_entropy, fn.optim.adam, steps=300,
        ...                         batch_size=50, metrics={"accuracy": fn.metrics.accuracy})
        >>> rates = {"learning_rate": jnp.array([1e-4, 1e-1])}
        >>> two = jax.jit(jax.vmap(run, in_axes=(None, None, 0)))(jax.random.key(0), data, rates)
        >>> two.history["train_loss"].shape
        (2, 300)
        >>> bool(two.history["test_accuracy"][1, -1] > 0.95)
        True
    """
    for name, size in (("steps", steps), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
        check.is_positive("make_run", name, size)
    if eval_every is not None:
        check.is_positive("make_run", "eval_every", eval_every)
    if not isinstance(penalties, Mapping | None):
        raise TypeError(f"make_run: penalties={penalties!r}, wanted a dict of functions by name")
    penalties = dict(penalties or {})
    check_network("make_run", net)
    check_loss("make_run", loss)
    check_maker("make_run", make_optimizer)
    metrics = check_metrics("make_run", metrics)
    measures: dict[str, PerExample | Metric] = {"loss": loss, **metrics}

    def run(key: chex.PRNGKey, data: Any, hparams: Mapping[str, Any], after: Run | None = None) -> Run:
        key = as_key("run", key)
        train, held_out = _split_data(data, batch_size)
        strengths, optimizer_hparams = _split_hparams(hparams, penalties)
        optimizer = make_optimizer(**optimizer_hparams)

        def penalty(params: Params) -> jax.Array:
            return sum(strengths[name] * f(params) for name, f in penalties.items())

        step = make_step(net, loss, optimizer, metrics=metrics, penalty=penalty if penalties else None)
        init_key, order_key, step_key = jax.random.split(key, 3)

        def train_step(carry: Carry, _: None) -> tuple[Carry, History]:
            train_state, order = carry
            order, batch = next_batch(order_key, order, train_state.step, train, batch_size)
            train_state, batch_metrics = step(
                train_state, batch, jax.random.fold_in(step_key, train_state.step)
            )
            return (train_state, order), batch_metrics

        def train_and_evaluate(carry: Carry, length: int) -> tuple[Carry, tuple[History, History]]:
            carry, train_metrics = jax.lax.scan(train_step, carry, length=length)
            train_state, _ = carry
            eval_metrics = {"eval_step": train_state.step}
            for name, part in held_out.items():
                with check.at(f"data.{name}", part["x"]):
                    means = evaluate(
                        net, measures, train_state.params, train_state.state, part, eval_batch_size
                    )
                eval_metrics |= {f"{name}_{measure}": mean for measure, mean in means.items()}
            return carry, (train_metrics, eval_metrics)

        # 1. The state before the first step, drawn or from an earlier run.
        n = len(jax.tree.leaves(train)[0])
        if after is None:
            first, order = start(net, optimizer, init_key, train["x"]), jnp.zeros(n, jnp.int32)
        else:
            wanted = jax.eval_shape(lambda: start(net, optimizer, init_key, train["x"]))
            first = _continue_from(after, wanted)
            order = epoch_order(order_key, first.step, n, batch_size)

        # 2. The steps, an evaluation after every eval_every of them and after the last.
        every = min(eval_every or steps, steps)
        repeats, remainder = divmod(steps, every)
        carry, segments = (first, order), []
        if repeats > 1:
            carry, (train_metrics, eval_metrics) = jax.lax.scan(
                lambda carry, _: train_and_evaluate(carry, every), carry, length=repeats
            )
            train_metrics = jax.tree.map(lambda a: a.reshape(repeats * every), train_metrics)
            segments.append((train_metrics, eval_metrics))
        for length in ([every] if repeats == 1 else []) + ([remainder] if remainder else []):
            carry, (train_metrics, eval_metrics) = train_and_evaluate(carry, length)
            segments.append((train_metrics, jax.tree.map(lambda a: a[None], eval_metrics)))
        train_metrics, eval_metrics = jax.tree.map(lambda *parts: jnp.concatenate(parts), *segments)

        # 3. The history, and the step at which the run diverged.
        train_state = carry[0]
        nonfinite = sum(jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(train_state.params))
        at_step = first.step + jnp.arange(steps)
        diverged_at = _first_nonfinite_step(
            *((train_metrics[name], at_step) for name in ("loss", "penalty") if name in train_metrics),
            *((eval_metrics[f"{name}_loss"], eval_metrics["eval_step"]) for name in held_out),
            (jnp.where(nonfinite > 0, jnp.nan, 0.0), train_state.step),
        )
        if after is not None:
            before = after.history["diverged_at"]
            diverged_at = jnp.where(before >= 0, before, diverged_at)
        history = {f"train_{name}": values for name, values in train_metrics.items()} | eval_metrics
        history["diverged_at"] = diverged_at
        return Run(train_state.params, train_state.state, history, train_state.opt_state, train_state.step)

    return run


def raise_if_diverged(run: Run, hparams: Mapping[str, Any] | None = None) -> None:
    """Raises FloatingPointError if a run's loss was not finite, and names the step. A pure function cannot raise it.

    Args:
        run: one run, or many from `vmap`.
        hparams: of the runs, for the message: numbers, or arrays with one value per run.

    Example:
        >>> net, data = fn.dense(1), {"train": {"x": jnp.ones((8, 1)), "y": jnp.ones((8, 1))}}
        >>> run = fn.train.make_run(net, fn.losses.mean_squared_error, fn.optim.sgd, steps=100, batch_size=8)
        >>> fn.train.raise_if_diverged(jax.jit(run)(jax.random.key(0), data, {"learning_rate": 100.0}))
        Traceback (most recent call last):
            ...
        FloatingPointError: the loss was not finite from step ... on
    """
    at = np.asarray(run.history["diverged_at"])
    shown = {name: np.asarray(v) for name, v in (hparams or {}).items() if np.shape(v) in ((), at.shape)}

    def describe(i: tuple[int, ...]) -> str:
        values = [f", {name}={v[i] if v.ndim else v}" for name, v in shown.items()]
        return f"from step {at[i]} on{''.join(values)}"

    diverged = [i for i in np.ndindex(at.shape) if at[i] >= 0]
    if diverged and at.ndim == 0:
        raise FloatingPointError(f"the loss was not finite {describe(())}")
    if diverged:
        listed = "; ".join(f"run {', '.join(map(str, i))} {describe(i)}" for i in diverged[:10])
        more = "; ..." if len(diverged) > 10 else ""
        raise FloatingPointError(
            f"the loss was not finite in {len(diverged)} of {at.size} runs: {listed}{more}"
        )


def _split_data(data: Any, batch_size: int) -> tuple[Any, dict[str, Any]]:
    """The training part, and the parts to evaluate on by name, as jax arrays."""
    train = _get_part(data, "train")
    if train is None:
        got = check.describe(data)
        raise ValueError(f"run: data is {got}, wanted .train, .valid and .test, each with x and y")
    n = len(jax.tree.leaves(train)[0])
    if batch_size > n:
        raise ValueError(f"run: batch_size={batch_size}, wanted {n} at most, the examples there are")
    held_out = {name: part for name in ("valid", "test") if (part := _get_part(data, name)) is not None}
    return train, held_out


def _get_part(data: Any, name: str) -> Any:
    """A part of the data as jax arrays, checked, or None if there is no such part."""
    part = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
    if part is None:
        return None
    count_examples(f"run: data.{name}", part)
    return jax.tree.map(jnp.asarray, dict(part))


def _split_hparams(
    hparams: Mapping[str, Any], penalties: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hyperparameters of the penalties and those of the optimizer."""
    if not isinstance(hparams, Mapping):
        raise TypeError(f"run: hparams is {check.describe(hparams)}, wanted a dict of numbers by name")
    if missing := sorted(set(penalties) - set(hparams)):
        raise ValueError(f"run: hparams has {sorted(hparams)}, wanted the penalties' {missing} too")
    strengths = {name: hparams[name] for name in penalties}
    return strengths, {name: value for name, value in hparams.items() if name not in penalties}


def _continue_from(after: Run, wanted: TrainState) -> TrainState:
    """The state that an earlier run ended with, if its shapes are those of this network and optimizer."""
    if not isinstance(after, Run):
        raise TypeError(f"run: after is {check.describe(after)}, wanted the Run that an earlier run returned")
    got = TrainState(after.params, after.state, after.opt_state, jnp.asarray(after.step))
    for name, a, b in zip(TrainState._fields, got, wanted, strict=True):
        if len({jax.tree.structure(a), jax.tree.structure(b)}) > 1:
            raise ValueError(
                f"run: after.{name} is {jax.tree.structure(a)}, wanted {jax.tree.structure(b)}: "
                "continue with the network and the optimizer of the earlier run"
            )
        shapes = [[(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(t)] for t in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"run: after.{name} is {check.describe(a)}, wanted {check.describe(b)}: continue with the network "
                "and the optimizer of the earlier run; if it is several runs, map over it with vmap"
            )
    return got


def _first_nonfinite_step(*values_at: tuple[jax.Array, Any]) -> jax.Array:
    """Of pairs (values, their steps), the first step, int32[], of a value that is not finite; -1 if all are finite."""
    never = jnp.iinfo(jnp.int32).max
    firsts = [jnp.min(jnp.where(jnp.isfinite(v), never, at), initial=never) for v, at in values_at]
    first = jnp.min(jnp.stack(firsts))
    return jnp.where(first == never, -1, first).astype(jnp.int32)
