"""Zero, tiny and large gradients: float16, squares that overflow or vanish, derivatives through an update at 0."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.optim import TWINS
from fnnet.optim.numerics import global_norm, norms, reciprocal_root, root, visible
from tests.arrays import at, close, each, normal
from tests.optim.methods import OTHERS

RATE = 0.05
# name: learning_rate -> optimizer. Other forms of a rule have another quotient.
RULES: dict[str, Callable[[Any], Any]] = {
    **{name: twin.ours for name, twin in TWINS.items()},
    "rmsprop, eps outside": partial(fn.optim.rmsprop, eps_in_sqrt=False),
    "rmsprop, all": partial(fn.optim.rmsprop, centered=True, momentum=0.5, nesterov=True, bias_correction=True),
    "adagrad from 0": partial(fn.optim.adagrad, initial_accumulator_value=0.0),
    "adagrad of the paper": partial(
        fn.optim.adagrad, initial_accumulator_value=0.0, eps_in_sqrt=False, eps=1e-10
    ),
    "adadelta with a small eps": partial(fn.optim.adadelta, eps=1e-9),
    "adam of Keras": partial(fn.optim.adam, eps_before_correction=True, eps=1e-7),
    "adam with nesterov": partial(fn.optim.adam, nesterov=True),
    "adamax of Keras": partial(fn.optim.adamax, eps_in_max=False, eps=1e-7),
    "amsgrad of PyTorch": partial(fn.optim.amsgrad, max_before_correction=True),
    "amsgrad of the paper": partial(
        fn.optim.amsgrad, bias_correction_mu=False, bias_correction_nu=False
    ),
    "nadam of PyTorch": partial(fn.optim.nadam, momentum_decay=0.004),
    "radam of PyTorch": partial(fn.optim.radam, eps_before_correction=True, b2=0.9),
    "adabelief of the paper": partial(fn.optim.adabelief, eps=1e-8, eps_root=0.0, nesterov=True),
    "yogi of the paper": partial(
        fn.optim.yogi, eps=1e-8, initial_m=0.0, initial_v=0.0, bias_correction=False
    ),
    "adan of the paper": partial(fn.optim.adan, eps_root=0.0, difference_times_b2=True, proximal=True),
    "lamb, no correction": partial(fn.optim.lamb, eps=1e-8, bias_correction=False),
    "lars of the paper": partial(fn.optim.lars, joint_norm=False, weight_decay=0.1),
    "adafactor": fn.optim.adafactor,
    "adafactor, factored": partial(fn.optim.adafactor, min_dim_size_to_factor=2),
    "adafactor of PyTorch": partial(
        fn.optim.adafactor, min_dim_size_to_factor=1, eps_in_square=False, eps=1e-5, last_axes=True
    ),
    "prodigy of the paper": partial(fn.optim.prodigy, next_d_in_eps=False, bias_correction=False),
    "muon of PyTorch": partial(fn.optim.muon, bias_correction=False, eps=1e-7, eps_in_max=True),
    "muon, aol": partial(fn.optim.muon, preconditioning="aol"),
    "muon, schatten": partial(fn.optim.muon, preconditioning="schatten"),
    "sophia": fn.optim.sophia,
    "sophia of the authors": partial(fn.optim.sophia, eps_added=True, hessian_first=True),
    "shampoo": fn.optim.shampoo,
    "soap": fn.optim.soap,
    "schedule_free_adamw of the paper": partial(fn.optim.schedule_free_adamw, bias_in_rate=True),
}  # fmt: skip
WITHOUT_RATE = {name: make for name, (make, _) in OTHERS.items() if "(" not in name and name not in RULES}
CLIPS = {
    "clip_by_norm": lambda c: fn.optim.clip_by_norm(c),
    "clip_by_global_norm": lambda c: fn.optim.clip_by_global_norm(c),
    "adaptive_grad_clip": lambda c: fn.optim.adaptive_grad_clip(c, eps=1.0),
}


def linear(slope: Any) -> dict[str, Any]:
    """What training passes to update, for a loss with the same slope by every param."""

    def predict_fn(params: Any) -> jax.Array:
        return jnp.stack([jnp.sum(p) for p in jax.tree.leaves(params)])

    def loss_fn(z: jax.Array) -> jax.Array:
        return jnp.sum(slope * z)

    return {"value_fn": lambda p: loss_fn(predict_fn(p)), "predict_fn": predict_fn, "loss_fn": loss_fn}


def make_with_defaults(name: str) -> Any:
    make = {**RULES, **WITHOUT_RATE}[name]
    if name in RULES:
        return make(RATE)
    return make(**OTHERS[name][1])


# float16: 5e-3 is the largest gradient whose share of a mean square is 0, 1e-7 the least that is not 0 itself.
SLOPES = np.array([0, 1e-7, 3e-5, 5e-3, -1.0], np.float16)
MOVES = {"yogi", "adabelief of the paper"}  # they have a mean gradient that is not 0 at first; see below


@pytest.mark.parametrize("name", [*RULES, *WITHOUT_RATE])
def test_float16_stays_finite(name: str) -> None:
    """Five steps each from gradients of 0, tiny ones and ordinary ones, in one program."""
    params = {"w": np.array([[1, -2], [0.5, 3]], np.float16), "b": np.zeros(2, np.float16)}
    optimizer = optax.with_extra_args_support(make_with_defaults(name))

    @jax.jit
    @jax.vmap
    def run(slope: jax.Array) -> Any:
        def step(now: Any, _: None) -> Any:
            params, state = now
            extra = linear(slope)
            value, grad = jax.value_and_grad(extra["value_fn"])(params)
            updates, state = optimizer.update(grad, state, params, value=value, grad=grad, **extra)
            return (optax.apply_updates(params, updates), state), updates

        return jax.lax.scan(step, (params, optimizer.init(params)), length=5)

    (ends, _), updates = run(SLOPES)
    for leaf in jax.tree.leaves((ends, updates)):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32)))
    decays = (
        "weight_decay" in inspect.signature(getattr(RULES.get(name), "func", RULES.get(name))).parameters
        if name in RULES
        else True
    )
    if name in RULES and not decays and not name.startswith("yogi"):
        assert not np.any(np.asarray(at(updates, 0)["w"])), "a gradient of 0 gives no step"


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(
    "dtype, size",
    [
        (np.float16, 300),
        (np.float16, 6e4),
        (np.float16, 1e-6),
        (np.float32, 2e19),
        (np.float32, 1e-30),
        (np.float32, 1e-38),
        ("bfloat16", 2e19),
    ],
)
def test_clips_where_squares_overflow_or_vanish(name: str, dtype: Any, size: float) -> None:
    """The formula in NumPy, in double precision; the other gradient and the params are ordinary."""
    g = {
        "w": (size * normal(3, 2)).clip(-6.5e4, 6.5e4 if dtype == np.float16 else np.inf)
        if dtype == np.float16
        else size * normal(3, 2),
        "b": np.ones(2),
    }
    g = each(lambda a: a.astype(jnp.dtype(dtype)), g)
    w = each(lambda a: np.ones_like(a), g)
    c = min(1.0, size / 2)
    exact = each(lambda a: a.astype(np.float64), g)
    sums = {name: np.sqrt(np.sum(a**2)) for name, a in exact.items()}
    if name == "clip_by_global_norm":
        sums = dict.fromkeys(sums, np.sqrt(sum(s**2 for s in sums.values())))
    limits = dict.fromkeys(sums, c)
    if name == "adaptive_grad_clip":
        sums = {"w": np.sqrt(np.sum(exact["w"] ** 2, axis=0)), "b": sums["b"]}
        limits = {"w": c * np.sqrt(3), "b": c * np.sqrt(2)}
    wanted = {key: a * np.minimum(1, limits[key] / sums[key]) for key, a in exact.items()}
    part = CLIPS[name](c)
    got = part.update(g, part.init(g), w)[0]
    rtol = {np.float16: 2e-3, np.float32: 1e-6}.get(dtype, 1e-2)
    tiny = float(jnp.finfo(dtype).tiny) * (0.5 if dtype == np.float16 else 2)
    if name != "adaptive_grad_clip" or c > 1e-6:  # below, its own least divisor decides
        close(each(lambda a: a.astype(np.float64), got), wanted, rtol=rtol, atol=tiny)


def test_norms_beside_numpy() -> None:
    """Of arrays and trees with ordinary, large, small, zero and infinite entries."""
    x = normal(4, 3)
    arrays = [
        x,
        1e25 * x,
        1e-25 * x,
        np.zeros((4, 3), np.float32),
        x * np.array([1e25, 1, 1e-25], np.float32),
    ]
    exact = [a.astype(np.float64) for a in arrays]
    for axes in ((0, 1), (0,), ()):
        found = jax.jit(lambda arrays, axes=axes: norms(arrays, [axes] * 5))(arrays)
        for norm, a in zip(found, exact, strict=True):
            np.testing.assert_allclose(norm.value, np.sqrt(np.sum(a**2, axis=axes)), rtol=1e-6)
            np.testing.assert_array_equal(norm.divisor, np.where(norm.value == 0, 1, norm.value))
    for a, b in zip(arrays, exact, strict=True):
        np.testing.assert_allclose(
            global_norm({"a": a, "b": a[:1]}).value, np.sqrt(np.sum(b**2) + np.sum(b[:1] ** 2)), rtol=1e-6
        )
    for bad in (np.inf, np.nan):
        assert not np.isfinite(global_norm([np.array([1, bad], np.float32)]).value)
    assert global_norm([]).value == 0


def test_slopes() -> None:
    """That of a root is 0 at 0, also the second; the values are those of jax.numpy."""
    x = np.array([0, 0.25, 4], np.float32)
    for f, plain, slopes in (
        (root, jnp.sqrt, [0, 1, 0.25]),
        (reciprocal_root, jax.lax.rsqrt, [0, -4, -1 / 16]),
    ):
        np.testing.assert_array_equal(f(x), plain(x))
        np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), slopes, rtol=1e-6)
        assert np.all(np.isfinite(jax.vmap(jax.grad(jax.grad(f)))(x)))


def test_visible() -> None:
    half, single = jnp.zeros(1, jnp.float16), jnp.zeros(1)
    assert visible(1e-8, single) == 1e-8
    assert visible(1e-8, half) == 2.0**-14
    assert visible(1e-8, half, under_root=True) == 2.0**-24
    assert visible(1e-3, half) == 1e-3
    assert visible(0.0, half) == 0.0
    assert jax.jit(lambda eps: visible(eps, half))(1e-8) == 2.0**-14


@pytest.mark.parametrize("name", CLIPS)
def test_clips_are_the_identity_at_0(name: str) -> None:
    """In value and derivative, and without NaN on the way there."""
    part, zeros, w = (
        CLIPS[name](0.5),
        {"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)},
        np.ones,
    )
    params = each(lambda a: w(a.shape, np.float32), zeros)

    def clipped(g: Any) -> Any:
        return part.update(g, part.init(g), params)[0]

    slopes = jax.jit(jax.grad(lambda g: sum(jnp.sum(a) for a in jax.tree.leaves(clipped(g)))))(zeros)
    close(slopes, params)
    with jax.debug_nans(True):
        close(clipped(each(jnp.asarray, zeros)), zeros)


@pytest.mark.parametrize("name", [*RULES])
def test_no_nan_on_the_way_of_a_zero_gradient(name: str) -> None:
    """An eager loop under jax_debug_nans, as the params start: a matrix of zeros, too."""
    if "muon" in name:
        pytest.skip("its loop would be compiled at each call; the norms are those of lamb")
    params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.zeros(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = optax.with_extra_args_support(RULES[name](RATE))
    with jax.debug_nans(True):
        state = optimizer.init(params)
        for _ in range(2):
            _, state = optimizer.update(zeros, state, params, value=0.0, grad=zeros, **linear(0.0))


X = normal(8, 3, dtype=np.float64) * np.array([1.0, 0.0, 2.0])  # the second feature is always 0
Y = normal(8, 2, seed=1, dtype=np.float64)
BATCH = X, Y
# Not differentiable by the rate: bases of equal eigenvalues are free to turn.
NO_SLOPE = {"soap"}


@pytest.mark.parametrize("name", [name for name in RULES if name not in NO_SLOPE])
def test_derivative_of_a_run_by_its_learning_rate(name: str) -> None:
    """Three steps; finite in float32, and the central difference in float64."""
    start = {"w": normal(3, 2, seed=2, dtype=np.float64), "b": np.zeros(2)}

    def loss(rate: Any, dtype: Any) -> jax.Array:
        optimizer = optax.with_extra_args_support(RULES[name](rate))
        x, y = (a.astype(dtype) for a in BATCH)
        params = each(lambda a: a.astype(dtype), start)

        def value_fn(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(x @ params["w"] + jnp.broadcast_to(params["b"], y.shape) - y))

        def step(now: Any, _: None) -> Any:
            params, state = now
            grads = jax.grad(value_fn)(params)
            updates, state = optimizer.update(grads, state, params, value_fn=value_fn)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=3)
        return value_fn(params)

    rate = 1.0 if "prodigy" in name else RATE
    assert np.isfinite(jax.jit(jax.grad(partial(loss, dtype=np.float32)))(np.float32(rate)))
    with jax.enable_x64(True):
        h = 1e-6 * rate
        f = jax.jit(jax.vmap(jax.value_and_grad(partial(loss, dtype=np.float64))))
        (low, _, high), (_, slope, _) = map(np.asarray, f(np.array([rate - h, rate, rate + h])))
        assert np.isfinite(slope)
        np.testing.assert_allclose(slope, (high - low) / (2 * h), rtol=2e-5, atol=1e-8)
