"""Schedules beside optax's at every step, and those that optax does not have beside their formulas in NumPy."""

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

STEPS = np.arange(-3, 45)  # before the start, and after the end
PERIOD = {"init_value": 0.1, "peak_value": 0.7, "warmup_steps": 3, "decay_steps": 9}

# Calls of a schedule that optax has under the same name.
TWINS: list[tuple[str, dict[str, Any]]] = [
    ("constant_schedule", {"value": 0.3}),
    ("polynomial_schedule", {"init_value": 0.7, "end_value": 0.1, "power": 1.7, "transition_steps": 13}),
    (
        "polynomial_schedule",
        {"init_value": 0.7, "end_value": 0.1, "power": 2, "transition_steps": 13, "transition_begin": 5},
    ),
    ("polynomial_schedule", {"init_value": 0.7, "end_value": 0.1, "power": 2, "transition_steps": 0}),
    (
        "polynomial_schedule",
        {"init_value": 0.7, "end_value": 0.1, "power": 2, "transition_steps": 9, "transition_begin": -4},
    ),
    ("linear_schedule", {"init_value": 0.1, "end_value": 0.7, "transition_steps": 7}),
    ("linear_schedule", {"init_value": 0.1, "end_value": 0.7, "transition_steps": 7, "transition_begin": 2}),
    ("piecewise_constant_schedule", {"init_value": 0.7}),
    ("piecewise_constant_schedule", {"init_value": 0.7, "boundaries_and_scales": {20: 0.3, 5: 0.9, 11: 0.0}}),
    ("piecewise_constant_schedule", {"init_value": 0.7, "boundaries_and_scales": {20: 0.3, 5: 0.9, 11: 1.7}}),
    ("exponential_decay", {"init_value": 0.7, "transition_steps": 7, "decay_rate": 0.6}),
    (
        "exponential_decay",
        {
            "init_value": 0.7,
            "transition_steps": 7,
            "decay_rate": 0.6,
            "transition_begin": 4,
            "staircase": True,
        },
    ),
    ("exponential_decay", {"init_value": 0.7, "transition_steps": 7, "decay_rate": 0.6, "end_value": 0.2}),
    ("exponential_decay", {"init_value": 0.7, "transition_steps": 7, "decay_rate": 1.3, "end_value": 1.2}),
    ("exponential_decay", {"init_value": 0.7, "transition_steps": 7, "decay_rate": 0.0, "end_value": 0.9}),
    ("exponential_decay", {"init_value": 0.7, "transition_steps": -1, "decay_rate": 0.6}),
    (
        "exponential_decay",
        {"init_value": 0.7, "transition_steps": 7, "decay_rate": 0.6, "transition_begin": -5},
    ),
    ("cosine_decay_schedule", {"init_value": 0.7, "decay_steps": 31}),
    ("cosine_decay_schedule", {"init_value": 0.7, "decay_steps": 31, "alpha": 0.1, "exponent": 1.5}),
    ("sgdr_schedule", {"cosine_kwargs": [PERIOD, PERIOD | {"decay_steps": 18, "end_value": 0.05}]}),
    ("piecewise_interpolate_schedule", {"interpolate_type": "linear", "init_value": 0.7}),
    (
        "piecewise_interpolate_schedule",
        {"interpolate_type": "linear", "init_value": 0.7, "boundaries_and_scales": {5: 0.3, 0: 0.9, 12: 3.0}},
    ),
    (
        "piecewise_interpolate_schedule",
        {
            "interpolate_type": "cosine",
            "init_value": 0.7,
            "boundaries_and_scales": {5: 0.3, 9: 0.9, 12: 3.0, 30: 0.7},
        },
    ),
    ("linear_onecycle_schedule", {"transition_steps": 37, "peak_value": 0.7}),
    ("linear_onecycle_schedule", {"transition_steps": 1, "peak_value": 0.7}),
    (
        "cosine_onecycle_schedule",
        {"transition_steps": 37, "peak_value": 0.7, "pct_start": 0.4, "div_factor": 10.0},
    ),
    ("warmup_constant_schedule", {"init_value": 0.1, "peak_value": 0.7, "warmup_steps": 7}),
    ("warmup_constant_schedule", {"init_value": 0.1, "peak_value": 0.7, "warmup_steps": 0}),
    (
        "warmup_cosine_decay_schedule",
        {
            "init_value": 0.1,
            "peak_value": 0.7,
            "warmup_steps": 7,
            "decay_steps": 31,
            "end_value": 0.03,
            "exponent": 1.2,
        },
    ),
    (
        "warmup_cosine_decay_schedule",
        {"init_value": 0.1, "peak_value": 0.0, "warmup_steps": 0, "decay_steps": 31, "end_value": 0.03},
    ),
    (
        "warmup_exponential_decay_schedule",
        {
            "init_value": 0.1,
            "peak_value": 0.7,
            "warmup_steps": 7,
            "transition_steps": 5,
            "decay_rate": 0.5,
            "transition_begin": 3,
            "end_value": 0.1,
        },
    ),
]


