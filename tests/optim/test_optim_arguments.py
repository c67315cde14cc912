"""Every number, flag and choice of every public function of fn.optim: what can't be meant is refused by name."""

import inspect
from typing import Any

import jax
import numpy as np
import optax
import pytest

import fnnet as fn


def line(a: Any) -> Any:
    return (a - 1) ** 2, 2 * (a - 1)


# What a call needs besides the argument under test.
NEEDED: dict[str, dict[str, Any]] = {
    "accumulate": {"optimizer": optax.identity(), "every": 2},
    "adaptive_grad_clip": {"clipping": 0.1},
    "add_noise": {"eta": 0.1, "gamma": 0.5, "key": 0},
    "backtracking": {"phi": line, "value": 1.0, "slope": -2.0},
    "clip": {"max_delta": 1.0},
    "clip_by_global_norm": {"max_norm": 1.0},
    "clip_by_norm": {"max_norm": 1.0},
    "constant_schedule": {"value": 0.1},
    "cosine_decay_schedule": {"init_value": 0.1, "decay_steps": 10},
    "cosine_onecycle_schedule": {"transition_steps": 10, "peak_value": 0.1},
    "cosine_restarts_schedule": {"init_value": 0.1, "first_decay_steps": 10},
    "exponential_average": {"values": np.ones(3)},
    "exponential_average_update": {
        "state": fn.optim.exponential_average_init(np.float32(0)),
        "x": np.float32(1),
    },
    "exponential_decay": {"init_value": 0.1, "transition_steps": 10, "decay_rate": 0.5},
    "inverse_time_schedule": {"init_value": 0.1, "transition_steps": 10},
    "linear_onecycle_schedule": {"transition_steps": 10, "peak_value": 0.1},
    "linear_schedule": {"init_value": 0.1, "end_value": 0.0, "transition_steps": 10},
    "lookahead": {"fast_optimizer": optax.identity(), "sync_period": 5, "slow_step_size": 0.5},
    "piecewise_constant_schedule": {"init_value": 0.1},
    "piecewise_interpolate_schedule": {"interpolate_type": "linear", "init_value": 0.1},
    "polynomial_schedule": {"init_value": 0.1, "end_value": 0.0, "power": 1, "transition_steps": 10},
    "proximal_l1": {"strength": 0.1, "learning_rate": 0.1},
    "sam": {"optimizer": optax.identity()},
    "schedule_free": {"base_optimizer": optax.identity(), "learning_rate": 0.1},
    "simulated_annealing": {"temperature": 1.0},
    "step_decay_schedule": {"init_value": 0.1, "factor": 0.5, "every": 10},
    "warmup_constant_schedule": {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 5},
    "warmup_cosine_decay_schedule": {
        "init_value": 0.0,
        "peak_value": 0.1,
        "warmup_steps": 5,
        "decay_steps": 10,
    },
    "warmup_exponential_decay_schedule": {
        "init_value": 0.0,
        "peak_value": 0.1,
        "warmup_steps": 5,
        "transition_steps": 10,
        "decay_rate": 0.5,
    },
    "warmup_schedule": {"schedule": lambda step: 0.1, "warmup_steps": 5},
    "wolfe": {"phi": line, "value": 1.0, "slope": -2.0},
}
# Not numbers, flags or choices: trees, functions, arrays, keys, dtypes.
OTHER = {
    *(
        "mask",
        "weight_decay_mask",
        "trust_ratio_mask",
        "muon_weight_dimension_numbers",
        "state",
        "x",
        "values",
    ),
    *("params", "opt_state", "like", "phi", "value", "slope", "schedule", "schedules", "boundaries", "axis"),
    *(
        "boundaries_and_scales",
        "cosine_kwargs",
        "optimizer",
        "base_optimizer",
        "fast_optimizer",
        "seed",
        "key",
    ),
    *("mu_dtype", "accumulator_dtype", "state_dtype", "sum_dtype", "dtype_momentum", "hessian_diagonal_fn"),
    *("line_search", "linesearch", "initial_simplex", "random_seed", "betas", "ns_coeffs"),
}
CHOICES = {"preconditioning", "beta", "scaling", "rule", "fisher", "strategy", "interpolate_type"}
NO_UPPER_BOUND = {("wolfe", "max_step")}  # infinity is its default
NONE_FOR_NONE = {("adafactor", "clipping_threshold"), ("sophia", "clip_threshold"), ("wolfe", "approximate")}
FUNCTIONS = sorted(
    name
    for name in fn.optim.__all__
    if inspect.isfunction(getattr(fn.optim, name))
    and name not in ("averaged_params", "join_schedules", "sgdr_schedule", "schedule_free_eval_params")
)


