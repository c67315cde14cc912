"""An optimizer explained: its equation, the code of its update, and its first step in numbers (for --explain)."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

import fnnet as fn
from experiments.comparison.ladder.search_spaces import TunableOptimizer

THETA = (1.0, -0.5)


def predict(theta: jax.Array) -> jax.Array:
    """z = (theta_1, sqrt(10) theta_2)."""
    return theta * jnp.sqrt(jnp.array([1.0, 10.0]))


def loss_of(z: jax.Array) -> jax.Array:
    """L = |z|^2 / 2 = (theta_1^2 + 10 theta_2^2) / 2."""
    return jnp.sum(jnp.square(z)) / 2


class FirstStep(NamedTuple):
    """The first update of an optimizer, without jit."""

    theta: jax.Array
    given: dict[str, Any]  # the arguments of `update`
    before: Any  # the optimizer's state
    after: Any
    variables: dict[str, Any]  # what `update` computes on the way, by name
    updates: jax.Array


def arguments(theta: jax.Array) -> dict[str, Any]:
    """The arguments that training passes to `update`, at theta."""
    value, grad = jax.value_and_grad(lambda theta: loss_of(predict(theta)))(theta)
    return {
        "value": value,
        "grad": grad,
        "value_fn": lambda theta, **_: loss_of(predict(theta)),
        "predict_fn": predict,
        "loss_fn": loss_of,
    }


def equation(make: Callable[..., Any]) -> str:
    """The docstring up to its list of arguments."""
    doc = inspect.getdoc(inspect.unwrap(_plain(make))) or ""
    return doc.split("\nArgs:")[0].rstrip()


def update_code(make: Callable[..., Any]) -> str:
    """The source code of the function `update` in the optimizer's file."""
    source = inspect.getsource(inspect.getmodule(_plain(make)) or make)
    found = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "update"
    ]
    if not found:
        return textwrap.dedent(inspect.getsource(_plain(make)))
    own = _update_within(source, _plain(make).__name__)
    node = own or found[0]
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    return textwrap.dedent("\n".join(lines))


def _update_within(source: str, name: str) -> ast.FunctionDef | None:
    """The `update` defined inside the function of this name."""
    for outer in ast.parse(source).body:
        if isinstance(outer, ast.FunctionDef) and outer.name == name:
            for node in ast.walk(outer):
                if isinstance(node, ast.FunctionDef) and node.name == "update":
                    return node
    return None


def _plain(make: Any) -> Any:
    """The function inside a functools.partial."""
    while hasattr(make, "func"):
        make = make.func
    return make


def first_step(optimizer: optax.GradientTransformationExtraArgs, file: str) -> FirstStep:
    """The first update, without jit: the state before and after, the update, and the variables that `update` sets.

    Args:
        optimizer: from `fnnet.optim`.
        file: where its `update` is defined. If it calls itself or another `update` there, the outermost call counts.
    """
    theta = jnp.array(THETA)
    state = optimizer.init(theta)
    names: dict[str, Any] = {}

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code.co_name == "update" and frame.f_code.co_filename == file:
            names.clear()  # the outermost call returns last
            outside = frame.f_code.co_freevars  # the hyperparameters
            names.update({k: v for k, v in frame.f_locals.items() if k not in outside})

    given = arguments(theta)
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        updates, after = optimizer.update(given["grad"], state, theta, **given)
    finally:
        sys.setprofile(before)
    taken = {"grads", "params", "state", "extra", "updates", *given}
    variables = {k: v for k, v in names.items() if k not in taken and _is_numbers(v)}
    return FirstStep(theta, given, state, after, variables, updates)


def _is_numbers(x: Any) -> bool:
    if callable(x):
        return False
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray | float | int) for leaf in leaves)


