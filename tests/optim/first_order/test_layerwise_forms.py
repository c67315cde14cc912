"""LARS, LAMB, Adafactor, Sophia, Prodigy and schedule-free: each form of a rule against its formula in NumPy."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import fnnet as fn
from tests.arrays import at, equal, normal

STEPS = 6
rng = np.random.default_rng(0)
W = rng.normal(size=(3, 4))
GRADS = rng.normal(size=(STEPS, 3, 4))


def path(optimizer: Any, theta: Any, grads: Any, **extra: Any) -> np.ndarray:
    """Params after each step; gradients do not depend on the params.

    Without jit: all forms use nearly the same operations, each compiled once.
    """
    theta, thetas = jnp.asarray(theta), []
    state = optimizer.init(theta)
    for g in grads:
        updates, state = optimizer.update(jnp.asarray(g), state, theta, **extra)
        theta = optax.apply_updates(theta, updates)
        thetas.append(np.asarray(theta))
    return np.array(thetas)


def agree(ours: Any, wanted: Any, rtol: float = 1e-11) -> None:
    np.testing.assert_allclose(ours, np.array(wanted), rtol=rtol, atol=rtol / 10)


def norm(x: np.ndarray) -> float:
    return float(np.sqrt(np.sum(x * x)))


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x * x)))


# Other arguments beside optax.


def tree(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    shapes = {"b": (3,), "k": (2, 5, 3), "w": (4, 3)}
    return {name: jnp.asarray(normal(*shape, seed=1), dtype) for name, shape in shapes.items()}


def loss(params: Any) -> jax.Array:
    return sum((jnp.sum(jnp.cos(3 * p) + p**4) for p in jax.tree.leaves(params)), jnp.zeros([]))


FACTORS = np.cos(np.arange(12, dtype=np.float32)) + np.float32(0.5)
ONLY_W = {"b": False, "k": False, "w": True}
MATRICES: Callable[[Any], Any] = partial(jax.tree.map, lambda p: p.ndim > 1)
WARMUP = optax.linear_schedule(0.0, 0.1, 4)
contrib = optax.contrib


def both(name: str, module: Any = optax, **arguments: Any) -> tuple[Any, Any]:
    form = {"b2_in_float32": True} if name == "adafactor" else {}
    return getattr(fn.optim, name)(**arguments, **form), getattr(module, name)(**arguments)


def variants() -> dict[str, tuple[Any, Any]]:
    adam = optax.adam(0.1, b1=0.0)
    key, optax_estimator = jax.random.PRNGKey(3), contrib.hutchinson_estimator_diag_hessian
    return {
        "lars": both(
            "lars", learning_rate=WARMUP, weight_decay=WARMUP, weight_decay_mask=ONLY_W, eps=0.1,
            trust_ratio_mask=MATRICES, nesterov=True, trust_coefficient=0.5,
        ),
        "lamb": both("lamb", learning_rate=WARMUP, weight_decay=0.1, mask=MATRICES, eps_root=1e-3),
        "adafactor, factored": both(
            "adafactor", learning_rate=WARMUP, min_dim_size_to_factor=2, weight_decay_rate=WARMUP,
            weight_decay_mask=ONLY_W, momentum=0.9, dtype_momentum=jnp.bfloat16, decay_offset=-3,
        ),
        "adafactor, bare": both(
            "adafactor", factored=False, clipping_threshold=None, multiply_by_parameter_scale=False, eps=1e-3
        ),
        "prodigy": both("prodigy", contrib, learning_rate=1.0, estim_lr0=1e-3),
        "prodigy, all": both(
            "prodigy", contrib, learning_rate=WARMUP, betas=(0.8, 0.9), beta3=0.7, weight_decay=0.1,
            estim_lr_coef=2.0, safeguard_warmup=True, estim_lr0=0.01,
        ),
        "sophia": both("sophia", contrib, learning_rate=WARMUP, update_interval=3),
        "sophia, all": (
            fn.optim.sophia(
                0.1, eps=0.1, clip_threshold=None, update_interval=2, mu_dtype=jnp.bfloat16, weight_decay=0.1,
                weight_decay_mask=MATRICES, gamma=1.0, hessian_diagonal_fn=optax_estimator(key),
            ),
            contrib.sophia(
                0.1, eps=0.1, clip_threshold=None, update_interval=2, mu_dtype=jnp.bfloat16, weight_decay=0.1,
                weight_decay_mask=MATRICES, gamma=1.0, hessian_diagonal_fn=optax_estimator(key),
            ),
        ),
        "hutchinson": (
            optax.chain(fn.optim.hutchinson_estimator_diag_hessian(key), optax.scale(-1e-3)),
            optax.chain(optax_estimator(key), optax.scale(-1e-3)),
        ),
        "schedule_free": (
            fn.optim.schedule_free(adam, WARMUP, weight_lr_power=1.0),
            contrib.schedule_free(adam, WARMUP, weight_lr_power=1.0),
        ),
        "schedule_free_sgd": both(
            "schedule_free_sgd", contrib, learning_rate=0.1, warmup_steps=4, b1=0.5, weight_decay=0.1,
            weight_lr_power=0.0,
        ),
        "schedule_free_adamw": both(
            "schedule_free_adamw", contrib, learning_rate=0.1, warmup_steps=4, weight_decay=0.1, b2=0.9, eps=1e-3
        ),
    }  # fmt: skip


VARIANTS = variants()


@pytest.mark.slow
@pytest.mark.optimized
def test_other_arguments_are_those_of_optax() -> None:
    """Bit for bit; each side of all variants is one program."""

    def run(optimizer: Any, params: Any) -> Any:
        optimizer = optax.with_extra_args_support(optimizer)

        def step(carry: Any, factor: jax.Array) -> Any:
            now, state = carry
            grads = jax.tree.map(lambda p: factor * p, params)
            updates, state = optimizer.update(grads, state, now, obj_fn=loss)
            now = optax.apply_updates(now, updates)
            return (now, state), now

        return jax.lax.scan(step, (params, optimizer.init(params)), FACTORS)

    def side(i: int) -> Any:
        return jax.jit(lambda params: {name: run(pair[i], params) for name, pair in VARIANTS.items()})(tree())

    ours, theirs = side(0), side(1)
    for name in VARIANTS:
        ((_, state), path), ((_, optax_state), optax_path) = ours[name], theirs[name]
        for part in path:
            np.testing.assert_array_equal(path[part], optax_path[part], err_msg=f"{name} {part}")
            assert np.isfinite(path[part]).all(), name
            assert np.any(path[part][-1] != path[part][0]), name
        if name.startswith("schedule_free"):
            end = at(path, -1)
            x = fn.optim.schedule_free_eval_params(state, end)
            equal(x, contrib.schedule_free_eval_params(optax_state, end))


CONTRIB = (
    "hutchinson_estimator_diag_hessian", "prodigy", "schedule_free", "schedule_free_adamw",
    "schedule_free_eval_params", "schedule_free_sgd", "sophia",
)  # fmt: skip


@pytest.mark.parametrize("name", CONTRIB)
def test_names_and_defaults_are_those_of_optax_contrib(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (fn.optim, contrib))
    assert list(ours)[: len(theirs)] == list(theirs)
    assert all(p.kind is p.KEYWORD_ONLY for p in list(ours.values())[len(theirs) :])
    for p in theirs.values():
        assert p.name == "hessian_diagonal_fn" or ours[p.name].default == p.default


# Forms.


def numpy_lars(
    alphas: Any, lam: float, eta: float, mu: float, joint: bool, rate_in_velocity: bool, eps: float = 0.0
) -> Any:
    theta, v = W.copy(), np.zeros_like(W)
    for alpha, g in zip(alphas, GRADS, strict=True):
        size = norm(g + lam * theta) if joint else norm(g) + lam * norm(theta)
        x = eta * norm(theta) / (size + eps) * (g + lam * theta)
        v = mu * v + (alpha * x if rate_in_velocity else x)
        theta = theta - (v if rate_in_velocity else alpha * v)
        yield theta


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("joint", "inside"), [(True, True), (False, True), (True, False)])
def test_lars(joint: bool, inside: bool) -> None:
    schedule = optax.linear_schedule(0.5, 0.125, 4)  # float32 holds all its values
    alphas = [0.5 - 0.375 * min(t, 4) / 4 for t in range(STEPS)]
    optimizer = fn.optim.lars(
        schedule,
        0.3,
        trust_coefficient=0.2,
        momentum=0.8,
        eps=0.01,
        joint_norm=joint,
        rate_in_velocity=inside,
    )
    agree(path(optimizer, W, GRADS), list(numpy_lars(alphas, 0.3, 0.2, 0.8, joint, inside, 0.01)))


def test_lars_decays_in_the_paper_s_norm_only_where_the_mask_is() -> None:
    params, g = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([3.0, 4.0])}, jnp.array([0.6, 0.8])
    optimizer = fn.optim.lars(
        1.0, 0.2, {"a": True, "b": False}, trust_coefficient=1.0, trust_ratio_mask=None, joint_norm=False
    )
    updates = optimizer.update({"a": g, "b": -g}, optimizer.init(params), params)[0]
    # a: 5 / (1 + 0.2 * 5) (g + 0.2 theta); b: 5 / 1 (-g). optax's norms would be |g + 0.2 theta| = 2, and 1.
    np.testing.assert_allclose(updates["a"], -2.5 * (g + 0.2 * params["a"]), rtol=1e-6)
    np.testing.assert_allclose(updates["b"], 5 * g, rtol=1e-6)


def numpy_lamb(
    alpha: float, lam: float, correct: bool = True, inside: bool = True, low: float = 0.0, high: float = np.inf,
    adapt: bool = True, first: bool = False,
) -> Any:  # fmt: skip
    theta, m, v = W.copy(), 0.0, 0.0
    for t, g in enumerate(GRADS, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if correct else (m, v)
        u = m_hat / (np.sqrt(v_hat) + 1e-6) + (lam * theta if inside and not first else 0)
        theta = theta * (1 - alpha * lam) if first else theta
        ratio = min(max(norm(theta), low), high) / norm(u) if adapt else 1
        theta = theta - alpha * (ratio * u + (0 if inside or first else lam * theta))
        yield theta


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("ours", "numpys"),
    [
        ({}, {}),
        ({"bias_correction": False}, {"correct": False}),
        ({"decay_in_ratio": False}, {"inside": False}),
        ({"decay_first": True}, {"first": True}),
        ({"phi_max": 1.5}, {"high": 1.5}),
        ({"phi_min": 7.0}, {"low": 7.0}),
        ({"trust_ratio_mask": False}, {"adapt": False}),
        ({"trust_ratio_mask": lambda p: p.ndim > 2}, {"adapt": False}),
    ],
)
def test_lamb(ours: Any, numpys: Any) -> None:
    agree(path(fn.optim.lamb(0.1, weight_decay=0.2, **ours), W, GRADS), list(numpy_lamb(0.1, 0.2, **numpys)))


def numpy_adafactor(
    theta: np.ndarray, grads: np.ndarray, rate: float, relative: bool, in_square: bool, eps: float,
    decay: float = 0.0, mu: float | None = None, factor: bool = True, scale: float = 1e-3,
) -> Any:  # fmt: skip
    """With r and c of the last two axes."""
    factor = factor and theta.ndim > 1
    r = c = v = m = 0.0
    for t, g in enumerate(grads, 1):
        b2 = 1 - t**-0.8
        g_sq = g * g + (eps if in_square else 0)
        if factor:
            r = b2 * r + (1 - b2) * g_sq.mean(axis=-1, keepdims=True)
            c = b2 * c + (1 - b2) * g_sq.mean(axis=-2, keepdims=True)
            mean = np.asarray(r).mean(axis=-2, keepdims=True)
            v_hat = r * c / (mean if in_square else np.maximum(mean, eps))
        else:
            v_hat = v = b2 * v + (1 - b2) * g_sq
        u = g / (np.sqrt(v_hat) if in_square else np.maximum(np.sqrt(v_hat), eps))
        u = u / max(1, rms(u))
        alpha = min(rate, t**-0.5) if relative else rate
        x = alpha * max(scale, rms(theta)) * u
        m = x if mu is None else mu * m + (1 - mu) * x
        theta = theta - m - decay * theta
        yield theta


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(5, 2, 3), (4,)])
def test_adafactor_of_the_paper_and_of_pytorch(shape: tuple[int, ...]) -> None:
    theta, grads = rng.normal(size=shape), rng.normal(size=(STEPS, *shape))
    grads[2] *= 1e-4
    small = partial(fn.optim.adafactor, min_dim_size_to_factor=1, last_axes=True)
    agree(
        path(small(relative_step=True), theta, grads),
        list(numpy_adafactor(theta, grads, 0.01, True, True, 1e-30)),
    )
    pytorch = small(
        0.6, relative_step=True, eps_in_square=False, eps=0.05, weight_decay_rate=0.1, decay_times_rate=True
    )
    agree(
        path(pytorch, theta, grads),
        list(numpy_adafactor(theta, grads, 0.6, True, False, 0.05, decay=0.1 * 0.6)),
    )
    optax_s = small(0.6, weight_decay_rate=0.1, momentum=0.7, dtype_momentum=jnp.float64, min_scale=3.0)
    agree(
        path(optax_s, theta, grads),
        list(numpy_adafactor(theta, grads, 0.6, False, True, 1e-30, decay=0.1, mu=0.7, scale=3.0)),
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("step", [0, 10**3, 10**7])
def test_adafactor_s_share_of_the_new_gradient_does_not_cancel(step: int) -> None:
    """v <- b2 v + t^-0.8 g^2 from v = 0; in float32 1 - b2 loses digits, as in optax."""
    theta = jnp.ones(2)
    shares = []
    for in_float32 in (False, True):
        optimizer = fn.optim.adafactor(0.1, b2_in_float32=in_float32)
        state = optimizer.init(theta)._replace(step=jnp.asarray(step, jnp.int32))
        shares.append(float(optimizer.update(theta, state, theta)[1].v[0]))
    np.testing.assert_allclose(shares[0], (step + 1) ** -0.8, rtol=1e-14)
    assert step < 10**7 or abs(shares[1] / shares[0] - 1) > 3e-3


def test_adafactor_with_an_offset_starts_again() -> None:
    """Up to the offset t is 1: v is the last g^2, and never NaN. After it, the steps are those of a new state."""
    theta, grads = jnp.array([1.0, -2.0]), normal(6, 2)
    late, new = fn.optim.adafactor(0.1, decay_offset=2), fn.optim.adafactor(0.1)
    states = late.init(theta), new.init(theta)
    for i, g in enumerate(map(jnp.asarray, grads)):
        updates, state = late.update(g, states[0], theta)
        states = state, states[1]
        assert np.all(np.isfinite(updates))
        if i < 2:
            np.testing.assert_allclose(state.v, g**2, rtol=1e-6)
        else:
            wanted, state = new.update(g, states[1], theta)
            states = states[0], state
            equal(updates, wanted)


def test_adafactor_keeps_rows_and_columns_of_long_axes_only() -> None:
    params = {
        "w": jnp.ones((128, 200)),
        "k": jnp.ones((3, 300, 128)),
        "thin": jnp.ones((127, 500)),
        "b": jnp.ones(900),
    }
    state = fn.optim.adafactor().init(params)
    shapes = jax.tree.map(jnp.shape, (state.r, state.c, state.v))
    nothing = {"thin": None, "b": None}
    assert shapes[0] == {"w": (128,), "k": (3, 128)} | nothing  # the longest axis is gone
    assert shapes[1] == {"w": (200,), "k": (3, 300)} | nothing
    assert shapes[2] == {"w": None, "k": None, "thin": (127, 500), "b": (900,)}
    last = fn.optim.adafactor(last_axes=True).init(params)
    assert (last.r["k"].shape, last.c["k"].shape) == ((3, 300), (3, 128))


def numpy_prodigy(
    gammas: Any, grads: Any, correct: bool = True, growth: float = np.inf, next_d: bool = True, eps: float = 1e-8,
    safeguard: bool = False,
) -> Any:  # fmt: skip
    """The loop of the authors' package, which keeps d_max, and whose d leaves d_0 in one step."""
    theta, d_0, b3 = W.copy(), 0.01, np.sqrt(0.999)
    d = d_max = d_0
    m = v = s = np.zeros_like(W)
    r = 0.0
    for t, (alpha, g) in enumerate(zip(gammas, grads, strict=True), 1):
        rate = d * alpha * (np.sqrt(1 - 0.999**t) / (1 - 0.9**t) if correct else 1)
        m, v = 0.9 * m + 0.1 * d * g, 0.999 * v + 0.001 * (d * g) ** 2
        r = b3 * r + d / d_0 * rate * np.sum(g * (W - theta))
        s = b3 * s + d / d_0 * (d if safeguard else rate) * g
        old = d
        if np.sum(np.abs(s)) > 0:
            d_hat = r / np.sum(np.abs(s))
            d = max(d, d_hat) if d == d_0 else d
            d_max = max(d_max, d_hat)
            d = min(d_max, d * growth)
        theta = theta - rate * m / (np.sqrt(v) + (d if next_d else old) * eps)
        yield theta, d


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("ours", "numpys"),
    [
        ({}, {}),
        ({"bias_correction": False, "eps": 0.1}, {"correct": False, "eps": 0.1}),  # the package's
        (
            {"bias_correction": False, "next_d_in_eps": False, "eps": 0.1},
            {"correct": False, "next_d": False, "eps": 0.1},
        ),
        ({"growth_rate": 1.5}, {"growth": 1.5}),
        ({"safeguard_warmup": True}, {"safeguard": True}),
    ],
)
def test_prodigy(ours: Any, numpys: Any) -> None:
    steps = 40
    grads = np.sign(W) * (1 + 0.3 * np.cos(np.arange(steps))[:, None, None] * np.ones((3, 4)))
    schedule = optax.linear_schedule(0.0, 1.0, 4)
    alphas = [min(t / 4, 1) for t in range(steps)]  # 0 at first, where optax's d is NaN
    wanted = list(numpy_prodigy(alphas, grads, **numpys))
    agree(path(fn.optim.prodigy(schedule, estim_lr0=0.01, **ours), W, grads), [theta for theta, _ in wanted])
    estimates = np.array([d for _, d in wanted])
    assert estimates[-1] > 2 * estimates[0]  # the estimate took part
    if not ours or "growth_rate" in ours:
        assert (np.max(estimates[1:] / estimates[:-1]) < 1.5001) == ("growth_rate" in ours)


