"""Params stacked by `repeat` take the steps that the same blocks take in a list: every optimizer, part and wrapper."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import fnnet as fn
from fnnet.optim import TWINS
from tests.arrays import at, cast, close, each, like, normal, params_for
from tests.optim.methods import OTHERS, PARTS

COPIES, STEPS = 3, 4


def block() -> fn.Layer:
    """Matrices, a kernel with three axes, and biases."""
    return fn.residual(fn.conv(4, 3), fn.tanh, fn.dense(4))


X = normal(2, 5, 4, dtype=np.float64)
Y = normal(2, 5, 4, seed=1, dtype=np.float64)
STACKED = fn.serial(fn.dense(4), fn.repeat(block(), COPIES))
LISTED = fn.serial(fn.dense(4), *[block() for _ in range(COPIES)])


def listed(stacked: Any) -> Any:
    """The params of LISTED from those of STACKED."""
    copies = {f"residual_{i}": at(stacked["repeat_0"]["copies"], i) for i in range(COPIES)}
    return {"dense_0": stacked["dense_0"], **copies}


def extra_of(net: fn.Layer, params: Any) -> dict[str, Any]:
    def loss(prediction: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(prediction - Y))

    def value_fn(params: Any) -> jax.Array:
        return loss(net(params, jnp.asarray(X)))

    value, grad = jax.value_and_grad(value_fn)(params)
    functions = {"value_fn": value_fn, "predict_fn": lambda params: net(params, jnp.asarray(X))}
    return {"value": value, "grad": grad, "loss_fn": loss, **functions}


def squared() -> Any:
    """In place of the random estimate of a Hessian's diagonal."""
    return optax.GradientTransformationExtraArgs(
        lambda params: (), lambda g, state, params=None, **extra: (jax.tree.map(jnp.square, g), state)
    )


LAMB = partial(fn.optim.lamb, 0.05)  # what wrappers wrap: a rule that reads norms
FORMS: dict[str, Callable[[], Any]] = {
    **{name: partial(twin.ours, learning_rate=0.05) for name, twin in TWINS.items()},
    **{name: partial(make, **keywords) for name, (make, keywords) in OTHERS.items()},
    "adafactor, factored": partial(fn.optim.adafactor, 0.05, min_dim_size_to_factor=2, momentum=0.5),
    "adafactor of PyTorch": partial(
        fn.optim.adafactor, 0.05, 2, last_axes=True, eps_in_square=False, eps=1e-3
    ),
    "lars of the paper": partial(fn.optim.lars, 0.05, 0.1, joint_norm=False, trust_coefficient=0.1),
    "lamb with bounds": partial(
        fn.optim.lamb, 0.05, weight_decay=0.1, phi_min=0.1, phi_max=1.0, decay_in_ratio=False
    ),
    "muon, adaptive": partial(
        fn.optim.muon, 0.05, adaptive=True, preconditioning="spectral", consistent_rms=0.2
    ),
    "muon, kernels": partial(
        fn.optim.muon,
        0.05,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(
            lambda p, n: MuonDimensionNumbers((0, 1), -1) if p.ndim - n == 3 else None,
            params,
            fn.copy_axes(params),
        ),
    ),
    "shampoo, rarely": partial(
        fn.optim.shampoo, 0.05, 0.9, decay=0.9, precondition_every=2, max_dim=3, eps=1e-3
    ),
    "soap, short axes": partial(fn.optim.soap, 0.05, eps=1e-2, precondition_every=2, max_dim=3),
    "sophia": lambda: fn.optim.sophia(0.05, hessian_diagonal_fn=squared()),
    "clip": lambda: optax.chain(fn.optim.clip(0.01), fn.optim.sgd(0.5)),
    "clip_by_norm": lambda: optax.chain(fn.optim.clip_by_norm(0.02), fn.optim.sgd(0.5)),
    "clip_by_global_norm": lambda: optax.chain(fn.optim.clip_by_global_norm(0.05), fn.optim.sgd(0.5)),
    "adaptive_grad_clip": lambda: optax.chain(fn.optim.adaptive_grad_clip(0.02), fn.optim.sgd(0.5)),
    "adaptive_grad_clip, last axis": lambda: optax.chain(
        fn.optim.adaptive_grad_clip(0.02, axis=-1), fn.optim.sgd(0.5)
    ),
    "add_decayed_weights": lambda: optax.chain(fn.optim.add_decayed_weights(0.1), LAMB()),
    "add_decayed_weights, matrices": lambda: optax.chain(
        fn.optim.add_decayed_weights(
            0.1, lambda params: jax.tree.map(lambda p, n: p.ndim - n > 1, params, fn.copy_axes(params))
        ),
        LAMB(),
    ),
    "proximal_l1": lambda: optax.chain(LAMB(), fn.optim.proximal_l1(0.1, 0.05)),
    "accumulate": lambda: fn.optim.accumulate(LAMB(), 2),
    "reduce_on_plateau": lambda: optax.chain(LAMB(), fn.optim.reduce_on_plateau(0.5, 1)),
    "ema_params": lambda: optax.chain(LAMB(), fn.optim.ema_params()),
    "mean_params": lambda: optax.chain(LAMB(), fn.optim.mean_params()),
    "lookahead": lambda: fn.optim.lookahead(LAMB(), 2, 0.5),
    "sam": lambda: fn.optim.sam(LAMB(), adaptive=True),
    "schedule_free": lambda: fn.optim.schedule_free(fn.optim.lamb(0.05, b1=0.0), 0.05),
}  # fmt: skip

