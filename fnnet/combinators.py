"""Combinators: layers made of layers, `serial`, `parallel`, `residual` and `on_x`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import chex
import jax.numpy as jnp

from fnnet import check
from fnnet.children import Child, apply_child, child_keys, output_shape
from fnnet.copies import COPIES, EXPERTS
from fnnet.layer import Layer, Params, State, as_layer, name_by_kind, printable


@printable
def serial(*layers: Child, **named: Child) -> Layer:
    """Layers in series: each is applied to the output of the one before it.

        y = f_n(... f_2(f_1(x)))

    Args:
        *layers: layers, or plain functions of an array. Their params are named by kind and count: `dense_0`,
            `dense_1`.
        **named: layers with names that you choose, after the others: `serial(stem=conv(32, 3), head=dense(10))`.

    Returns:
        A `Layer`. A child without params (or state) has no entry in params (or state).

    Raises:
        TypeError: a child is neither a layer nor a function of an array.
        ValueError: a name that you chose is already the name of another child, or "copies" or "experts", which mark
            stacked params (`copy_axes`); params or state have an entry that is not the name of a child.
        Whatever a child raises, with a note that names the child and its input.

    Example:
        >>> net = fn.serial(fn.dense(4), jnp.tanh, fn.dense(2))
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> jax.tree.map(jnp.shape, params)
        {'dense_0': {'b': (4,), 'w': (3, 4)}, 'dense_1': {'b': (2,), 'w': (4, 2)}}
        >>> net(params, jnp.ones((5, 3))).shape
        (5, 2)
    """
    return _in_series("serial", _name_children("serial", layers, named))


def _in_series(kind: str, children: Mapping[str, Layer]) -> Layer:
    """Children one after the other, for the combinator whose kind is named in errors."""

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        params: Params = {}
        state: State = {}
        keys = child_keys(key, children)
        for name, child in children.items():
            with check.at(f"{kind}[{name!r}]", x):
                p, s = child.init(keys[name], x)
                x = output_shape(child, p, s, x)
            params |= {name: p} if p else {}
            state |= {name: s} if s else {}
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        _check_names(kind, children, params, state)
        new_state: State = {}
        keys = child_keys(key, children)
        for name, child in children.items():
            with check.at(f"{kind}[{name!r}]", x):
                x, s = _apply(name, child, params, state, x, keys[name], train)
            new_state |= {name: s} if s else {}
        return x, new_state

    return Layer(init, apply, kind)


@printable
def parallel(*branches: Child, merge: Literal["sum", "concatenate"] = "sum") -> Layer:
    """Several branches with the same input, whose outputs are merged.

        y = f_1(x) + f_2(x) + ...      or      y = [f_1(x), f_2(x), ...] along the last axis

    Args:
        *branches: layers, or plain functions of an array.
        merge: "sum" (outputs of equal shape) or "concatenate" (along the last axis: features, channels).

    Raises:
        ValueError: merge is unknown, there is no branch, or the shapes of the outputs do not match.

    Example:
        >>> net = fn.parallel(fn.dense(4), fn.identity, merge="concatenate")
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> net(params, jnp.ones((5, 3))).shape
        (5, 7)
    """
    check.one_of("parallel", "merge", merge, ("sum", "concatenate"))
    if not branches:
        raise ValueError("parallel: no branches, wanted at least one")
    children = _name_children("parallel", branches, {})

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        params: Params = {}
        state: State = {}
        outputs = {}
        keys = child_keys(key, children)
        for name, child in children.items():
            with check.at(f"parallel[{name!r}]", x):
                p, s = child.init(keys[name], x)
                outputs[name] = output_shape(child, p, s, x)
            params |= {name: p} if p else {}
            state |= {name: s} if s else {}
        _check_outputs(outputs, merge)
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        _check_names("parallel", children, params, state)
        new_state: State = {}
        outputs = {}
        keys = child_keys(key, children)
        for name, child in children.items():
            with check.at(f"parallel[{name!r}]", x):
                outputs[name], s = _apply(name, child, params, state, x, keys[name], train)
            new_state |= {name: s} if s else {}
        _check_outputs(outputs, merge)
        first, *others = outputs.values()
        y = jnp.concatenate([first, *others], axis=-1) if merge == "concatenate" else sum(others, first)
        return y, new_state

    return Layer(init, apply, "parallel")


def _check_outputs(outputs: Mapping[str, Any], merge: str) -> None:
    """Raises unless the outputs of parallel branches can be merged."""
    arrays = list(outputs.values())
    if not all(hasattr(y, "shape") for y in arrays):
        raise TypeError(f"parallel: the branches gave {check.describe(arrays)}, wanted one array from each")
    shared = slice(None) if merge == "sum" else slice(-1)
    if len({y.shape[shared] for y in arrays}) > 1:
        got = ", ".join(f"{name}: {check.describe(y)}" for name, y in outputs.items())
        wanted = "one shape" if merge == "sum" else "one shape except for the last axis"
        raise ValueError(f"parallel: the branches gave {got}; to merge by {merge} they must have {wanted}")


@printable
def residual(*layers: Child) -> Layer:
    """A shortcut around layers in series (He et al. 2016, arXiv:1512.03385).

        y = x + f(x)

    Args:
        *layers: as in `serial`; params have the same form. The output must have the shape of the input. If it
            cannot, write `parallel(f, shortcut)` with a projection as the shortcut.

    Raises:
        ValueError: f changes the shape.
        Whatever a child raises, with a note that names the child and its input.

    Example:
        >>> net = fn.residual(fn.dense(3), fn.relu)
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> net(params, jnp.ones((5, 3))).shape
        (5, 3)
    """
    f = _in_series("residual", _name_children("residual", layers, {}))

    def check_same_shape(x: Any, y: Any) -> None:
        if isinstance(x, Mapping):
            raise TypeError(
                f"residual: input is {check.describe(x)}, wanted one array; on_x(layer) takes it out of a dict, "
                "and the blocks of a transformer have their own shortcuts"
            )
        if x.shape != y.shape:
            raise ValueError(
                f"residual: x is {check.describe(x)} and f(x) is {check.describe(y)}, wanted one shape; "
                "give f as many output features as input features, or write parallel(f, projection)"
            )

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        params, state = f.init(key, x)
        check_same_shape(x, output_shape(f, params, state, x))
        return params, state

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        y, state = f.apply(params, state, x, key=key, train=train)
        check_same_shape(x, y)
        return x + y, state

    return Layer(init, apply, "residual")


@printable
def on_x(*layers: Child) -> Layer:
    """Layers in series for the entry "x" of a dict. The other entries are passed on unchanged.

        {"x": x, "mask": mask, ...} -> {"x": f(x), "mask": mask, ...}

    With it, layers of a single array can be placed between layers that read a mask, lengths or a memory. If the
    input is an array, so is the output.

    Args:
        *layers: as in `serial`; params have the same form.

    Raises:
        ValueError: the dict has no entry "x".
        Whatever a child raises, with a note that names the child and its input.

    Example:
        >>> net = fn.serial(fn.gru(4), fn.on_x(fn.layer_norm(), fn.dropout(0.1)), fn.gru(2, outputs="last"))
        >>> x = {"x": jnp.ones((2, 5, 3)), "lengths": jnp.array([5, 2])}
        >>> params, state = net.init(jax.random.key(0), x)
        >>> net(params, x).shape
        (2, 2)
    """
    f = _in_series("on_x", _name_children("on_x", layers, {}))

    def entry(x: Any) -> Any:
        if isinstance(x, Mapping) and "x" not in x:
            raise ValueError(f"on_x: input is {check.describe(x)}, wanted a dict with an entry 'x'")
        return x["x"] if isinstance(x, Mapping) else x

    def init(key: chex.PRNGKey, x: Any) -> tuple[Params, State]:
        return f.init(key, entry(x))

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        y, state = f.apply(params, state, entry(x), key=key, train=train)
        return ({**x, "x": y} if isinstance(x, Mapping) else y), state

    return Layer(init, apply, "on_x")


def _name_children(kind: str, layers: Sequence[Child], named: Mapping[str, Child]) -> dict[str, Layer]:
    """The children by name, in order: first those named by kind and count, then those with given names."""
    children = name_by_kind(layers)
    for name in {COPIES, EXPERTS} & set(named):
        raise ValueError(f"{kind}: the name {name!r} marks params of stacked copies; choose another")
    for name in set(named) & set(children):
        raise ValueError(
            f"{kind}: the name {name!r} is taken by a child without a name of its own; choose another"
        )
    return children | {name: as_layer(layer) for name, layer in named.items()}


def _apply(
    name: str, child: Layer, params: Params, state: State, x: Any, key: chex.PRNGKey | None, train: bool
) -> tuple[Any, State]:
    return apply_child(name, child, params.get(name, {}), state.get(name, {}), x, key, train)


def _check_names(kind: str, children: Mapping[str, Layer], params: Params, state: State) -> None:
    """Raises if params or state have an entry that is not the name of a child: they are of another network."""
    for what, tree in (("params", params), ("state", state)):
        check.is_dict(kind, what, tree)
        if unknown := sorted(set(tree) - set(children)):
            raise ValueError(
                f"{kind}: {what} has {unknown}, and the network only {list(children)}; "
                f"pass the {what} that this network's init returned"
            )