def test_prodigy_stays_finite_where_optax_does_not() -> None:
    params, g = np.ones(3, np.float32), np.array([1.0, -2.0, 0.5], np.float32)
    for rate, first in ((optax.linear_schedule(0.0, 1.0, 2), g), (1.0, 0 * g)):
        for make, finite in ((fn.optim.prodigy, True), (contrib.prodigy, False)):
            end = path(make(rate, estim_lr0=0.1), params, np.stack([first, g, g]))[-1]
            assert bool(np.isfinite(end).all()) == finite
            assert not finite or bool(np.all(end != params))


CURVATURES = np.array([4.0, 0.5, -3.0, 0.02])


def quadratic(p: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES, p.dtype) * p**2)


def numpy_sophia(
    first: bool, correct: bool, added: bool, every: int, rho: float, gamma: float, eps: float
) -> Any:
    theta, m, h = np.array([1.0, -2.0, 0.5, 3.0]), 0.0, np.zeros(4)
    for t, g in enumerate(GRADS[:, 0], 1):
        m = 0.9 * m + 0.1 * g
        new = 0.8 * h + 0.2 * CURVATURES if (t - 1) % every == 0 else h
        used = new if first else h
        denominator = np.maximum(gamma * used, 0) + eps if added else np.maximum(gamma * used, eps)
        u = np.clip((m / (1 - 0.9**t) if correct else m) / denominator, -rho, rho)
        theta, h = theta - 0.1 * (u + 0.3 * theta), new
        yield theta


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("first", "correct", "added"),
    [
        (False, True, False),
        (True, True, False),
        (False, False, False),
        (False, True, True),
        (True, False, True),
    ],
)
def test_sophia(first: bool, correct: bool, added: bool) -> None:
    """Hutchinson's estimate is exact where the Hessian is diagonal. (True, False, False) would be the paper's."""
    optimizer = fn.optim.sophia(
        0.1, 0.9, 0.8, 0.05, weight_decay=0.3, gamma=0.7, clip_threshold=2.0, update_interval=2,
        hessian_first=first, bias_correction=correct, eps_added=added,
    )  # fmt: skip
    with jax.disable_jit():  # whether an estimate is due
        got = path(optimizer, [1.0, -2.0, 0.5, 3.0], GRADS[:, 0], value_fn=quadratic)
    agree(got, list(numpy_sophia(first, correct, added, 2, 2.0, 0.7, 0.05)))


