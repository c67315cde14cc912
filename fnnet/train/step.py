"""One training step, a pure function, for your own training loop."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnnet import check
from fnnet.layer import Layer, Params, State
from fnnet.metrics import Metric, PerExample, per_example
from fnnet.train.arguments import check_loss, check_metrics, check_network, check_optimizer
from fnnet.train.batches import check_names
from fnnet.train.norm import euclidean_norm

Batch = Mapping[str, Any]


class TrainState(NamedTuple):
    """What one step passes to the next."""

    params: Params
    state: State  # of the layers, such as running averages
    opt_state: optax.OptState
    step: jax.Array  # int32[], steps taken

    def __repr__(self) -> str:
        return describe_fields(
            "TrainState",
            params=describe_tree(self.params),
            state=describe_tree(self.state),
            opt_state=describe_tree(self.opt_state),
            step=describe_array(self.step),
        )


class TrainingStep(Protocol):
    """The function that `make_step` returns."""

    def __call__(
        self, train_state: TrainState, batch: Batch, key: chex.PRNGKey
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The state after the step, and the metrics of the batch."""
        ...


def start(net: Layer, optimizer: optax.GradientTransformation, key: chex.PRNGKey, x: Any) -> TrainState:
    """The state before the first step.

    Args:
        net: the network.
        optimizer: from `fnnet.optim` or optax.
        key: for the initial weights.
        x: an example batch, or its `jax.ShapeDtypeStruct`.

    Example:
        >>> net = fn.dense(1)
        >>> fn.train.start(net, fn.optim.adam(0.1), jax.random.key(0), jnp.ones((8, 2)))
        TrainState(
            params: 2 arrays, 3 numbers
            state: {}
            opt_state: 5 arrays, 7 numbers
            step: 0
        )
    """
    check_network("start", net)
    check_optimizer("start", optimizer)
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
) -> TrainingStep:
    """One training step: the loss of a batch, its gradient by backprop, and the optimizer's update.

        L(theta) = mean_i loss(net(x_i; theta), y_i) + penalty(theta)
        theta <- theta + update(dL/dtheta)

    Args:
        net: the network.
        loss: `(prediction, target) -> one value per example`.
        optimizer: from `fnnet.optim` or optax. Besides the params, its update gets `value`, `grad` and `value_fn`
            (params -> L), for line searches, and `predict_fn` (params -> prediction) and `loss_fn`
            (prediction -> the mean loss, without the penalty), for second-order methods.
        metrics: by name, functions `(prediction, target) -> one value per example`, or `fn.metrics.Metric`s. Their
            values over the batch are returned. They are not differentiated.
        penalty: a function of the params that is added to the loss, such as `lambda p: 1e-4 * fn.losses.l2(p)`.
        gradient_norm: whether to return the Euclidean norm of the whole gradient, too.
        skip_if: `metrics -> bool[]`. A step for which it is true changes only the number of steps. An example is
            `lambda metrics: ~jnp.isfinite(metrics["loss"])`.

    Returns:
        `step(train_state, batch, key) -> (train_state, metrics)`, a pure function: jit it, scan it. The batch is a
        dict with "x" and "y". The returned metrics have "loss", without the penalty; "penalty" if there is one; and
        "gradient_norm" if it was asked for.

    Raises:
        TypeError: an argument is not as described, such as a function that makes an optimizer.
        ValueError: a metric is called "loss", "penalty" or "gradient_norm"; the loss or a metric does not return one
            value per example; the penalty is not a scalar; the batch has entries beside x and y.

    Example:
        >>> net, optimizer = fn.dense(1), fn.optim.sgd(0.1)
        >>> step = jax.jit(fn.train.make_step(net, fn.losses.mean_squared_error, optimizer))
        >>> batch = {"x": jnp.ones((8, 2)), "y": jnp.ones((8, 1))}
        >>> train_state = fn.train.start(net, optimizer, jax.random.key(0), batch["x"])
        >>> for i in range(30):
        ...     train_state, metrics = step(train_state, batch, jax.random.key(i))
        >>> bool(metrics["loss"] < 1e-6)
        True
    """
    check_network("make_step", net)
    check_loss("make_step", loss)
    check_optimizer("make_step", optimizer)
    check.flag("make_step", "gradient_norm", gradient_norm)
    metrics = check_metrics("make_step", metrics)
    optimizer = optax.with_extra_args_support(optimizer)

    def step(
        train_state: TrainState, batch: Batch, key: chex.PRNGKey
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        check_names("make_step: the batch", batch)
        x, y = jax.tree.map(jnp.asarray, (batch["x"], batch["y"]))

        def predict(params: Params) -> tuple[Any, State]:
            return net.apply(params, train_state.state, x, key=key, train=True)

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

        # optax's line searches pass all further arguments of update on to value_fn, and raise if it takes none.
        def value_fn(params: Params, predict_fn: Any = None, loss_fn: Any = None) -> jax.Array:
            return objective(params)[0]

        (value, (prediction, state, terms)), grads = jax.value_and_grad(objective, has_aux=True)(
            train_state.params
        )
        batch_metrics = {name: m.result(m.update(m.init(), prediction, y)) for name, m in metrics.items()}
        batch_metrics |= terms
        if gradient_norm:
            batch_metrics["gradient_norm"] = euclidean_norm(grads)

        def apply_update() -> tuple[Params, optax.OptState]:
            updates, opt_state = optimizer.update(
                grads,
                train_state.opt_state,
                train_state.params,
                value=value,
                grad=grads,
                value_fn=value_fn,
                predict_fn=lambda params: predict(params)[0],
                loss_fn=mean_loss,
            )
            return optax.apply_updates(train_state.params, updates), opt_state

        def keep() -> tuple[Params, optax.OptState]:
            return train_state.params, train_state.opt_state

        if skip_if is None:
            params, opt_state = apply_update()
        else:
            accepted = ~skip_if(batch_metrics)
            # A condition, because a selection would read and write everything twice. The update is the first branch:
            # in the other order XLA's CPU backend copies params and optimizer state at each step.
            params, opt_state = jax.lax.cond(accepted, apply_update, keep)
            state = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), state, train_state.state)
        return TrainState(params, state, opt_state, train_state.step + 1), batch_metrics

    return step


def describe_fields(name: str, **fields: str) -> str:
    """A repr with one line for each field."""
    return "\n".join([f"{name}(", *(f"    {field}: {text}" for field, text in fields.items()), ")"])


def describe_tree(tree: Any) -> str:
    """How many arrays and numbers a tree holds. It may hold tracers, shapes or arrays that were donated."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return repr(tree) if isinstance(tree, dict) else "no arrays"
    if leaves[0] is tree:
        return describe_array(tree)
    numbers = sum(math.prod(np.shape(leaf)) for leaf in leaves)
    return f"{len(leaves):,} {_plural('array', len(leaves))}, {numbers:,} {_plural('number', numbers)}"


def describe_array(x: Any) -> str:
    """A scalar's value where it is known, else the dtype and the shape."""
    has_no_value = isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct)
    if isinstance(x, jax.Array) and not has_no_value:
        has_no_value = x.is_deleted() or not x.is_fully_addressable
    if has_no_value or np.shape(x) != ():
        return check.describe(x)
    return str(x)


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else noun + "s"