# Random numbers are drawn for each array, or for the params as one vector in the order of their names: the draws of a
# list are others. They do not depend on the shape of an array otherwise.
RANDOM = {
    *("random_search", "simulated_annealing", "one_plus_one_es", "cma_es", "openai_es", "genetic_algorithm"),
    *("differential_evolution", "add_noise", "hutchinson_estimator_diag_hessian"),
}
NO_OPTIMIZERS = {
    *(name for name in PARTS if "schedule" in name and name != "schedule_free"),
    *("exponential_decay", "averaged_params", "schedule_free_eval_params", "backtracking", "wolfe"),
    *("exponential_average", "exponential_average_init", "exponential_average_update"),
}

# These take all params as one vector, whose order is all that changes.
ONE_VECTOR = set(OTHERS) - {"shampoo", "soap", "sophia"}


def test_every_optimizer_and_part_is_compared() -> None:
    assert {name.split(",")[0] for name in FORMS} >= set(TWINS) | PARTS - RANDOM - NO_OPTIMIZERS
    assert {name for name in OTHERS if name not in FORMS} <= RANDOM


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ONE_VECTOR else [])
        for name in FORMS
        if name.split("(")[0] not in RANDOM
    ],
)
def test_copies_take_the_steps_of_a_list(name: str) -> None:
    """A network with both kinds of params, four steps from the same params."""
    start = params_for(STACKED, X, np.float64)

    def ends(net: fn.Layer, params: Any) -> Any:
        optimizer = optax.with_extra_args_support(FORMS[name]())

        def step(now: Any, _: None) -> Any:
            params, state = now
            extra = extra_of(net, params)
            updates, state = optimizer.update(extra["grad"], state, params, **extra)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (params, optimizer.init(params)), length=STEPS)[1]

    stacked, by_one = jax.jit(lambda a, b: (ends(STACKED, a), ends(LISTED, b)))(start, listed(start))
    copies = each(lambda a: np.moveaxis(a, 1, 0), stacked["repeat_0"]["copies"])  # behind the steps
    close(listed({**stacked, "repeat_0": {"copies": copies}}), by_one, rtol=1e-6, atol=1e-9)
    with pytest.raises(AssertionError):  # they did move
        close(at(stacked, -1), start, rtol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "name", ["muon", "lamb", "adafactor, factored", "shampoo", "soap", "adaptive_grad_clip"]
)
def test_copies_of_copies_and_experts(name: str) -> None:
    """A repeat inside another, and a mixture of experts: two axes of copies, or one."""
    shapes = {"w": (4, 3), "k": (2, 3, 4), "b": (3,)}
    one = {key: np.zeros(shape) for key, shape in shapes.items()}
    tree = {
        "repeat_0": {"copies": {"copies": {key: np.zeros((2, 3, *a.shape)) for key, a in one.items()}}},
        "mixture_of_experts_0": {"experts": {key: np.zeros((2, *a.shape)) for key, a in one.items()}},
    }
    params, grads = like(tree, 1, dtype=np.float64), like(tree, 2, dtype=np.float64)

    def in_list(tree: Any) -> Any:
        nested, experts = tree["repeat_0"]["copies"]["copies"], tree["mixture_of_experts_0"]["experts"]
        return [at(at(nested, i), j) for i in range(2) for j in range(3)] + [at(experts, i) for i in range(2)]

    def updates_of(params: Any, grads: Any) -> Any:
        optimizer = optax.with_extra_args_support(FORMS[name]())
        state = optimizer.init(params)
        for _ in range(2):  # the first of soap is 0
            updates, state = optimizer.update(grads, state, params)
        return updates

    both = jax.jit(lambda a, b: (updates_of(*a), updates_of(*b)))
    stacked, by_one = both((params, grads), (in_list(params), in_list(grads)))
    close(in_list(stacked), by_one, rtol=1e-9, atol=1e-12)