def test_sophia_counts_what_it_uses_and_prints(capfd: pytest.CaptureFixture[str]) -> None:
    optimizer = fn.optim.sophia(0.1, update_interval=4, verbose=True, print_win_rate_every_n_steps=3)

    def run(theta: jax.Array) -> Any:
        def step(carry: Any, _: None) -> Any:
            updates, state = optimizer.update(
                jax.grad(quadratic)(carry[0]), carry[1], carry[0], value_fn=quadratic
            )
            return (carry[0] + updates, state), None

        return jax.lax.scan(step, (theta, optimizer.init(theta)), length=10)[0][1]

    state = jax.jit(run)(jnp.array([0.0, 1.0, 2.0, 3.0]))
    jax.effects_barrier()
    assert tuple(map(int, state.evaluations)) == (10, 10, 3)  # estimates in steps 1, 5, 9
    lines = capfd.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["sophia: step 3", "sophia: step 6", "sophia: step 9"]
    assert lines[0].endswith("0.250 of the coordinates not clipped")  # the one whose gradient is 0


@pytest.mark.parametrize("normal", [False, True])
def test_hutchinson_has_the_right_mean(normal: bool) -> None:
    a = jnp.array([[2.0, 1.0, 0.0], [1.0, -1.0, 0.5], [0.0, 0.5, 3.0]])

    def f(p: Any) -> jax.Array:
        theta = jnp.stack([p["x"], *p["y"]])
        return 0.5 * theta @ a @ theta

    params = {"x": jnp.array(1.0), "y": jnp.array([2.0, 3.0])}

    @jax.jit
    @jax.vmap
    def estimates(key: jax.Array) -> jax.Array:
        estimator = fn.optim.hutchinson_estimator_diag_hessian(key, normal=normal)
        diag = estimator.update(params, estimator.init(params), params, value_fn=f)[0]
        return jnp.concatenate([diag["x"][None], diag["y"]])

    got = estimates(jax.random.split(jax.random.key(0), 20_000))
    off = np.sum(np.square(a - np.diag(np.diag(a))), axis=1)
    variance = off + (2 * np.diag(a) ** 2 if normal else 0)
    np.testing.assert_allclose(got.mean(axis=0), np.diag(a), atol=4 * float(np.sqrt(variance.max() / 20_000)))
    np.testing.assert_allclose(got.var(axis=0), variance, rtol=0.1)


