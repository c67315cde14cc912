"""Adafactor: Adam with the second moment stored as a row and a column (Shazeer & Stern 2018, arXiv:1804.04235)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fnnet import check
from fnnet.copies import each_copy
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    abs_sq,
    at_step,
    cast_like,
    check_flags,
    check_learning_rate,
    check_number_or_schedule,
    times,
)
from fnnet.optim.numerics import inverse_power, root, visible, wide
from fnnet.optim.transforms.weight_decay import add_weight_decay


class AdafactorState(NamedTuple):
    """The state of Adafactor. Each array of the params has either v, or r and c; the rest are None."""

    step: jax.Array  # int32[], updates taken
    r: optax.Params  # means of the squared gradient along the longest axis, like params without that axis
    c: optax.Params  # and along the second longest
    v: optax.Params  # means of the squared gradient, like params
    m: optax.Params | None  # mean of the step, like params, with momentum


def adafactor(
    learning_rate: ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: chex.Numeric = 0.8,
    decay_offset: chex.Numeric = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: chex.Numeric | None = 1.0,
    momentum: chex.Numeric | None = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: ScalarOrSchedule | None = None,
    eps: chex.Numeric = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    relative_step: bool = False,
    eps_in_square: bool = True,
    min_scale: chex.Numeric = 1e-3,
    last_axes: bool = False,
    decay_times_rate: bool = False,
    b2_in_float32: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adafactor.

        b2 = 1 - max(t - decay_offset, 1)^-decay_rate
        r <- b2 r + (1 - b2) mean over columns of (g^2 + eps)       large arrays, with
        c <- b2 c + (1 - b2) mean over rows of (g^2 + eps)          v_ij = r_i c_j / mean(r)
        v <- b2 v + (1 - b2) (g^2 + eps)                            other arrays
        u = g / sqrt(v)
        u <- u / max(1, RMS(u) / d)                                 RMS: root mean square
        x = alpha max(min_scale, RMS(theta)) u
        m <- mu m + (1 - mu) x                                      with momentum, otherwise m = x
        theta <- theta - m - lambda theta

    Args:
        learning_rate: alpha, a number or a schedule of the step; 1 by default.
        min_dim_size_to_factor: v is stored as r and c where both axes are at least this long. The paper and PyTorch
            use 1.
        decay_rate: the exponent. (PyTorch's includes the sign: -0.8.)
        decay_offset: the number of steps before fine-tuning, which starts again from t = 1. In earlier steps, as of a
            new state, b2 is 0. (In optax 0.2.8, v is then NaN for ever.)
        multiply_by_parameter_scale: False leaves out max(min_scale, RMS(theta)).
        clipping_threshold: d; None for no clipping.
        momentum: mu, in [0, 1); None for no momentum.
        dtype_momentum: dtype of m.
        weight_decay_rate: lambda, a number or a schedule of the step; None for no decay. It is not multiplied by
            alpha.
        eps: keeps v above 0.
        factored: False to store v in full everywhere.
        weight_decay_mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes
            one from params: True where a param decays. All do by default.
        relative_step: alpha = min(learning_rate, 1 / sqrt(t)), as in PyTorch, and in the paper with a learning rate
            of 0.01, which is then the default.
        eps_in_square: True as above and in the paper. False for v_ij = r_i c_j / max(mean(r), eps) and u = g /
            max(sqrt(v), eps), with g^2 alone in the means, as in PyTorch, whose eps is that of the dtype: 1.2e-7 in
            float32.
        min_scale: lower bound of the scale of the params; eps_2 in the paper.
        last_axes: True to use the last two axes as rows and columns, as in PyTorch. By default, the two longest.
        decay_times_rate: True for theta <- theta - m - lambda learning_rate theta, as in PyTorch, where lambda is 0
            by default.
        b2_in_float32: True to compute b2 in float32 for params of any dtype, and 1 - b2 as the difference, as in
            optax. It cancels: at step 10^7 the new gradient's share is off by 0.3 %. False for t^-decay_rate itself,
            in the dtype of the params, float32 at least.

    Twin: `optax.adafactor`, equal bit for bit with b2_in_float32=True.

    Raises:
        TypeError, ValueError: the learning rate is not a number, a schedule or None; it, an eps, d, lambda or the
            least scale is negative; mu is not in [0, 1); decay_times_rate is used without a learning rate; `update`
            is called without params.

    Source: Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5.

    Example:
        >>> optimizer = fn.optim.adafactor(0.1)
        >>> params = jnp.array([3.0, 3.0])
        >>> updates, state = optimizer.update(jnp.array([100.0, -0.1]), optimizer.init(params), params)
        >>> [f"{u:.4f}" for u in updates]
        ['-0.3000', '0.3000']
    """
    check_flags(
        "adafactor",
        multiply_by_parameter_scale=multiply_by_parameter_scale,
        factored=factored,
        relative_step=relative_step,
        eps_in_square=eps_in_square,
        last_axes=last_axes,
        decay_times_rate=decay_times_rate,
        b2_in_float32=b2_in_float32,
    )
    check.is_positive("adafactor", "min_dim_size_to_factor", min_dim_size_to_factor)
    check.number("adafactor", "decay_offset", decay_offset)
    if learning_rate is not None:
        check_learning_rate("adafactor", learning_rate)
    if decay_times_rate and learning_rate is None:
        raise ValueError("adafactor: decay_times_rate=True needs a learning rate, such as learning_rate=0.01")
    if momentum is not None:
        check.number("adafactor", "momentum", momentum, "[0, 1)")
    check.number("adafactor", "decay_rate", decay_rate, "[0, inf)")
    if clipping_threshold is not None:
        check.number("adafactor", "clipping_threshold", clipping_threshold, "[0, inf)")
    if weight_decay_rate is not None:
        check_number_or_schedule("adafactor", "weight_decay_rate", weight_decay_rate, "[0, inf)")
    check.number("adafactor", "eps", eps, "[0, inf)")
    check.number("adafactor", "min_scale", min_scale, "[0, inf)")

    # All rules below are those of one copy of a layer.
    def axes(x: jax.Array) -> tuple[int, int] | None:
        """The axes over which c and r are means; None where v is stored."""
        if not factored or x.ndim < 2:
            return None
        second, longest = (x.ndim - 2, x.ndim - 1) if last_axes else np.argsort(x.shape)[-2:].tolist()
        return (second, longest) if min(x.shape[second], x.shape[longest]) >= min_dim_size_to_factor else None

    def init(params: optax.Params) -> AdafactorState:
        def mean(p: jax.Array, which: int) -> jax.Array | None:
            return None if (pair := axes(p)) is None else jnp.zeros_like(jnp.sum(p, axis=pair[which]))

        return AdafactorState(
            step=jnp.zeros([], jnp.int32),
            r=each_copy(lambda p: mean(p, 1), params),
            c=each_copy(lambda p: mean(p, 0), params),
            v=each_copy(lambda p: jnp.zeros_like(p) if axes(p) is None else None, params),
            m=None if momentum is None else jax.tree.map(lambda p: jnp.zeros_like(p, dtype_momentum), params),
        )

    def share_of_new(step: jax.Array, dtype: Any) -> jax.Array:
        """1 - b2."""
        t = jnp.array(step - decay_offset + 1, dtype)
        if not (isinstance(decay_offset, int) and decay_offset <= 0):
            t = jnp.maximum(t, 1)
        return t**-decay_rate

    def normalized(g: jax.Array, r: Any, c: Any, v: Any) -> jax.Array:
        """g / sqrt(v), with v from r and c where it is factored."""
        if (pair := axes(g)) is None:
            return g * inverse_power(
                v if eps_in_square else jnp.maximum(v, visible(eps * eps, v, under_root=True))
            )
        second, longest = pair
        mean = jnp.mean(r, axis=second - 1 if second > longest else second, keepdims=True)
        if eps_in_square:
            rows, columns = inverse_power(r / mean), inverse_power(c)
            return g * jnp.expand_dims(rows, longest) * jnp.expand_dims(columns, second)
        v = jnp.expand_dims(r / jnp.maximum(mean, visible(eps, mean)), longest) * jnp.expand_dims(c, second)
        return g * inverse_power(jnp.maximum(v, visible(eps * eps, v, under_root=True)))

    def rms(x: jax.Array) -> jax.Array:
        return root(jnp.mean(abs_sq(wide(x))))

    def clipped(u: jax.Array, d: Any) -> jax.Array:
        return (u / jnp.maximum(1.0, rms(u) / d)).astype(u.dtype)

    def scale(theta: jax.Array) -> jax.Array:
        """max(min_scale, RMS(theta)), with derivative 0 where theta is 0."""
        size = rms(theta)
        return jnp.where(size <= min_scale, min_scale, size)

    def update(
        grads: optax.Updates, state: AdafactorState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, AdafactorState]:
        if params is None:
            raise ValueError("adafactor: its scale needs the params, write update(grads, state, params)")

        def mean_square(g: jax.Array, old: Any, axis: int | None) -> jax.Array | None:
            if old is None:
                return None
            # In half precision the sum is computed in float32 and rounded once.
            dtype = jnp.promote_types(g.real.dtype, jnp.float32)
            share = share_of_new(state.step, jnp.float32 if b2_in_float32 else dtype)
            b2 = 1.0 - share
            g_sq = abs_sq(g) + visible(eps, g, under_root=True) if eps_in_square else abs_sq(g)
            new = g_sq if axis is None else jnp.mean(g_sq, axis=(axes(g) or ())[axis])
            return (b2 * old + ((1.0 - b2) if b2_in_float32 else share) * new).astype(old.dtype)

        r = each_copy(lambda g, r: mean_square(g, r, 1), grads, state.r)
        c = each_copy(lambda g, c: mean_square(g, c, 0), grads, state.c)
        v = each_copy(lambda g, v: mean_square(g, v, None), grads, state.v)
        x = each_copy(normalized, grads, r, c, v)
        if clipping_threshold is not None:
            x = each_copy(lambda u: clipped(u, clipping_threshold), x)

        t = optax.safe_increment(state.step)
        rate = at_step(learning_rate, state.step) if learning_rate is not None else None
        alpha = rate
        if relative_step:
            alpha = jnp.minimum(0.01 if rate is None else rate, t**-0.5)
        if alpha is not None:
            x = jax.tree.map(lambda x: times(alpha, x), x)
        if multiply_by_parameter_scale:
            x = each_copy(lambda x, p: (x * scale(p)).astype(x.dtype), x, params)

        m = state.m
        if momentum is not None:
            m = x = jax.tree.map(lambda m, x: (1 - momentum) * x + momentum * m, state.m, x)
        if weight_decay_rate is not None:
            decay = at_step(weight_decay_rate, state.step)
            x = add_weight_decay(
                "adafactor", x, params, decay * rate if decay_times_rate else decay, weight_decay_mask
            )
        updates = jax.tree.map(lambda x: -1 * x, x)
        return cast_like(updates, grads), AdafactorState(t, r, c, v, cast_like(m, state.m))

    return optax.GradientTransformationExtraArgs(init, update)
