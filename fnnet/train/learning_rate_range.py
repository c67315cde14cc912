"""The learning-rate range test: a short run whose rate grows at each step shows at which rates a network trains."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.keys import as_key
from fnnet.layer import Layer, Params
from fnnet.metrics import PerExample
from fnnet.optim.exponential_average import exponential_average
from fnnet.train.arguments import check_loss, check_maker, check_network
from fnnet.train.batches import count_examples, next_batch
from fnnet.train.step import TrainState, describe_array, describe_fields, make_step, start

Carry = tuple[TrainState, jax.Array]  # of the scan: the state, and the order of the epoch's examples


class LearningRateRange(NamedTuple):
    """The result of a range test."""

    rates: jax.Array  # float[steps], the learning rate of each step
    losses: jax.Array  # float[steps], of the batch, before the step's update
    smoothed: jax.Array  # float[steps], their exponentially weighted average
    suggestion: jax.Array  # float[], a tenth of the rate with the lowest smoothed loss; NaN if it never fell

    def __repr__(self) -> str:
        return describe_fields(
            "LearningRateRange", **{name: describe_array(a) for name, a in self._asdict().items()}
        )


class RangeTest(Protocol):
    """The function that `learning_rate_range` returns."""

    def __call__(
        self, key: chex.PRNGKey, examples: Any, hparams: Mapping[str, Any] | None = None
    ) -> LearningRateRange:
        """Trains with a growing rate."""
        ...


def learning_rate_range(
    net: Layer,
    loss: PerExample,
    make_optimizer: Callable[..., optax.GradientTransformation],
    *,
    steps: int,
    batch_size: int,
    low: chex.Numeric = 1e-7,
    high: chex.Numeric = 10.0,
    smoothing: chex.Numeric = 0.9,
    penalty: Callable[[Params], jax.Array] | None = None,
) -> RangeTest:
    """A learning-rate range test as a pure function: jit it, or `vmap` it over seeds.

        rate_t = low (high / low)^(t / (steps - 1))             t = 0 ... steps - 1

    Args:
        net: the network.
        loss: `(prediction, target) -> one value per example`.
        make_optimizer: called as `make_optimizer(learning_rate=rate, **hparams)`, such as `fn.optim.adam`.
        steps: updates, at least 2; 100 to 300 is usual.
        batch_size: examples per batch.
        low: the first rate, positive.
        high: the last rate, more than `low`. The run may diverge before it.
        smoothing: the weight of the old average at each step, in [0, 1).
        penalty: a function of the params that is added to the loss that is differentiated.

    Returns:
        `find(key, examples, hparams={}) -> LearningRateRange`. `examples` is a dict of "x" and "y", such as
        `data.train`; `hparams` holds the optimizer's other hyperparameters. The suggestion is a tenth of the rate with
        the lowest smoothed loss: at that rate the loss is about to rise, and a tenth of it leaves a margin for a whole
        run. It is NaN if the smoothed loss never falls below the first one, for example after a lucky first batch. If
        the loss is lowest at the last step, `high` was too low. Look at the curve.

    Raises:
        TypeError, ValueError: steps or batch_size is not a positive int, or steps is 1; the batch is larger than the
            data; low is not positive, or not less than high; smoothing is not in [0, 1); examples is not a dict with
            x and y.

    Source: Smith 2017, arXiv:1506.01186, section 3.3; the exponential growth and the smoothing follow fastai.

    Example:
        >>> data = fn.data.two_moons(jax.random.key(0), 200)
        >>> net = fn.serial(fn.dense(16), fn.tanh, fn.dense(2))
        >>> find = fn.train.learning_rate_range(net, fn.losses.softmax_cross_entropy, fn.optim.sgd, steps=100,
        ...                                     batch_size=50, low=1e-4, high=1e3)
        >>> found = jax.jit(find)(jax.random.key(1), data)
        >>> bool(0.01 < found.suggestion < 10)
        True
    """
    check_network("learning_rate_range", net)
    check_loss("learning_rate_range", loss)
    check_maker("learning_rate_range", make_optimizer)
    check.is_positive("learning_rate_range", "steps", steps)
    check.number("learning_rate_range", "steps", steps, "[2, inf)")
    check.is_positive("learning_rate_range", "batch_size", batch_size)
    check.number("learning_rate_range", "low", low, "[1e-30, inf)")
    check.number("learning_rate_range", "high", high, "(0, inf)")
    if not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer) and not low < high:
        raise ValueError(f"learning_rate_range: low={low}, high={high}, wanted low < high")
    check.number("learning_rate_range", "smoothing", smoothing, "[0, 1)")

    def find(key: chex.PRNGKey, examples: Any, hparams: Mapping[str, Any] | None = None) -> LearningRateRange:
        key = as_key("learning_rate_range", key)
        n = count_examples("learning_rate_range: examples", examples)
        if batch_size > n:
            raise ValueError(
                f"learning_rate_range: batch_size={batch_size}, wanted {n} at most, the examples there are"
            )
        train, others = jax.tree.map(jnp.asarray, dict(examples)), dict(hparams or {})
        # In logarithms, because high / low may overflow float32.
        rates = jnp.exp(jnp.linspace(jnp.log(low), jnp.log(high), steps))
        init_key, order_key, step_key = jax.random.split(key, 3)

        def train_step(carry: Carry, rate: jax.Array) -> tuple[Carry, jax.Array]:
            train_state, order = carry
            order, batch = next_batch(order_key, order, train_state.step, train, batch_size)
            # One optimizer for each rate, all with one state, because not every optimizer takes a schedule.
            step = make_step(net, loss, make_optimizer(learning_rate=rate, **others), penalty=penalty)
            train_state, metrics = step(train_state, batch, jax.random.fold_in(step_key, train_state.step))
            return (train_state, order), metrics["loss"]

        first = start(net, make_optimizer(learning_rate=rates[0], **others), init_key, train["x"])
        _, losses = jax.lax.scan(train_step, (first, jnp.zeros(n, jnp.int32)), rates)
        smoothed = exponential_average(losses, smoothing)
        lowest = jnp.argmin(jnp.where(jnp.isfinite(smoothed), smoothed, jnp.inf))
        suggestion = jnp.where(lowest > 0, rates[lowest] / 10, jnp.nan)
        return LearningRateRange(rates, losses, smoothed, suggestion)

    return find
