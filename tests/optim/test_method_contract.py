"""The contract of every optimizer without an optax twin: the same loop and wrappers, a stable state, a count."""

import inspect
import re
from functools import cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnnet.optim.evaluations import Evaluations
from tests.arrays import at, close, each, stack
from tests.optim.methods import OTHERS

NEEDED = ("value", "grad", "value_fn", "predict_fn", "loss_fn")


RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(8, 2)) for _ in range(2))


def params_of(dtype: Any = np.float32) -> dict[str, Any]:
    tree = {"w": [[1.0, -2.0], [0.5, 3.0]], "b": [0.1, 0.0]}
    return {name: jnp.array(np.array(a, dtype)) for name, a in tree.items()}


def extra_of(params: Any) -> dict[str, Any]:
    """What training passes to update, for a linear least-squares problem without a perfect fit."""
    dtype = params["b"].dtype
    x, y = (jnp.asarray(a, dtype) for a in (X, Y))

    def predict(params: Any) -> jax.Array:
        return x @ params["w"] + jnp.broadcast_to(params["b"], y.shape)

    def loss(prediction: jax.Array) -> jax.Array:
        return jnp.mean(jnp.sum(jnp.square(prediction - y), axis=1))

    def value(params: Any) -> jax.Array:
        return loss(predict(params))

    at, grad = jax.value_and_grad(value)(params)
    return {"value": at, "grad": grad, "value_fn": value, "predict_fn": predict, "loss_fn": loss}


def value_of(params: Any) -> float:
    """The loss, in NumPy."""
    return float(np.mean(np.sum((X @ np.asarray(params["w"]) + np.asarray(params["b"]) - Y) ** 2, axis=1)))


def make(name: str, **hyperparameters: Any) -> optax.GradientTransformationExtraArgs:
    maker, keywords = OTHERS[name]
    return optax.with_extra_args_support(maker(**{**keywords, **hyperparameters}))


def step_of(optimizer: Any, params: Any, state: Any) -> Any:
    extra = extra_of(params)
    updates, state = optimizer.update(extra["grad"], state, params, nobody_knows=3, **extra)
    return optax.apply_updates(params, updates), state


class Path(NamedTuple):
    params: list[Any]  # before each of 60 steps and after the last, in NumPy
    state: Any  # after the last
    traces: int


@cache
def path_of(name: str) -> Path:
    """60 steps of a method, each a call of one compiled step."""
    traces, optimizer = [], make(name)

    # Donated, as in a training loop: no two leaves may share a buffer.
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any) -> Any:
        traces.append(1)
        return step_of(optimizer, params, state)

    params = params_of()
    state, seen = optimizer.init(params), [each(np.copy, params)]
    for _ in range(60):
        params, state = step(params, state)
        seen.append(each(np.copy, params))
    return Path(seen, state, len(traces))


def last(optimizer: Any, steps: int) -> Any:
    """The params after some steps, as one scan."""

    def step(carry: Any, _: None) -> Any:
        return step_of(optimizer, *carry), None

    params = params_of()
    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), tree)


# A compiled step is shared by several tests: those of a method run in one process (xdist_group).
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in OTHERS])
class TestMethods:
    def test_type_and_name(self, name: str) -> None:
        maker, keywords = OTHERS[name]
        assert isinstance(maker(**keywords), optax.GradientTransformationExtraArgs)
        assert getattr(maker, "func", maker).__name__ == name.split("(")[0]

    def test_dtypes_and_state_are_stable(self, name: str) -> None:
        for dtype in (jnp.float32, jnp.bfloat16):
            params, optimizer = params_of(dtype), make(name)
            state = jax.eval_shape(optimizer.init, params)

            def update(params: Any, state: Any, optimizer: Any = optimizer) -> Any:
                extra = extra_of(params)
                return optimizer.update(extra["grad"], state, params, **extra)

            updates, new_state = jax.eval_shape(update, params, state)
            chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
            assert avals(new_state) == avals(state)

    def test_compiles_once_descends_and_counts(self, name: str) -> None:
        path = path_of(name)
        assert path.traces == 1
        first, end = value_of(path.params[0]), path.params[-1]
        assert value_of(end) < first - 0.5 * (first - least())
        counted = [leaf for leaf in jax.tree.leaves(path.state, is_leaf=is_count) if is_count(leaf)]
        assert len(counted) <= 1
        assert all(count.values >= 60 for count in counted)
        chex.assert_tree_all_finite(end)

    @pytest.mark.slow
    def test_hyperparameters_may_be_arrays(self, name: str) -> None:
        maker, keywords = OTHERS[name]
        signature = inspect.signature(maker).parameters.values()
        defaults = {p.name: p.default for p in signature} | keywords
        numbers = {k: np.float32(v) for k, v in defaults.items() if isinstance(v, float)}
        mapped = jax.vmap(lambda numbers: last(make(name, **numbers), 3), axis_size=2)
        ends = jax.jit(mapped)(stack(numbers, numbers))
        for i in range(2):
            close(at(ends, i), path_of(name).params[3], rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    def test_inside_the_wrappers_of_optax(self, name: str) -> None:
        optimizer, params = make(name), params_of()
        guarded = optax.apply_if_finite(optimizer, 3)
        close(jax.jit(lambda: last(guarded, 3))(), path_of(name).params[3], rtol=1e-4, atol=1e-5)

        def program(optimizer: Any) -> str:
            state = jax.eval_shape(optimizer.init, params)
            text = str(jax.make_jaxpr(partial(step_of, optimizer))(params, state))
            return re.sub("0x[0-9a-f]+", "", text)

        assert program(optax.chain(optimizer, optax.identity())) == program(optimizer)
        state = optimizer.init(params)
        moved = optax.tree.map_params(optimizer, lambda p: p + 1, state)
        assert avals(moved) == avals(state)

    def test_what_is_missing_is_named(self, name: str) -> None:
        params, optimizer = params_of(), make(name)
        extra, state = extra_of(params), optimizer.init(params)

        def needs(given: dict[str, Any]) -> str | None:
            try:
                jax.eval_shape(lambda p, s: optimizer.update(extra["grad"], s, p, **given), params, state)
            except ValueError as error:
                return str(error)
            return None

        assert needs(extra) is None
        messages = {n: needs({k: v for k, v in extra.items() if k != n}) for n in NEEDED}
        # A method that evaluates the objective needs something, and counts; one that uses the gradient alone does not.
        assert any(messages.values()) == any(map(is_count, jax.tree.leaves(state, is_leaf=is_count)))
        for missing, message in messages.items():
            assert message is None or missing in message


def is_count(leaf: Any) -> bool:
    return isinstance(leaf, Evaluations)


def least() -> float:
    """The smallest loss of the problem, by NumPy."""
    design = np.concatenate([X, np.ones((8, 1))], axis=1)
    return float(np.linalg.lstsq(design, Y, rcond=None)[1].sum() / 8)
