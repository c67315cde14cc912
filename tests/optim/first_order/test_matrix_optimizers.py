"""muon, shampoo and soap beside their equations in NumPy, written along the axes or as Kronecker products."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import fnnet as fn
from fnnet.optim.first_order.newton_schulz import PRESETS
from tests.arrays import at, close

SHAPES = {"matrix": (4, 3), "tensor": (2, 3, 2), "vector": (3,), "number": ()}


def gradients(steps: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, np.ndarray]:
    """Random ones of each step, by param."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(steps, *shape)) for name, shape in shapes.items()}


def start_of(grads: Any) -> Any:
    return jax.tree.map(lambda g: jnp.asarray(np.ones(g.shape[1:], g.dtype)), grads)


def run(optimizer: Any, grads: Any) -> Any:
    """The params after each step, and the last state."""

    def step(now: Any, grads: Any) -> Any:
        params, state = now
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def path(grads: Any) -> Any:
        params = start_of(grads)
        (_, state), path = jax.lax.scan(step, (params, optimizer.init(params)), grads)
        return path, state

    return path(grads)


def size(state: Any, params: Any) -> int:
    """Numbers in a state, all but the count of steps."""
    leaves = jax.tree.leaves(jax.eval_shape(state.init, params))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves) - 1


# ------------------------------------------------------------------------------------------------------------ muon


def power(c: np.ndarray, s: np.ndarray) -> np.ndarray:
    return c[0] * s + c[1] * s**3 + c[2] * s**5


def orthogonalized(m: np.ndarray, triples: Any, eps: float = 1e-8) -> np.ndarray:
    """Newton-Schulz on the singular values, which are all it changes."""
    u, s, vt = np.linalg.svd(m, full_matrices=False)
    s = s / (np.linalg.norm(s) + eps)
    for triple in triples:
        s = power(np.array(triple), s)
    return u @ np.diag(s) @ vt


