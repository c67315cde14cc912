"""Every numeric argument of every public function: what is no such number is refused by fnnet's own message.

A function's numeric arguments are found by its annotations and defaults. Each is given every value of `VALUES`, the
other arguments a valid one: those of `CALLS`, or their defaults. It raises TypeError or ValueError with a message that
begins with the function's name and names the argument, or `ACCEPTED` says why it is accepted. None is right where the
annotation allows it.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest

import fnnet as fn
from tests.arrays import integers, ones, zeros

# The parts, by the module, whose arguments are all checked.
COVERED = (
    *("losses", "initializers", "metrics", "data", "sample", "activations"),
    *("layers", "combinators", "wrappers", "optim", "train"),
)

VALUES: dict[str, Any] = {
    "NaN": float("nan"),
    "inf": float("inf"),
    "-1": -1,
    "float32(-1)": np.float32(-1),
    "float64(NaN)": np.float64("nan"),
    "True": True,
    "'1'": "1",
    "None": None,
}
NEGATIVE = {"-1", "float32(-1)"}

# What is accepted besides: the values, and why.
SIGNED = (
    *("constant_schedule.value", "step_decay_schedule.init_value", "inverse_time_schedule.init_value"),
    *("linear_schedule.init_value", "linear_schedule.end_value", "linear_onecycle_schedule.peak_value"),
    *(
        "polynomial_schedule.init_value",
        "polynomial_schedule.end_value",
        "cosine_onecycle_schedule.peak_value",
    ),
    *("cosine_decay_schedule.init_value", "cosine_decay_schedule.alpha"),
    *("cosine_restarts_schedule.init_value", "cosine_restarts_schedule.alpha"),
    *("exponential_decay.init_value", "exponential_decay.end_value", "warmup_schedule.init_value"),
    *("piecewise_constant_schedule.init_value", "piecewise_interpolate_schedule.init_value"),
    *("warmup_constant_schedule.init_value", "warmup_constant_schedule.peak_value"),
    *("warmup_cosine_decay_schedule.init_value", "warmup_cosine_decay_schedule.peak_value"),
    *("warmup_cosine_decay_schedule.end_value", "warmup_exponential_decay_schedule.init_value"),
    *("warmup_exponential_decay_schedule.peak_value", "warmup_exponential_decay_schedule.end_value"),
    # As in optax: before step 0, or a schedule without steps, which is constant.
    *("linear_schedule.transition_begin", "linear_schedule.transition_steps"),
    *("polynomial_schedule.transition_begin", "polynomial_schedule.transition_steps"),
    *("exponential_decay.transition_begin", "exponential_decay.transition_steps"),
    *("inverse_time_schedule.transition_begin", "warmup_constant_schedule.warmup_steps"),
    *("warmup_cosine_decay_schedule.warmup_steps", "warmup_exponential_decay_schedule.warmup_steps"),
    "warmup_exponential_decay_schedule.transition_begin",
    "warmup_exponential_decay_schedule.transition_steps",
    # Others: weights of sums, edges of a simplex, offsets and exponents.
    *("add_decayed_weights.weight_decay", "add_noise.gamma", "adafactor.decay_offset", "momentum.dampening"),
    *("nelder_mead.relative_edge", "nelder_mead.zero_edge", "yogi.initial_m"),
    *("schedule_free.r", "schedule_free_adamw.r", "schedule_free_sgd.r", "schedule_free.weight_lr_power"),
    *("schedule_free_adamw.weight_lr_power", "schedule_free_sgd.weight_lr_power"),
)
ACCEPTED: dict[str, tuple[set[str], str]] = {
    "leaky_relu.negative_slope": (NEGATIVE, "a slope"),
    "softmax.axis": ({"-1"}, "counts from the end"),
    "log_softmax.axis": ({"-1"}, "counts from the end"),
    "initializers.constant.value": (NEGATIVE, "a param may be negative"),
    "initializers.gain.negative_slope": (NEGATIVE, "a slope"),
    "initializers.identity.gain": (NEGATIVE, "the identity with its sign turned"),
    "initializers.kaiming_normal.negative_slope": (NEGATIVE, "a slope"),
    "initializers.kaiming_uniform.negative_slope": (NEGATIVE, "a slope"),
    "initializers.orthogonal.gain": (NEGATIVE, "w^T w = gain^2 I holds"),
    "initializers.truncated_normal.lower": (NEGATIVE, "a bound below the mean"),
    "initializers.truncated_normal.upper": (NEGATIVE | {"inf"}, "a bound; no bound"),
    "initializers.uniform.low": (NEGATIVE, "a bound below 0"),
    "dot_product_attention.scale": (NEGATIVE, "turns the order of the memories around"),
    "highway.gate_bias": (NEGATIVE, "carries the input at first"),
    "lstm.forget_bias": (NEGATIVE, "a bias"),
    "lstm_cell.forget_bias": (NEGATIVE, "a bias"),
    "pad.value": (NEGATIVE | {"inf"}, "what max_pool never chooses"),
    "train.fit.largest_norm": ({"inf"}, "no bound"),
    "train.uniform.low": (NEGATIVE, "a bound below 0"),
    **{f"optim.{name}": (NEGATIVE, "values and slopes of schedules may have any sign") for name in SIGNED},
    "optim.adaptive_grad_clip.axis": ({"-1"}, "counts from the end"),
    "optim.wolfe.max_step": ({"inf"}, "no bound"),
    "data.two_spirals.turns": (NEGATIVE, "winds the other way"),
}  # fmt: skip

X = ones((2, 3))
PART = {"x": X, "y": ones((2, 1))}
DATA = fn.data.Dataset(PART, PART)
KEY = jax.random.key(0)


def quadratic(step: Any) -> Any:
    """phi and its slope, for line searches."""
    return (step - 1) ** 2, 2 * (step - 1)


def loop() -> dict[str, Any]:
    """A network, a loss and an optimizer, and how long to train."""
    make = {"make_optimizer": fn.optim.sgd}
    return {"net": fn.dense(1), "loss": fn.losses.mean_squared_error, **make, "steps": 1, "batch_size": 2}


def fitting() -> dict[str, Any]:
    """As for `fit`, which evaluates itself."""
    own = {"optimizer": fn.optim.sgd(0.1), "train": PART, "valid": PART, "progress": False}
    return {**loop(), **own} | {"make_optimizer": None}


def bigrams() -> dict[str, Any]:
    """A network to sample from."""
    network = {"apply": fn.embed(3, 3).apply, "params": {"w": zeros((3, 3))}, "state": {}}
    return {**network, "prompt": integers(3, 1, 2), "steps": 1, "key": KEY}


# The arguments without a default of the functions that have numeric ones, and others that a valid call needs.
CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "adaptive_avg_pool": lambda: {"size": 2},
    "adaptive_max_pool": lambda: {"size": 2},
    "additive_attention": lambda: {"features": 2},
    "avg_pool": lambda: {"window": 2},
    "conv": lambda: {"features": 2, "window": 3},
    "conv_transpose": lambda: {"features": 2, "window": 3},
    "dense": lambda: {"features": 2},
    "depth_to_space": lambda: {"block": 2},
    "depthwise_conv": lambda: {"window": 3},
    "dot_product_attention": lambda: {name: ones((1, 1, 1, 1)) for name in "qkv"},
    "drop_connect": lambda: {"layer": fn.dense(2), "rate": 0.5},
    "dropout": lambda: {"rate": 0.5},
    "elu": lambda: {"x": X},
    "embed": lambda: {"vocabulary": 3, "features": 2},
    "gaussian_dropout": lambda: {"rate": 0.5},
    "gaussian_noise": lambda: {"stddev": 0.5},
    "group_norm": lambda: {"groups": 2},
    "gru": lambda: {"features": 2},
    "gru_cell": lambda: {"features": 2},
    "highway": lambda: {"activation": fn.relu},
    "leaky_relu": lambda: {"x": X},
    "learned_position": lambda: {"length": 2},
    "log_softmax": lambda: {"x": X},
    "lstm": lambda: {"features": 2},
    "lstm_cell": lambda: {"features": 2},
    "max_pool": lambda: {"window": 2},
    "maxout": lambda: {"features": 2},
    "mixture_of_experts": lambda: {"expert": fn.dense(2), "experts": 2},
    "multi_head_attention": lambda: {"heads": 2},
    "pad": lambda: {"widths": 1},
    "radial_basis": lambda: {"centres": 2},
    "repeat": lambda: {"layer": fn.dense(3), "times": 2},
    "rotary": lambda: {"x": ones((1, 2, 1, 2))},
    "sample": bigrams,
    "separable_conv": lambda: {"features": 2, "window": 3},
    "simple_rnn": lambda: {"features": 2},
    "simple_rnn_cell": lambda: {"features": 2},
    "softmax": lambda: {"x": X},
    "space_to_depth": lambda: {"block": 2},
    "spatial_dropout": lambda: {"rate": 0.5},
    "spectral_norm": lambda: {"layer": fn.dense(2)},
    "stochastic_depth": lambda: {"rate": 0.5},
    "tied_embed": lambda: {"vocabulary": 3, "features": 2, "body": fn.dense(2)},
    "transformer_decoder_block": lambda: {"heads": 2},
    "transformer_encoder_block": lambda: {"heads": 2},
    "upsample": lambda: {"factor": 2},
    "losses.huber": lambda: {"prediction": X, "target": X},
    "initializers.constant": lambda: {"value": 1.0},
    "initializers.gain": lambda: {"activation": "leaky_relu"},
    "metrics.confusion_matrix": lambda: {"classes": 2},
    "metrics.f1": lambda: {"classes": 2},
    "metrics.precision": lambda: {"classes": 2},
    "metrics.recall": lambda: {"classes": 2},
    "metrics.roc_auc": lambda: {"capacity": 2},
    "metrics.top_k": lambda: {"k": 2},
    "data.blobs": lambda: {"key": KEY, "n": 3},
    "data.read_idx": lambda: {"path": "no-such-file"},
    "data.fashion_mnist": lambda: {"folder": "no-such-folder"},
    "data.split": lambda: {"examples": {"x": zeros((9, 2)), "y": zeros(9, int)}},
    "data.standardize": lambda: {"dataset": DATA},
    "data.stream": lambda: {"examples": PART, "batch_size": 2},
    "data.two_moons": lambda: {"key": KEY, "n": 2},
    "data.two_spirals": lambda: {"key": KEY, "n": 2},
    **{
        f"optim.{name}": lambda: {"learning_rate": 0.1}
        for name in (
            "adabelief", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "lamb", "lars", "lion",
            "momentum", "muon", "nadam", "nadamw", "nesterov", "openai_es", "radam", "rmsprop", "rprop", "sgd",
            "shampoo", "sophia", "yogi",
        )
    },
    "optim.accumulate": lambda: {"optimizer": fn.optim.sgd(0.1), "every": 2},
    "optim.adaptive_grad_clip": lambda: {"clipping": 0.1},
    "optim.add_noise": lambda: {"eta": 0.1, "gamma": 0.5, "key": 0},
    "optim.backtracking": lambda: {"phi": quadratic, "value": 1.0, "slope": -2.0},
    "optim.clip": lambda: {"max_delta": 1.0},
    "optim.clip_by_global_norm": lambda: {"max_norm": 1.0},
    "optim.clip_by_norm": lambda: {"max_norm": 1.0},
    "optim.constant_schedule": lambda: {"value": 0.1},
    "optim.cosine_decay_schedule": lambda: {"init_value": 0.1, "decay_steps": 10},
    "optim.cosine_onecycle_schedule": lambda: {"transition_steps": 10, "peak_value": 0.1},
    "optim.cosine_restarts_schedule": lambda: {"init_value": 0.1, "first_decay_steps": 10},
    "optim.exponential_average": lambda: {"values": ones(3)},
    "optim.exponential_average_update": lambda: {"state": fn.optim.exponential_average_init(ones(3)), "x": ones(3)},
    "optim.exponential_decay": lambda: {"init_value": 0.1, "transition_steps": 10, "decay_rate": 0.5},
    "optim.inverse_time_schedule": lambda: {"init_value": 0.1, "transition_steps": 10},
    "optim.linear_onecycle_schedule": lambda: {"transition_steps": 10, "peak_value": 0.1},
    "optim.linear_schedule": lambda: {"init_value": 0.1, "end_value": 0.2, "transition_steps": 10},
    "optim.lookahead": lambda: {"fast_optimizer": fn.optim.sgd(0.1), "sync_period": 2, "slow_step_size": 0.5},
    "optim.piecewise_constant_schedule": lambda: {"init_value": 0.1},
    "optim.piecewise_interpolate_schedule": lambda: {"interpolate_type": "linear", "init_value": 0.1},
    "optim.polynomial_schedule": lambda: {"init_value": 0.1, "end_value": 0.2, "power": 1, "transition_steps": 10},
    "optim.proximal_l1": lambda: {"strength": 0.1, "learning_rate": 0.1},
    "optim.sam": lambda: {"optimizer": fn.optim.sgd(0.1)},
    "optim.schedule_free": lambda: {"base_optimizer": fn.optim.sgd(0.1), "learning_rate": 0.1},
    "optim.simulated_annealing": lambda: {"temperature": 0.1},
    "optim.step_decay_schedule": lambda: {"init_value": 0.1, "factor": 0.5, "every": 10},
    "optim.warmup_constant_schedule": lambda: {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10},
    "optim.warmup_cosine_decay_schedule": lambda: {
        "init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10, "decay_steps": 20,
    },
    "optim.warmup_exponential_decay_schedule": lambda: {
        "init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10, "transition_steps": 20, "decay_rate": 0.5,
    },
    "optim.warmup_schedule": lambda: {"schedule": fn.optim.constant_schedule(0.1), "warmup_steps": 10},
    "optim.wolfe": lambda: {"phi": quadratic, "value": 1.0, "slope": -2.0},
    "train.evaluate": lambda: {
        "net": fn.as_layer(fn.identity), "measures": {}, "params": {}, "state": {}, "part": PART,
    },
    "train.fit": lambda: {name: value for name, value in fitting().items() if name != "make_optimizer"},
    "train.learning_rate_range": lambda: loop() | {"steps": 2},
    "train.log_uniform": lambda: {"low": 0.1, "high": 1.0},
    "train.make_run": loop,
    "train.plot": lambda: {"history": {"train_loss": ones(3)}},
    "train.sweep": lambda: {
        "run": fn.train.make_run(**loop()), "data": DATA, "space": {"learning_rate": [0.1]}, "progress": False,
    },
    "train.uniform": lambda: {"low": 0.1, "high": 1.0},
    "train.checkpoint.restore": lambda: {"folder": "no-such-folder", "like": {}},
    "train.checkpoint.save": lambda: {"folder": "/dev/null/none", "step": 1, "tree": {}},
}  # fmt: skip

# Valid calls that are not tried: they train, or need files.
NOT_CALLED = {
    "data.fashion_mnist", "data.read_idx", "train.checkpoint.restore", "train.checkpoint.save", "train.fit",
    "train.plot", "train.sweep", "train.learning_rate_range",
}  # fmt: skip


def public_functions() -> dict[str, Callable[..., Any]]:
    """By name, as users write it after `fn.`; those of the parts that are not yet covered among them."""
    found = {name: getattr(fn, name) for name in fn.__all__}
    for part in (fn.losses, fn.initializers):
        prefix = part.__name__.removeprefix("fnnet.")
        found |= {
            f"{prefix}.{name}": thing
            for name, thing in vars(part).items()
            if getattr(thing, "__module__", "") == part.__name__ and not name.startswith("_")
        }
    for part in (fn.metrics, fn.data, fn.optim, fn.train, fn.train.checkpoint):
        prefix = part.__name__.removeprefix("fnnet.")
        found |= {f"{prefix}.{name}": getattr(part, name) for name in part.__all__}
    is_type = lambda f: inspect.isclass(f) or typing.get_origin(f) is not None  # noqa: E731
    return {name: f for name, f in found.items() if callable(f) and not is_type(f)}


def kinds(annotation: Any) -> set[Any]:
    """The types that an annotation allows: those of a union, and of unions in it."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*map(kinds, typing.get_args(annotation)))
    return {annotation}


