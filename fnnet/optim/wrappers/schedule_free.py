"""Schedule-free learning: gradients between a fast sequence and its average (Defazio et al. 2024, arXiv:2405.15682)."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.first_order.sgd import sgd
from fnnet.optim.hyperparameters import ScalarOrSchedule, abs_sq, at_step, check_rate, like, times
from fnnet.optim.schedules import warmup_constant_schedule
from fnnet.optim.transforms.weight_decay import add_weight_decay


class ScheduleFreeState(NamedTuple):
    """What schedule-free learning remembers, beside y, which are the params."""

    step: jax.Array  # int32[], number of the update to come, from 1
    z: optax.Params  # the fast sequence, like params
    weight_sum: jax.Array  # float[], sum of the weights in the average
    largest_rate: jax.Array  # float[], the largest alpha so far
    b1: jax.Array  # float[], for `schedule_free_eval_params`
    base: optax.OptState  # what the base optimizer remembers


def schedule_free(
    base_optimizer: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    b1: chex.Numeric = 0.9,
    weight_lr_power: chex.Numeric = 2.0,
    state_dtype: Any = None,
    *,
    r: chex.Numeric = 0.0,
    sum_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Any optimizer without momentum, made schedule-free.

        z <- z + base(g)                                    base(g): the base optimizer's step, -alpha g for sgd
        w = t^r (largest alpha so far)^p
        c = w / (sum of all w so far)                       1 / t while alpha is constant, with r = 0
        x <- (1 - c) x + c z                                the average: the params to evaluate
        y <- b1 x + (1 - b1) z                              the params: gradients are taken here

    x is not kept: it is (y - (1 - b1) z) / b1, and `schedule_free_eval_params` returns it.

    Args:
        base_optimizer: without momentum (Adam: b1 = 0), with the same learning rate.
        learning_rate: alpha, a number or a schedule of the step, from which only the weights w are computed. A schedule
            with a warm-up and no decay is meant. Its step counts from 1 here, and from 0 in the base optimizer: pass
            the base `lambda step: schedule(step + 1)` for steps of the alpha that they are weighted with.
        b1: share of x in y, in (0, 1).
        weight_lr_power: p; 0 for the plain average.
        state_dtype: dtype in which z is kept; the params' unless given.
        r: exponent of the step in the weights, as in the authors' package; 0 there too unless given.
        sum_dtype: dtype in which the sum of the weights is kept; the lowest of the params' unless given. (A sum in
            bfloat16 stops growing at 256 equal weights: float32 is the average that is meant.)

    Twin: `optax.contrib.schedule_free`, equal bit for bit.

    Raises:
        TypeError, ValueError: the learning rate is no number or schedule, or negative; b1 is not in (0, 1); `update` is
            called without params.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1.

    Example:
        >>> optimizer = fn.optim.schedule_free(fn.optim.sgd(0.5), 0.5, b1=0.5)
        >>> y, state = jnp.array([1.0]), optimizer.init(jnp.array([1.0]))
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.array([1.0]), state, y)
        ...     y = y + updates
        >>> state.z, fn.optim.schedule_free_eval_params(state, y), y
        (Array([0.], dtype=float32), Array([0.25], dtype=float32), Array([0.125], dtype=float32))
    """
    check_rate("schedule_free", learning_rate)
    check.between("schedule_free", "b1", b1, 0, 1)
    if isinstance(b1, int | float) and b1 == 0:
        raise ValueError("schedule_free: b1=0, wanted above 0: x is found from y = b1 x + (1 - b1) z")
    base = optax.with_extra_args_support(base_optimizer)

    def init(params: optax.Params) -> ScheduleFreeState:
        dtype = optax.tree.dtype(params, "lowest")
        sum_type = dtype if sum_dtype is None else sum_dtype
        return ScheduleFreeState(
            step=jnp.ones([], jnp.int32),
            # A copy, so that both params and state may be donated to a compiled step.
            z=jax.tree.map(lambda p: jnp.array(p, state_dtype, copy=True), params),
            weight_sum=jnp.zeros([], sum_type),
            largest_rate=jnp.zeros([], sum_type),
            b1=jnp.asarray(b1, dtype),
            base=base.init(params),
        )

    def update(
        grads: optax.Updates, state: ScheduleFreeState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ScheduleFreeState]:
        if params is None:
            raise ValueError("schedule_free: params are y, write update(grads, state, params)")
        alpha = jnp.asarray(at_step(learning_rate, state.step), state.largest_rate.dtype)
        largest = jnp.maximum(state.largest_rate, alpha)
        w = largest**weight_lr_power
        if not (isinstance(r, int | float) and r == 0):
            w = w * state.step**r
        weight_sum = state.weight_sum + w
        # 0 while all alphas are 0; NaN stays.
        c = jnp.where(
            jnp.logical_or(jnp.isnan(w), jnp.isnan(weight_sum)),
            jnp.full(w.shape, jnp.nan),
            jnp.nan_to_num(w / weight_sum, nan=0.0, posinf=jnp.inf),
        )

        steps, memory = base.update(grads, state.base, params, **extra)
        z = jax.tree.map(lambda z, u: (z + u).astype(z.dtype), state.z, steps)
        x = jax.tree.map(lambda y, z: (y - (1.0 - b1) * z) / b1, params, state.z)
        x = jax.tree.map(lambda x, z: (1.0 - c) * x + c * z, x, z)
        y = jax.tree.map(lambda x, z: b1 * x + (1.0 - b1) * z, x, z)
        # y is rounded before the difference is: so y + update is y in half precision too.
        updates = jax.tree.map(lambda y, p: y - p, like(y, params), params)
        new = ScheduleFreeState(optax.safe_increment(state.step), z, weight_sum, largest, state.b1, memory)
        return like(updates, grads), like(new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def schedule_free_eval_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The average x, to evaluate and to keep, from the params y that are trained.

        x = (y - (1 - b1) z) / b1

    Args:
        state: that of `schedule_free`, `schedule_free_sgd` or `schedule_free_adamw`.
        params: y.

    Baseline: `optax.contrib.schedule_free_eval_params`, equal bit for bit.

    Raises:
        TypeError: the state is another optimizer's.

    Example: see `schedule_free`.
    """
    if not isinstance(state, ScheduleFreeState):
        raise TypeError(
            f"schedule_free_eval_params: state is a {type(state).__name__}, wanted the ScheduleFreeState of "
            "schedule_free, which inside a chain is one of the states"
        )
    return jax.tree.map(lambda y, z: (y - (1.0 - state.b1) * z) / state.b1, params, state.z)


def with_warmup(optimizer: str, learning_rate: Any, warmup_steps: int | None) -> ScalarOrSchedule:
    """The rate, or a schedule from 0 at step 0 to the rate at step `warmup_steps`."""
    check_rate(optimizer, learning_rate)
    if warmup_steps is None:
        return learning_rate
    check.is_positive(optimizer, "warmup_steps", warmup_steps)
    if callable(learning_rate):
        raise TypeError(
            f"{optimizer}: learning_rate is a schedule, wanted a number with warmup_steps={warmup_steps}"
        )

    return warmup_constant_schedule(0.0, learning_rate, warmup_steps)


def one_ahead(rate: ScalarOrSchedule) -> ScalarOrSchedule:
    """The rate of the step after."""
    return (lambda step: rate(step + 1)) if callable(rate) else rate


def schedule_free_sgd(
    learning_rate: ScalarOrSchedule = 1.0,
    warmup_steps: int | None = None,
    b1: chex.Numeric = 0.9,
    weight_decay: chex.Numeric | None = None,
    weight_lr_power: chex.Numeric = 2.0,
    state_dtype: Any = None,
    *,
    r: chex.Numeric = 0.0,
    sum_dtype: Any = None,
    rate_from_zero: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free gradient descent: `schedule_free` of `sgd`.

        z <- z - alpha (g + lambda y)

    Args:
        learning_rate: alpha, a number, or a schedule of the step without decay.
        warmup_steps: alpha rises in a line from 0 over so many steps; at once unless given.
        b1: share of x in y, in (0, 1). (The authors call it momentum.)
        weight_decay: lambda; None for none.
        weight_lr_power: exponent of alpha in the weights, as in `schedule_free`.
        state_dtype: dtype in which z is kept; the params' unless given.
        r: exponent of the step in the weights.
        sum_dtype: dtype in which the sum of the weights is kept, as in `schedule_free`.
        rate_from_zero: True for optax's order: step t has the alpha of t - 1, with a warm-up 0 at first, and the weight
            of t. False for the authors': both are those of t, so that the first step is warmup_steps times smaller.

    Twin: `optax.contrib.schedule_free_sgd`, equal bit for bit.

    Raises:
        TypeError, ValueError: as `schedule_free`; lambda is negative; warmup_steps is no positive int, or given with a
            schedule.

    Source: Defazio et al. 2024, arXiv:2405.15682.

    Example:
        >>> optimizer = fn.optim.schedule_free_sgd(0.5, b1=0.5)
        >>> y, state = jnp.array([1.0]), optimizer.init(jnp.array([1.0]))
        >>> optimizer.update(jnp.array([1.0]), state, y)[0]
        Array([-0.5], dtype=float32)
    """
    rate = with_warmup("schedule_free_sgd", learning_rate, warmup_steps)
    check.between("schedule_free_sgd", "weight_decay", weight_decay, 0)
    descent = sgd(rate if rate_from_zero else one_ahead(rate))

    def update(
        grads: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        if weight_decay is not None:
            grads = add_weight_decay("schedule_free_sgd", grads, params, weight_decay, None)
        return descent.update(grads, state, params)

    base = optax.GradientTransformationExtraArgs(descent.init, update)
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype, r=r, sum_dtype=sum_dtype)


class NormalizedState(NamedTuple):
    """What Adam without momentum remembers."""

    step: jax.Array  # int32[], updates taken
    v: optax.Params  # mean of the squared gradient, like params


def schedule_free_adamw(
    learning_rate: ScalarOrSchedule = 0.0025,
    warmup_steps: int | None = None,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-8,
    weight_decay: chex.Numeric = 0.0,
    weight_lr_power: chex.Numeric = 2.0,
    state_dtype: Any = None,
    *,
    r: chex.Numeric = 0.0,
    sum_dtype: Any = None,
    rate_from_zero: bool = True,
    bias_in_rate: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW: `schedule_free` of Adam without momentum.

        v <- b2 v + (1 - b2) g^2                            v_hat = v / (1 - b2^t)
        z <- z - alpha (g / (sqrt(v_hat) + eps) + lambda y)

    Args:
        learning_rate: alpha, a number, or a schedule of the step without decay.
        warmup_steps: alpha rises in a line from 0 over so many steps; at once unless given.
        b1: share of x in y, in (0, 1), in place of Adam's momentum.
        b2: share of the old v that is kept, in [0, 1).
        eps: keeps the quotient finite.
        weight_decay: lambda, multiplied by alpha.
        weight_lr_power: exponent of alpha in the weights, as in `schedule_free`.
        state_dtype: dtype in which z is kept; the params' unless given.
        r: exponent of the step in the weights.
        sum_dtype: dtype in which the sum of the weights is kept, as in `schedule_free`.
        rate_from_zero: as in `schedule_free_sgd`.
        bias_in_rate: True for v_hat = v and alpha sqrt(1 - b2^t) in place of alpha, in the step, the decay and the
            weights: the paper's experiments, and AdamWScheduleFreePaper in the authors' package.

    Twin: `optax.contrib.schedule_free_adamw`, equal bit for bit.

    Raises:
        TypeError, ValueError: as `schedule_free`; b2 is not in [0, 1); eps or lambda are negative; warmup_steps is no
            positive int, or given with a schedule.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1.

    Example:
        >>> optimizer = fn.optim.schedule_free_adamw(0.1)
        >>> y, state = jnp.array([1.0, 1.0]), optimizer.init(jnp.array([1.0, 1.0]))
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), state, y)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.1000', '0.1000']
    """
    rate = with_warmup("schedule_free_adamw", learning_rate, warmup_steps)
    check.between("schedule_free_adamw", "b2", b2, 0, 1)
    check.between("schedule_free_adamw", "eps", eps, 0)
    check.between("schedule_free_adamw", "weight_decay", weight_decay, 0)
    base_rate = rate if rate_from_zero else one_ahead(rate)

    def root_of_bias(t: jax.Array) -> jax.Array:
        return jnp.sqrt(1 - b2**t)

    def weights_rate(t: jax.Array) -> Any:
        return at_step(rate, t) * root_of_bias(t)

    def init(params: optax.Params) -> NormalizedState:
        return NormalizedState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: optax.Updates, state: NormalizedState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, NormalizedState]:
        alpha = at_step(base_rate, state.step)
        t = optax.safe_increment(state.step)
        v = jax.tree.map(lambda v, g: (1 - b2) * abs_sq(g) + b2 * v, state.v, grads)
        v_hat = v
        if bias_in_rate:
            alpha = alpha * root_of_bias(t)
        else:
            bias = 1 - b2**t
            v_hat = jax.tree.map(lambda v: v / bias.astype(v.dtype), v)
        x = jax.tree.map(lambda v, g: 1 / (jnp.sqrt(v) + eps) * g, v_hat, grads)
        x = add_weight_decay("schedule_free_adamw", x, params, weight_decay, None)
        updates = jax.tree.map(lambda x: times(-alpha, x), x)
        return like(updates, grads), NormalizedState(t, like(v, state.v))

    base = optax.GradientTransformationExtraArgs(init, update)
    return schedule_free(
        base,
        weights_rate if bias_in_rate else rate,
        b1,
        weight_lr_power,
        state_dtype,
        r=r,
        sum_dtype=sum_dtype,
    )
