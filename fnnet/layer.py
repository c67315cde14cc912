"""A layer is a pair of pure functions. Everything else in fnnet is built on it.

    init(key, x) -> (params, state)
    apply(params, state, x, *, key=None, train=False) -> (y, state)

`x` in `init` is an example batch or a `jax.ShapeDtypeStruct`: only its shape and dtype are read. `params` and
`state` are nested dicts of arrays, `{}` when empty. The state has the same tree in training and in evaluation, so
that it can be the carry of a `lax.scan`. An int in place of a key is the seed of one.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import Parameter, signature
from numbers import Real
from types import FunctionType
from typing import Any, ParamSpec, Protocol, TypeVar

import chex
import jax

from fnnet import check
from fnnet.keys import as_key

Params = dict[str, Any]
State = dict[str, Any]

P = ParamSpec("P")
Made = TypeVar("Made")


class Init(Protocol):
    """The type of a layer's init."""

    def __call__(self, key: chex.PRNGKey, x: Any, /) -> tuple[Params, State]:
        """`init(key, x) -> (params, state)`."""


class Apply(Protocol):
    """The type of a layer's apply."""

    def __call__(
        self, params: Params, state: State, x: Any, /, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        """`apply(params, state, x, *, key=None, train=False) -> (y, state)`."""


# Not a NamedTuple: `jax.jit(layer)` needs a weak reference to its function, and a tuple has none.
@dataclass(frozen=True, repr=False)
class Layer:
    """A layer or a whole network: two pure functions, and the layer's name in params and in errors.

    Both functions are wrapped, so that what can go wrong in a call of any layer is checked in one place: a key may be
    the int that is its seed, and `train` must be True or False.

    Attributes:
        init: `(key, x) -> (params, state)`.
        apply: `(params, state, x, *, key=None, train=False) -> (y, state)`.
        name: the kind, such as "dense". `serial` counts the children of each kind: `dense_0`, `dense_1`.
        call: the constructor and its arguments, which `print` shows. `printable` fills it in. It takes no part in
            comparisons.

    Example:
        A layer written by hand, with one gain per feature:

        >>> def init(key, x):
        ...     return {"gain": jnp.ones(x.shape[-1:], x.dtype)}, {}
        >>> def apply(params, state, x, *, key=None, train=False):
        ...     return x * params["gain"], {}
        >>> scale = fn.Layer(init, apply, "scale")
        >>> params, state = scale.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.float32))
        >>> scale(params, jnp.array([1.0, 2.0, 3.0]))
        Array([1., 2., 3.], dtype=float32)
    """

    init: Init
    apply: Apply
    name: str
    call: partial[Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", checked_init(self.name, self.init))
        object.__setattr__(self, "apply", _checked_apply(self.name, self.apply))

    def __call__(self, params: Params, x: Any) -> Any:
        """The deterministic forward pass of a layer without state: `y = layer(params, x)`."""
        y, _ = self.apply(params, {}, x)
        return y

    def __repr__(self) -> str:
        return self.name if self.call is None else show_call(self.call)


_MISSING: Any = object()


def checked_init(name: str, init: Callable[[Any, Any], Made]) -> Callable[[Any, Any], Made]:
    """The init of a layer or of a cell, which takes a seed for a key, too."""
    if getattr(init, "checked_for", None) == name:
        return init
    inner = getattr(init, "unchecked", init)  # of a layer that is renamed

    @wraps(inner)
    def checked(key: Any, x: Any = _MISSING) -> Made:
        if x is _MISSING:
            raise TypeError(
                f"{name}: init got one argument, wanted a key, or its seed, and an input: init(0, x)"
            )
        return inner(as_key(name, key), x)

    vars(checked).update(unchecked=inner, checked_for=name)
    return checked


def _checked_apply(name: str, apply: Apply) -> Apply:
    """A layer's apply whose `train` is a bool, and whose key may be a seed."""
    if getattr(apply, "checked_for", None) == name:
        return apply
    inner = getattr(apply, "unchecked", apply)

    @wraps(inner)
    def checked(
        params: Params, state: State, x: Any = _MISSING, *, key: Any = None, train: bool = False
    ) -> tuple[Any, State]:
        if x is _MISSING:
            raise TypeError(
                f"{name}: apply got two arguments, wanted apply(params, state, x); init returned the state, which is "
                "{} if nothing in the network has one"
            )
        if train is not False and train is not True:
            if isinstance(train, jax.core.Tracer):
                raise TypeError(
                    f"{name}: train is a traced value, wanted True or False: jax.jit(net.apply, "
                    "static_argnames='train')"
                )
            check.flag(name, "train", train)
        return inner(params, state, x, key=None if key is None else as_key(name, key), train=train)

    vars(checked).update(unchecked=inner, checked_for=name)
    return checked


def printable(make: Callable[P, Made]) -> Callable[P, Made]:
    """A decorator for constructors: the layer that one returns prints as the call that made it.

    What it returns is a dataclass with a field `call`, such as a `Layer`, or a new function, such as an initializer.
    The constructor keeps its signature.

    Example:
        >>> @fn.layer.printable
        ... def scale(factor):
        ...     return fn.as_layer(lambda x: factor * x)
        >>> fn.serial(scale(3.0), fn.relu)
        serial(
          lambda_0=scale(3.0),
          relu_0=relu,
        )
    """

    @wraps(make)
    def make_and_record(*args: P.args, **kwargs: P.kwargs) -> Made:
        made: Any = make(*args, **kwargs)
        call = partial(make, *args, **kwargs)
        if isinstance(made, FunctionType):
            vars(made)["call"] = call
        else:
            made = dataclasses.replace(made, call=call)
        result: Made = made
        return result

    return make_and_record


def takes_input(f: Callable[P, Made]) -> Callable[P, Made]:
    """A decorator for a plain function of an array that is a layer itself: called without an input, it says so.

    Example:
        >>> fn.relu()
        Traceback (most recent call last):
        ...
        TypeError: relu: called without an input; it is a layer itself: write fn.relu, not fn.relu()
    """

    @wraps(f)
    def function(*args: P.args, **kwargs: P.kwargs) -> Made:
        if not args and "x" not in kwargs:
            name = _name_of(f)
            given = ", ".join(f"{argument}={value!r}" for argument, value in kwargs.items())
            write = f"partial(fn.{name}, {given})" if given else f"fn.{name}"
            raise TypeError(
                f"{name}: called without an input; it is a layer itself: write {write}, not fn.{name}({given})"
            )
        return f(*args, **kwargs)

    return function


def as_layer(f: Layer | Callable[[Any], Any]) -> Layer:
    """A layer from a plain function of an array, such as `jnp.tanh`. A `Layer` is returned as it is.

    Raises:
        TypeError: `f` is neither of these, or is a function that makes a layer, such as `fn.dense` without its
            features.

    Example:
        >>> double = fn.as_layer(lambda x: 2 * x)
        >>> double({}, jnp.arange(3))
        Array([0, 2, 4], dtype=int32)
    """
    if isinstance(f, Layer):
        return f
    if not callable(f):
        hint = f"; write recurrent({f.name}_cell(...))" if hasattr(f, "initial_carry") else ""
        if isinstance(f, list | tuple):
            hint = "; several layers are arguments of their own: serial(*layers), not serial(layers)"
        raise TypeError(f"a layer is a fnnet.Layer or a function of an array, got {f!r}{hint}")

    # A partial has no name of its own, and a lambda's is not an identifier.
    named = getattr(f, "func", f)
    name = _name_of(named)
    makes_a_layer = (
        f"got {name}, a function that makes a layer; wanted a layer: call {name}(...) with its arguments"
    )
    if getattr(named, "__annotations__", {}).get("return") is Layer:
        raise TypeError(makes_a_layer)

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return {}, {}

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        check.has_shapes(name, "params", params, {})
        check.has_shapes(name, "state", state, {})
        y = f(x)
        if isinstance(y, Layer):
            raise TypeError(makes_a_layer)
        return y, {}

    return Layer(init, apply, name)


def name_by_kind(layers: Iterable[Layer | Callable[[Any], Any]]) -> dict[str, Layer]:
    """Layers in order, under their kind and a count: `dense_0`, `relu_0`, `dense_1`."""
    named: dict[str, Layer] = {}
    count: Counter[str] = Counter()
    for layer in map(as_layer, layers):
        named[f"{layer.name}_{count[layer.name]}"] = layer
        count[layer.name] += 1
    return named


def show_call(call: partial[Any]) -> str:
    """A constructor's call as text: `conv(32, (3, 3))`. A combinator's children go on lines of their own."""
    positional = [_show(value) for value in call.args]
    children = _are_children(call)
    if children:
        names = name_by_kind(call.args)
        positional = [f"{name}={child}" for name, child in zip(names, positional, strict=True)]
    arguments = [*positional, *(f"{name}={_show(value)}" for name, value in call.keywords.items())]
    return _in_parentheses(_name_of(call.func), arguments, on_lines=children)


def _are_children(call: partial[Any]) -> bool:
    """Whether a call has any number of layers, as `serial(*layers)` does, which go by kind and count."""
    first = next(iter(signature(call.func).parameters.values()), None)
    several = first is not None and first.kind is Parameter.VAR_POSITIONAL
    return several and len(call.args) > 0 and all(map(callable, call.args))


def _in_parentheses(name: str, arguments: Sequence[str], on_lines: bool = False) -> str:
    if not on_lines and not any("\n" in argument for argument in arguments):
        return f"{name}({', '.join(arguments)})"
    indented = (argument.replace("\n", "\n  ") for argument in arguments)
    return f"{name}(\n" + "".join(f"  {argument},\n" for argument in indented) + ")"


def _name_of(f: Any) -> str:
    return getattr(f, "__name__", type(f).__name__).strip("<>")


def _show(value: Any) -> str:
    """An argument as text: short, no addresses, an array as its dtype and shape."""
    if isinstance(call := getattr(value, "call", None), partial):
        return show_call(call)
    if isinstance(value, partial):
        keywords = [f"{name}={_show(argument)}" for name, argument in value.keywords.items()]
        return _in_parentheses("partial", [*map(_show, (value.func, *value.args)), *keywords])
    if hasattr(value, "__name__"):  # a function, a type
        return _name_of(value)
    if isinstance(value, Real):  # NumPy's, too
        return str(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return check.describe(value)
    if isinstance(value, Mapping):
        shown = [f"{name!r}: {_show(child)}" for name, child in list(value.items())[:8]]
        return "{" + ", ".join(shown + ["..."] * (len(value) > 8)) + "}"
    if type(value) in (tuple, list):
        inside = ", ".join([_show(child) for child in value[:8]] + ["..."] * (len(value) > 8))
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= 100 or "\n" in text else f"{text[:97]}..."
