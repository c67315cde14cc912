"""Many devices: how arrays are split over them, with `jax.sharding`. XLA's partitioner does the rest.

A mesh names the axes of a grid of devices: "data", over which batches are split, and, for tensor parallel
layers, "model". Rules say how params are split. The compiled step computes what it computes on one device, up to
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
from fnnet.layer import Layer, Params, State, as_layer, printable
from fnnet.train.step import TrainState, start

# How an array is split, or a function of its shape and the mesh, so that one rule works for any rank and any mesh.
Spec = PartitionSpec | Callable[[tuple[int, ...], Mesh], PartitionSpec]

# (regular expression, spec): how to split the params whose path, such as "dense_0/w", has a match. The first match
# wins.
Rules = Sequence[tuple[str, Spec]]


def with_auto_axes(mesh: Mesh) -> Mesh:
    """The mesh with axes of type Auto, which XLA's partitioner handles. `jax.make_mesh` makes them Explicit."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f'mesh={mesh!r}, wanted a Mesh: jax.make_mesh((jax.device_count(),), ("data",))')
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        raise ValueError(
            "inside jax.set_mesh of a mesh with explicit axes, wanted none: remove jax.set_mesh; the mesh is "
            "passed as an argument"
        )
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def shardings(tree: Any, mesh: Mesh, rules: Rules = (), *, params: Any = None) -> Any:
    """The sharding of each array: params by rules, the optimizer's copies of a param like it, the rest replicated.

    A param is split by the first rule whose regular expression is found in its path (`re.search`). A path is names
    with slashes between them, such as "repeat_0/copies/mlp/dense_0/w". A param that no rule matches is replicated: each
    device has all of it. An array outside the params whose path and shape end with those of a param is split like
    it, such as adam's averages, lookahead's copies and lbfgs's memory. Everything else is replicated: the layers'
    state, step counts, keys.

    Args:
        tree: a `TrainState`, or any tree, of arrays or of the `jax.ShapeDtypeStruct` of `jax.eval_shape`.
        mesh: the devices, such as `jax.make_mesh((2, 4), ("data", "model"))`.
        rules: pairs of a regular expression and a `PartitionSpec`, or a function (shape, mesh) ->
            PartitionSpec, such as those of `fully_sharded` and `tensor_parallel`. Without rules all params
            are replicated.
        params: those that the rules apply to; by default `tree.params` of a TrainState, else the tree itself.

    Returns:
        The tree with a `jax.sharding.NamedSharding` for each array: for `jax.device_put`, and for the
        in_shardings and out_shardings of `jax.jit`.

    Raises:
        TypeError: mesh is not a Mesh, or rules are not such pairs.
        ValueError: a rule is not a regular expression, or matches no param; a spec names an axis that the mesh
            does not have, names one twice, has more entries than the array has axes, or splits an axis into
            unequal parts.

    Example:
        A network of two layers, tensor parallel by your own rules. The first layer is split by its outputs and
        the second by its inputs, so that the activations between them are never gathered:

        >>> from jax.sharding import PartitionSpec as P
        >>> net = fn.serial(fn.dense(8), fn.relu, fn.dense(2))
        >>> before = fn.train.start(net, fn.optim.adam(0.1), jax.random.key(0), jnp.ones((1, 3)))
        >>> rules = [("dense_0/w", P(None, "model")), ("dense_0/b", P("model")), ("dense_1/w", P("model"))]
        >>> mesh = jax.make_mesh((1, 1), ("data", "model"))
        >>> split = fn.train.shardings(before, mesh, rules)
        >>> tuple(split.params["dense_0"]["w"].spec), tuple(split.params["dense_1"]["b"].spec)
        ((None, 'model'), ())
        >>> tuple(split.opt_state.m["dense_1"]["w"].spec)
        ('model',)

    Source: Xu et al. 2021, arXiv:2105.04663 (GSPMD).
    """
    mesh = with_auto_axes(mesh)
    if params is None:
        params = tree.params if isinstance(tree, TrainState) else tree
    rules = _check_rules(rules)

    param_specs: dict[tuple[Any, ...], tuple[tuple[int, ...], PartitionSpec]] = {}
    names: list[str] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        names.append(name)
        pattern, spec = next((rule for rule in rules if re.search(rule[0], name)), ("", PartitionSpec()))
        if callable(spec):
            spec = spec(jnp.shape(leaf), mesh)
        what = f"param {name} is {check.describe(leaf)}, its rule {pattern!r}"
        _check_spec(what, spec, jnp.shape(leaf), mesh)
        param_specs[tuple(path)] = jnp.shape(leaf), spec
    _check_all_match(rules, names)

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        shape = jnp.shape(leaf)
        # The longest end of the path that is a param's path: "dense_0/w" before "w".
        end = next((path[i:] for i in range(len(path) + 1) if path[i:] in param_specs), None)
        if end is not None:
            param_shape, spec = param_specs[end]
            leading = len(shape) - len(
                param_shape
            )  # further axes in front, such as the pairs in lbfgs's memory
            if leading >= 0 and shape[leading:] == param_shape:
                return NamedSharding(mesh, PartitionSpec(*[None] * leading, *spec) if leading else spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, tree)