def test_sophia_with_odd_trees() -> None:
    optimizer = fn.optim.sophia(0.1)
    for params in ({}, jnp.zeros((0, 3)), (jnp.ones(2), None), (jnp.ones(2), jnp.ones(2, jnp.bfloat16))):
        state = jax.eval_shape(optimizer.init, params)
        updates, new_state = jax.eval_shape(partial(optimizer.update, value_fn=loss), params, state, params)
        shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
        assert (updates, new_state) == (shapes, state)


def numpy_schedule_free(
    alphas: Any,
    weighted: Any,
    b1: float,
    power: float,
    r: float,
    lam: float,
    adam: bool,
    simple: bool = False,
) -> Any:
    """The three sequences of the paper. `alphas` are for the steps, `weighted` for the weights."""
    x = y = z = W.copy()
    v, total, largest = 0.0, 0.0, 0.0
    for t, (alpha, rate, g) in enumerate(zip(alphas, weighted, GRADS, strict=True), 1):
        factor = np.sqrt(1 - 0.9**t) if simple else 1.0
        largest = max(largest, rate * factor)
        w = t**r * largest**power
        total += w
        direction = g
        if adam:
            v = 0.9 * v + 0.1 * g * g
            direction = g / (np.sqrt(v if simple else v / (1 - 0.9**t)) + 0.01)
        z = z - alpha * factor * (direction + lam * y)
        x = (1 - w / total) * x + w / total * z
        y = b1 * x + (1 - b1) * z
        yield y, x