@pytest.mark.usefixtures("float64")
class TestMuon:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "arguments",
        [
            {"nesterov": False, "adaptive": True, "preconditioning": "aol", "consistent_rms": 0.2},
            {
                "preconditioning": "spectral",
                "ns_steps": 3,
                "weight_decay": 0.1,
                "weight_decay_mask": lambda params: {name: name != "tensor" for name in params},
                "adam_weight_decay": 0.2,
                "adam_learning_rate": optax.linear_schedule(0.1, 0.0, 5),
                "adam_b1": 0.8,
                "adam_b2": 0.9,
                "adam_eps_root": 1e-3,
                "muon_weight_dimension_numbers": lambda params: {
                    name: MuonDimensionNumbers(1, 0) if name in ("matrix", "tensor") else None
                    for name in params
                },
            },
            {
                "preconditioning": "schatten",
                "ns_coeffs": PRESETS["dion"][:3],
                "mu_dtype": jnp.float32,
                "muon_weight_dimension_numbers": {
                    "matrix": MuonDimensionNumbers(1, 0),
                    "number": None,
                    "tensor": MuonDimensionNumbers((0, -1), (1,)),
                    "vector": None,
                },
            },
        ],
    )
    def test_equals_optax_with_other_arguments(self, arguments: dict[str, Any]) -> None:
        grads = gradients(6)
        ours, theirs = (run(make(0.1, **arguments), grads)[0] for make in (fn.optim.muon, optax.contrib.muon))
        close(ours, theirs, rtol=1e-12)

    @pytest.mark.slow
    @pytest.mark.parametrize("preset", PRESETS)
    def test_newton_schulz_changes_only_singular_values(self, preset: str) -> None:
        grads = gradients(1, {"tall": (6, 4), "wide": (4, 6)})
        path, _ = run(fn.optim.muon(1.0, preset, beta=0.0), grads)
        triples = np.broadcast_to(PRESETS[preset], (5, 3))
        for name, factor in (("tall", 1.0), ("wide", np.sqrt(6 / 4))):
            step = (1 - path[name][0]) / factor
            np.testing.assert_allclose(step, orthogonalized(grads[name][0], triples), rtol=1e-10, atol=1e-12)
            singular = np.linalg.svd(step)[1]
            assert np.all((singular > 0.68) & (singular < 1.21))

    def test_small_singular_values_end_close_to_one_too(self) -> None:
        """From 0.002 of the norm on, as the docstring says."""
        singular = np.array([1.0, 0.5, 0.1, 0.02, 0.00225])  # the norm is 1.12
        rng = np.random.default_rng(0)
        u, v = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
        path, _ = run(fn.optim.muon(1.0, beta=0.0), {"m": (u * singular) @ v.T[None]})
        ends = np.linalg.svd(1 - path["m"][0])[1]
        assert np.all((ends > 0.68) & (ends < 1.21))
        assert np.ptp(ends) > 0.1  # close to one, not equal to it

    def test_coefficients_that_converge_give_the_polar_factor(self) -> None:
        grads = gradients(1, {"matrix": (6, 4)})
        optimizer = fn.optim.muon(1.0, (15 / 8, -10 / 8, 3 / 8), 12, beta=0.0)
        u, _, vt = np.linalg.svd(grads["matrix"][0], full_matrices=False)
        np.testing.assert_allclose(1 - run(optimizer, grads)[0]["matrix"][0], u @ vt, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("size", [1.0, 1e-7])
    def test_pytorch(self, size: float) -> None:
        """Matrices (out, in): x = m / max(|m|, eps) at first, and the factor is sqrt(max(1, out / in))."""
        grads = {"w": size * gradients(4, {"w": (5, 3)})["w"]}
        optimizer = fn.optim.muon(
            0.1, beta=0.8, eps=1e-7, weight_decay=0.1, bias_correction=False, eps_in_max=True,
            muon_weight_dimension_numbers=MuonDimensionNumbers(reduction_axis=1, output_axis=0),
        )  # fmt: skip
        path, _ = run(optimizer, grads)
        theta, m = np.ones((5, 3)), np.zeros((5, 3))
        for step, g in enumerate(grads["w"]):
            m += 0.2 * (g - m)
            u, s, vt = np.linalg.svd(g + 0.8 * (m - g), full_matrices=False)
            s = s / max(np.linalg.norm(s), 1e-7)
            for _ in range(5):
                s = power(np.array(PRESETS["standard"]), s)
            theta = theta * (1 - 0.1 * 0.1) - 0.1 * np.sqrt(5 / 3) * u @ np.diag(s) @ vt
            np.testing.assert_allclose(path["w"][step], theta, rtol=1e-10)

    @pytest.mark.parametrize("nesterov", [True, False])
    def test_without_bias_correction_as_in_pytorch(self, nesterov: bool) -> None:
        """m <- m + (1 - beta) (g - m), x = NewtonSchulz(g + beta (m - g)); Adam as ever."""
        grads = gradients(4, {"matrix": (4, 3), "vector": (3,)})
        optimizer = fn.optim.muon(0.1, beta=0.8, weight_decay=0.1, bias_correction=False, nesterov=nesterov)
        path, _ = run(optimizer, grads)
        theta, m = np.ones((4, 3)), np.zeros((4, 3))
        for step, g in enumerate(grads["matrix"]):
            m += 0.2 * (g - m)
            x = orthogonalized(g + 0.8 * (m - g) if nesterov else m, [PRESETS["standard"]] * 5)
            theta = theta * (1 - 0.1 * 0.1) - 0.1 * x
            np.testing.assert_allclose(path["matrix"][step], theta, rtol=1e-10)
        corrected, _ = run(fn.optim.muon(0.1, beta=0.8, weight_decay=0.1, nesterov=nesterov), grads)
        np.testing.assert_array_equal(path["vector"], corrected["vector"])
        # Newton-Schulz removes the length, so the correction matters only in the mixture of m and g.
        same = np.allclose(path["matrix"], corrected["matrix"], rtol=1e-6)
        assert same != nesterov


def test_muon_errors() -> None:
    muon: Any = fn.optim.muon
    ones = jnp.ones((2, 2))
    with pytest.raises(ValueError, match=r"muon: ns_coeffs='jordan', wanted one of 'standard', 'dion'"):
        muon(0.1, "jordan")
    with pytest.raises(ValueError, match=r"muon: ns_coeffs has shape \(2,\), wanted \(3,\)"):
        muon(0.1, (1.0, 2.0))
    with pytest.raises(ValueError, match=r"muon: preconditioning='svd', wanted one of 'frobenius'"):
        muon(0.1, preconditioning="svd")
    with pytest.raises(ValueError, match="ns_steps=0, wanted at least 1"):
        muon(0.1, ns_steps=0)
    with pytest.raises(ValueError, match=r"adam_b2=1.5, wanted in \[0, 1\)"):
        muon(0.1, adam_b2=1.5)
    with pytest.raises(ValueError, match="weight decay needs the params"):
        jax.eval_shape(lambda p: muon(0.1, weight_decay=0.1).update(p, muon(0.1).init(p)), ones)
    vector = muon(0.1, muon_weight_dimension_numbers=MuonDimensionNumbers())
    with pytest.raises(ValueError, match=r"param is float32\[2\], wanted a matrix, with two axes"):
        jax.eval_shape(lambda p: vector.update(p, vector.init(p)), ones[0])
    twice = muon(0.1, muon_weight_dimension_numbers=MuonDimensionNumbers(0, -2))
    with pytest.raises(ValueError, match="wanted reduction and output axes that differ"):
        jax.eval_shape(lambda p: twice.update(p, twice.init(p)), ones)


# --------------------------------------------------------------------------------------------------------- shampoo


def shampoo_in_numpy(
    grads: np.ndarray,
    momentum: float = 0.0,
    decay: float | None = None,
    every: int = 1,
    max_dim: int = 1024,
    eps: float = 0.1,
    alpha: float = 0.5,
) -> np.ndarray:
    """x = (H_1 x H_2 x ...)^(-1/2k) vec(g), with the Kronecker product as one matrix for all entries."""
    shape = grads.shape[1:] or (1,)
    theta, v, k = np.ones(shape), np.zeros(shape), len(shape)
    h: list[Any] = [np.zeros((n, n)) for n in shape]
    path = []
    for step, g in enumerate(grads.reshape(-1, *shape)):
        for axis, n in enumerate(shape):
            rows = np.moveaxis(g, axis, 0).reshape(n, -1)
            new = rows @ rows.T if n <= max_dim else np.diag(np.sum(rows**2, axis=1))
            h[axis] = h[axis] + new if decay is None else decay * h[axis] + (1 - decay) * new
        if step % every == 0:
            w, q = np.linalg.eigh(
                reduce(lambda a, b: np.kron(a, b), [one + eps * np.eye(len(one)) for one in h])
            )
            whole = q @ np.diag(w ** (-1 / (2 * k))) @ q.T
        v = momentum * v + (whole @ g.ravel()).reshape(shape)
        theta = theta - alpha * v
        path.append(theta.reshape(grads.shape[1:]))
    return np.stack(path)


@pytest.mark.usefixtures("float64")
class TestShampoo:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("ours", "numpy"),
        [
            ({}, {}),
            ({"momentum": 0.9, "decay": 0.8}, {"momentum": 0.9, "decay": 0.8}),
            ({"precondition_every": 3, "max_dim": 2}, {"every": 3, "max_dim": 2}),
        ],
    )
    def test_equals_the_equation(self, ours: dict[str, Any], numpy: dict[str, Any]) -> None:
        grads = gradients(7)
        path, _ = run(fn.optim.shampoo(0.5, eps=0.1, **ours), grads)
        for name, g in grads.items():
            np.testing.assert_allclose(path[name], shampoo_in_numpy(g, **numpy), rtol=1e-10, err_msg=name)

    def test_for_a_number_it_is_adagrad(self) -> None:
        grads = {"number": gradients(5)["number"]}
        path, _ = run(fn.optim.shampoo(0.5, eps=1e-3), grads)
        adagrad, _ = run(fn.optim.adagrad(0.5, initial_accumulator_value=0.0, eps=1e-3), grads)
        np.testing.assert_allclose(path["number"], adagrad["number"], rtol=1e-12)

    def test_without_eps_a_gradient_of_zero_gives_no_step(self) -> None:
        grads = jax.tree.map(lambda g: 0 * g, gradients(2, {"matrix": (3, 2)}))
        path, _ = run(fn.optim.shampoo(0.5, eps=0.0), grads)
        close(at(path, -1), start_of(grads), rtol=0)


