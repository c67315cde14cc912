"""Checks of what each training function takes. A first mistake gets a message with the remedy."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fnnet import losses, metrics, optim
from fnnet.layer import Layer
from fnnet.metrics import Metric, PerExample, mean

# What other libraries call the loss of classes.
CROSS_ENTROPY = (
    "cross_entropy",
    "crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
)


def check_network(function: str, net: Any) -> None:
    """Raises TypeError unless the network is a `Layer`."""
    if isinstance(net, Layer):
        return
    wanted = "wanted a network such as fn.serial(fn.dense(64), fn.relu, fn.dense(10))"
    if isinstance(net, list | tuple):
        raise TypeError(f"{function}: net is a {type(net).__name__} of {len(net)}, {wanted}: fn.serial(*net)")
    if _returns(net, Layer):
        raise TypeError(
            f"{function}: net is {_name(net)}, a function that makes a layer, {wanted}: call {_name(net)}(...) with "
            "its arguments"
        )
    if callable(net):
        raise TypeError(f"{function}: net is {_name(net)}, a function without params, {wanted}")
    raise TypeError(f"{function}: net={net!r}, {wanted}")


def check_loss(function: str, loss: Any) -> None:
    """Raises TypeError unless the loss is a function of prediction and target."""
    if not callable(loss) or _returns(loss, PerExample):
        raise TypeError(
            f"{function}: loss={_shown(loss)}, wanted a function (prediction, target) -> one value per example, such "
            f"as fn.losses.softmax_cross_entropy{_meant(loss, 'losses')}"
        )


def check_optimizer(function: str, optimizer: Any) -> None:
    """Raises TypeError unless the optimizer has `init` and `update`."""
    if hasattr(optimizer, "init") and hasattr(optimizer, "update"):
        return
    if callable(optimizer):
        raise TypeError(
            f"{function}: optimizer is {_name(optimizer)}, a function that makes an optimizer; call it with a learning "
            f"rate: {_name(optimizer)}(1e-3)"
        )
    raise TypeError(
        f"{function}: optimizer={optimizer!r}, wanted an optimizer such as fn.optim.adam(1e-3)"
        f"{_meant(optimizer, 'optim')}"
    )


def check_maker(function: str, make_optimizer: Any) -> None:
    """Raises TypeError unless it is a function that makes an optimizer."""
    wanted = "wanted a function that makes one from hyperparameters, such as fn.optim.adam"
    if hasattr(make_optimizer, "init") and hasattr(make_optimizer, "update"):
        raise TypeError(f"{function}: make_optimizer is an optimizer, {wanted}, without calling it")
    if not callable(make_optimizer):
        raise TypeError(
            f"{function}: make_optimizer={make_optimizer!r}, {wanted}{_meant(make_optimizer, 'optim')}"
        )


def check_metrics(function: str, given: Any) -> dict[str, Metric]:
    """The metrics by name, those of single examples averaged.

    Raises:
        TypeError: metrics is not a dict of functions and `Metric`s by name.
        ValueError: a metric has a name that training uses itself, such as "loss".
    """
    if not isinstance(given, Mapping | None):
        raise TypeError(
            f"{function}: metrics={_shown(given)}, wanted a dict of functions by name: "
            '{"accuracy": fn.metrics.accuracy}'
        )
    if reserved := sorted({"loss", "penalty", "gradient_norm"} & set(given or {})):
        raise ValueError(
            f"{function}: metrics has {reserved}, which training reports itself; choose other names"
        )
    for name, f in (given or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"{function}: metrics has the name {name!r}, wanted a str")
        if isinstance(f, Metric):
            continue
        if _returns(f, Metric, PerExample):
            raise TypeError(
                f"{function}: metrics[{name!r}] is {_name(f)}, a function that makes a metric; call it: {_name(f)}(...)"
            )
        if not callable(f):
            raise TypeError(
                f"{function}: metrics[{name!r}]={f!r}, wanted a function (prediction, target) -> one value per "
                f"example, or a fn.metrics.Metric{_meant(f, 'metrics')}"
            )
    return {name: mean(f, name) for name, f in (given or {}).items()}


def _returns(f: Any, *kinds: Any) -> bool:
    """Whether a function is annotated to return one of these, so that it was not called where it should be."""
    return getattr(getattr(f, "func", f), "__annotations__", {}).get("return") in kinds


def _name(f: Any) -> str:
    return getattr(f, "__name__", type(f).__name__)


def _shown(value: Any) -> str:
    return f"{_name(value)}, a function" if callable(value) else repr(value)


def _meant(given: Any, part: str) -> str:
    """`; did you mean fn.losses.mean_squared_error?` for "mse", or nothing."""
    if not isinstance(given, str):
        return ""
    module: Any = {"losses": losses, "metrics": metrics, "optim": optim}[part]
    names = [name for name, f in vars(module).items() if callable(f) and name.islower() and name[0] != "_"]
    given = given.lower().replace(" ", "_").replace("-", "_")
    found = [name for name in names if given == "".join(word[0] for word in name.split("_"))]
    found += get_close_matches("softmax_cross_entropy" if given in CROSS_ENTROPY else given, names, n=1)
    return f"; did you mean fn.{part}.{found[0]}?" if found else ""