LATE = [0.5 * min(t, 4) / 4 for t in range(STEPS)]
ON_TIME = [0.5 * min(t, 4) / 4 for t in range(1, STEPS + 1)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("adam", "ours", "numpys"),
    [
        (False, {}, {"alphas": LATE}),
        (False, {"rate_from_zero": False, "r": 1.5}, {"alphas": ON_TIME, "r": 1.5}),
        (True, {"rate_from_zero": False}, {"alphas": ON_TIME}),
        (True, {"rate_from_zero": False, "bias_in_rate": True}, {"alphas": ON_TIME, "simple": True}),
        (
            True,
            {"bias_in_rate": True, "weight_lr_power": 1.0},
            {"alphas": LATE, "simple": True, "power": 1.0},
        ),
    ],
)
def test_schedule_free(adam: bool, ours: Any, numpys: Any) -> None:
    make = partial(fn.optim.schedule_free_adamw, b2=0.9, eps=0.01) if adam else fn.optim.schedule_free_sgd
    optimizer = make(0.5, warmup_steps=4, b1=0.8, weight_decay=0.2, **ours)
    defaults = {"weighted": ON_TIME, "b1": 0.8, "power": 2.0, "r": 0.0, "lam": 0.2, "adam": adam}
    wanted = list(numpy_schedule_free(**(defaults | numpys)))
    # Compiled: XLA then keeps float64 where, one operation at a time, a schedule's float32 rate rounds the product.
    step = jax.jit(optimizer.update)
    compiled = optax.GradientTransformation(optimizer.init, step)
    agree(path(compiled, W, GRADS), [y for y, _ in wanted])


