"""A table of a network: each layer's output, params and FLOPs, from shapes alone."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.children import Child, apply_child, watching
from fnnet.layer import Layer, State, as_layer


def summary(net: Child, x: Any, *, train: bool = False) -> str:
    """A table of the layers of a network, as text: print it. Nothing is computed but shapes.

    FLOPs are those of the forward pass for the input as it is, its whole batch: 2 for a multiply-add in a matrix
    product or convolution, 1 for an element of any other arithmetic. A `repeat` counts all of its copies; the
    lines under it are one of them.

    Args:
        net: a layer.
        x: an example batch, or its `ShapeDtypeStruct`.
        train: whether to follow the pass of training.

    Raises:
        Whatever the network raises for such an input, with the path through it.

    Example:
        >>> net = fn.serial(fn.flatten, fn.dense(64), fn.relu, fn.dense(10))
        >>> print(fn.summary(net, jax.ShapeDtypeStruct((32, 8, 8, 1), jnp.float32)))
        layer        output          params    FLOPs
        serial       float32[32,10]   4,810  307,520
          flatten_0  float32[32,64]       0        0
          dense_0    float32[32,64]   4,160  264,192
          relu_0     float32[32,64]       0    2,048
          dense_1    float32[32,10]     650   41,280
    """
    net = as_layer(net)
    key = jax.eval_shape(jax.random.key, 0)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    params, state = jax.eval_shape(net.init, key, shapes)
    seen: list[tuple[str, Layer, Any, Any]] = []  # (indented name, layer, arguments, output), outermost first
    depth = 0

    def see(
        name: str, child: Layer, params: Any, state: State, x: Any, key: Any, train: bool
    ) -> tuple[Any, State]:
        nonlocal depth
        place, depth = len(seen), depth + 1
        arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, state, x, key))
        seen.append(("  " * (depth - 1) + name, child, arguments, None))
        y, after = child.apply(params, state, x, key=key, train=train)
        seen[place] = (*seen[place][:3], y)
        depth -= 1
        return y, after

    with watching(see):
        jax.eval_shape(
            lambda params, state, x, key: apply_child(net.name, net, params, state, x, key, train),
            *(params, state, shapes, key),
        )
    rows = [("layer", "output", "params", "FLOPs")]
    for name, layer, arguments, y in seen:
        size = sum(math.prod(p.shape) for p in jax.tree.leaves(arguments[0]))
        y = y["x"] if isinstance(y, Mapping) and "x" in y else y  # what else there is, it was given
        rows.append((name, check.describe(y), f"{size:,}", f"{_flops(layer, arguments, train):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {y:<{widths[1]}}  {size:>{widths[2]}}  {flops:>{widths[3]}}"
        for name, y, size, flops in rows
    )


# What counts 1 for each element of its output. Comparisons, selections and moves count nothing.
# fmt: off
ARITHMETIC = {
    "add", "add_any", "sub", "mul", "div", "rem", "max", "min", "neg", "abs", "sign", "square", "sqrt",
    "rsqrt", "cbrt", "pow", "integer_pow", "exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh",
    "sinh", "cosh", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "erf", "erfc", "erf_inv",
    "floor", "ceil", "round", "clamp",
}
REDUCTIONS = {
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin", "cumsum", "cumprod",
    "cummax",
}
# fmt: on


def _flops(layer: Layer, arguments: Any, train: bool) -> int:
    def apply(params: Any, state: State, x: Any, key: Any) -> Any:
        return layer.apply(params, state, x, key=key, train=train)

    return _count(jax.make_jaxpr(apply)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    from jax.extend.core import jaxprs_in_params  # here, for `import fnnet` to stay fast

    name, params = equation.primitive.name, equation.params
    inner = [_count(inner) for inner in jaxprs_in_params(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return min(inner)  # the plain formula, where there is another one for a platform
    if inner:
        return sum(inner)
    shape, dtype = equation.outvars[0].aval.shape, equation.outvars[0].aval.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return 0
    size = math.prod(shape)
    first = equation.invars[0].aval.shape
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * size * math.prod(first[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        products = size * math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        # Of the zeros that a transposed convolution puts between its inputs, none.
        return 2 * products // math.prod(params["lhs_dilation"])
    if name.startswith("reduce_window"):
        return size * math.prod(params["window_dimensions"])
    if name in REDUCTIONS:
        return math.prod(first)
    return size if name in ARITHMETIC else 0