def test_shampoo_solves_an_ill_conditioned_quadratic_faster_than_sgd() -> None:
    """|A W B|^2 / 2, A and B with singular values from 1 to 1/30: the Hessian's condition number is 810,000."""
    rng = np.random.default_rng(0)

    def ill(n: int) -> jax.Array:
        (p, _), (q, _) = (np.linalg.qr(rng.normal(size=(n, n))) for _ in range(2))
        return jnp.asarray(p @ np.diag(np.geomspace(1, 1 / 30, n)) @ q, jnp.float32)

    a, b, start = ill(6), ill(5), jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(a @ w @ b)) / 2

    def last(make: Callable[..., Any], rate: jax.Array) -> jax.Array:
        optimizer = make(rate)

        def step(carry: Any, _: None) -> Any:
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (w + updates, state), None

        (w, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=100)
        return loss(w) / loss(start)

    rates = jnp.array([0.1, 0.3, 1.0, 1.9])
    shampoo, sgd = (
        jnp.nanmin(jax.jit(jax.vmap(partial(last, make)))(rates))
        for make in (partial(fn.optim.shampoo, eps=1e-8), fn.optim.sgd)
    )
    # The best rates leave 2e-5 and 6e-3 of the loss.
    assert shampoo < 1e-4
    assert sgd > 1e-3