@pytest.mark.usefixtures("float64")
def test_schedule_free_evaluates_the_average() -> None:
    optimizer = fn.optim.schedule_free(fn.optim.sgd(0.3), 0.3, b1=0.6)
    y, state = jnp.asarray(W), optimizer.init(jnp.asarray(W))
    for g in GRADS[:3]:
        updates, state = optimizer.update(jnp.asarray(g), state, y)
        y = y + updates
    steps = np.cumsum(GRADS[:3], axis=0)  # x is the mean of z_1, z_2, z_3
    agree(fn.optim.schedule_free_eval_params(state, y), W - 0.3 * steps.mean(axis=0))


def test_schedule_free_sum_in_float32() -> None:
    """A sum of ones stays at 256 in bfloat16, so the weight of the newest z stays at 1 / 256."""
    theta = jnp.ones(1, jnp.bfloat16)
    optimizers = [fn.optim.schedule_free_sgd(1.0, sum_dtype=dtype) for dtype in (None, jnp.float32)]

    def step(states: Any, _: None) -> Any:
        pairs = zip(optimizers, states, strict=True)
        return [optimizer.update(jnp.zeros_like(theta), state, theta)[1] for optimizer, state in pairs], None

    start = [optimizer.init(theta) for optimizer in optimizers]
    states = jax.jit(lambda states: jax.lax.scan(step, states, length=400)[0])(start)
    sums = [float(state.weight_sum) for state in states]
    assert sums == [256, 400]


