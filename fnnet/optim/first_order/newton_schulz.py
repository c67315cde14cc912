"""The Newton-Schulz iteration: matrix products that bring singular values to one (Jordan et al. 2024)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet import check

Coefficients = tuple[chex.Numeric, chex.Numeric, chex.Numeric]

# One triple for all steps, or one per step.
PRESETS: dict[str, Any] = {
    "standard": (3.4445, -4.7750, 2.0315),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}
PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")


def newton_schulz(
    m: jax.Array,
    norm: jax.Array | None,
    triples: tuple[Coefficients, ...],
    steps: chex.Numeric,
    preconditioning: str,
    eps: chex.Numeric,
    eps_in_max: bool,
) -> jax.Array:
    """About U V^T of a matrix m = U S V^T. Each step uses one of the triples (a, b, c); the last one is repeated.

    m is divided by `norm + eps` first, or by max(norm, eps); with "aol" and "schatten" norm is None.
    """
    if m.shape[0] > m.shape[1]:  # the Gram matrix is smaller for the transpose
        return newton_schulz(m.T, norm, triples, steps, preconditioning, eps, eps_in_max).T

    def step(x: jax.Array, gram: jax.Array, triple: Coefficients) -> jax.Array:
        a, b, c = (jnp.asarray(number, x.dtype) for number in triple)
        return a * x + (b * gram + c * gram @ gram) @ x

    x = m
    if norm is not None:
        x = x / (jnp.maximum(norm, eps) if eps_in_max else norm + eps)
    gram = x @ x.T.conj()
    if preconditioning == "aol":
        scale = jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.abs(gram), axis=1, keepdims=True), 1e-8))
        x, gram = x * scale, gram * scale * scale.T
    if preconditioning == "schatten":
        scale = jax.lax.rsqrt(jnp.maximum(jnp.linalg.norm(gram, ord="fro", keepdims=True), 1e-8))
        x, gram = x * scale, gram * scale**2

    x = step(x, gram, triples[0])
    for triple in triples[1:]:
        x = step(x, x @ x.T.conj(), triple)
    return jax.lax.fori_loop(
        len(triples), steps, lambda _, x: step(x, x @ x.T.conj(), triples[-1]), x, unroll=True
    )


def coefficient_triples(ns_coeffs: Any) -> tuple[Coefficients, ...]:
    """The coefficients (a, b, c) of Newton-Schulz steps, one triple or several. Raises ValueError otherwise."""
    if isinstance(ns_coeffs, str):
        check.one_of("muon", "ns_coeffs", ns_coeffs, tuple(PRESETS))
        ns_coeffs = PRESETS[ns_coeffs]
    if not isinstance(ns_coeffs, jax.core.Tracer):
        for number in jax.tree.leaves(ns_coeffs, is_leaf=lambda node: node is None):
            # A row of an array is an array of numbers.
            for one in number.ravel() if isinstance(number, np.ndarray | jax.Array) else [number]:
                check.number("muon", "ns_coeffs", one)
    shape = jnp.asarray(ns_coeffs).shape
    if len(shape) not in (1, 2) or shape[-1] != 3 or shape[0] == 0:
        raise ValueError(
            f"muon: ns_coeffs has shape {shape}, wanted (3,), or (steps, 3) with one triple per step"
        )
    return (ns_coeffs,) if len(shape) == 1 else tuple(ns_coeffs)
