"""One step of training, a pure function, for a loop of one's own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample, mean, per_example

Batch = Mapping[str, Any]


class TrainState(NamedTuple):
    """What one step hands to the next."""

    params: Params
    state: State  # the layers' own, such as running averages
    opt_state: optax.OptState
    step: jax.Array  # int32[], steps taken


def check_metrics(metrics: Mapping[str, PerExample | Metric] | None) -> dict[str, Metric]:
    """The metrics by name, or raises: none may take the place of the loss."""
    if not isinstance(metrics, Mapping | None):
        raise TypeError(f"metrics={metrics!r}, wanted a dict of functions by name")
    if taken := sorted({"loss", "penalty", "gradient_norm"} & set(metrics or {})):
        raise ValueError(f"metrics has {taken}, which training reports itself; choose other names")
    return {name: mean(f, name) for name, f in (metrics or {}).items()}


def start(net: Layer, optimizer: optax.GradientTransformation, key: chex.PRNGKey, x: Any) -> TrainState:
    """The state before the first step.

    Args:
        net: the network.
        optimizer: from `fnnet.optim` or optax.
        key: for the initial weights.
        x: an example batch, or its `jax.ShapeDtypeStruct`.

    Example:
        >>> net = fn.dense(1)
        >>> before = fn.train.start(net, fn.optim.sgd(0.1), jax.random.key(0), jnp.ones((8, 2)))
        >>> int(before.step), before.params["w"].shape
        (0, (2, 1))
    """
    params, state = net.init(key, x)
    return TrainState(params, state, optimizer.init(params), jnp.zeros([], jnp.int32))


def make_step(
    net: Layer,
    loss: PerExample,
    optimizer: optax.GradientTransformation,
    *,
    metrics: Mapping[str, PerExample | Metric] | None = None,
    penalty: Callable[[Params], jax.Array] | None = None,
    gradient_norm: bool = False,
    skip_if: Callable[[dict[str, jax.Array]], jax.Array] | None = None,
) -> Callable[[TrainState, Batch, chex.PRNGKey], tuple[TrainState, dict[str, jax.Array]]]:
    """One step: the loss of a batch, its gradient by backprop, the optimizer's update.

        L(theta) = mean_i loss(net(x_i; theta), y_i) + penalty(theta)
        theta <- theta + update(dL/dtheta)

    Args:
        net: the network.
        loss: `(prediction, target) -> one value an example`.
        optimizer: from `fnnet.optim` or optax. Its update is given, besides the params, `value`, `grad` and
            `value_fn` (params -> L), for line searches; and `predict_fn` (params -> prediction) and `loss_fn`
            (prediction -> the mean loss, without the penalty), for second-order methods.
        metrics: functions of the form of a loss, or `fn.metrics.Metric`s, by name; their means, or results, over the
            batch are returned. They are not differentiated.
        penalty: a function of the params that is added to the loss, `lambda p: 1e-4 * fn.losses.l2(p)` say.
        gradient_norm: whether to return the Euclidean norm of the whole gradient, too.
        skip_if: `metrics -> bool[]`; a step for which it is true changes nothing but the number of steps:
            `lambda seen: ~jnp.isfinite(seen["loss"])` say.

    Returns:
        `step(train_state, batch, key) -> (train_state, metrics)`, pure: jit it, scan it. The batch is a dict
        with "x" and "y"; metrics has "loss", without the penalty, and, where there is one, "penalty"; and
        "gradient_norm" if that is asked for.

    Raises:
        TypeError: metrics is no dict.
        ValueError: a metric is called "loss", "penalty" or "gradient_norm"; the loss or a metric is not one value
            an example; the penalty is no scalar.

    Example:
        >>> net, optimizer = fn.dense(1), fn.optim.sgd(0.1)
        >>> step = jax.jit(fn.train.make_step(net, fn.losses.mean_squared_error, optimizer))
        >>> batch = {"x": jnp.ones((8, 2)), "y": jnp.ones((8, 1))}
        >>> now = fn.train.start(net, optimizer, jax.random.key(0), batch["x"])
        >>> for i in range(30):
        ...     now, metrics = step(now, batch, jax.random.key(i))
        >>> bool(metrics["loss"] < 1e-6)
        True
    """
    metrics = check_metrics(metrics)
    optimizer = optax.with_extra_args_support(optimizer)

    def step(now: TrainState, batch: Batch, key: chex.PRNGKey) -> tuple[TrainState, dict[str, jax.Array]]:
        x, y = jax.tree.map(jnp.asarray, (batch["x"], batch["y"]))

        def predict(params: Params) -> tuple[Any, State]:
            return net.apply(params, now.state, x, key=key, train=True)

        def mean_loss(prediction: Any) -> jax.Array:
            return jnp.mean(per_example("loss", loss, prediction, y))

        def objective(params: Params) -> tuple[jax.Array, tuple[Any, State, dict[str, jax.Array]]]:
            prediction, state = predict(params)
            terms = {"loss": mean_loss(prediction)}
            if penalty is not None:
                terms["penalty"] = penalty(params)
                if jnp.shape(terms["penalty"]) != ():
                    raise ValueError(f"penalty is {check.describe(terms['penalty'])}, wanted a scalar")
            return jnp.asarray(sum(terms.values())), (prediction, state, terms)

        # optax's line searches hand all further arguments of update on to value_fn, and raise if it takes none.
        def value_fn(params: Params, predict_fn: Any = None, loss_fn: Any = None) -> jax.Array:
            return objective(params)[0]

        (value, (prediction, state, terms)), grads = jax.value_and_grad(objective, has_aux=True)(now.params)
        seen = {name: m.result(m.update(m.init(), prediction, y)) for name, m in metrics.items()}
        seen |= terms
        if gradient_norm:
            seen["gradient_norm"] = optax.tree.norm(grads)

        def apply_update() -> tuple[Params, optax.OptState]:
            updates, opt_state = optimizer.update(
                grads,
                now.opt_state,
                now.params,
                value=value,
                grad=grads,
                value_fn=value_fn,
                predict_fn=lambda params: predict(params)[0],
                loss_fn=mean_loss,
            )
            return optax.apply_updates(now.params, updates), opt_state

        if skip_if is None:
            params, opt_state = apply_update()
        else:
            good = ~skip_if(seen)
            # A condition, as a selection would read and write everything twice. In this order, as the other way round
            # XLA's CPU backend copies params and optimizer at each step.
            params, opt_state = jax.lax.cond(good, apply_update, lambda: (now.params, now.opt_state))
            state = jax.tree.map(lambda new, old: jnp.where(good, new, old), state, now.state)
        return TrainState(params, state, opt_state, now.step + 1), seen

    return step
