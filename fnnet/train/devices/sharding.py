"""Many devices: which part of each array lies where, by `jax.sharding`; XLA's partitioner does the rest.

A mesh names the axes of a grid of devices: "data", over which batches are split, and, for tensor parallel
layers, "model". Rules say how params are split. The compiled step computes what it computes on one device, to
rounding.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fnnet import check
from fnnet.children import apply_child
from fnnet.layer import Layer, Params, State, as_layer
from fnnet.train.step import TrainState, start

# How an array is split, or a function of its shape and the mesh, so that one rule fits any rank and any mesh.
Spec = PartitionSpec | Callable[[tuple[int, ...], Mesh], PartitionSpec]

# (regular expression, spec): params whose path, such as "dense_0/w", has a match are split so; first wins.
Rules = Sequence[tuple[str, Spec]]


def with_auto_axes(mesh: Mesh) -> Mesh:
    """The mesh with axes for XLA's partitioner; those of `jax.make_mesh` are explicit by default."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f'mesh={mesh!r}, wanted a Mesh: jax.make_mesh((jax.device_count(),), ("data",))')
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        raise ValueError(
            "inside jax.set_mesh of a mesh with explicit axes, wanted none: leave jax.set_mesh out, the "
            "mesh is passed by hand"
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def shardings(tree: Any, mesh: Mesh, rules: Rules = (), *, params: Any = None) -> Any:
    """Where each array lies: params by rules, an optimizer's copies of a param like it, the rest everywhere.

    A param is split by the first rule whose regular expression is found in its path (`re.search`): names with
    slashes between them, such as "repeat_0/mlp/dense_0/w". One that no rule matches is replicated: whole on
    each device. An array outside the params whose path ends with a param's, and whose shape does, is split
    like it: the averages of adam, lookahead's copies, lbfgs's memory. Everything else is replicated: the
    layers' state, step counts, keys.

    Args:
        tree: a `TrainState`, or any tree, of arrays or of the `jax.ShapeDtypeStruct` of `jax.eval_shape`.
        mesh: the devices, such as `jax.make_mesh((2, 4), ("data", "model"))`.
        rules: pairs of a regular expression and a `PartitionSpec`, or a function (shape, mesh) ->
            PartitionSpec, such as those of `fully_sharded` and `tensor_parallel`. Without any, all
            params are replicated.
        params: those that the rules are for; `tree.params` of a TrainState, else the tree itself.

    Returns:
        The tree with a `jax.sharding.NamedSharding` for each array: for `jax.device_put`, and for the
        in_shardings and out_shardings of `jax.jit`.

    Raises:
        TypeError: mesh is no Mesh, or rules are no such pairs.
        ValueError: a rule is no regular expression, or matches no param; a spec names an axis that the mesh
            does not have, or one twice, has more entries than the array has axes, or splits an axis into
            unequal parts.

    Example:
        A network of two layers, tensor parallel by rules of one's own: the first layer is split by its
        outputs, the second by its inputs, so that what lies between them is never put together:

        >>> from jax.sharding import PartitionSpec as P
        >>> net = fn.serial(fn.dense(8), fn.relu, fn.dense(2))
        >>> before = fn.train.start(net, fn.optim.adam(0.1), jax.random.key(0), jnp.ones((1, 3)))
        >>> rules = [("dense_0/w", P(None, "model")), ("dense_0/b", P("model")), ("dense_1/w", P("model"))]
        >>> mesh = jax.make_mesh((1, 1), ("data", "model"))
        >>> where = fn.train.shardings(before, mesh, rules)
        >>> tuple(where.params["dense_0"]["w"].spec), tuple(where.params["dense_1"]["b"].spec)
        ((None, 'model'), ())
        >>> tuple(where.opt_state.m["dense_1"]["w"].spec)
        ('model',)

    Source: Xu et al. 2021, arXiv:2105.04663 (GSPMD).
    """
    mesh = with_auto_axes(mesh)
    if params is None:
        params = tree.params if isinstance(tree, TrainState) else tree
    rules = _pairs(rules)

    of_params: dict[tuple[Any, ...], tuple[tuple[int, ...], PartitionSpec]] = {}
    names: list[str] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        names.append(name)
        pattern, spec = next((rule for rule in rules if re.search(rule[0], name)), ("", PartitionSpec()))
        if callable(spec):
            spec = spec(jnp.shape(leaf), mesh)
        _fits(f"param {name} is {check.describe(leaf)}, its rule {pattern!r}", spec, jnp.shape(leaf), mesh)
        of_params[tuple(path)] = jnp.shape(leaf), spec
    for pattern, _ in rules:
        if names and not any(re.search(pattern, name) for name in names):
            shown = ", ".join(names[:8]) + (f", ... {len(names)} in all" if len(names) > 8 else "")
            raise ValueError(
                f"shardings: rule {pattern!r} matches no param, wanted one that is found in a path; correct "
                f"it or leave it out. The paths: {shown}"
            )

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        shape = jnp.shape(leaf)
        # The longest end that is a param's path: "dense_0/w" before "w".
        end = next((path[i:] for i in range(len(path) + 1) if path[i:] in of_params), None)
        if end is not None:
            param_shape, spec = of_params[end]
            more = len(shape) - len(param_shape)  # axes in front, such as the pairs that lbfgs remembers
            if more >= 0 and shape[more:] == param_shape:
                return NamedSharding(mesh, PartitionSpec(*[None] * more, *spec) if more else spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def fully_sharded(axis: str = "data", *, at_least: int = 1024, rules: Rules = ()) -> list[tuple[str, Spec]]:
    """Rules that split every param, and the optimizer's state with it, over the axis of the batch.

    Each param is split along the largest of its axes that the number of devices divides, the last of several
    that are equally large. One of few elements, or without such an axis, is replicated. That is 1/n of the
    memory. Whether a device then gathers a layer's params or moves activations is left to XLA, which does not
    always choose well; `gather_params` says it.

    Args:
        axis: of the mesh.
        at_least: elements of the smallest param that is split.
        rules: how params are split over other axes already, such as `tensor_parallel()`; this axis is added.

    Returns:
        Rules, for any mesh with that axis.

    Raises:
        TypeError, ValueError: at_least is no positive int; rules are no pairs.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, stage 3).

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> params = {"w": jnp.ones((64, 32)), "b": jnp.ones(32)}
        >>> where = fn.train.shardings(params, mesh, fn.train.fully_sharded())
        >>> tuple(where["w"].spec), tuple(where["b"].spec)
        (('data', None), ())
    """
    check.is_positive("fully_sharded", "at_least", at_least)

    def further(given: Spec) -> Spec:
        def spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
            first = given(shape, mesh) if callable(given) else given
            size = _size("fully_sharded", mesh, axis)
            parts = [*first, *[None] * (len(shape) - len(first))]
            free = [i for i, n in enumerate(shape) if parts[i : i + 1] == [None] and n % size == 0]
            if math.prod(shape) < at_least or not free or axis in _axes(first):
                return first
            parts[max(free, key=lambda i: (shape[i], i))] = axis
            return PartitionSpec(*parts)

        return spec

    return [(pattern, further(spec)) for pattern, spec in _pairs(rules)] + [("", further(PartitionSpec()))]


def gather_params(layer: Layer | Callable[[Any], Any], mesh: Mesh, rules: Rules = ()) -> Layer:
    """A layer whose params are put together just before it uses them, and again on the way back.

        y = f(x; gather(theta))

    Around the blocks of a fully sharded network it says what XLA's partitioner must otherwise guess: that
    batches stay split and params move. The gathered copy is not remembered for backprop. Inside `repeat`, so
    that there is one block's at a time: `repeat(gather_params(block, mesh), 12)`. Names of params stay. Params and
    input must lie on the mesh.

    Measured for one step of 3 decoder blocks of 64 features and 32 x 64 tokens on 8 host devices, jax 0.10.1:
    228 million operations and 40 MB a device by `fully_sharded` alone, 116 and 10 with it, 117 and 10 data
    parallel.

    Args:
        layer: a layer, or a plain function of an array.
        mesh: the devices.
        rules: how the layer's params are split while it uses them, `tensor_parallel()` say, on paths inside
            the layer; none: each device has all of them.

    Raises:
        TypeError, ValueError: see `shardings`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> net = fn.repeat(fn.train.gather_params(fn.residual(fn.dense(3), fn.tanh), mesh), 12)
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> where = fn.train.shardings(params, mesh, fn.train.fully_sharded(at_least=9))
        >>> params = jax.device_put(params, where)
        >>> net(params, fn.train.shard_batch(jnp.ones((8, 3)), mesh)).shape
        (8, 3)

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5.3.
    """
    child = as_layer(layer)
    mesh = with_auto_axes(mesh)
    _pairs(rules)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        # What is gathered is computed again on the way back, all else is remembered.
        @partial(jax.checkpoint, policy=lambda primitive, *_, **__: primitive.name != "sharding_constraint")
        def inside(params: Params, state: State, x: Any, key: chex.PRNGKey | None) -> tuple[Any, State]:
            where = shardings(params, mesh, rules)
            params = jax.tree.map(jax.lax.with_sharding_constraint, params, where)
            return apply_child(child.name, child, params, state, x, key, train)

        with check.at(f"gather_params[{child.name!r}]", x):
            return inside(params, state, x, key)

    return Layer(child.init, apply, child.name)


def tensor_parallel(
    axis: str = "model", *, embed: Literal["vocabulary", "features"] | None = None
) -> list[tuple[str, Spec]]:
    """Rules that split the products in transformer blocks: each device has some heads and hidden units.

        y = activation(x [w_1 w_2 ...]) [w'_1; w'_2; ...] = sum_i activation(x w_i) w'_i      on device i

    Of the mlp, the first layer is split by columns and the second by rows; of attention, q, k and v by
    columns, the output by rows: one sum over the devices for each. Inside `repeat`, too, whose params have a
    leading axis. For other networks, rules by hand: see `shardings`.

    Args:
        axis: of the mesh; its size should divide the heads, of keys and values, too, and must divide their
            features.
        embed: whether, and how, the tables of `embed` and `tied_embed` are split: by "vocabulary", which
            suits `tied_embed`, whose scores are then split, too, or by "features"; None leaves them whole.

    Raises:
        ValueError: embed is something else.

    Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.

    Example:
        >>> net = fn.repeat(fn.transformer_encoder_block(2), 3)
        >>> shapes, _ = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 5, 4)))
        >>> mesh = jax.make_mesh((1, 1), ("data", "model"))
        >>> where = fn.train.shardings(shapes, mesh, fn.train.tensor_parallel())
        >>> tuple(where["attention"]["w_q"].spec), tuple(where["attention"]["w_o"].spec)
        ((None, None, 'model'), (None, 'model', None))
    """
    tables: dict[str | None, int] = {"vocabulary": -2, "features": -1}
    if embed not in (None, *tables):
        raise ValueError(f"tensor_parallel: embed={embed!r}, wanted 'vocabulary', 'features' or None")

    def along(dimension: int) -> Spec:
        def spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
            parts: list[str | None] = [None] * len(shape)
            parts[dimension] = axis
            return PartitionSpec(*parts)

        return spec

    rules = [
        (r"attention(_\d+)?/[wb]_[qkv]$|\bmlp/dense_0/[wb]$", along(-1)),
        (r"attention(_\d+)?/w_o$|\bmlp/dense_1/w$", along(-2)),
    ]
    return rules + ([(r"\bembed(_\d+)?/w$", along(tables[embed]))] if embed else [])


def shard_batch(batch: Any, mesh: Mesh, axis: str = "data") -> Any:
    """A batch, each array split along its first axis over the devices.

    With several processes, each gives its own share, the examples for its own devices; the batch is all of
    them, in the order of the devices in the mesh. Under `jit`, it says that a batch is to be split so.

    Args:
        batch: tree of arrays with the examples along the first axis.
        mesh: the devices.
        axis: of the mesh.

    Raises:
        TypeError: mesh is no Mesh.
        ValueError: the mesh has no such axis, or its size does not divide the examples.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> batch = fn.train.shard_batch({"x": jnp.ones((8, 2)), "y": jnp.ones(8)}, mesh)
        >>> tuple(batch["x"].sharding.spec)
        ('data',)
    """
    mesh = with_auto_axes(mesh)
    size = _size("shard_batch", mesh, axis)
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    # How many parts of the batch this process has: all of them where there is one process.
    here = len({str(part) for part in sharding.addressable_devices_indices_map((size,)).values()})

    def put(array: Any) -> jax.Array:
        traced = isinstance(array, jax.core.Tracer)
        parts = size if traced else here
        shape = jnp.shape(array)
        if not shape or shape[0] % parts:
            of = f"{parts} of its {size} parts in this process" if parts != size else f"{size} parts"
            raise ValueError(
                f"spread: got {check.describe(array)}, wanted a multiple of {parts} examples on the first "
                f"axis: the mesh {dict(mesh.shape)} has {of}; choose another batch size, or drop the rest"
            )
        if traced:
            return jax.lax.with_sharding_constraint(array, sharding)
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))

    return jax.tree.map(put, batch)