# ------------------------------------------------------------------------------------------------------------ soap


def along(matrix: np.ndarray | None, x: np.ndarray, axis: int) -> np.ndarray:
    return x if matrix is None else np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)


def soap_in_numpy(
    grads: np.ndarray,
    every: int = 3,
    max_dim: int = 100,
    one_axis: bool = False,
    b1: float = 0.9,
    b2: float = 0.8,
    eps: float = 1e-3,
    alpha: float = 0.1,
    decay: float = 0.05,
) -> np.ndarray:
    """Eigenvectors are sorted in descending order; their signs are those of LAPACK."""
    shape = grads.shape[1:]
    turned = [len(shape) > 1 or one_axis for _ in shape]
    turned = [yes and n <= max_dim for yes, n in zip(turned, shape, strict=True)]
    theta, m, v = np.ones(shape), np.zeros(shape), np.zeros(shape)
    h: list[Any] = [np.zeros((n, n)) if yes else None for n, yes in zip(shape, turned, strict=True)]
    q, path = list(h), []
    for t, g in enumerate(grads):
        if t > 0:
            m = b1 * m + (1 - b1) * g
            g_turned, x = g, m / (1 - b1**t)
            for axis, one in enumerate(q):
                g_turned, x = (along(None if one is None else one.T, a, axis) for a in (g_turned, x))
            v = b2 * v + (1 - b2) * g_turned**2
            x = x / (np.sqrt(v / (1 - b2**t)) + eps)
            for axis, one in enumerate(q):
                x = along(one, x, axis)
            theta = theta - alpha * (x + decay * theta)
        for axis, old in enumerate(h):
            if old is None:
                continue
            rows = np.moveaxis(g, axis, 0).reshape(shape[axis], -1)
            h[axis] = b2 * old + (1 - b2) * rows @ rows.T
            if t == 0:
                q[axis] = np.linalg.eigh(h[axis])[1][:, ::-1]
            elif t % every == 0:
                order = np.argsort([-column @ h[axis] @ column for column in q[axis].T])
                q[axis] = np.linalg.qr(h[axis] @ q[axis][:, order])[0]
                v = np.take(v, order, axis)
        path.append(theta)
    return np.stack(path)


SOAP: dict[str, Any] = {"b1": 0.9, "b2": 0.8, "eps": 1e-3, "weight_decay": 0.05, "precondition_every": 3}