def test_shapes_of_the_states() -> None:
    """Preconditioners and means of rows and columns are those of each copy, stacked like the params."""
    params = {"copies": {"w": jnp.zeros((5, 4, 3)), "b": jnp.zeros((5, 3))}}
    shapes = jax.tree.map(
        jnp.shape, fn.optim.shampoo(0.1).init(params).h, is_leaf=lambda a: hasattr(a, "shape")
    )
    assert shapes == {"copies": {"w": ((5, 4, 4), (5, 3, 3)), "b": ((5, 3, 3),)}}
    state = fn.optim.adafactor(min_dim_size_to_factor=1).init(params)
    assert jax.tree.map(jnp.shape, (state.r, state.c)) == (
        {"copies": {"w": (5, 3), "b": None}},
        {"copies": {"w": (5, 4), "b": None}},
    )
    assert fn.optim.muon(0.1).init(params).v["copies"]["w"] is None
    assert fn.optim.muon(0.1).init(params).v["copies"]["b"].shape == (5, 3)


@pytest.mark.usefixtures("float64")
def test_a_gpt_with_muon() -> None:
    """Each matrix of each block is orthogonalized by itself; embeddings and the last layer take Adam's step."""
    heads = fn.transformer_decoder_block(2, cross=False)
    gpt = fn.serial(fn.embed(7, 4), fn.learned_position(6), fn.repeat(heads, 3), fn.layer_norm(), fn.dense(7))
    tokens = jax.ShapeDtypeStruct((2, 6), jnp.int32)

    def hidden_matrices(params: Any) -> Any:
        dims = jax.tree.map(
            lambda p, n: MuonDimensionNumbers() if p.ndim - n == 2 else None, params, fn.copy_axes(params)
        )
        return dims | {"embed_0": None, "learned_position_0": None, "dense_0": None}

    optimizer = fn.optim.muon(
        1.0, (15 / 8, -10 / 8, 3 / 8), 30, nesterov=False, muon_weight_dimension_numbers=hidden_matrices
    )
    params = cast(like(jax.eval_shape(gpt.init, jax.random.key(0), tokens)[0]), np.float64)
    grads = like(params, 1, dtype=np.float64)
    updates, _ = jax.jit(lambda p, g: optimizer.update(g, optimizer.init(p), p))(params, grads)
    blocks = jax.tree.leaves(
        jax.tree.map(lambda u, g: (u, g), updates["repeat_0"], grads["repeat_0"]),
        is_leaf=lambda a: isinstance(a, tuple),
    )
    orthogonal = 0
    for u, g in blocks:
        if u.ndim == 3:  # converged: U V^T of each copy's gradient
            for one, gradient in zip(np.asarray(u), g, strict=True):
                left, _, right = np.linalg.svd(gradient, full_matrices=False)
                np.testing.assert_allclose(
                    -one, left @ right * np.sqrt(max(1, one.shape[1] / one.shape[0])), rtol=1e-6, atol=1e-8
                )
                orthogonal += 1
        else:
            np.testing.assert_allclose(u, -np.sign(g), rtol=1e-4)
    assert orthogonal == 3 * 6  # q, k, v, o and two of the hidden layer
    for name in ("embed_0", "learned_position_0", "dense_0"):
        close(updates[name], each(lambda g: -np.sign(g), grads[name]), rtol=1e-4)