def fully_sharded(axis: str = "data", *, at_least: int = 1024, rules: Rules = ()) -> list[tuple[str, Spec]]:
    """Rules that split every param, and the optimizer's state with it, over the axis of the batch.

    Each param is split along the largest of its axes that the number of devices divides; of equally large axes,
    the last one. A param with few elements, or without such an axis, is replicated. So n devices each hold 1/n of
    the params. XLA then decides whether a device gathers a layer's params or moves activations, and does not always
    choose well; `gather_params` makes it gather params.

    Args:
        axis: of the mesh.
        at_least: elements of the smallest param that is split.
        rules: how params are split over other axes, such as `tensor_parallel()`; this axis is added to them.

    Returns:
        Rules, for any mesh with that axis.

    Raises:
        TypeError, ValueError: at_least is not a positive int; rules are not pairs.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO, stage 3).

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> params = {"w": jnp.ones((64, 32)), "b": jnp.ones(32)}
        >>> split = fn.train.shardings(params, mesh, fn.train.fully_sharded())
        >>> tuple(split["w"].spec), tuple(split["b"].spec)
        (('data', None), ())
    """
    check.is_positive("fully_sharded", "at_least", at_least)

    def add_axis(given: Spec) -> Spec:
        def spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
            base = given(shape, mesh) if callable(given) else given
            devices = _axis_size("fully_sharded", mesh, axis)
            parts = [*base, *[None] * (len(shape) - len(base))]
            free = [i for i, n in enumerate(shape) if parts[i : i + 1] == [None] and n % devices == 0]
            if math.prod(shape) < at_least or not free or axis in _named_axes(base):
                return base
            parts[max(free, key=lambda i: (shape[i], i))] = axis
            return PartitionSpec(*parts)

        return spec

    rules = _check_rules(rules)
    return [(pattern, add_axis(spec)) for pattern, spec in rules] + [("", add_axis(PartitionSpec()))]


@printable
def gather_params(layer: Layer | Callable[[Any], Any], mesh: Mesh, rules: Rules = ()) -> Layer:
    """A layer whose params are gathered just before it uses them, and again in the backward pass.

        y = f(x; gather(theta))

    Put it around the blocks of a fully sharded network. It tells XLA's partitioner to keep batches split and to move
    params. The gathered copy is not stored for backprop. Use it inside `repeat`, so that only one block is
    gathered at a time: `repeat(gather_params(block, mesh), 12)`. Names of params stay the same. Params and input
    must be on the mesh.

    Measured for one step of 3 decoder blocks with 64 features and 32 x 64 tokens on 8 host devices, jax 0.10.1:
    per device, 228 million operations and 40 MB with `fully_sharded` alone, 116 million and 10 MB with
    `gather_params`, 117 million and 10 MB data parallel.

    Args:
        layer: a layer, or a plain function of an array.
        mesh: the devices.
        rules: how the layer's params are split while it uses them, such as `tensor_parallel()`; the paths are
            those inside the layer. Without rules each device has all of them.

    Raises:
        TypeError, ValueError: see `shardings`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> net = fn.repeat(fn.train.gather_params(fn.residual(fn.dense(3), fn.tanh), mesh), 12)
        >>> params, state = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> split = fn.train.shardings(params, mesh, fn.train.fully_sharded(at_least=9))
        >>> params = jax.device_put(params, split)
        >>> net(params, fn.train.shard_batch(jnp.ones((8, 3)), mesh)).shape
        (8, 3)

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5.3.
    """
    child = as_layer(layer)
    mesh = with_auto_axes(mesh)
    _check_rules(rules)

    def apply(
        params: Params, state: State, x: Any, *, key: chex.PRNGKey | None = None, train: bool = False
    ) -> tuple[Any, State]:
        # The gathered params are computed again in the backward pass; everything else is stored.
        @partial(jax.checkpoint, policy=lambda primitive, *_, **__: primitive.name != "sharding_constraint")
        def inside(params: Params, state: State, x: Any, key: chex.PRNGKey | None) -> tuple[Any, State]:
            params = jax.tree.map(jax.lax.with_sharding_constraint, params, shardings(params, mesh, rules))
            return apply_child(child.name, child, params, state, x, key, train)

        with check.at(f"gather_params[{child.name!r}]", x):
            return inside(params, state, x, key)

    return Layer(child.init, apply, child.name)


