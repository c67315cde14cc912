"""A whole training run as a pure function of its seed, its data and its hyperparameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample
from fnnet.train.batches import count_examples, epoch_order, next_batch
from fnnet.train.evaluate import evaluate
from fnnet.train.step import TrainState, check_metrics, make_step, start

Carry = tuple[TrainState, jax.Array]  # of the scan: the state, and the order of the epoch's examples


class Run(NamedTuple):
    """What a training run ends with."""

    params: Params
    state: State  # the layers' own, such as running averages
    history: dict[str, jax.Array]
    opt_state: optax.OptState  # read averaged weights of it; a run goes on with it
    step: jax.Array  # int32[], steps taken since the weights were drawn


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
) -> Callable[..., Run]:
    """A training run as a pure function: `jit` makes it one program, `vmap` trains many networks at once.

        run(key, data, hparams, after=None) -> Run(params, state, history, opt_state, step)

    Args:
        net: the network.
        loss: `(prediction, target) -> one value an example`.
        make_optimizer: called inside the run as `make_optimizer(**hparams)`, such as `fn.optim.adam`.
        steps: updates.
        batch_size: examples a batch. Each epoch is a permutation of the training part; what is left over at
            its end, less than a batch, is other examples each time.
        metrics: functions of the form of a loss, such as `{"accuracy": fn.metrics.accuracy}`, or
            `fn.metrics.Metric`s, by name.
        eval_every: steps from one evaluation to the next; there is one after the last step in any case, and
            it is the only one unless this is given.
        eval_batch_size: examples evaluated at once: it bounds the memory.
        penalties: functions of the params, by name, added to the loss. Each is multiplied by the
            hyperparameter of its name, which then does not go to make_optimizer:
            `penalties={"l2": fn.losses.l2}` with `{"learning_rate": 1e-3, "l2": 1e-4}`.

    Returns:
        `run(key, data, hparams)`. `data` has `train`, and may have `valid` and `test` (else None), as
        attributes or as keys; each is a dict of "x" and "y", arrays (or trees of them) with one leading axis.
        `hparams` is a dict of numbers. The history holds, by name, each with its steps on the first axis:

        - "train_loss", "train_accuracy", ...: float[steps], means over the batch of each step, before its
          update and without penalties; "train_penalty" where there are some;
        - "valid_loss", "test_loss", "valid_accuracy", ...: float[evaluations], means over the part;
        - "eval_step": int32[evaluations], the steps taken before each of them;
        - "diverged_at": int32[], the first step with a loss or penalty that was not finite, in an evaluation
          too; the last step's number plus one if only the params at the end are not; -1 if all are. See
          `raise_if_diverged`.

        `after` is a run of the same key and data that this one goes on from, for `steps` more: weights, draws and
        training history are those of one long run, bit for bit. Steps are counted, and diverged_at is, from the
        beginning of the first; eval_every from where this one begins. Under `vmap` leave the step unmapped,
        `in_axes=(0, None, 0, fn.train.Run(0, 0, 0, 0, None))` with `after._replace(step=after.step[0])`, or every
        step of every run sorts an epoch.

    Raises:
        TypeError: a size is no int; metrics, penalties or hparams are no dicts; make_optimizer does not know
            a hyperparameter.
        ValueError: steps, sizes or eval_every are not positive; the batch is larger than the training part; a
            part is no dict with x and y, or its arrays differ in length; a penalty has no hyperparameter, or
            is no scalar; a metric is called "loss" or "penalty"; the loss or a metric is not one value an
            example; `after` is of another network or optimizer.

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
    metrics = check_metrics(metrics)
    measures: dict[str, PerExample | Metric] = {"loss": loss, **metrics}

    def run(key: chex.PRNGKey, data: Any, hparams: Mapping[str, Any], after: Run | None = None) -> Run:
        train = _part(data, "train")
        held_out = {name: part for name in ("valid", "test") if (part := _part(data, name)) is not None}
        if train is None:
            got = check.describe(data)
            raise ValueError(f"run: data is {got}, wanted .train, .valid and .test, each with x and y")
        n = len(jax.tree.leaves(train)[0])
        if batch_size > n:
            raise ValueError(f"run: batch_size={batch_size}, wanted {n} at most, the examples there are")
        if not isinstance(hparams, Mapping):
            raise TypeError(f"run: hparams is {check.describe(hparams)}, wanted a dict of numbers by name")
        if missing := sorted(set(penalties) - set(hparams)):
            raise ValueError(f"run: hparams has {sorted(hparams)}, wanted the penalties' {missing} too")

        strengths = {name: hparams[name] for name in penalties}
        optimizer = make_optimizer(**{k: v for k, v in hparams.items() if k not in penalties})

        def penalty(params: Params) -> jax.Array:
            return sum(strengths[name] * f(params) for name, f in penalties.items())

        step = make_step(net, loss, optimizer, metrics=metrics, penalty=penalty if penalties else None)
        init_key, order_key, step_key = jax.random.split(key, 3)

        def one_step(carry: Carry, _: None) -> tuple[Carry, dict[str, jax.Array]]:
            now, order = carry
            order, batch = next_batch(order_key, order, now.step, train, batch_size)
            now, seen = step(now, batch, jax.random.fold_in(step_key, now.step))
            return (now, order), seen

        def until_evaluation(carry: Carry, length: int) -> Any:
            (now, order), seen = jax.lax.scan(one_step, carry, length=length)
            scores = {"eval_step": now.step}
            for name, part in held_out.items():
                with check.at(f"data.{name}", part["x"]):
                    means = evaluate(net, measures, now.params, now.state, part, eval_batch_size)
                scores |= {f"{name}_{measure}": mean for measure, mean in means.items()}
            return (now, order), (seen, scores)

        def first() -> TrainState:
            return start(net, optimizer, init_key, train["x"])

        if after is None:
            begin, order = first(), jnp.zeros(n, jnp.int32)
        else:
            begin = _go_on(after, jax.eval_shape(first))
            order = epoch_order(order_key, begin.step, n, batch_size)

        every = min(eval_every or steps, steps)
        whole, rest = divmod(steps, every)
        carry, parts = (begin, order), []
        if whole > 1:
            carry, (seen, scores) = jax.lax.scan(lambda c, _: until_evaluation(c, every), carry, length=whole)
            parts.append((jax.tree.map(lambda a: a.reshape(whole * every), seen), scores))
        for length in ([every] if whole == 1 else []) + ([rest] if rest else []):
            carry, (seen, scores) = until_evaluation(carry, length)
            parts.append((seen, jax.tree.map(lambda a: a[None], scores)))
        seen, scores = jax.tree.map(lambda *several: jnp.concatenate(several), *parts)

        now = carry[0]
        broken = sum(jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(now.params))
        diverged_at = _first_not_finite(
            *((seen[name], begin.step + jnp.arange(steps)) for name in ("loss", "penalty") if name in seen),
            *((scores[f"{name}_loss"], scores["eval_step"]) for name in held_out),
            (jnp.where(broken > 0, jnp.nan, 0.0), now.step),
        )
        if after is not None:
            before = after.history["diverged_at"]
            diverged_at = jnp.where(before >= 0, before, diverged_at)
        history = {f"train_{name}": values for name, values in seen.items()} | scores
        return Run(now.params, now.state, history | {"diverged_at": diverged_at}, now.opt_state, now.step)

    return run


