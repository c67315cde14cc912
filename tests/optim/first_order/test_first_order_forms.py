"""Where the paper, optax, PyTorch and Keras differ: every form beside its formula in NumPy, in float64.

For optax's own forms see test_optimizer_parity.py.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnnet import optim

pytestmark = pytest.mark.usefixtures("float64")

# One row per step. The second column stays close to 0, the third has its first gradient late.
GRADS = np.array(
    [[3, -0.5, 0], [1, 0.02, 0], [-2, 0.01, 1e-3], [0.5, -0.04, 0], [0.1, 0.3, 2], [0, 0.25, -1], [0.4, 0, 1]]
)
START = np.array([1.0, -2.0, 0.5])
ALPHA, B1, B2, EPS, LAMBDA, PSI = 0.1, 0.8, 0.9, 1e-2, 0.3, 0.004
PAIR: dict[str, Any] = {"b1": B1, "b2": B2}
Rule = Callable[[int, Any, Any, dict[str, Any]], Any]


def ours(optimizer: optax.GradientTransformationExtraArgs) -> Any:
    """Params after each step. Without jit: all forms use nearly the same operations, each compiled once."""
    params, path = jnp.asarray(START), []
    state = optimizer.init(params)
    for g in GRADS:
        updates, state = optimizer.update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.array(path)


def steps_of(optimizer: optax.GradientTransformationExtraArgs, grads: Any) -> Any:
    """The update of each gradient."""
    state, updates = optimizer.init(jnp.asarray(grads[0])), []
    for g in grads:
        update, state = optimizer.update(jnp.asarray(g), state)
        updates.append(np.asarray(update))
    return np.array(updates)


def numpys(rule: Rule) -> Any:
    """Params after each step: rule(t, g, theta, memory) -> theta, where the memory starts at 0."""
    theta, thetas = START, []
    memory: dict[str, Any] = defaultdict(float)
    for t, g in enumerate(GRADS, 1):
        theta = rule(t, g, theta, memory)
        thetas.append(theta)
    return np.array(thetas)


def means(g: Any, memory: dict[str, Any]) -> Any:
    memory["m"] = B1 * memory["m"] + (1 - B1) * g
    memory["v"] = B2 * memory["v"] + (1 - B2) * g**2
    return memory["m"], memory["v"]


def momentum_of_pytorch(inside: bool, t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    g = ALPHA * g if inside else g
    memory["v"] = g if t == 1 else B1 * memory["v"] + (1 - 0.3) * g
    return theta - (1 if inside else ALPHA) * memory["v"]


def adam_of_keras(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = means(g, memory)
    return theta - ALPHA * np.sqrt(1 - B2**t) / (1 - B1**t) * m / (np.sqrt(v) + EPS)


def adamw_of_keras(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    return adam_of_keras(t, g, theta * (1 - ALPHA * LAMBDA), memory)


def adamw_of_the_paper(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = means(g, memory)
    eta = 1 / t
    m_hat, v_hat = m / (1 - B1**t), v / (1 - B2**t)
    return theta - eta * (ALPHA * m_hat / (np.sqrt(v_hat) + EPS) + LAMBDA * theta)


def nadam_eps_hat(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = means(g, memory)
    m_bar = B1 * m / (1 - B1 ** (t + 1)) + (1 - B1) * g / (1 - B1**t)
    return theta - ALPHA * m_bar * np.sqrt(1 - B2**t) / (np.sqrt(v) + EPS)


def nadamw_own_decay(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    return nadam_eps_hat(t, g, theta, memory) - LAMBDA * theta


def scheduled_nadam(psi: float, in_mean: bool, t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    mu = [B1 * (1 - 0.5 * 0.96 ** (i * psi)) for i in range(1, t + 2)]
    kept = mu[t - 1] if in_mean else B1
    memory["m"] = kept * memory["m"] + (1 - kept) * g
    memory["v"] = B2 * memory["v"] + (1 - B2) * g**2
    m_bar = mu[t] * memory["m"] / (1 - np.prod(mu)) + (1 - mu[t - 1]) * g / (1 - np.prod(mu[:t]))
    return theta - ALPHA * m_bar / (np.sqrt(memory["v"] / (1 - B2**t)) + EPS)


def nadamw_of_pytorch(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    return scheduled_nadam(PSI, False, t, g, theta * (1 - ALPHA * LAMBDA), memory)


def adamax_of_keras(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, _ = means(g, memory)
    memory["u"] = np.maximum(B2 * memory["u"], np.abs(g))
    return theta - ALPHA / (1 - B1**t) * m / (memory["u"] + EPS)


def adamaxw_of_keras(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    return adamax_of_keras(t, g, theta * (1 - ALPHA * LAMBDA), memory)


def amsgrad_of_the_paper(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = means(g, memory)
    memory["max"] = np.maximum(memory["max"], v)
    return theta - ALPHA * m / (np.sqrt(memory["max"]) + EPS)


def amsgrad_of_pytorch(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = means(g, memory)
    memory["max"] = np.maximum(memory["max"], v)
    return theta - ALPHA / (1 - B1**t) * m / (np.sqrt(memory["max"] / (1 - B2**t)) + EPS)


def amsgrad_of_keras(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = means(g, memory)
    memory["max"] = np.maximum(memory["max"], v)
    return theta - ALPHA * np.sqrt(1 - B2**t) / (1 - B1**t) * m / (np.sqrt(memory["max"]) + EPS)


def radam(threshold: float, eps_hat: bool, t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = means(g, memory)
    rho_inf = 2 / (1 - B2) - 1
    rho = rho_inf - 2 * t * B2**t / (1 - B2**t)
    if rho <= threshold:
        return theta - ALPHA * m / (1 - B1**t)
    r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    root = np.sqrt(1 - B2**t) / (np.sqrt(v) + EPS) if eps_hat else 1 / (np.sqrt(v / (1 - B2**t)) + EPS)
    return theta - ALPHA * m / (1 - B1**t) * r * root


def yogi_means(g: Any, memory: dict[str, Any]) -> Any:
    memory["m"] = B1 * memory["m"] + (1 - B1) * g
    memory["v"] = memory["v"] - (1 - B2) * np.sign(memory["v"] - g**2) * g**2
    return memory["m"], memory["v"]


def yogi_of_the_paper(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, v = yogi_means(g, memory)
    return theta - ALPHA * m / (np.sqrt(v) + EPS)


def yogi_of_tensorflow(t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    if t == 1:
        memory["v"] = 1e-6
    m, v = yogi_means(g, memory)
    return theta - ALPHA * np.sqrt(1 - B2**t) / (1 - B1**t) * m / (np.sqrt(v) + EPS)


def adabelief(in_s: bool, t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    m, _ = means(g, memory)
    memory["s"] = B2 * memory["s"] + (1 - B2) * (g - m) ** 2 + (EPS if in_s else 0)
    s_hat = (memory["s"] + (0 if in_s else EPS)) / (1 - B2**t)
    return theta - ALPHA * m / (1 - B1**t) / (np.sqrt(s_hat) + EPS)


def adan(proximal: bool, t: int, g: Any, theta: Any, memory: dict[str, Any]) -> Any:
    """With the paper's betas, which are 1 less those of the code, and the code's bias correction."""
    beta1, beta2, beta3 = 1 - B1, 1 - B2, 0.05
    d = g - memory["g"] if t > 1 else 0 * g
    memory["g"] = g
    memory["m"] = (1 - beta1) * memory["m"] + beta1 * g
    memory["v"] = (1 - beta2) * memory["v"] + beta2 * d
    memory["n"] = (1 - beta3) * memory["n"] + beta3 * (g + (1 - beta2) * d) ** 2
    eta = ALPHA / (np.sqrt(memory["n"] / (1 - (1 - beta3) ** t)) + EPS)
    x = memory["m"] / (1 - (1 - beta1) ** t) + (1 - beta2) * memory["v"] / (1 - (1 - beta2) ** t)
    if proximal:
        return (theta - eta * x) / (1 + LAMBDA * ALPHA)
    return theta - eta * x - ALPHA * LAMBDA * theta


def over_t(number: float) -> Any:
    return lambda step: number / (step + 1)


ADAM: dict[str, Any] = PAIR | {"eps": EPS}
ADAN: dict[str, Any] = ADAM | {"b3": 0.95, "eps_root": 0.0, "weight_decay": LAMBDA}
# form: (ours, given a learning rate; the formula; arguments of optax's form, from which it differs)
FORMS: dict[str, tuple[Any, Rule, dict[str, Any]]] = {
    "momentum, dampening of PyTorch": (
        partial(optim.momentum, momentum=B1, dampening=0.3, dampen_first=False),
        partial(momentum_of_pytorch, False),
        {"dampen_first": True},
    ),
    "momentum, dampening of PyTorch, alpha inside": (
        partial(optim.momentum, momentum=B1, dampening=0.3, dampen_first=False, rate_in_velocity=True),
        partial(momentum_of_pytorch, True),
        {"dampen_first": True},
    ),
    "adam, eps as in Keras": (partial(optim.adam, **ADAM, eps_before_correction=True), adam_of_keras, {}),
    "adamw, eps as in Keras": (
        partial(optim.adamw, **ADAM, weight_decay=LAMBDA, eps_before_correction=True),
        adamw_of_keras,
        {},
    ),
    "nadam, eps-hat": (partial(optim.nadam, **ADAM, eps_before_correction=True), nadam_eps_hat, {}),
    "nadam of PyTorch": (
        partial(optim.nadam, **ADAM, momentum_decay=PSI),
        partial(scheduled_nadam, PSI, False),
        {"momentum_decay": None},
    ),
    "nadam of Keras 3": (
        partial(optim.nadam, **ADAM, momentum_decay=1.0),
        partial(scheduled_nadam, 1.0, False),
        {"momentum_decay": PSI},
    ),
    "nadam of Dozat": (
        partial(optim.nadam, **ADAM, momentum_decay=PSI, schedule_in_mean=True),
        partial(scheduled_nadam, PSI, True),
        {"schedule_in_mean": False},
    ),
    "nadamw of PyTorch": (
        partial(optim.nadamw, **ADAM, weight_decay=LAMBDA, momentum_decay=PSI),
        nadamw_of_pytorch,
        {"momentum_decay": None},
    ),
    "nadamw, own decay, eps-hat": (
        partial(optim.nadamw, **ADAM, weight_decay=LAMBDA, rate_in_decay=False, eps_before_correction=True),
        nadamw_own_decay,
        {"rate_in_decay": True},
    ),
    "adamax of Keras": (
        partial(optim.adamax, **ADAM, eps_in_max=False),
        adamax_of_keras,
        {"eps_in_max": True},
    ),
    "adamaxw of Keras": (
        partial(optim.adamaxw, **ADAM, weight_decay=LAMBDA, eps_in_max=False),
        adamaxw_of_keras,
        {"eps_in_max": True},
    ),
    "amsgrad of the paper": (
        partial(optim.amsgrad, **ADAM, bias_correction_mu=False, bias_correction_nu=False),
        amsgrad_of_the_paper,
        {"bias_correction_nu": True},
    ),
    "amsgrad of PyTorch": (
        partial(optim.amsgrad, **ADAM, max_before_correction=True),
        amsgrad_of_pytorch,
        {"max_before_correction": False},
    ),
    "amsgrad of Keras": (
        partial(optim.amsgrad, **ADAM, max_before_correction=True, eps_before_correction=True),
        amsgrad_of_keras,
        {},
    ),
    "radam of PyTorch": (
        partial(optim.radam, **ADAM, eps_before_correction=True),
        partial(radam, 5, True),
        {},
    ),
    "radam of the paper": (
        partial(optim.radam, **ADAM, threshold=4.0),
        partial(radam, 4, False),
        {"threshold": 5.0},
    ),
    "yogi of the paper": (
        partial(optim.yogi, **ADAM, initial_m=0.0, initial_v=0.0, bias_correction=False),
        yogi_of_the_paper,
        {"bias_correction": True},
    ),
    "yogi of TensorFlow": (
        partial(optim.yogi, **ADAM, initial_m=0.0, eps_before_correction=True),
        yogi_of_tensorflow,
        {"initial_m": 1e-6},
    ),
    "adabelief of the paper": (
        partial(optim.adabelief, **ADAM, eps_root=EPS),
        partial(adabelief, True),
        {"eps_root_in_s": False},
    ),
    "adabelief of the appendix": (
        partial(optim.adabelief, **ADAM, eps_root=EPS, eps_root_in_s=False),
        partial(adabelief, False),
        {"eps_root_in_s": True},
    ),
    "adan of the paper": (
        partial(optim.adan, **ADAN, difference_times_b2=True, proximal=True),
        partial(adan, True),
        {"difference_times_b2": False},
    ),
    "adan without the proximal step": (
        partial(optim.adan, **ADAN, difference_times_b2=True),
        partial(adan, False),
        {"proximal": True},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_form_is_its_formula(form: str) -> None:
    make, rule, other = FORMS[form]
    other = other or {"eps_before_correction": False}
    thetas = numpys(rule)
    np.testing.assert_allclose(ours(make(ALPHA)), thetas, rtol=1e-12)
    # And not another: the argument in question has an effect.
    assert np.max(np.abs(ours(make(ALPHA, **other)) / thetas - 1)) > 1e-7


@pytest.mark.parametrize("form", FORMS)
def test_dtypes_are_stable(form: str) -> None:
    """bfloat16 params and a learning rate in float64: the update is bfloat16, the state a scan's carry."""
    optimizer = FORMS[form][0](jnp.float64(ALPHA))
    params = {"a": jnp.ones(3, jnp.bfloat16), "b": None, "c": jnp.ones((0, 2), jnp.bfloat16)}
    state = jax.eval_shape(optimizer.init, params)
    updates, new_state = jax.eval_shape(optimizer.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


def test_adamw_with_the_decay_of_the_paper() -> None:
    """alpha eta and lambda eta are two schedules, here with eta = 1 / t."""
    optimizer = optim.adamw(over_t(ALPHA), **ADAM, weight_decay=over_t(LAMBDA), rate_in_decay=False)
    np.testing.assert_allclose(ours(optimizer), numpys(adamw_of_the_paper), rtol=1e-13)


def test_nesterov_passes_every_argument_on() -> None:
    hat: dict[str, Any] = {"eps_before_correction": True}
    other: dict[str, Any] = {
        "eps_root": 0.1,
        "weight_decay": LAMBDA,
        "mask": {"a": True, "b": False},
        "rate_in_decay": False,
    }
    params = {"a": jnp.asarray(START), "b": jnp.asarray(START)}
    for first, second in [
        (
            optim.adam(ALPHA, **ADAM, eps_root=0.1, nesterov=True, **hat),
            optim.nadam(ALPHA, **ADAM, eps_root=0.1, **hat),
        ),
        (
            optim.adamw(ALPHA, **ADAM, **other, nesterov=True, **hat),
            optim.nadamw(ALPHA, **ADAM, **other, **hat),
        ),
    ]:
        a, b = (o.update(params, o.init(params), params) for o in (first, second))
        chex.assert_trees_all_equal(a, b)


def test_mask_of_a_proximal_decay() -> None:
    """Two branches, of which one decays: (theta - alpha x) / (1 + alpha lambda), with x = 1 in the first step."""
    params = {"a": jnp.asarray(START), "b": jnp.asarray(START)}
    grads = jax.tree.map(jnp.ones_like, params)
    optimizer = optim.adan(
        ALPHA, eps=0.0, eps_root=0.0, weight_decay=LAMBDA, mask={"a": True, "b": False}, proximal=True
    )
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], (START - ALPHA) / (1 + ALPHA * LAMBDA) - START, rtol=1e-13)
    np.testing.assert_allclose(updates["b"], -ALPHA, rtol=1e-13)


