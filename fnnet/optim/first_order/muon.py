"""Muon: momentum with its singular values brought to one, and Adam for the other params (Jordan et al. 2024)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from fnnet import check
from fnnet.copies import copy_axes, for_each_copy
from fnnet.optim.first_order.newton_schulz import (
    PRECONDITIONINGS,
    PRESETS,
    Coefficients,
    coefficient_triples,
    newton_schulz,
)
from fnnet.optim.hyperparameters import (
    ScalarOrSchedule,
    abs_sq,
    at_step,
    cast_like,
    check_count,
    check_flags,
    check_learning_rate,
    times,
)
from fnnet.optim.numerics import norms, root, visible, wide
from fnnet.optim.transforms.weight_decay import add_weight_decay


class MuonState(NamedTuple):
    """The state of Muon."""

    step: jax.Array  # int32[], updates taken
    m: optax.Params  # mean of the gradient, like params
    v: optax.Params  # mean of its square, like params; None for matrices


def muon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Coefficients | tuple[Coefficients, ...] | str = PRESETS["standard"],
    ns_steps: chex.Numeric = 5,
    beta: chex.Numeric = 0.95,
    eps: chex.Numeric = 1e-8,
    weight_decay: chex.Numeric = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Literal["frobenius", "spectral", "aol", "schatten"] = "frobenius",
    adam_b1: chex.Numeric = 0.9,
    adam_b2: chex.Numeric = 0.999,
    adam_eps_root: chex.Numeric = 0.0,
    adam_weight_decay: chex.Numeric = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Any | Callable[[optax.Params], Any] | None = None,
    consistent_rms: chex.Numeric | None = None,
    bias_correction: bool = True,
    eps_in_max: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Muon for the matrices of a network, and AdamW for its other params.

        m <- beta m + (1 - beta) g
        m_hat = beta m / (1 - beta^(t+1)) + (1 - beta) g / (1 - beta^t)
        x = NewtonSchulz(m_hat) sqrt(max(1, columns / rows))
        theta <- theta - alpha (x + lambda theta)

        NewtonSchulz(m):  x = m / (|m|_F + eps), then ns_steps times
                          x <- a x + (b x x^T + c (x x^T)^2) x

    The polynomial a s + b s^3 + c s^5 acts on each singular value s of x and drives it towards 1: m = U S V^T becomes
    about U V^T. The standard coefficients raise small values quickly and do not converge: five steps bring singular
    values from 0.002 to 1 times |m|_F to between 0.68 and 1.21.

    Params that are not matrices take the step of `adamw`, with the same `nesterov`.

    Args:
        learning_rate: alpha, a number or a schedule of the step.
        ns_coeffs: (a, b, c), one such triple per step, "standard" (Jordan's) or "dion".
        ns_steps: number of Newton-Schulz steps. Ignored if there is a triple for each step.
        beta: fraction of the old m that is kept, in [0, 1).
        eps: keeps the quotients finite, also in Adam. (PyTorch uses 1e-7.)
        weight_decay: lambda for the matrices, multiplied by alpha. (PyTorch uses 0.1.)
        weight_decay_mask: a tree of booleans with the structure of params or a prefix of it, or a function that makes
            one from params: True where a matrix decays. All do by default.
        mu_dtype: dtype of m; the params' dtype by default.
        nesterov: True for m_hat as above; False for m_hat = m / (1 - beta^t).
        adaptive: multiplies x by the inner product of m_hat and NewtonSchulz(m_hat): steepest descent without a fixed
            step length (Bernstein & Newhouse 2024, arXiv:2409.20325).
        preconditioning: what m is divided by first. "frobenius": as above. "spectral": its largest singular value,
            which costs a decomposition. "aol": the square root of the row sums of |m m^T|, row by row (Boissin et al.
            2025, arXiv:2512.04632). "schatten": the square root of |m m^T|_F (Grishina et al. 2025,
            arXiv:2506.10935). The last two do not use eps, and make the step too small for gradients below about
            1e-4.
        adam_b1: fraction of the old m that is kept in Adam, in [0, 1).
        adam_b2: fraction of the old v that is kept in Adam, in [0, 1).
        adam_eps_root: Adam's eps inside the square root.
        adam_weight_decay: lambda for the other params.
        adam_learning_rate: alpha for the other params; the same by default.
        muon_weight_dimension_numbers: which axes are rows ("reduction", a layer's inputs) and columns ("output"). A
            tree of `optax.contrib.MuonDimensionNumbers` with the structure of params or a prefix of it, or a function
            that makes one from params; None in it marks params for Adam. The remaining axes make a batch of matrices.
            By default each param with two axes is a matrix. (Jordan uses Adam for embeddings and the last layer.) Of
            params stacked by `repeat`, all of this means one copy: leading axes of copies (`fn.copy_axes`) are
            neither counted nor numbered.
        consistent_rms: replaces the factor by sqrt(max(rows, columns)) consistent_rms. 0.2 gives steps about as large
            as AdamW's (Liu et al. 2025, arXiv:2502.16982; PyTorch's "match_rms_adamw").
        bias_correction: False for m_hat = beta m + (1 - beta) g, or m without nesterov, as in Jordan's code and
            PyTorch. It changes the fraction of g in early steps. Adam's correction stays.
        eps_in_max: True for x = m / max(|m|_F, eps) at first, as in PyTorch.

    Memory: m, and v for the params that are not matrices.

    Twin: `optax.contrib.muon`, equal bit for bit in float32; the tests give the bounds for other dtypes.

    Raises:
        TypeError, ValueError: a learning rate is neither a number nor a schedule; it, an eps or a lambda is negative;
            a beta is not in [0, 1); ns_coeffs are not triples or an unknown name; ns_steps is not a positive int;
            preconditioning is unknown; the dimension numbers do not fit a param; `update` is called without params
            while weights decay.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    Example:
        >>> optimizer = fn.optim.muon(0.1)
        >>> params = jnp.eye(2)
        >>> updates, state = optimizer.update(jnp.diag(jnp.array([100.0, -10.0])), optimizer.init(params), params)
        >>> bool(jnp.all(jnp.abs(jnp.diag(updates)) > 0.06))
        True
    """
    check_flags(
        "muon",
        nesterov=nesterov,
        adaptive=adaptive,
        bias_correction=bias_correction,
        eps_in_max=eps_in_max,
    )
    if consistent_rms is not None:
        check.number("muon", "consistent_rms", consistent_rms, "[0, inf)")
    check_learning_rate("muon", learning_rate)
    adam_learning_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    check_learning_rate("muon", adam_learning_rate, "adam_learning_rate")
    check_count("muon", "ns_steps", ns_steps)
    check.number("muon", "beta", beta, "[0, 1)")
    check.number("muon", "eps", eps, "[0, inf)")
    check.number("muon", "weight_decay", weight_decay, "[0, inf)")
    check.number("muon", "adam_b1", adam_b1, "[0, 1)")
    check.number("muon", "adam_b2", adam_b2, "[0, 1)")
    check.number("muon", "adam_eps_root", adam_eps_root, "[0, inf)")
    check.number("muon", "adam_weight_decay", adam_weight_decay, "[0, inf)")
    check.one_of("muon", "preconditioning", preconditioning, PRECONDITIONINGS)
    triples = coefficient_triples(ns_coeffs)
    steps = ns_steps if len(triples) == 1 else len(triples)

    def init(params: optax.Params) -> MuonState:
        dims = dimension_numbers(params, muon_weight_dimension_numbers)
        m = jax.tree.map(lambda p: jnp.zeros_like(p, mu_dtype), params)
        v = jax.tree.map(lambda p, d: jnp.zeros_like(p) if d is None else None, params, dims)
        return MuonState(step=jnp.zeros([], jnp.int32), m=m, v=v)

    def update(
        grads: optax.Updates, state: MuonState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, MuonState]:
        dims = dimension_numbers(grads, muon_weight_dimension_numbers)
        is_matrix = jax.tree.map(lambda g, d: d is not None, grads, dims)
        alpha = {True: at_step(learning_rate, state.step), False: at_step(adam_learning_rate, state.step)}
        t = optax.safe_increment(state.step)

        b1 = {True: beta, False: adam_b1}
        bias = {kind: 1 - b**t for kind, b in b1.items()}
        next_bias = {kind: 1 - b ** optax.safe_increment(t) for kind, b in b1.items()}
        if not bias_correction:
            bias[True] = next_bias[True] = jnp.ones([])
        m = jax.tree.map(lambda m, g, k: (1 - b1[k]) * g + b1[k] * m, state.m, grads, is_matrix)
        m_hat = jax.tree.map(
            lambda m, k: m / (next_bias if nesterov else bias)[k].astype(m.dtype), m, is_matrix
        )
        if nesterov:
            g_hat = jax.tree.map(lambda g, k: g / bias[k].astype(g.dtype), grads, is_matrix)
            m_hat = jax.tree.map(lambda m, g, k: b1[k] * m + (1 - b1[k]) * g, m_hat, g_hat, is_matrix)

        # Adam's part: v is None for matrices.
        v = jax.tree.map(
            lambda g, v: None if v is None else (1 - adam_b2) * abs_sq(g) + adam_b2 * v, grads, state.v
        )
        bias2 = 1 - adam_b2**t

        def adams_direction(m: jax.Array, v: jax.Array) -> jax.Array:
            return m / (root(v / bias2.astype(v.dtype) + adam_eps_root) + visible(eps, v))

        def direction(m: jax.Array, batch: MatrixBatch, norm: jax.Array | None, n: int) -> jax.Array:
            def orthogonal(m: jax.Array, norm: jax.Array | None) -> jax.Array:
                return newton_schulz(m, norm, triples, steps, preconditioning, eps, eps_in_max)

            x = batch.restore(jax.vmap(orthogonal)(batch.matrices, norm)).astype(m.dtype)
            x = for_each_copy(lambda m, x: jnp.sum(m.conj() * x) * x, n)(m, x) if adaptive else x
            _, rows, columns = batch.matrices.shape
            if consistent_rms is None:
                return jnp.sqrt(jnp.maximum(1, columns / rows)) * x
            return jnp.sqrt(jnp.maximum(rows, columns)) * consistent_rms * x

        copies = copy_axes(grads)
        batches = jax.tree.map(
            lambda m, d, n: as_matrices(m, d, n) if d is not None and m.size else None, m_hat, dims, copies
        )
        norms_of = norms_of_matrices(batches, preconditioning)
        x = jax.tree.map(
            lambda m, v, batch, norm, n: (
                adams_direction(m, v) if v is not None else direction(m, batch, norm, n) if batch else m
            ),
            *(m_hat, v, batches, norms_of, copies),
        )
        no_matrix = jax.tree.map(lambda k: not k, is_matrix)
        x = add_weight_decay("muon", x, params, weight_decay, and_mask(is_matrix, weight_decay_mask, params))
        x = add_weight_decay("muon", x, params, adam_weight_decay, no_matrix)
        updates = jax.tree.map(lambda x, k: times(-alpha[k], x), x, is_matrix)
        return cast_like(updates, grads), MuonState(t, cast_like(m, state.m), cast_like(v, state.v))

    return optax.GradientTransformationExtraArgs(init, update)


