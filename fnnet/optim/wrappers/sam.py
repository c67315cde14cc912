"""Sharpness-aware minimization: the gradient at the worst point nearby (Foret et al. 2021, arXiv:2010.01412)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet import check
from fnnet.optim.evaluations import Evaluations, no_evaluations
from fnnet.optim.hyperparameters import cast_like, check_flags, times
from fnnet.optim.numerics import global_norm


class SamState(NamedTuple):
    """The state of SAM."""

    opt_state: optax.OptState  # of the wrapped optimizer
    evaluations: Evaluations  # int32[] each, without those of the wrapped optimizer


def sam(
    optimizer: optax.GradientTransformation,
    rho: chex.Numeric = 0.05,
    *,
    sync_period: int = 2,
    adaptive: bool = False,
    eta: chex.Numeric = 0.01,
) -> optax.GradientTransformationExtraArgs:
    """Sharpness-aware minimization, around any optimizer.

        epsilon = rho g / |g|                           |g|: over all params
        epsilon = rho T^2 g / |T g|                     adaptive, T = |theta| + eta
        theta <- theta + u(grad L(theta + epsilon))     the optimizer's step

    Args:
        optimizer: an optimizer from `fnnet.optim` or optax. It receives the params theta and the extra arguments of
            `update` unchanged. Only the gradient differs.
        rho: the length of epsilon, 0 or more. The paper uses 0.05, and about ten times as much for the adaptive form.
        sync_period: gradients per step, 2 or more. The step adds epsilon sync_period - 1 times, each time from the
            last point, as in `optax.contrib.sam`.
        adaptive: scales epsilon by the size of each param, so that rescaling the weights changes nothing.
        eta: lets params that are 0 move in the adaptive form, 0 or more. (The paper uses 0.01, davda54's PyTorch
            version 0.)

    `update` needs `value_fn`, a function from params to the scalar loss on the batch of this step; `train.make_step`
    passes it. A step counts sync_period values and gradients. If the gradient is 0, so is epsilon. (optax: NaN.)

    Twin: `optax.contrib.sam(optimizer, chain(normalize(), sgd(rho)), sync_period, opaque_mode=True)`, equal bit for
    bit. It takes `grad_fn(params, i)` instead. Its other mode, one step spread over two calls, is not supported.

    Raises:
        TypeError, ValueError: rho or eta is negative; sync_period is not an int of 2 or more; `update` is called
            without params or `value_fn`; params are complex.

    Source: Foret et al. 2021, arXiv:2010.01412; adaptive: Kwon et al. 2021, arXiv:2102.11600.

    Example:
        >>> optimizer = fn.optim.sam(fn.optim.sgd(0.1), rho=0.5)
        >>> params, loss = jnp.array([1.0]), lambda p: jnp.sum(p**2)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jax.grad(loss)(params), state, params, value_fn=loss)
        >>> updates  # -0.1 times the gradient at 1.5
        Array([-0.3], dtype=float32)
    """
    check_flags("sam", adaptive=adaptive)
    check.number("sam", "rho", rho, "[0, inf)")
    check.number("sam", "eta", eta, "[0, inf)")
    check.is_positive("sam", "sync_period", sync_period)
    check.number("sam", "sync_period", sync_period, "[2, inf)")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> SamState:
        return SamState(optimizer.init(params), no_evaluations())

    def ascend(theta: optax.Params, g: optax.Updates) -> optax.Params:
        if adaptive:
            t = jax.tree.map(lambda p: jnp.abs(p) + jnp.asarray(eta, p.dtype), theta)
            g = jax.tree.map(jnp.multiply, t, g)
        size = global_norm(
            jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), g)
        ).divisor
        g = jax.tree.map(lambda g: g / size.astype(g.dtype), g)
        if adaptive:
            g = jax.tree.map(jnp.multiply, t, g)
        return jax.tree.map(lambda p, g: p + times(rho, g), theta, g)

    def update(
        grads: optax.Updates,
        state: SamState,
        params: optax.Params | None = None,
        *,
        value_fn: Callable[[optax.Params], jax.Array] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, SamState]:
        if params is None:
            raise ValueError(
                "sam: the second gradient needs the params, write update(grads, state, params, ...)"
            )
        if value_fn is None:
            raise ValueError(
                "sam: value_fn is missing, the loss on this batch; "
                "write update(grads, state, params, value_fn=lambda params: loss)"
            )
        if any(jnp.iscomplexobj(p) for p in jax.tree.leaves(params)):
            raise TypeError(f"sam: params are {check.describe(params)}, wanted real ones")
        theta, g = params, grads
        for _ in range(sync_period - 1):
            theta = ascend(theta, g)
            g = cast_like(jax.grad(value_fn)(theta), grads)
        updates, opt_state = optimizer.update(g, state.opt_state, params, value_fn=value_fn, **extra)
        evaluations = state.evaluations.plus(values=sync_period, gradients=sync_period)
        return updates, SamState(opt_state, evaluations)

    return optax.GradientTransformationExtraArgs(init, update)