def raise_if_diverged(run: Run, hparams: Mapping[str, Any] | None = None) -> None:
    """Raises FloatingPointError where a run's loss was not finite, with its step: a pure function cannot.

    Args:
        run: one run, or many from `vmap`.
        hparams: those of the runs, for the message: the numbers, and the arrays with one value a run.

    Example:
        >>> net, data = fn.dense(1), {"train": {"x": jnp.ones((8, 1)), "y": jnp.ones((8, 1))}}
        >>> run = fn.train.make_run(net, fn.losses.mean_squared_error, fn.optim.sgd, steps=100, batch_size=8)
        >>> fn.train.raise_if_diverged(run(jax.random.key(0), data, {"learning_rate": 100.0}))
        Traceback (most recent call last):
            ...
        FloatingPointError: the loss was not finite from step ... on
    """
    at = np.asarray(run.history["diverged_at"])
    shown = {name: np.asarray(v) for name, v in (hparams or {}).items() if np.shape(v) in ((), at.shape)}

    def describe(i: tuple[int, ...]) -> str:
        values = [f", {name}={v[i] if v.ndim else v}" for name, v in shown.items()]
        return f"from step {at[i]} on{''.join(values)}"

    bad = [i for i in np.ndindex(at.shape) if at[i] >= 0]
    if bad and at.ndim == 0:
        raise FloatingPointError(f"the loss was not finite {describe(())}")
    if bad:
        listed = "; ".join(f"run {', '.join(map(str, i))} {describe(i)}" for i in bad[:10])
        more = "; ..." if len(bad) > 10 else ""
        raise FloatingPointError(f"the loss was not finite in {len(bad)} of {at.size} runs: {listed}{more}")


def _part(data: Any, name: str) -> Any:
    """A part of the data as jax arrays, checked, or None where there is none."""
    part = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
    if part is None:
        return None
    count_examples(f"run: data.{name}", part)
    return jax.tree.map(jnp.asarray, dict(part))


def _go_on(after: Run, wanted: TrainState) -> TrainState:
    """The state that a run ended with, or raises where its shapes are not those of this network and optimizer."""
    if not isinstance(after, Run):
        raise TypeError(f"run: after is {check.describe(after)}, wanted the Run that an earlier run returned")
    got = TrainState(after.params, after.state, after.opt_state, jnp.asarray(after.step))
    for name, a, b in zip(TrainState._fields, got, wanted, strict=True):
        if len({jax.tree.structure(a), jax.tree.structure(b)}) > 1:
            raise ValueError(
                f"run: after.{name} is {jax.tree.structure(a)}, wanted {jax.tree.structure(b)}: "
                "go on with the network and the optimizer that the earlier run had"
            )
        shapes = [[(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(t)] for t in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"run: after.{name} is {check.describe(a)}, wanted {check.describe(b)}: go on with the network and "
                "the optimizer that the earlier run had; map over it with vmap if it is several runs"
            )
    return got


def _first_not_finite(*values_at: tuple[jax.Array, Any]) -> jax.Array:
    """Of pairs (values, their steps) the first step, int32[], of a value that is not finite; -1 if none."""
    never = jnp.iinfo(jnp.int32).max
    firsts = [jnp.min(jnp.where(jnp.isfinite(v), never, at), initial=never) for v, at in values_at]
    first = jnp.min(jnp.stack(firsts))
    return jnp.where(first == never, -1, first).astype(jnp.int32)
