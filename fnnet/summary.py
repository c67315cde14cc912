"""A table of a network: the output, params and FLOPs of each layer, from shapes alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import check
from fnnet.children import Child, apply_child, observing_children
from fnnet.layer import Layer, State, as_layer


def summary(net: Child, x: Any, *, train: bool = False) -> str:
    """A table of a network's layers, as text to print. Only shapes are computed.

    FLOPs are those of the forward pass for the whole batch: 2 for each multiply-add of a matrix product or a
    convolution, 1 for each element of any other arithmetic. A `repeat` counts all of its copies; the lines below it
    show one of them.

    Args:
        net: a layer or a network.
        x: an example batch, or its `ShapeDtypeStruct`.
        train: whether to follow the pass of training instead of evaluation.

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
    check.flag("summary", "train", train)
    rows = [("layer", "output", "params", "FLOPs")]
    for call in _calls(as_layer(net), x, train):
        size = sum(math.prod(p.shape) for p in jax.tree.leaves(call.arguments[0]))
        y = call.output
        y = y["x"] if isinstance(y, Mapping) and "x" in y else y  # the other entries were in the input
        flops = _flops(call.layer, call.arguments, train)
        rows.append(("  " * call.depth + call.name, check.describe(y), f"{size:,}", f"{flops:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {y:<{widths[1]}}  {size:>{widths[2]}}  {flops:>{widths[3]}}"
        for name, y, size, flops in rows
    )


@dataclass
class _Call:
    """The call of one layer inside a network."""

    name: str
    depth: int  # how many layers it is inside of
    layer: Layer
    arguments: Any  # shapes of (params, state, x, key)
    output: Any = None


@dataclass
class _Recorder:
    """Records the calls of a network's layers, outermost first, while the network is traced."""

    calls: list[_Call] = field(default_factory=list)
    depth: int = 0

    def __call__(
        self, name: str, child: Layer, params: Any, state: State, x: Any, key: Any, train: bool
    ) -> tuple[Any, State]:
        call = _Call(name, self.depth, child, _shapes((params, state, x, key)))
        self.calls.append(call)
        self.depth += 1
        call.output, after = child.apply(params, state, x, key=key, train=train)
        self.depth -= 1
        return call.output, after


def _calls(net: Layer, x: Any, train: bool) -> list[_Call]:
    """The calls of all layers of a network, found by tracing it."""
    key = jax.eval_shape(jax.random.key, 0)
    x = _shapes(x)
    params, state = jax.eval_shape(net.init, key, x)
    recorder = _Recorder()
    with observing_children(recorder):
        jax.eval_shape(
            lambda params, state, x, key: apply_child(net.name, net, params, state, x, key, train),
            *(params, state, x, key),
        )
    return recorder.calls


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


# Operations that count 1 for each element of their output. Comparisons, selections and moves count 0.
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
    from jax.extend.core import jaxprs_in_params  # here, to keep `import fnnet` fast

    name, params = equation.primitive.name, equation.params
    inner = [_count(inner) for inner in jaxprs_in_params(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return min(inner)  # the plain formula, if a platform has another one
    if inner:
        return sum(inner)
    shape, dtype = equation.outvars[0].aval.shape, equation.outvars[0].aval.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return 0
    size = math.prod(shape)
    first = equation.invars[0].aval.shape if equation.invars else ()  # an arange has no input
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * size * math.prod(first[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        products = size * math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        # Products with the zeros that a transposed convolution puts between its inputs do not count.
        return 2 * products // math.prod(params["lhs_dilation"])
    if name.startswith("reduce_window"):
        return size * math.prod(params["window_dimensions"])
    if name in REDUCTIONS:
        return math.prod(first)
    return size if name in ARITHMETIC else 0