def tensor_parallel(
    axis: str = "model", *, embed: Literal["vocabulary", "features"] | None = None
) -> list[tuple[str, Spec]]:
    """Rules that split the matrix products of transformer blocks: each device has some heads and hidden units.

        y = activation(x [w_1 w_2 ...]) [w'_1; w'_2; ...] = sum_i activation(x w_i) w'_i      on device i

    In the mlp, the first layer is split by columns and the second by rows. In attention, q, k and v are split by
    columns and the output by rows. Each of the two needs one sum over the devices. The rules work inside `repeat`,
    too, where params have a leading axis. For other networks, write your own rules: see `shardings`.

    Args:
        axis: of the mesh. Its size should divide the number of heads, also that of keys and values, and must divide
            their features.
        embed: how the tables of `embed` and `tied_embed` are split: by "vocabulary", which suits `tied_embed`,
            because its scores are then split, too; by "features"; or not at all (None).

    Raises:
        ValueError: embed is something else.

    Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.

    Example:
        >>> net = fn.repeat(fn.transformer_encoder_block(2), 3)
        >>> shapes, _ = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 5, 4)))
        >>> mesh = jax.make_mesh((1, 1), ("data", "model"))
        >>> split = fn.train.shardings(shapes, mesh, fn.train.tensor_parallel())
        >>> block = split["copies"]["attention"]
        >>> tuple(block["w_q"].spec), tuple(block["w_o"].spec)
        ((None, None, 'model'), (None, 'model', None))
    """
    tables: dict[str | None, int] = {"vocabulary": -2, "features": -1}
    if embed not in (None, *tables):
        raise ValueError(f"tensor_parallel: embed={embed!r}, wanted 'vocabulary', 'features' or None")

    def split_axis(dimension: int) -> Spec:
        def spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
            parts: list[str | None] = [None] * len(shape)
            parts[dimension] = axis
            return PartitionSpec(*parts)

        return spec

    rules = [
        (r"attention(_\d+)?/[wb]_[qkv]$|\bmlp/dense_0/[wb]$", split_axis(-1)),
        (r"attention(_\d+)?/w_o$|\bmlp/dense_1/w$", split_axis(-2)),
    ]
    return rules + ([(r"\bembed(_\d+)?/w$", split_axis(tables[embed]))] if embed else [])


def shard_batch(batch: Any, mesh: Mesh, axis: str = "data") -> Any:
    """A batch, with each array split along its first axis over the devices.

    With several processes, each process passes its own share, the examples for its own devices. The batch is all of
    them, in the order of the devices in the mesh. Under `jit`, it constrains the batch to be split in this way.

    Args:
        batch: tree of arrays with the examples along the first axis.
        mesh: the devices.
        axis: of the mesh.

    Raises:
        TypeError: mesh is not a Mesh.
        ValueError: the mesh has no such axis, or its size does not divide the number of examples.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> batch = fn.train.shard_batch({"x": jnp.ones((8, 2)), "y": jnp.ones(8)}, mesh)
        >>> tuple(batch["x"].sharding.spec)
        ('data',)
    """
    mesh = with_auto_axes(mesh)
    size = _axis_size("shard_batch", mesh, axis)
    sharding = NamedSharding(mesh, PartitionSpec(axis))
    # How many parts of the batch are in this process: all of them if there is one process.
    local_parts = len({str(part) for part in sharding.addressable_devices_indices_map((size,)).values()})

    def shard(array: Any) -> jax.Array:
        is_traced = isinstance(array, jax.core.Tracer)
        parts = size if is_traced else local_parts
        shape = jnp.shape(array)
        if not shape or shape[0] % parts:
            of = f"{parts} of its {size} parts in this process" if parts != size else f"{size} parts"
            raise ValueError(
                f"shard_batch: got {check.describe(array)}, wanted a multiple of {parts} examples on the first "
                f"axis: the mesh {dict(mesh.shape)} has {of}; choose another batch size, or drop the rest"
            )
        if is_traced:
            return jax.lax.with_sharding_constraint(array, sharding)
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))

    return jax.tree.map(shard, batch)