def test_adamax_without_eps_has_no_quotient_before_the_first_gradient() -> None:
    grads = jnp.array([0.0, 1.0])
    for eps, first in [(0.0, np.nan), (1e-8, 0.0)]:
        optimizer = optim.adamax(ALPHA, eps=eps)
        updates, _ = optimizer.update(grads, optimizer.init(grads))
        np.testing.assert_allclose(updates, [first, -ALPHA], rtol=1e-7)


def test_yogi_of_optax_moves_without_a_gradient() -> None:
    """m_hat is 0.9 * 1e-6 / 0.1 and v_hat 1e-6 / 0.001 in the first step."""
    for initial_m, step in [(1e-6, -ALPHA * 9e-6 / (np.sqrt(1e-3) + 1e-3)), (0.0, 0.0)]:
        optimizer = optim.yogi(ALPHA, initial_m=initial_m)
        updates, _ = optimizer.update(jnp.zeros(1), optimizer.init(jnp.zeros(1)))
        np.testing.assert_allclose(updates, [step], rtol=1e-12)


@pytest.mark.parametrize(("threshold", "momentum_steps"), [(5.0, 5), (4.0, 4)])
def test_radam_begins_with_momentum(threshold: float, momentum_steps: int) -> None:
    """With gradients of 100, such a step is 100 alpha, and an adaptive one no longer than alpha."""
    steps = steps_of(optim.radam(ALPHA, threshold=threshold), np.full((8, 1), 100.0))
    assert np.sum(np.abs(steps) > ALPHA) == momentum_steps