def start_sharded(
    net: Layer,
    optimizer: optax.GradientTransformation,
    key: chex.PRNGKey,
    x: Any,
    mesh: Mesh,
    rules: Rules = (),
) -> TrainState:
    """The state before the first step, made where it will lie: no device has more than its part of it.

    The draws are those of `start`, the weights equal to rounding: 2e-7 for `truncated_normal`, mostly 0.

    Args:
        net: the network.
        optimizer: from `fnnet.optim` or optax.
        key: for the initial weights, the same in each process.
        x: an example batch, or its `jax.ShapeDtypeStruct`.
        mesh: the devices.
        rules: how params are split, as in `shardings`.

    Raises:
        TypeError, ValueError: see `shardings`.

    Example:
        From one device to eight, three lines change: the mesh, the start and the batch.

        >>> mesh = jax.make_mesh((len(jax.devices()),), ("data",))
        >>> net, optimizer = fn.dense(1), fn.optim.sgd(0.1)
        >>> step = jax.jit(fn.train.make_step(net, fn.losses.mean_squared_error, optimizer), donate_argnums=0)
        >>> batch = fn.train.shard_batch({"x": jnp.ones((8, 2)), "y": jnp.ones((8, 1))}, mesh)
        >>> now = fn.train.start_sharded(net, optimizer, jax.random.key(0), batch["x"], mesh)
        >>> for i in range(30):
        ...     now, metrics = step(now, batch, jax.random.key(i))
        >>> bool(metrics["loss"] < 1e-6)
        True
    """
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), x)

    def begin(key: chex.PRNGKey) -> TrainState:
        return start(net, optimizer, key, shapes)

    where = shardings(jax.eval_shape(begin, key), mesh, rules)
    return jax.jit(begin, out_shardings=where)(key)