def curve(schedule: Callable[[Any], Any]) -> Any:
    """The values at all steps, each step a tracer."""
    return jax.vmap(lambda t: jnp.asarray(schedule(t)))(jnp.asarray(STEPS, jnp.int32))


def curves(module: Any) -> Any:
    return jax.jit(lambda: [curve(getattr(module, name)(**arguments)) for name, arguments in TWINS])()


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_equal_to_optax(wide: bool) -> None:
    """Bit for bit, but not those that optax computes at all boundaries at once: XLA turns quotients into products."""
    with jax.enable_x64(wide):
        ours, theirs = curves(fn.optim), curves(optax)
    for (name, arguments), a, b in zip(TWINS, ours, theirs, strict=True):
        bound = 2e-7 * np.max(np.asarray(b)) if "interpolate" in name or "onecycle" in name else 0
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=f"{name} {arguments}")
        assert a.dtype == b.dtype, name


def test_every_schedule_of_optax_is_compared() -> None:
    public = {n for n in fn.optim.__all__ if n.endswith(("_schedule", "_schedules", "_decay"))}
    assert {n for n in public if hasattr(optax, n)} == {name for name, _ in TWINS} | {"join_schedules"}
    theirs = {n for n in dir(optax) if n.endswith(("_schedule", "_schedules", "_decay"))}
    assert theirs - public == {"scale_by_schedule"}  # a transformation


@pytest.mark.parametrize("step", [-1, 12])
def test_steps_may_be_ints(step: int) -> None:
    for name, arguments in TWINS[::5]:
        ours, theirs = (getattr(module, name)(**arguments)(step) for module in (fn.optim, optax))
        assert jnp.result_type(ours) == jnp.result_type(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=3e-7, err_msg=name)


def everything() -> list[Callable[[Any], Any]]:
    """One of each."""
    o = fn.optim
    return [
        *(
            getattr(o, name)(**arguments)
            for name, arguments in {name: (name, a) for name, a in TWINS}.values()
        ),
        o.join_schedules([o.constant_schedule(0.5), o.linear_schedule(1.0, 0.0, 9)], [6]),
        o.step_decay_schedule(0.7, 0.5, 6),
        o.inverse_time_schedule(0.7, 6),
        o.cosine_restarts_schedule(0.7, 5, 2),
        o.warmup_schedule(o.exponential_decay(0.7, 7, 0.6), 5),
    ]


