"""A whole training run as a pure function of its seed, its data and its hyperparameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.train.batches import count_examples, take
from fnnet.train.evaluate import evaluate
from fnnet.train.step import PerExample, TrainState, make_step, start


class Run(NamedTuple):
    """What a training run ends with."""

    params: Params
    state: State  # the layers' own, such as running averages
    history: dict[str, jax.Array]


def make_run(
    net: Layer,
    loss: PerExample,
    make_optimizer: Callable[..., optax.GradientTransformation],
    *,
    steps: int,
    batch_size: int,
    metrics: Mapping[str, PerExample] | None = None,
    eval_every: int | None = None,
    eval_batch_size: int = 1000,
    penalties: Mapping[str, Callable[[Params], jax.Array]] | None = None,
) -> Callable[[chex.PRNGKey, Any, Mapping[str, Any]], Run]:
    """A training run as a pure function: `jit` makes it one program, `vmap` trains a hundred networks at once.

        run(key, data, hparams) -> Run(params, state, history)

    Args:
        net: the network.
        loss: `(prediction, target) -> one value an example`.
        make_optimizer: called inside the run as `make_optimizer(**hparams)`, such as `fn.optim.adam`.
        steps: updates.
        batch_size: examples a batch. Each epoch is a permutation of the training part; what is left over at its end,
            less than a batch, is other examples each time.
        metrics: functions of the form of a loss, by name, such as `{"accuracy": fn.metrics.accuracy}`.
        eval_every: steps from one evaluation to the next; there is one after the last step in any case, and it is the
            only one unless this is given.
        eval_batch_size: examples evaluated at once: it bounds the memory.
        penalties: functions of the params, by name, added to the loss. Each is multiplied by the hyperparameter of
            its name, which then does not go to make_optimizer: `penalties={"l2": fn.losses.l2}` with
            `{"learning_rate": 1e-3, "l2": 1e-4}`.

    Returns:
        `run(key, data, hparams)`. `data` has `train`, and may have `valid` and `test` (else None), as attributes or as
        keys; each is a dict of arrays "x" and "y" with one leading axis. `hparams` is a dict of numbers. The history
        holds, by name, each with its steps on the first axis:

        - "train_loss", "train_accuracy", ...: float[steps], means over the batch of each step, before its update and
          without penalties; "train_penalty" where there are some;
        - "valid_loss", "test_loss", "valid_accuracy", ...: float[evaluations], means over the part;
        - "eval_step": int32[evaluations], the steps taken before each of them;
        - "diverged_at": int32[], the first step whose loss or penalty was not finite, or -1: see `raise_if_diverged`.

    Raises:
        ValueError: steps, sizes or eval_every are not positive; the batch is larger than the training part; the
            arrays of a part differ in length; a penalty has no hyperparameter.

    Example:
        >>> data = fn.data.split(fn.data.two_moons(jax.random.key(0), 300))
        >>> net = fn.serial(fn.dense(16), fn.tanh, fn.dense(2))
        >>> run = fn.train.make_run(net, fn.losses.softmax_cross_entropy, fn.optim.adam, steps=300, batch_size=50,
        ...                         metrics={"accuracy": fn.metrics.accuracy})
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
    measures = {"loss": loss, **(metrics or {})}
    penalties = dict(penalties or {})

    def run(key: chex.PRNGKey, data: Any, hparams: Mapping[str, Any]) -> Run:
        parts = {name: _part(data, name) for name in ("train", "valid", "test")}
        train, held_out = parts["train"], {k: v for k, v in parts.items() if k != "train" and v is not None}
        n = count_examples("train", train)
        for name, part in held_out.items():
            count_examples(name, part)
        if batch_size > n:
            raise ValueError(f"make_run: batch_size={batch_size}, wanted {n} at most, the examples there are")
        if missing := sorted(set(penalties) - set(hparams)):
            raise ValueError(f"run: hparams has {sorted(hparams)}, wanted the strengths of the penalties {missing} too")

        strengths = {name: hparams[name] for name in penalties}
        optimizer = make_optimizer(**{k: v for k, v in hparams.items() if k not in penalties})

        def penalty(params: Params) -> jax.Array:
            return sum((strengths[name] * f(params) for name, f in penalties.items()), jnp.zeros(()))

        step = make_step(net, loss, optimizer, metrics=metrics, penalty=penalty if penalties else None)
        init_key, order_key, step_key = jax.random.split(key, 3)

        def one_step(carry: tuple[TrainState, jax.Array], _: None) -> tuple[tuple[TrainState, jax.Array], Any]:
            now, order = carry
            order, batch = take(order_key, order, now.step, train, batch_size)
            now, seen = step(now, batch, jax.random.fold_in(step_key, now.step))
            return (now, order), seen

        def until_evaluation(carry: tuple[TrainState, jax.Array], length: int) -> Any:
            carry, seen = jax.lax.scan(one_step, carry, length=length)
            now = carry[0]
            scores = {
                f"{name}_{measure}": value
                for name, part in held_out.items()
                for measure, value in evaluate(net, measures, now.params, now.state, part, eval_batch_size).items()
            }
            return carry, (seen, scores | {"eval_step": now.step})

        every = min(eval_every or steps, steps)
        whole, rest = divmod(steps, every)
        carry = (start(net, optimizer, init_key, train["x"]), jnp.zeros(n, jnp.int32))
        carry, (seen, scores) = jax.lax.scan(lambda c, _: until_evaluation(c, every), carry, length=whole)
        seen = jax.tree.map(lambda a: a.reshape(whole * every), seen)
        if rest:
            carry, (last_seen, last_scores) = until_evaluation(carry, rest)
            seen = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), seen, last_seen)
            scores = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), scores, last_scores)

        now = carry[0]
        finite = jnp.isfinite(seen["loss"]) & jnp.isfinite(seen.get("penalty", seen["loss"]))
        diverged_at = jnp.where(jnp.all(finite), -1, jnp.argmin(finite)).astype(jnp.int32)
        history = {f"train_{name}": values for name, values in seen.items()} | scores | {"diverged_at": diverged_at}
        return Run(now.params, now.state, history)

    return run