def _pairs(rules: Any) -> Rules:
    """The rules, or raises."""
    wanted = 'wanted a list of pairs, such as [("dense_0/w", PartitionSpec(None, "model"))]'
    if not isinstance(rules, list | tuple):
        raise TypeError(f"rules={rules!r}, {wanted}")
    for rule in rules:
        if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)):
            raise TypeError(f"rules has {rule!r}, {wanted}")
        if not (isinstance(rule[1], PartitionSpec) or callable(rule[1])):
            raise TypeError(
                f"rules has {rule!r}, wanted a PartitionSpec or a function (shape, mesh) behind it"
            )
        try:
            re.compile(rule[0])
        except re.error as exc:
            raise ValueError(f"rules has {rule[0]!r}, which is no regular expression: {exc}") from exc
    return rules


def _axes(spec: PartitionSpec) -> list[str]:
    """The axes of the mesh that a spec names."""
    return [
        name for part in spec if part is not None for name in (part if isinstance(part, tuple) else (part,))
    ]


def _size(function: str, mesh: Mesh, axis: str) -> int:
    """How many devices there are along an axis of the mesh, or raises."""
    if axis not in mesh.shape:
        raise ValueError(
            f"{function}: axis={axis!r} and a mesh {dict(mesh.shape)}, wanted one of its axes; name it so in "
            f"jax.make_mesh, or pass axis="
        )
    return mesh.shape[axis]


def _fits(what: str, spec: Any, shape: tuple[int, ...], mesh: Mesh) -> None:
    """Raises unless the spec splits an array of this shape into equal parts."""
    sizes = dict(mesh.shape)
    got = f"shardings: {what} gives {spec}, the mesh is {sizes}"
    if not isinstance(spec, PartitionSpec):
        raise TypeError(f"{got}; wanted a PartitionSpec")
    if len(spec) > len(shape):
        raise ValueError(f"{got}; wanted {len(shape)} entries at most, one for each axis of the array")
    axes = _axes(spec)
    if unknown := [axis for axis in axes if axis not in sizes]:
        raise ValueError(f"{got}; wanted axes of the mesh, not {unknown[0]!r}: make the mesh with that axis")
    if len(set(axes)) < len(axes):
        raise ValueError(f"{got}; wanted each axis of the mesh once")
    for i, part in enumerate(spec):
        n = math.prod(sizes[axis] for axis in _axes(PartitionSpec(part)))
        if shape[i] % n:
            raise ValueError(
                f"{got}; wanted axis {i}, of size {shape[i]}, a multiple of {n}: change the layer's size or "
                "the mesh, or put a rule in front that leaves it whole, PartitionSpec()"
            )
