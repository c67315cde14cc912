"""The LSTM of `lstm.py` without peepholes, in a form that is fast on a CPU.

All gates are computed in one operation, and the gradient of the weights is one product for the whole sequence.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def step(w: jax.Array, b: jax.Array, carry: tuple[jax.Array, jax.Array], x: jax.Array) -> Any:
    """One step: w is [w_x, w_h], stacked along the first axis."""
    c, h = carry
    i, f, g, o = _gates(w, b, h, x)
    c = f * c + i * g
    h = o * jnp.tanh(c)
    return (c, h), h


def affine(w: jax.Array, b: jax.Array, h: jax.Array, x: jax.Array) -> jax.Array:
    """x w_x + h w_h + b."""
    # One product for x and h: two of half the size take longer.
    z = jnp.concatenate([x, h], axis=-1) @ w
    return z + jnp.broadcast_to(b, z.shape)


def _gates(w: jax.Array, b: jax.Array, h: jax.Array, x: jax.Array) -> list[jax.Array]:
    # sigmoid(z) = tanh(z / 2) / 2 + 1/2. All four gates in one tanh of the whole array: XLA's CPU backend does not
    # vectorize the tanh of a slice, and a forward pass took 20 ms instead of 11.
    z = affine(w, b, h, x)
    half = jnp.full(h.shape[-1:], 0.5, z.dtype)
    scale = jnp.broadcast_to(jnp.concatenate([half, half, 2 * half, half]), z.shape)
    return jnp.split(scale * jnp.tanh(scale * z) + (1 - scale), 4, axis=-1)


# A scan over `step` computes the same, and is the reference in the tests. Backprop through that scan adds up the
# gradient of w step by step. The derivative below is written so that the part linear in dw is one product for all
# steps. Then so is its transpose, which backprop runs.
@jax.custom_jvp
def sequence(x: jax.Array, w: jax.Array, b: jax.Array, c: jax.Array, h: jax.Array) -> Any:
    """All steps, for x (time, batch, features): ((c, h), y)."""
    return lax.scan(partial(step, w, b), (c, h), x)


@sequence.defjvp
def _derivative(primals: Any, tangents: Any) -> Any:
    (x, w, b, c, h), (dx, dw, db, dc, dh) = primals, tangents
    time, batch, inputs = x.shape
    w_x, w_h = w[:inputs], w[inputs:]

    def step(carry: Any, x: jax.Array) -> Any:
        c, h = carry
        i, f, g, o = _gates(w, b, h, x)
        t = jnp.tanh(f * c + i * g)
        # Derivatives of the new c by z_i, z_f and z_g, and of h by z_o.
        by_z = jnp.concatenate([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), t * o * (1 - o)], axis=-1)
        c, h = f * c + i * g, o * t
        # Then those of the new c by the old c, which is f, and of h by the new c.
        return (c, h), (h, by_z, f, o * (1 - t * t))

    carry, (hs, *slopes) = lax.scan(step, (c, h), x)
    before = jnp.concatenate([x, jnp.concatenate([h[None], hs[:-1]])], axis=-1)
    dz = dx.reshape(time * batch, inputs) @ w_x + before.reshape(time * batch, len(w)) @ dw

    def tangent(carry: Any, now: Any) -> Any:
        (dc, dh), (dz, by_z, by_old_c, by_c) = carry, now
        dz += dh @ w_h + jnp.broadcast_to(db, dz.shape)
        dc_i, dc_f, dc_g, dh_o = jnp.split(by_z * dz, 4, axis=-1)
        dc = by_old_c * dc + (dc_i + dc_f + dc_g)
        dh = by_c * dc + dh_o
        return (dc, dh), dh

    return (carry, hs), lax.scan(tangent, (dc, dh), (dz.reshape(time, batch, len(b)), *slopes))
