"""Hutchinson's estimator of the diagonal of the Hessian (Hutchinson 1990)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from fnnet.optim.hyperparameters import check_flags


class HutchinsonState(NamedTuple):
    """The state of the estimator."""

    key: jax.Array  # uint32[2] or a key, for the next random vectors


def hutchinson_estimator_diag_hessian(
    random_seed: chex.PRNGKey | None = None, *, normal: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Hutchinson's unbiased estimate of the diagonal of the Hessian H, from one product of H and a random vector.

        z_i = 1 or -1, each with probability 1/2            independent
        diag = z * (H z)                                    E[diag_i] = sum_j H_ij E[z_i z_j] = H_ii

    Args:
        random_seed: a key; `jax.random.PRNGKey(0)` by default.
        normal: True to draw z from the normal distribution, as in the paper on Sophia. The variance is larger, and
            not 0 if H is diagonal.

    Returns:
        A transformation whose `update(grads, state, params, value_fn=f)` returns the estimate instead of the
        gradients. f(params) is the loss on the batch; the argument can also be called `obj_fn`.

    Baseline: `optax.contrib.hutchinson_estimator_diag_hessian`, equal bit for bit.

    Raises:
        ValueError: `update` is called without params or without the function.

    Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix"; Liu et al. 2023,
    arXiv:2305.14342, algorithm 1.

    Example:
        >>> estimator = fn.optim.hutchinson_estimator_diag_hessian()
        >>> params = jnp.array([1.0, 2.0])
        >>> f = lambda p: 3 * p[0] ** 2 + p[1] ** 2
        >>> diag, state = estimator.update(params, estimator.init(params), params, value_fn=f)
        >>> diag
        Array([6., 2.], dtype=float32)
    """
    check_flags("hutchinson_estimator_diag_hessian", normal=normal)

    def init(params: optax.Params) -> HutchinsonState:
        return HutchinsonState(jax.random.PRNGKey(0) if random_seed is None else random_seed)

    def update(
        grads: optax.Updates,
        state: HutchinsonState,
        params: optax.Params | None = None,
        *,
        value_fn: Callable[[optax.Params], jax.Array] | None = None,
        obj_fn: Callable[[optax.Params], jax.Array] | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, HutchinsonState]:
        f = value_fn if obj_fn is None else obj_fn
        if params is None or f is None:
            raise ValueError(
                "hutchinson_estimator_diag_hessian: the Hessian needs the params and the loss as a function of them, "
                "write update(grads, state, params, value_fn=f)"
            )
        key, now = jax.random.split(state.key)
        keys = jax.random.split(now, len(jax.tree.leaves(params)))
        keys = jax.tree.unflatten(jax.tree.structure(params), keys)
        sample = jax.random.normal if normal else jax.random.rademacher
        z = jax.tree.map(lambda p, k: sample(k, p.shape, jnp.float32).astype(p.dtype), params, keys)
        h_z = jax.jvp(jax.grad(f), (params,), (z,))[1]
        return jax.tree.map(lambda h, z: h * z, h_z, z), HutchinsonState(key)

    return optax.GradientTransformationExtraArgs(init, update)