def start_sharded(
    net: Layer,
    optimizer: optax.GradientTransformation,
    key: chex.PRNGKey,
    x: Any,
    mesh: Mesh,
    rules: Rules = (),
) -> TrainState:
    """The state before the first step, created on its devices: none of them ever holds more than its part.

    It makes the same draws as `start`. The weights are equal up to rounding: a difference of 2e-7 for
    `truncated_normal`, mostly 0.

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
        >>> train_state = fn.train.start_sharded(net, optimizer, jax.random.key(0), batch["x"], mesh)
        >>> for i in range(30):
        ...     train_state, metrics = step(train_state, batch, jax.random.key(i))
        >>> bool(metrics["loss"] < 1e-6)
        True
    """
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), x)

    def init(key: chex.PRNGKey) -> TrainState:
        return start(net, optimizer, key, shapes)

    split = shardings(jax.eval_shape(init, key), mesh, rules)
    return jax.jit(init, out_shardings=split)(key)


def _check_all_match(rules: Rules, names: list[str]) -> None:
    """Raises ValueError if a rule matches none of the params."""
    for pattern, _ in rules:
        if names and not any(re.search(pattern, name) for name in names):
            shown = ", ".join(names[:8]) + (f", ... {len(names)} in all" if len(names) > 8 else "")
            raise ValueError(
                f"shardings: rule {pattern!r} matches no param, wanted one that is found in a path; correct "
                f"it or leave it out. The paths: {shown}"
            )


def _check_rules(rules: Any) -> Rules:
    """The rules, if they are pairs of a regular expression and a spec."""
    wanted = 'wanted a list of pairs, such as [("dense_0/w", PartitionSpec(None, "model"))]'
    if not isinstance(rules, list | tuple):
        raise TypeError(f"rules={rules!r}, {wanted}")
    for rule in rules:
        if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)):
            raise TypeError(f"rules has {rule!r}, {wanted}")
        if not (isinstance(rule[1], PartitionSpec) or callable(rule[1])):
            raise TypeError(
                f"rules has {rule!r}, wanted a PartitionSpec or a function (shape, mesh) as the second of the pair"
            )
        try:
            re.compile(rule[0])
        except re.error as exc:
            raise ValueError(f"rules has {rule[0]!r}, which is not a regular expression: {exc}") from exc
    return rules


def _named_axes(spec: PartitionSpec) -> list[str]:
    """The axes of the mesh that a spec names."""
    return [
        name for part in spec if part is not None for name in (part if isinstance(part, tuple) else (part,))
    ]


def _axis_size(function: str, mesh: Mesh, axis: str) -> int:
    """The number of devices along an axis of the mesh, if it has that axis."""
    if axis not in mesh.shape:
        raise ValueError(
            f"{function}: axis={axis!r} and a mesh {dict(mesh.shape)}, wanted one of its axes; use this name in "
            f"jax.make_mesh, or pass axis="
        )
    return mesh.shape[axis]


def _check_spec(what: str, spec: Any, shape: tuple[int, ...], mesh: Mesh) -> None:
    """Raises unless the spec splits an array of this shape into equal parts."""
    sizes = dict(mesh.shape)
    got = f"shardings: {what} gives {spec}, the mesh is {sizes}"
    if not isinstance(spec, PartitionSpec):
        raise TypeError(f"{got}; wanted a PartitionSpec")
    if len(spec) > len(shape):
        raise ValueError(f"{got}; wanted {len(shape)} entries at most, one for each axis of the array")
    axes = _named_axes(spec)
    if unknown := [axis for axis in axes if axis not in sizes]:
        raise ValueError(f"{got}; wanted axes of the mesh, not {unknown[0]!r}: make the mesh with that axis")
    if len(set(axes)) < len(axes):
        raise ValueError(f"{got}; wanted each axis of the mesh once")
    for i, part in enumerate(spec):
        n = math.prod(sizes[axis] for axis in _named_axes(PartitionSpec(part)))
        if shape[i] % n:
            raise ValueError(
                f"{got}; wanted axis {i}, of size {shape[i]}, a multiple of {n}: change the layer's size or "
                "the mesh, or put a rule in front that does not split it, PartitionSpec()"
            )