def numeric_arguments(f: Callable[..., Any]) -> list[str]:
    """The arguments that may be a number by their annotation or default."""

    def is_numeric(p: inspect.Parameter) -> bool:
        is_number = isinstance(p.default, int | float) and not isinstance(p.default, bool)
        allowed = kinds(p.annotation)
        is_tree = any(typing.get_origin(kind) is Mapping for kind in allowed)
        return is_number or (bool(allowed & {int, float}) and not is_tree)

    return [name for name, p in inspect.signature(f).parameters.items() if is_numeric(p)]


FUNCTIONS = {name: f for name, f in public_functions().items() if numeric_arguments(f)}
# What a program computes, and its own functions take: a value of the loss may be NaN.
COMPUTED = {
    f"optim.{search}.{argument}" for search in ("backtracking", "wolfe") for argument in ("value", "slope")
}
CASES = [
    f"{name}.{argument}"
    for name, f in FUNCTIONS.items()
    if f.__module__.removeprefix("fnnet.").split(".")[0] in COVERED
    for argument in numeric_arguments(f)
    if f"{name}.{argument}" not in COMPUTED
]


NAMES = {name.rsplit(".", 1)[-1] for name in public_functions()}


def call(name: str, **changes: Any) -> Any:
    return FUNCTIONS[name](**{**CALLS.get(name, dict)(), **changes})