def test_steps_may_be_an_array() -> None:
    """All at once and one by one: the same, to rounding."""
    schedules, steps = everything()[1:], jnp.asarray(STEPS, jnp.int32)
    at_once = jax.jit(lambda t: [f(t) for f in schedules])(steps)
    one_by_one = jax.jit(lambda: [curve(f) for f in schedules])()
    for a, b in zip(at_once, one_by_one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_join() -> None:
    def joined(module: Any) -> Any:
        parts = [
            module.linear_schedule(0.0, 1.0, 5),
            module.cosine_decay_schedule(1.0, 10),
            module.exponential_decay(0.3, 4, 0.5),
        ]
        return jax.jit(lambda: curve(module.join_schedules(parts, [6, 17])))()

    np.testing.assert_array_equal(joined(fn.optim), joined(optax))


# Calls whose numbers can be tracers; the same call with plain numbers gives the same values.
NUMBERS: list[tuple[Callable[..., Any], dict[str, float]]] = [
    (
        fn.optim.polynomial_schedule,
        {"init_value": 0.7, "end_value": 0.1, "power": 1.7, "transition_steps": 13, "transition_begin": 3},
    ),
    (
        fn.optim.exponential_decay,
        {"init_value": 0.7, "transition_steps": 7, "decay_rate": 0.6, "end_value": 0.2},
    ),
    (
        fn.optim.exponential_decay,
        {"init_value": 0.7, "transition_steps": 7, "decay_rate": 1.2, "end_value": 1.2},
    ),
    (
        fn.optim.exponential_decay,
        {"init_value": 0.7, "transition_steps": 7, "decay_rate": 0.0, "end_value": 0.9},
    ),
    (fn.optim.cosine_decay_schedule, {"init_value": 0.7, "decay_steps": 31, "alpha": 0.1, "exponent": 1.5}),
    (fn.optim.inverse_time_schedule, {"init_value": 0.7, "transition_steps": 7, "decay_rate": 2.0}),
    (fn.optim.step_decay_schedule, {"init_value": 0.7, "factor": 0.5, "every": 7}),
    (fn.optim.warmup_cosine_decay_schedule, PERIOD),
    (fn.optim.warmup_cosine_decay_schedule, PERIOD | {"peak_value": 0.0}),
    (partial(fn.optim.cosine_restarts_schedule, first_decay_steps=5), {"init_value": 0.7, "alpha": 0.1}),
    (partial(fn.optim.linear_onecycle_schedule, 37), {"peak_value": 0.7, "div_factor": 20.0}),
    (
        partial(fn.optim.warmup_schedule, fn.optim.constant_schedule(1.0)),
        {"warmup_steps": 4, "init_value": 0.1},
    ),
    (
        lambda first, scale: fn.optim.piecewise_constant_schedule(first, {7: scale}),
        {"first": 0.7, "scale": 0.1},
    ),
]


@pytest.mark.slow
def test_numbers_may_be_tracers() -> None:
    numbers = [given for _, given in NUMBERS]
    traced = jax.jit(lambda given: [curve(f(**g)) for (f, _), g in zip(NUMBERS, given, strict=True)])(numbers)
    plain = jax.jit(lambda: [curve(f(**g)) for f, g in NUMBERS])()
    for (_, given), a, b in zip(NUMBERS, traced, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-8, err_msg=str(given))


@pytest.mark.usefixtures("float64")
class TestFormulas:
    """Those that optax does not have under one name, computed again in NumPy."""

    def same(self, schedule: Any, wanted: Any) -> None:
        values = np.array([wanted(max(t, 0)) for t in STEPS.tolist()])
        np.testing.assert_allclose(jax.jit(lambda: curve(schedule))(), values, rtol=1e-13, atol=1e-15)

    def test_step_decay(self) -> None:
        self.same(fn.optim.step_decay_schedule(0.7, 0.5, 6), lambda t: 0.7 * 0.5 ** (t // 6))

    def test_step_decay_is_a_staircase(self) -> None:
        ours = fn.optim.step_decay_schedule(0.7, 0.5, 6)
        theirs = optax.exponential_decay(0.7, 6, 0.5, staircase=True)
        np.testing.assert_allclose(ours(STEPS), [theirs(t) for t in STEPS], rtol=1e-15)

    def test_inverse_time(self) -> None:
        self.same(fn.optim.inverse_time_schedule(0.7, 6), lambda t: 0.7 / (1 + t / 6))
        self.same(
            fn.optim.inverse_time_schedule(0.7, 6, 2.5, 4, staircase=True),
            lambda t: 0.7 / (1 + 2.5 * (max(t - 4, 0) // 6)),
        )

    @pytest.mark.parametrize("factor", [1, 2, 3])
    def test_cosine_restarts(self, factor: int) -> None:
        def wanted(t: int) -> float:
            length = 4
            while t >= length:
                t, length = t - length, length * factor
            return 0.7 * (0.9 * (1 + np.cos(np.pi * t / length)) / 2 + 0.1)

        self.same(fn.optim.cosine_restarts_schedule(0.7, 4, factor, alpha=0.1), wanted)

    def test_cosine_restarts_beside_sgdr(self) -> None:
        periods = [
            {"init_value": 0.0, "peak_value": 0.7, "warmup_steps": 0, "decay_steps": 4 * 2**i}
            for i in range(4)
        ]
        schedule, theirs = fn.optim.cosine_restarts_schedule(0.7, 4, 2), optax.sgdr_schedule(periods)
        later = STEPS[STEPS >= 0]
        np.testing.assert_allclose(schedule(later), [theirs(t) for t in later], rtol=1e-14, atol=1e-16)

    @pytest.mark.slow
    def test_restarts_are_exact_far_out(self) -> None:
        """The start of a period of 2^i is found in integers: a logarithm in float32 would be off by a step."""
        schedule = fn.optim.cosine_restarts_schedule(1.0, 1, 2)
        starts = 2 ** np.arange(1, 31) - 1
        np.testing.assert_array_equal(schedule(jnp.asarray(starts, jnp.int32)), np.ones(30))
        assert np.all(schedule(jnp.asarray(starts[5:] - 1, jnp.int32)) < 0.01)

    def test_warmup_is_that_of_optax(self) -> None:
        ours = fn.optim.warmup_schedule(fn.optim.cosine_decay_schedule(0.7, 24, 0.1), 7, 0.1)
        theirs = optax.warmup_cosine_decay_schedule(0.1, 0.7, 7, 31, 0.07)
        np.testing.assert_allclose(ours(STEPS), [theirs(t) for t in STEPS], rtol=1e-14)

    def test_no_warmup_starts_at_once(self) -> None:
        schedule = fn.optim.exponential_decay(0.7, 7, 0.6)
        steps = jnp.asarray(STEPS[3:])
        np.testing.assert_array_equal(fn.optim.warmup_schedule(schedule, 0)(steps), schedule(steps))

    def test_onecycle_of_pytorch_peaks_a_step_sooner(self) -> None:
        """PyTorch, 100 steps: the peak at step 29 and the end at step 99; here at 30 and 100."""
        values = jax.jit(fn.optim.cosine_onecycle_schedule(100, 1.0))(jnp.arange(101))
        assert np.argmax(values) == 30
        np.testing.assert_allclose(values[jnp.array([0, 30, 100])], [1 / 25, 1, 1 / 25e4], rtol=1e-14)
        up, down = (1 + np.cos(np.pi * np.arange(30) / 30)) / 2, (1 + np.cos(np.pi * np.arange(71) / 70)) / 2
        np.testing.assert_allclose(values[:30], 1 + (1 / 25 - 1) * up, rtol=1e-14)
        np.testing.assert_allclose(values[30:], 4e-6 + (1 - 4e-6) * down, rtol=1e-9)


def test_as_a_learning_rate() -> None:
    """Inside an optimizer: the update of step t is -value(t) g, in the dtype of g."""
    grad, schedules = jnp.ones((), jnp.bfloat16), everything()

    def first(grad: Any) -> Any:
        optimizers = [fn.optim.sgd(schedule) for schedule in schedules]
        return [optimizer.update(grad, optimizer.init(grad)) for optimizer in optimizers]

    for schedule, (update, state) in zip(schedules, jax.jit(first)(grad), strict=True):
        assert update.dtype == jnp.bfloat16
        np.testing.assert_allclose(float(update), -float(schedule(0)), rtol=1e-2)
        assert state.step == 1


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: fn.optim.piecewise_constant_schedule(1.0, {5: -0.1}), r"scale at 5=-0\.1, wanted at least 0"),
    (
        lambda: fn.optim.piecewise_interpolate_schedule("linear", 1.0, {5: -0.1}),
        r"scale at 5=-0\.1, wanted at least 0",
    ),
    (
        lambda: fn.optim.piecewise_interpolate_schedule("cubic", 1.0),
        "'cubic', wanted one of 'linear', 'cosine'",
    ),
    (lambda: fn.optim.cosine_decay_schedule(1.0, 0), "decay_steps=0, wanted a positive number"),
    (lambda: fn.optim.warmup_cosine_decay_schedule(0.0, 1.0, 9, 9), "decay_steps=0, wanted a positive"),
    (lambda: fn.optim.linear_onecycle_schedule(0, 1.0), "transition_steps=0, wanted a positive number"),
    (lambda: fn.optim.cosine_onecycle_schedule(-1, 1.0), "transition_steps=-1, wanted a positive number"),
    (lambda: fn.optim.step_decay_schedule(1.0, 0.5, 0), "every=0, wanted at least 1"),
    (lambda: fn.optim.step_decay_schedule(1.0, -0.5, 3), r"factor=-0\.5, wanted at least 0"),
    (lambda: fn.optim.inverse_time_schedule(1.0, 0), "transition_steps=0, wanted at least 1"),
    (lambda: fn.optim.inverse_time_schedule(1.0, 5, -1.0), r"decay_rate=-1\.0, wanted at least 0"),
    (lambda: fn.optim.cosine_restarts_schedule(1.0, 0), "first_decay_steps=0, wanted at least 1"),
    (lambda: fn.optim.join_schedules([], []), "0 schedules and 0 boundaries, wanted one boundary between"),
    (lambda: fn.optim.join_schedules([abs, abs], [3, 5]), "2 schedules and 2 boundaries"),
    (lambda: fn.optim.sgdr_schedule([]), "0 schedules"),
    (lambda: fn.optim.warmup_schedule(abs, -1), "warmup_steps=-1, wanted at least 0"),
]


@pytest.mark.parametrize("make, message", ERRORS)
def test_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_kinds_of_errors() -> None:
    with pytest.raises(
        TypeError, match=r"schedule=0\.1, wanted a function of the step; write constant_schedule"
    ):
        fn.optim.warmup_schedule(0.1, 3)
    with pytest.raises(TypeError, match=r"factor=1\.5, wanted a positive int"):
        fn.optim.cosine_restarts_schedule(0.1, 3, 1.5)


def test_arguments_are_those_of_optax() -> None:
    for name in {name for name, _ in TWINS} | {"join_schedules"}:
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (fn.optim, optax))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]