def test_schedule_free_copies_the_params() -> None:
    params = jnp.ones(3)
    z = fn.optim.schedule_free_sgd().init(params).z
    assert z.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()
    assert fn.optim.schedule_free_sgd(state_dtype=jnp.float16).init(params).z.dtype == jnp.float16


MAKERS = [
    partial(fn.optim.lars, 0.1), partial(fn.optim.lamb, 0.1), fn.optim.adafactor, fn.optim.prodigy,
    partial(fn.optim.sophia, 0.1), fn.optim.schedule_free_sgd, fn.optim.schedule_free_adamw,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
def test_all_need_params(make: Any) -> None:
    optimizer, g = make(), jnp.ones(2)
    with pytest.raises(ValueError, match=r"params.*write update\(grads, state, params"):
        optimizer.update(g, optimizer.init(g), value_fn=quadratic)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.optim.lars(0.1, -1.0), r"lars: weight_decay=-1\.0, wanted at least 0"),
        (lambda: fn.optim.lars(0.1, trust_coefficient=-1.0), "trust_coefficient=-1"),
        (lambda: fn.optim.lars(0.1, eps=-1.0), "eps=-1"),
        (lambda: fn.optim.lamb(0.1, eps=-1.0), "lamb: eps=-1"),
        (lambda: fn.optim.lamb(0.1, eps_root=-1.0), "eps_root=-1"),
        (lambda: fn.optim.lamb(0.1, weight_decay=-1.0), "weight_decay=-1"),
        (lambda: fn.optim.lamb(0.1, phi_min=-1.0), "phi_min=-1"),
        (lambda: fn.optim.lamb(0.1, phi_max=-1.0), "phi_max=-1"),
        (lambda: fn.optim.adafactor(decay_rate=-0.8), "adafactor: decay_rate=-0.8"),
        (lambda: fn.optim.adafactor(clipping_threshold=-1.0), "clipping_threshold=-1"),
        (lambda: fn.optim.adafactor(weight_decay_rate=-1.0), "weight_decay_rate=-1"),
        (lambda: fn.optim.adafactor(eps=-1.0), "eps=-1"),
        (lambda: fn.optim.adafactor(min_scale=-1.0), "min_scale=-1"),
        (lambda: fn.optim.adafactor(decay_times_rate=True), "needs a learning rate, such as"),
        (lambda: fn.optim.prodigy(betas=(1.0, 0.9)), r"prodigy: betas\[0\]=1\.0, wanted in \[0, 1\)"),
        (lambda: fn.optim.prodigy(betas=(0.9, -1.0)), r"betas\[1\]=-1"),
        (lambda: fn.optim.prodigy(beta3=1.0), "beta3=1"),
        (lambda: fn.optim.prodigy(eps=-1.0), "eps=-1"),
        (lambda: fn.optim.prodigy(estim_lr0=-1.0), "estim_lr0=-1"),
        (lambda: fn.optim.prodigy(estim_lr0=0.0), r"estim_lr0=0\.0, wanted more than 0"),
        (lambda: fn.optim.prodigy(estim_lr_coef=-1.0), "estim_lr_coef=-1"),
        (lambda: fn.optim.prodigy(weight_decay=-1.0), "weight_decay=-1"),
        (lambda: fn.optim.prodigy(growth_rate=0.9), r"growth_rate=0\.9, wanted at least 1"),
        (lambda: fn.optim.sophia(-0.1), "sophia: learning_rate=-0.1"),
        (lambda: fn.optim.sophia(0.1, b1=1.0), "b1=1"),
        (lambda: fn.optim.sophia(0.1, b2=1.0), "b2=1"),
        (lambda: fn.optim.sophia(0.1, eps=-1.0), "eps=-1"),
        (lambda: fn.optim.sophia(0.1, weight_decay=-1.0), "weight_decay=-1"),
        (lambda: fn.optim.sophia(0.1, gamma=-1.0), "gamma=-1"),
        (lambda: fn.optim.sophia(0.1, clip_threshold=-1.0), "clip_threshold=-1"),
        (lambda: fn.optim.sophia(0.1, update_interval=0), "update_interval=0, wanted at least 1"),
        (lambda: fn.optim.schedule_free(fn.optim.sgd(0.1), -0.1), "schedule_free: learning_rate=-0.1"),
        (lambda: fn.optim.schedule_free_sgd(b1=0.0), r"b1=0\.0, wanted in \(0, 1\)"),
        (lambda: fn.optim.schedule_free_sgd(weight_decay=-1.0), "schedule_free_sgd: weight_decay=-1"),
        (lambda: fn.optim.schedule_free_sgd(warmup_steps=0), "warmup_steps=0, wanted at least 1"),
        (lambda: fn.optim.schedule_free_adamw(b2=1.0), "schedule_free_adamw: b2=1"),
        (lambda: fn.optim.schedule_free_adamw(eps=-1.0), "eps=-1"),
        (lambda: fn.optim.schedule_free_adamw(weight_decay=-1.0), "weight_decay=-1"),
    ],
)
def test_bad_values(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_types() -> None:
    with pytest.raises(TypeError, match="learning_rate is a schedule, wanted a number with warmup_steps=3"):
        fn.optim.schedule_free_sgd(WARMUP, warmup_steps=3)
    with pytest.raises(TypeError, match="state is a AdamState, wanted the ScheduleFreeState"):
        fn.optim.schedule_free_eval_params(fn.optim.adam(0.1).init(jnp.ones(2)), jnp.ones(2))
    optimizer, g = fn.optim.sophia(0.1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"write update\(grads, state, params, value_fn=f\)"):
        optimizer.update(g, optimizer.init(g), g)