def test_radam_has_a_derivative_by_its_learning_rate() -> None:
    """In the first steps r would be the root of a negative number: optax's derivative is NaN."""

    def end(alpha: jax.Array) -> jax.Array:
        optimizer = optim.radam(alpha)

        def step(carry: Any, _: None) -> Any:
            theta, state = carry
            updates, state = optimizer.update(4 * theta**3, state, theta)
            return (theta + updates, state), None

        return jax.lax.scan(step, (jnp.float64(1), optimizer.init(jnp.float64(1))), length=9)[0][0]

    alphas = jnp.array([0.01, 0.01 + 1e-6, 0.01 - 1e-6])
    ends, slopes = jax.jit(jax.vmap(jax.value_and_grad(end)))(alphas)
    np.testing.assert_allclose(slopes[0], (ends[1] - ends[2]) / 2e-6, rtol=1e-7)


@pytest.mark.parametrize(
    ("keywords", "steps"),
    [
        ({}, [0.1, 0.12, 0.144, 0, 0.072, 0.0864, 0, 0]),  # PyTorch's
        ({"backtrack": True}, [0.1, 0.12, 0.144, -0.144, 0.072, 0.0864, 0, 0]),  # the paper's
        ({"one_step_late": True}, [0, 0.1, 0.12, 0, 0, 0.072, 0.0864, 0]),  # optax 0.2.8's
        ({"max_step_size": 0.13}, [0.1, 0.12, 0.13, 0, 0.065, 0.078, 0, 0]),
        ({"min_step_size": 0.09}, [0.1, 0.12, 0.144, 0, 0.09, 0.108, 0, 0]),
    ],
)
def test_steps_of_rprop(keywords: dict[str, Any], steps: list[float]) -> None:
    """The sign changes at the fourth gradient. Only signs count, and a gradient of 0 is no step and no change."""
    grads = np.array([1.0, 5.0, 0.01, -1.0, 1.0, 2.0, 0.0, 0.0])[:, None]
    moved = steps_of(optim.rprop(0.1, **keywords), grads)[:, 0]
    np.testing.assert_allclose(moved, -np.array(steps), rtol=1e-13, atol=1e-16)


