"""Averages of the params along training: an exponential moving average, and the mean (Polyak-Ruppert)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.hyperparameters import check_count, check_flags


class AverageParamsState(NamedTuple):
    """The state of an average of the params."""

    step: jax.Array  # int32[], updates taken
    average: optax.Params  # like params, in float32 at least


def ema_params(
    decay: chex.Numeric = 0.999, debias: bool = False, start: chex.Numeric = 0
) -> optax.GradientTransformationExtraArgs:
    """Keeps an exponential moving average of the params. Put it last in a chain; the updates pass unchanged.

        average <- average + w (theta - average)            theta: the params after the update
        w = 1 - decay                                       average = theta before the first update
        w = (1 - decay) / (1 - decay^n)                     with debias, n = t - start

    `averaged_params` takes it out of the optimizer's state.

    Args:
        decay: fraction of the old average that is kept, in [0, 1).
        debias: whether to leave out the params before the first update. The average is then that of `optax.ema` with
            its bias corrected: the first w is 1.
        start: number of updates to ignore. Until then the average is the params themselves. (PyTorch's
            `AveragedModel` with `get_ema_multi_avg_fn` starts with a copy of the params after the first update:
            start=1 here.)

    Twin: `optax.incremental_update(theta, average, 1 - decay)` without debias; the average of `optax.ema` with it, to
    rounding.

    Raises:
        ValueError: decay is not in [0, 1), or start negative; `update` is called without params.

    Source: Tarvainen & Valpola 2017, arXiv:1703.01780; Kingma & Ba 2015, arXiv:1412.6980, section 7.2.

    Example:
        >>> optimizer = optax.chain(fn.optim.sgd(1.0), fn.optim.ema_params(0.5))
        >>> params = jnp.array([4.0])
        >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
        >>> params + updates, fn.optim.averaged_params(state)
        (Array([2.], dtype=float32), Array([3.], dtype=float32))
    """
    check_flags("ema_params", debias=debias)
    check.number("ema_params", "decay", decay, "[0, 1)")
    check_count("ema_params", "start", start, least=0)

    def weight(t: jax.Array) -> jax.Array:
        if not debias:
            return jnp.where(t > start, 1 - decay, 1)
        n = jnp.maximum(t - start, 1).astype(float)
        # 1 - decay^n in float32 would have lost four digits where n is 1.
        return (1 - decay) / -jnp.expm1(n * jnp.log1p(-(1 - decay)))

    return _average_params("ema_params", weight)


def mean_params(start: chex.Numeric = 0) -> optax.GradientTransformationExtraArgs:
    """Keeps the mean of the params (Polyak-Ruppert). Put it last in a chain; the updates pass unchanged.

        average = (theta_(start+1) + ... + theta_t) / (t - start)     theta_t: params after update t

    `averaged_params` takes it out of the optimizer's state. With steps too long for the params to settle, the noise
    averages out: the mean's error falls like 1/t, which is the best possible rate.

    Args:
        start: number of updates to ignore, while the params still move far. Until then the average is the params
            themselves. PyTorch's `AveragedModel` (stochastic weight averaging) counts in the same way.

    Baseline: `numpy.mean` of the params.

    Raises:
        ValueError: start is negative; `update` is called without params.

    Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"; Izmailov et al. 2018,
    arXiv:1803.05407.

    Example:
        >>> optimizer = optax.chain(fn.optim.sgd(1.0), fn.optim.mean_params())
        >>> params = jnp.array([4.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.array([1.0]), state, params)
        ...     params = params + updates
        >>> params, fn.optim.averaged_params(state)
        (Array([2.], dtype=float32), Array([2.5], dtype=float32))
    """
    check_count("mean_params", "start", start, least=0)
    return _average_params("mean_params", lambda t: 1 / jnp.maximum(t - start, 1).astype(float))


def averaged_params(opt_state: optax.OptState, like: optax.Params | None = None) -> optax.Params:
    """Finds the average kept by an `ema_params` or `mean_params` inside an optimizer.

    Args:
        opt_state: the optimizer's state.
        like: the params, to return the average in their dtypes. By default it is in float32 at least.

    Raises:
        ValueError: there is no average in the state, or more than one.

    Example:
        >>> optimizer = optax.chain(fn.optim.adam(1e-3), fn.optim.mean_params())
        >>> fn.optim.averaged_params(optimizer.init(jnp.ones(2)))
        Array([1., 1.], dtype=float32)
    """

    def is_average(node: Any) -> bool:
        return isinstance(node, AverageParamsState)

    found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(node)]
    if len(found) != 1:
        raise ValueError(
            f"averaged_params: {len(found)} averages in the state, wanted one: "
            "optax.chain(optimizer, ema_params(0.999)) keeps it"
        )
    average = found[0].average
    return average if like is None else jax.tree.map(lambda a, p: a.astype(p.dtype), average, like)


def _average_params(name: str, weight: Any) -> optax.GradientTransformationExtraArgs:
    """A transformation that averages the params after update t, with weight(t) for the new ones."""

    def wide(p: jax.Array) -> jax.Array:
        # bfloat16 would round a thousandth of a step away. A copy, so that params and state can both be donated.
        return jnp.array(p, jnp.promote_types(p.dtype, jnp.float32))

    def init(params: optax.Params) -> AverageParamsState:
        return AverageParamsState(jnp.zeros([], jnp.int32), jax.tree.map(wide, params))

    def update(
        updates: optax.Updates, state: AverageParamsState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AverageParamsState]:
        if params is None:
            raise ValueError(f"{name}: needs the params, write update(grads, state, params)")
        t = optax.safe_increment(state.step)

        def mix(average: jax.Array, p: jax.Array) -> jax.Array:
            w = jnp.asarray(weight(t), average.real.dtype)
            return w * p.astype(average.dtype) + (1 - w) * average

        average = jax.tree.map(mix, state.average, optax.apply_updates(params, updates))
        return updates, AverageParamsState(t, average)

    return optax.GradientTransformationExtraArgs(init, update)