def refused(name: str, argument: str, value: Any) -> bool:
    """By fnnet's own message, which names the function and the argument."""
    make = getattr(fn.optim, name)
    needed = dict(NEEDED.get(name, {}))
    if "learning_rate" in inspect.signature(make).parameters:
        needed.setdefault("learning_rate", 0.1)
    try:
        make(**{**needed, argument: value})
    except (TypeError, ValueError) as exc:
        message = str(exc)
    else:
        return False
    for part in (argument, ": ", "wanted"):
        assert part in message, f"{name}({argument}={value!r}): {message}"
    return True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_cannot_be_meant_is_refused(name: str) -> None:
    accepted = []
    for p in inspect.signature(getattr(fn.optim, name)).parameters.values():
        if p.name in OTHER or (p.name == "value" and name != "constant_schedule"):
            continue
        if isinstance(p.default, bool):
            bad: list[Any] = ["no", 1, 0, None, np.True_]
        elif p.name in CHOICES and (name, p.name) != ("muon", "beta"):
            bad = ["nonsense", 1, None, True]
        else:
            bad = [
                float("nan"),
                np.float32("nan"),
                float("inf"),
                -float("inf"),
                True,
                np.True_,
                "0.1",
                [0.1],
                1j,
            ]
            bad += [np.ones(2), np.array(np.nan), jax.numpy.nan]
            if p.default is not None and (name, p.name) not in NONE_FOR_NONE:
                bad.append(None)
            if (name, p.name) in NO_UPPER_BOUND:
                bad.remove(float("inf"))
        accepted += [(p.name, value) for value in bad if not refused(name, p.name, value)]
    assert not accepted


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_of_numpy_are_numbers(name: str) -> None:
    """Defaults as NumPy scalars and as arrays without axes."""
    make = getattr(fn.optim, name)
    for p in inspect.signature(make).parameters.values():
        default = NEEDED.get(name, {}).get(p.name, p.default)
        if p.name not in OTHER and isinstance(default, float | int) and not isinstance(default, bool):
            kinds = (
                [np.float32, np.float64, jax.numpy.asarray]
                if isinstance(default, float)
                else [np.int32, np.int64]
            )
            for kind in kinds:
                assert not refused(name, p.name, kind(default)), (p.name, kind)


def test_every_function_is_covered() -> None:
    for name in FUNCTIONS:
        parameters = inspect.signature(getattr(fn.optim, name)).parameters
        required = {p.name for p in parameters.values() if p.default is p.empty}
        assert required <= set(NEEDED.get(name, {})) | {"learning_rate"} | OTHER, name


def test_numbers_inside_others() -> None:
    nan = float("nan")
    for bad in (nan, True, "0.9", None, 1.5):
        for betas in ((bad, 0.9), (0.9, bad)):
            with pytest.raises((TypeError, ValueError), match=r"prodigy: betas\[[01]\]"):
                fn.optim.prodigy(betas=betas)
        with pytest.raises((TypeError, ValueError), match="muon: ns_coeffs"):
            fn.optim.muon(0.1, (1.0, 2.0, nan if bad == 1.5 else bad))
    for bad in (0.9, (0.9,), (0.9, 0.99, 0.999), None):
        with pytest.raises((TypeError, ValueError), match="prodigy: betas"):
            fn.optim.prodigy(betas=bad)
    for name in ("piecewise_constant_schedule", "piecewise_interpolate_schedule"):
        first = ("linear",) if "interpolate" in name else ()
        for boundaries in ({10: nan}, {10: "0.1"}, {10: True}, {nan: 0.1}, {"10": 0.1}, [(10, 0.1)], 10):
            with pytest.raises((TypeError, ValueError), match=f"{name}: "):
                getattr(fn.optim, name)(*first, 1.0, boundaries)
    constant = fn.optim.constant_schedule(1.0)
    for boundaries in ([nan], ["5"], [True], [None]):
        with pytest.raises((TypeError, ValueError), match="join_schedules: boundaries"):
            fn.optim.join_schedules([constant, constant], boundaries)
    with pytest.raises(TypeError, match="join_schedules: schedules"):
        fn.optim.join_schedules([constant, 0.1], [5])
    for axis in (1.5, "0", True, (0, 1.5)):
        with pytest.raises(TypeError, match="adaptive_grad_clip: axis"):
            fn.optim.adaptive_grad_clip(0.1, axis=axis)
    for seed in ("0", 1.5, True, None, np.ones(3)):
        for name in ("cma_es", "random_search", "openai_es"):
            needed = {"learning_rate": 0.1} if name == "openai_es" else {}
            with pytest.raises(TypeError, match=f"{name}: seed"):
                getattr(fn.optim, name)(seed=seed, **needed)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equations_fit_a_line(name: str) -> None:
    """A terminal of 100 columns, in whose frame `--explain` prints them, does not break an equation in two."""
    text = (inspect.getdoc(getattr(fn.optim, name)) or "").split("\nArgs:")[0].split("\nExample:")[0]
    for row in text.splitlines():
        assert not row.startswith("    ") or len(row) <= 96, row