def test_rprop_of_optax_is_late_and_ours_is_not() -> None:
    params = jnp.array([1.0])
    theirs, ours = optax.rprop(0.1), optim.rprop(0.1)
    assert theirs.update(params, theirs.init(params), params)[0] == 0
    assert ours.update(params, ours.init(params), params)[0] == -0.1


def test_adan_of_optax_looks_ahead_by_1_less_b2() -> None:
    """From gradient 1 to 2, with b1 = b3 = 0: m = 2, v_hat = (1 - b2) / (1 - b2^2), n = (2 + w)^2."""
    b2 = 0.9
    grads = jnp.array([[1.0], [2.0]])
    v_hat = (1 - b2) / (1 - b2**2)
    for make, w in [
        (optax.adan, 1 - b2),
        (optim.adan, 1 - b2),
        (partial(optim.adan, difference_times_b2=True), b2),
    ]:
        optimizer = make(1.0, b1=0.0, b2=b2, b3=0.0, eps=0.0, eps_root=0.0)
        _, state = optimizer.update(grads[0], optimizer.init(grads[0]), grads[0])
        updates, _ = optimizer.update(grads[1], state, grads[0])
        np.testing.assert_allclose(updates, [-(2 + w * v_hat) / (2 + w)], rtol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(optim.rprop, over_t(0.1)), "learning_rate is a schedule, wanted a number"),
        (partial(optim.rprop, 0.1, backtrack=True, one_step_late=True), "wanted one at most"),
        (partial(optim.rprop, 0.1, eta_minus=1.0), r"eta_minus=1\.0, wanted in \[0, 1\)"),
        (partial(optim.rprop, 0.1, eta_plus=0.9), r"eta_plus=0\.9, wanted at least 1"),
        (partial(optim.rprop, 0.1, min_step_size=-1.0), r"min_step_size=-1\.0, wanted at least 0"),
        (partial(optim.rprop, 0.1, max_step_size=-1.0), r"max_step_size=-1\.0, wanted at least 0"),
        (partial(optim.radam, 0.1, threshold=3.9), r"threshold=3\.9, wanted at least 4"),
        (partial(optim.adan, 0.1, b3=1.0), r"b3=1\.0, wanted in \[0, 1\)"),
        (partial(optim.yogi, 0.1, initial_v=-1.0), r"initial_v=-1\.0, wanted at least 0"),
        (partial(optim.nadam, 0.1, momentum_decay=-1.0), r"momentum_decay=-1\.0, wanted at least 0"),
        (partial(optim.nadamw, 0.1, momentum_decay=-1.0), r"momentum_decay=-1\.0, wanted at least 0"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    "name", ["adamax", "adamaxw", "adan", "amsgrad", "lion", "nadamw", "radam", "yogi", "adabelief"]
)
def test_no_number_may_be_negative(name: str) -> None:
    make = getattr(optim, name)
    for argument in {"b1", "b2", "eps", "eps_root", "weight_decay"} & set(inspect.signature(make).parameters):
        with pytest.raises(ValueError, match=rf"{name}: {argument}=-0\.1, wanted"):
            make(0.1, **{argument: -0.1})


@pytest.mark.parametrize(
    "make",
    [
        optim.nadamw,
        optim.adamaxw,
        optim.lion,
        partial(optim.adan, weight_decay=LAMBDA),
        partial(optim.adan, weight_decay=LAMBDA, proximal=True),
        partial(optim.adamw, rate_in_decay=False),
    ],
)
def test_weight_decay_needs_params(make: Any) -> None:
    optimizer = make(ALPHA)
    with pytest.raises(
        ValueError, match=r"weight decay needs the params, write update\(grads, state, params\)"
    ):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