def raise_if_diverged(run: Run, hparams: Mapping[str, Any] | None = None) -> None:
    """Raises FloatingPointError where a run's loss was NaN or infinite, with its step; a pure function cannot.

    Args:
        run: one run, or many from `vmap`.
        hparams: those of the runs, for the message.

    Example:
        >>> net, data = fn.dense(1), {"train": {"x": jnp.ones((8, 1)), "y": jnp.ones((8, 1))}}
        >>> run = fn.train.make_run(net, fn.losses.mean_squared_error, fn.optim.sgd, steps=100, batch_size=8)
        >>> fn.train.raise_if_diverged(run(jax.random.key(0), data, {"learning_rate": 100.0}))
        Traceback (most recent call last):
            ...
        FloatingPointError: the loss was not finite from step ... on
    """
    at = run.history["diverged_at"]
    if jnp.ndim(at) == 0:
        if at >= 0:
            raise FloatingPointError(f"the loss was not finite from step {at} on" + (f" with {hparams}" if hparams else ""))
        return
    if bad := [(int(i), int(step)) for i, step in enumerate(at.ravel()) if step >= 0]:
        listed = ", ".join(f"run {i} from step {step}" for i, step in bad[:10]) + (", ..." if len(bad) > 10 else "")
        raise FloatingPointError(f"the loss was not finite in {len(bad)} of {at.size} runs: {listed}")


def _part(data: Any, name: str) -> Any:
    part = data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)
    if part is None:
        if name == "train":
            raise ValueError(f"run: data is {check.describe(data)}, wanted .train, .valid and .test, each with x and y")
        return None
    if not isinstance(part, Mapping) or not {"x", "y"} <= set(part):
        raise ValueError(f"run: data.{name} is {check.describe(part)}, wanted a dict with x and y")
    return jax.tree.map(jnp.asarray, dict(part))
