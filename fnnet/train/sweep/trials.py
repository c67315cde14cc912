"""The trials of a sweep: the grid of all values, or random draws."""

import itertools
import zlib
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import numpy as np

from fnnet import check


class Distribution(NamedTuple):
    """The distribution of a hyperparameter in a random search, made by `uniform`, `log_uniform` or `choice`."""

    kind: str  # "uniform", "log_uniform" or "choice"
    values: tuple[Any, ...]  # low and high, or the values to choose from


Space = Mapping[str, Distribution | Sequence[Any] | np.ndarray | jax.Array]


def uniform(low: float, high: float) -> Distribution:
    """A uniform distribution in [low, high).

    Raises:
        ValueError: low is not less than high, or one of them is not finite.

    Example:
        >>> fn.train.uniform(0.0, 0.5)
        Distribution(kind='uniform', values=(0.0, 0.5))
    """
    return _between("uniform", low, high)


def log_uniform(low: float, high: float) -> Distribution:
    """A distribution whose logarithm is uniform in [log low, log high), for values of unknown order of magnitude.

    Raises:
        ValueError: low is not positive or not less than high, or one of them is not finite.

    Source: Bergstra & Bengio 2012, "Random search for hyper-parameter optimization", JMLR 13.

    Example:
        >>> fn.train.log_uniform(1e-5, 1e-1)
        Distribution(kind='log_uniform', values=(1e-05, 0.1))
    """
    check.number("log_uniform", "low", low)
    if not isinstance(low, jax.core.Tracer) and not low > 0:
        raise ValueError(
            f"log_uniform: low={low}, wanted more than 0; for a range that has 0 in it use uniform"
        )
    return _between("log_uniform", low, high)


def choice(values: Sequence[Any]) -> Distribution:
    """One of the values, all equally likely.

    Raises:
        ValueError: there are no values.

    Example:
        >>> fn.train.choice([0.0, 1e-4, 1e-3])
        Distribution(kind='choice', values=(0.0, 0.0001, 0.001))
    """
    if len(values) == 0:
        raise ValueError("choice: no values, wanted at least one")
    return Distribution("choice", tuple(values))


def _between(kind: str, low: float, high: float) -> Distribution:
    check.number(kind, "low", low)
    check.number(kind, "high", high)
    if not low < high:
        raise ValueError(f"{kind}: low={low}, high={high}, wanted finite numbers with low < high")
    return Distribution(kind, (float(low), float(high)))


def make_trials(space: Space, trials: int | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """The hyperparameters of all trials: for each name, an array whose first axis is the trials.

    Args:
        space: for each name, values or a `Distribution`.
        trials: None for the grid of all combinations of the values, in which the last name's value changes fastest.
            A number for as many random draws; a list of values is then a `choice`.
        seed: of the draws. Each name has its own random numbers, and the first of many trials are those of few.

    Raises:
        TypeError, ValueError: the space is not a dict, or is empty; values are not numbers (or arrays of one shape); a
            grid has a distribution; trials is not a positive int.

    Example:
        >>> from fnnet.train.sweep.trials import make_trials
        >>> make_trials({"learning_rate": [0.1, 0.2], "b1": [0.8, 0.9]})
        {'learning_rate': array([0.1, 0.1, 0.2, 0.2]), 'b1': array([0.8, 0.9, 0.8, 0.9])}
        >>> make_trials({"learning_rate": fn.train.log_uniform(1e-4, 1e-1)}, trials=2)
        {'learning_rate': array([..., ...])}
    """
    if not isinstance(space, Mapping) or not space:
        raise TypeError(f"sweep: space={space!r}, wanted a dict of values or distributions by name")
    if trials is not None:
        check.is_positive("sweep", "trials", trials)
    check.number("sweep", "search_seed", seed, "[0, inf)")
    if not isinstance(seed, Integral):
        raise TypeError(f"sweep: search_seed={seed!r}, wanted an int")
    values = {name: _values(name, given) for name, given in space.items()}
    if trials is not None:
        return {
            name: _draw(given, values[name], trials, _generator(seed, name)) for name, given in space.items()
        }
    if drawn := [name for name, given in space.items() if isinstance(given, Distribution)]:
        raise ValueError(
            f"sweep: space[{drawn[0]!r}] is {space[drawn[0]]}, which has no grid; list values, or pass trials="
        )
    index = np.array(list(itertools.product(*(range(len(v)) for v in values.values()))))
    return {name: v[index[:, i]] for i, (name, v) in enumerate(values.items())}


def _values(name: str, given: Any) -> np.ndarray:
    """The listed values as an array, with the values along the first axis."""
    listed = given.values if isinstance(given, Distribution) else given
    wanted = (
        f"sweep: space[{name!r}] is {given!r}, wanted numbers, or arrays of one shape, or a distribution; "
        "for something that changes the program, such as a width or an optimizer, run one sweep per value"
    )
    if isinstance(listed, str) or not hasattr(listed, "__len__"):
        raise TypeError(wanted)
    try:
        array = np.asarray(listed)
    except ValueError as exc:  # arrays of several shapes
        raise TypeError(wanted) from exc
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise TypeError(wanted)
    if len(array) == 0:
        raise ValueError(f"sweep: space[{name!r}] is empty, wanted at least one value")
    if np.isnan(array).any():
        raise ValueError(f"sweep: space[{name!r}] has NaN in it, wanted numbers: {given!r}")
    return array


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _draw(given: Any, values: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    share = generator.random(n)
    if isinstance(given, Distribution) and given.kind == "uniform":
        low, high = values
        return low + share * (high - low)
    if isinstance(given, Distribution) and given.kind == "log_uniform":
        low, high = np.log(values)
        return np.exp(low + share * (high - low))
    return values[(share * len(values)).astype(int)]