def check(step: FirstStep, optimizer: Any, twin: Any) -> list[str]:
    """Compares the step with the compiled optimizer and with its twin, if any. Returns a line for each, or raises."""

    def compiled(optimizer: Any) -> jax.Array:
        def update(theta: jax.Array) -> jax.Array:
            given = arguments(theta)
            return optimizer.update(given["grad"], optimizer.init(theta), theta, **given)[0]

        return jax.jit(update)(step.theta)

    lines = []
    for what, other in (("the compiled optimizer", optimizer), ("its twin in optax", twin)):
        if other is None:
            continue
        # A compiled program may round a product and a sum only once.
        gap = float(jnp.max(jnp.abs(compiled(optax.with_extra_args_support(other)) - step.updates)))
        size = float(jnp.max(jnp.abs(step.updates)))
        if not gap <= 1e-5 * max(size, 1e-30):
            raise AssertionError(f"the step differs from {what} by {gap:g}")
        lines.append(
            f"Checked: {what} takes the same step" + (f" (to {gap:.1g})." if gap else ", bit for bit.")
        )
    return lines


def lines_of(prefix: str, tree: Any) -> list[tuple[str, str]]:
    """(name, numbers) of each leaf of a state."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        pairs = [(f"{prefix}.{name}" if prefix else name, getattr(tree, name)) for name in tree._fields]
    elif isinstance(tree, dict):
        pairs = [(f"{prefix}[{name!r}]", value) for name, value in tree.items()]
    elif isinstance(tree, list | tuple):
        pairs = [(f"{prefix}[{i}]", value) for i, value in enumerate(tree)]
    else:
        return [] if tree is None else [(prefix, numbers(tree))]
    return [line for name, value in pairs for line in lines_of(name, value)]


def numbers(x: Any) -> str:
    """At most the first six numbers of an array."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    a = np.ravel(np.asarray(x))
    text = " ".join(f"{v:.6g}" for v in a[:6].tolist()) + (" ..." if a.size > 6 else "")
    return f"[{text}]" if np.ndim(x) else text


def explain(console: Console, name: str, tunable: TunableOptimizer) -> None:
    """Prints the equation, the code and the first step, at most 80 columns wide."""
    make = _plain(tunable.make)
    optimizer = tunable.optimizer(tunable.default, jax.random.key(0))
    code = update_code(tunable.make)
    step = first_step(optimizer, inspect.getsourcefile(make) or "")
    twin = fn.optim.TWINS.get(name)
    same = twin is not None and twin.ours is tunable.make
    found = check(step, optimizer, twin.baseline(learning_rate=tunable.default) if twin and same else None)

    console.print(Panel(Text(equation(tunable.make)), title=f"fnnet.optim.{make.__name__}", box=box.ROUNDED))
    syntax = Syntax(code, "python", word_wrap=True, background_color="default", theme="ansi_light")
    console.print(Panel(syntax, title="code of its update", box=box.ROUNDED))
    # In the order in which the code sets them.
    in_order = sorted(step.variables.items(), key=lambda item: _place(item[0], code))
    step = step._replace(variables=dict(in_order))
    console.print(
        Panel(Group(_numbers(step, tunable), Text("\n" + "\n".join(found))), title="first step in numbers")
    )


def _place(name: str, code: str) -> int:
    found = re.search(rf"^ +[\w, ()]*\b{name}\b[\w, ()]*=", code, re.MULTILINE)
    return found.start() if found else len(code)


def _numbers(step: FirstStep, tunable: TunableOptimizer) -> Table:
    t = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    t.add_column("", no_wrap=True)
    t.add_column("", overflow="fold")
    if tunable.argument:
        t.add_row(tunable.argument, f"{tunable.default:g}")
    t.add_row("L(theta)", "(theta_1^2 + 10 theta_2^2) / 2")
    t.add_row("params theta", numbers(step.theta))
    t.add_row("value L", numbers(step.given["value"]))
    t.add_row("gradient g", numbers(step.given["grad"]))
    for title, lines in (
        ("state before", lines_of("", step.before)),
        ("inside update", [line for k, v in step.variables.items() for line in lines_of(k, v)]),
        ("state after", lines_of("", step.after)),
    ):
        t.add_section()
        t.add_row(Text(title, style="bold"), "")
        for name, value in lines:
            t.add_row(f"  {name}", value)
    t.add_section()
    new = optax.apply_updates(step.theta, step.updates)
    t.add_row("update", numbers(step.updates))
    t.add_row("theta after", numbers(new))
    t.add_row("L at the new theta", numbers(loss_of(predict(new))))
    return t