@pytest.mark.usefixtures("float64")
class TestSoap:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("ours", "numpy"),
        [
            ({}, {}),
            (
                {"max_dim": 3, "precondition_1d": True, "precondition_every": 1},
                {"max_dim": 3, "one_axis": True, "every": 1},
            ),
        ],
    )
    def test_equals_the_equation(self, ours: dict[str, Any], numpy: dict[str, Any]) -> None:
        """For shapes whose g g^T has distinct eigenvalues, so that eigenvectors are unique up to a sign."""
        grads = gradients(12, SHAPES | {"tensor": (2, 3, 3)})
        if ours:
            grads.pop("vector")  # its g g^T has the eigenvalue 0 twice
            grads["vector"] = gradients(12, {"vector": (2,)})["vector"]
        path, _ = run(fn.optim.soap(0.1, **(SOAP | ours)), grads)
        for name, g in grads.items():
            np.testing.assert_allclose(path[name], soap_in_numpy(g, **numpy), rtol=1e-10, err_msg=name)

    def test_without_bases_is_adamw_one_step_late(self) -> None:
        grads = gradients(6, {"matrix": (4, 3), "vector": (3,)})
        path, _ = run(fn.optim.soap(0.1, **SOAP | {"max_dim": 1}), grads)
        adamw = fn.optim.adamw(0.1, 0.9, 0.8, 1e-3, weight_decay=0.05)
        late, _ = run(adamw, jax.tree.map(lambda g: g[1:], grads))
        close(at(path, slice(1, None)), late, rtol=1e-12)
        close(at(path, 0), start_of(grads), rtol=0)

    @pytest.mark.slow
    def test_signs_and_order_of_eigenvectors_do_not_matter(self) -> None:
        grads = {"matrix": gradients(9)["matrix"]}
        optimizer = fn.optim.soap(0.1, **SOAP)
        _, state = run(optimizer, jax.tree.map(lambda g: g[:5], grads))
        left, right = state.q["matrix"]
        other = state._replace(
            q={"matrix": (left[:, ::-1] * jnp.array([[1, -1, -1, 1]]), right * jnp.array([[-1, 1, 1]]))},
            v={"matrix": state.v["matrix"][::-1]},
        )

        def three_more(state: Any) -> Any:
            params, steps = start_of(grads), []
            with jax.disable_jit():
                for i in (5, 6, 7):  # the bases change in the second one
                    g = {"matrix": jnp.asarray(grads["matrix"][i])}
                    updates, state = optimizer.update(g, state, params)
                    steps.append(updates)
            return steps

        first, second = three_more(state), three_more(other)
        close(first, second, rtol=1e-10)

    def test_bases_are_orthogonal_and_reach_the_eigenvectors(self) -> None:
        """With the same gradient at every step, L is constant and the bases make it diagonal."""
        g = gradients(1, {"matrix": (4, 4)})["matrix"]
        _, state = run(fn.optim.soap(0.1, **SOAP), {"matrix": np.repeat(g, 8, axis=0)})
        for h, q in zip(state.h["matrix"], state.q["matrix"], strict=True):
            np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-12)
            diagonal = q.T @ h @ q
            np.testing.assert_allclose(diagonal, np.diag(np.diag(diagonal)), atol=1e-12)
            assert np.all(np.diff(np.diag(diagonal)) < 0)


# ------------------------------------------------------------------------------------------------------------ both


def shampoo_here(**arguments: Any) -> Any:
    return fn.optim.shampoo(0.1, **arguments)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "make", [partial(shampoo_here, precondition_every=2), partial(fn.optim.soap, 0.1, **SOAP)]
)
def test_rotated_params_take_rotated_steps_complex_ones_too(make: Any) -> None:
    """theta -> P theta Q with unitary P and Q only changes the axes."""
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(2, 6, 3, 3))
    grads = parts[0] + 1j * parts[1]
    p, q = (np.linalg.qr(g)[0] for g in (rng.normal(size=(2, 3, 3)) + 1j * rng.normal(size=(2, 3, 3))))

    def updates_of(grads: Any) -> Any:
        optimizer = make()
        params = jnp.asarray(0 * grads[0])  # which do not decay
        with jax.disable_jit():
            state, updates = optimizer.init(params), []
            for g in grads:
                update, state = optimizer.update(jnp.asarray(g), state, params)
                updates.append(np.asarray(update))
        return np.array(updates)

    plain, rotated = updates_of(grads), updates_of(p @ grads @ q)
    np.testing.assert_allclose(rotated, p @ np.asarray(plain) @ q, rtol=1e-9, atol=1e-12)
    assert np.all(np.abs(plain[1:]) > 0)