def dimension_numbers(params: optax.Params, given: Any | Callable[[optax.Params], Any] | None) -> Any:
    """A tree like params: the dimension numbers of each matrix; None for params that are not matrices."""
    if given is None:
        return jax.tree.map(
            lambda p, n: MuonDimensionNumbers() if p.ndim - n == 2 else None, params, copy_axes(params)
        )
    given = given(params) if callable(given) else given
    return jax.tree.map(
        lambda d, branch: jax.tree.map(lambda _: d, branch),  # one entry can stand for a whole branch
        given,
        params,
        is_leaf=lambda d: d is None or isinstance(d, MuonDimensionNumbers),
    )


@dataclass(frozen=True)  # a leaf of a tree
class MatrixBatch:
    """A param as matrices."""

    matrices: jax.Array  # (batch, rows, columns), float32 at least for float16
    restore: Callable[[jax.Array], jax.Array]  # back to the shape of the param


def as_matrices(x: jax.Array, d: MuonDimensionNumbers, copies: int) -> MatrixBatch:
    """x as matrices. The axes in d are those of one copy; leading axes of copies belong to the batch."""
    ndim = x.ndim - copies
    if ndim < 2:
        raise ValueError(
            f"muon: param is {check.describe(x)}, wanted a matrix, with two axes"
            + (f" behind {copies} of copies" if copies else "")
            + "; set its dimension numbers to None"
        )

    def axes(numbers: Any) -> tuple[int, ...]:
        return tuple(copies + n % ndim for n in ((numbers,) if isinstance(numbers, int) else numbers))

    rows, columns = axes(d.reduction_axis), axes(d.output_axis)
    if set(rows) & set(columns):
        raise ValueError(
            f"muon: {d} for param {check.describe(x)}, wanted reduction and output axes that differ"
        )
    batch = tuple(a for a in range(x.ndim) if a not in rows + columns)
    order = batch + rows + columns
    turned = jnp.transpose(x, order)
    shape = (-1, math.prod(x.shape[a] for a in rows), math.prod(x.shape[a] for a in columns))
    back = sorted(range(x.ndim), key=order.__getitem__)
    return MatrixBatch(
        wide(turned.reshape(shape)),
        lambda matrices: jnp.transpose(matrices.reshape(turned.shape), back),
    )


def norms_of_matrices(batches: Any, preconditioning: str) -> Any:
    """What the matrices of each batch are divided by first, float[batch], if they are."""
    found, structure = jax.tree.flatten(batches)
    sizes: list[Any] = [None] * len(found)
    if preconditioning == "frobenius":
        sizes = [norm.value for norm in norms([batch.matrices for batch in found], [(1, 2)] * len(found))]
    if preconditioning == "spectral":
        sizes = [jax.vmap(lambda m: jnp.linalg.norm(m, ord=2))(batch.matrices) for batch in found]
    return jax.tree.unflatten(structure, sizes)


def and_mask(is_matrix: Any, mask: Any, params: optax.Params | None) -> Any:
    """True where a param is a matrix and the mask, as in `adamw`, is True."""
    if mask is None or params is None:
        return is_matrix
    chosen = mask(params) if callable(mask) else mask
    return jax.tree.map(lambda yes, branch: jax.tree.map(lambda k: k and yes, branch), chosen, is_matrix)