def test_the_tables_have_every_function_and_nothing_else() -> None:
    required = {
        name
        for name, f in FUNCTIONS.items()
        if any(
            p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            for p in inspect.signature(f).parameters.values()
        )
    }
    assert required - set(CALLS) == set()
    assert set(CALLS) | NOT_CALLED <= set(FUNCTIONS)
    assert {case.rsplit(".", 1)[0] for case in ACCEPTED} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", sorted({case.rsplit(".", 1)[0] for case in CASES} - NOT_CALLED))
def test_the_call_is_valid(name: str) -> None:
    call(name)


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_such_number_is_refused_with_the_name_of_the_argument(case: str) -> None:
    name, argument = case.rsplit(".", 1)
    parameter = inspect.signature(FUNCTIONS[name]).parameters[argument]
    optional = parameter.default is None or type(None) in kinds(parameter.annotation)
    accepted = ACCEPTED.get(case, (set(), ""))[0]
    wrong = []
    for text, value in VALUES.items():
        if optional and value is None:
            continue
        try:
            call(name, **{argument: value})
            outcome = "accepted"
        except (TypeError, ValueError) as exc:
            outcome = f"{type(exc).__name__}: {exc}".splitlines()[0]
        # A part that is made of others, such as a transformer block, may leave the check to them.
        own = re.match(rf"(Type|Value)Error: (\w+): .*\b{argument}\b", outcome)
        own = own and own[2] in NAMES
        if (outcome != "accepted") if text in accepted else not own:
            wrong.append(f"{text}: {outcome}")
    assert wrong == []