@pytest.mark.parametrize("make", [shampoo_here, partial(shampoo_here, precondition_every=2), fn.optim.soap])
@pytest.mark.parametrize(
    "params", [{}, jnp.zeros((0, 3)), (jnp.ones(2), None, jnp.ones((2, 2), jnp.bfloat16))]
)
def test_odd_trees(make: Any, params: Any) -> None:
    optimizer = make()
    state = optimizer.init(params)
    with jax.disable_jit():
        updates, new_state = optimizer.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    chex.assert_tree_all_finite(updates)


def test_memory_is_what_the_docstrings_say() -> None:
    params, m, n = {"matrix": jnp.ones((7, 5)), "vector": jnp.ones(3), "number": jnp.ones(())}, 7, 5
    others = 3 + 1
    assert size(fn.optim.muon(0.1), params) == m * n + 2 * others
    assert size(fn.optim.shampoo(0.1), params) == m**2 + n**2 + 3**2 + 1
    assert (
        size(fn.optim.shampoo(0.1, 0.9, precondition_every=2), params)
        == 2 * (m**2 + n**2 + 3**2 + 1) + m * n + others
    )
    assert size(fn.optim.shampoo(0.1, max_dim=6), params) == m + n**2 + 3**2 + 1
    assert size(fn.optim.soap(0.1), params) == 2 * m * n + 2 * m**2 + 2 * n**2 + 2 * others
    assert size(fn.optim.soap(0.1, max_dim=6), params) == 2 * m * n + 2 * n**2 + 2 * others
    half = jax.eval_shape(fn.optim.shampoo(0.1).init, jnp.ones((2, 2), jnp.bfloat16))
    assert all(h.dtype == jnp.float32 for h in half.h)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.optim.shampoo(-1.0), "shampoo: learning_rate=-1.0, wanted"),
        (lambda: fn.optim.shampoo(0.1, momentum=1.0), r"shampoo: momentum=1.0, wanted in \[0, 1\)"),
        (lambda: fn.optim.shampoo(0.1, eps=-1.0), "shampoo: eps=-1.0, wanted at least 0"),
        (lambda: fn.optim.shampoo(0.1, decay=2.0), r"shampoo: decay=2.0, wanted in \[0, 1\)"),
        (
            lambda: fn.optim.shampoo(0.1, precondition_every=0),
            "shampoo: precondition_every=0, wanted at least 1",
        ),
        (lambda: fn.optim.shampoo(0.1, max_dim=0), "shampoo: max_dim=0, wanted at least 1"),
        (lambda: fn.optim.soap(-1.0), "soap: learning_rate=-1.0, wanted"),
        (lambda: fn.optim.soap(b1=1.0), r"soap: b1=1.0, wanted in \[0, 1\)"),
        (lambda: fn.optim.soap(b2=1.0), r"soap: b2=1.0, wanted in \[0, 1\)"),
        (lambda: fn.optim.soap(eps=-1.0), "soap: eps=-1.0, wanted at least 0"),
        (lambda: fn.optim.soap(weight_decay=-1.0), "soap: weight_decay=-1.0, wanted at least 0"),
        (lambda: fn.optim.soap(precondition_every=0), "soap: precondition_every=0, wanted at least 1"),
        (lambda: fn.optim.soap(max_dim=0), "soap: max_dim=0, wanted at least 1"),
        (lambda: fn.optim.soap().update(jnp.ones(2), fn.optim.soap().init(jnp.ones(2))), "needs the params"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
