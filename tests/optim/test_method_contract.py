"""What every optimizer without an optax twin keeps: the same loop, the same wrappers, a stable state, a count."""

import inspect
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnnet.optim.evaluations import Evaluations
from tests.optim.methods import OTHERS

NEEDED = ("value", "grad", "value_fn", "predict_fn", "loss_fn")


def params_of(dtype: Any = jnp.float32) -> dict[str, Any]:
    return {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]], dtype), "b": jnp.array([0.1, 0.0], dtype)}


def extra_of(params: Any) -> dict[str, Any]:
    """What training hands to update, for a linear least-squares problem whose solution is not a fit."""
    dtype = params["b"].dtype
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(8, 2)), dtype) for _ in range(2))

    def predict(params: Any) -> jax.Array:
        return x @ params["w"] + jnp.broadcast_to(params["b"], y.shape)

    def loss(prediction: jax.Array) -> jax.Array:
        return jnp.mean(jnp.sum(jnp.square(prediction - y), axis=1))

    def value(params: Any) -> jax.Array:
        return loss(predict(params))

    at, grad = jax.value_and_grad(value)(params)
    return {"value": at, "grad": grad, "value_fn": value, "predict_fn": predict, "loss_fn": loss}


def make(name: str, **hyperparameters: Any) -> optax.GradientTransformationExtraArgs:
    maker, keywords = OTHERS[name]
    return optax.with_extra_args_support(maker(**{**keywords, **hyperparameters}))


def run(optimizer: Any, params: Any, steps: int) -> Any:
    """(params, state) after some steps, each loss, as one program."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        extra = extra_of(params)
        updates, state = optimizer.update(extra["grad"], state, params, **extra)
        return (optax.apply_updates(params, updates), state), extra["value"]

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)


def avals(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.weak_type), tree)


@pytest.mark.parametrize("name", OTHERS)
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

    def test_descends_and_counts(self, name: str) -> None:
        optimizer, params = make(name), params_of()
        (end, state), losses = jax.jit(lambda p: run(optimizer, p, 60))(params)
        assert extra_of(end)["value"] < losses[0] - 0.5 * (losses[0] - least())
        counted = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_count) if is_count(leaf)]
        assert len(counted) <= 1
        assert all(count.values >= 60 for count in counted)
        chex.assert_tree_all_finite(end)

    def test_hyperparameters_may_be_arrays(self, name: str) -> None:
        maker, keywords = OTHERS[name]
        signature = inspect.signature(maker).parameters.values()
        defaults = {p.name: p.default for p in signature} | keywords
        numbers = {k: jnp.float32(v) for k, v in defaults.items() if isinstance(v, float)}
        many = jax.tree.map(lambda a: jnp.stack([a, a]), numbers)
        params = params_of()

        def last(numbers: dict[str, jax.Array]) -> Any:
            return run(make(name, **numbers), params, 3)[0][0]

        # One program for both: half of the time to compile them apart.
        ends, end = jax.jit(lambda many: (jax.vmap(last, axis_size=2)(many), last({})))(many)
        for i in range(2):
            chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], ends), end, rtol=1e-3, atol=1e-4)

    def test_no_second_compile(self, name: str) -> None:
        traces, optimizer, params = [], make(name), params_of()

        # Donated, as in a loop: no two leaves may be one buffer.
        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any) -> Any:
            traces.append(1)
            extra = extra_of(params)
            updates, state = optimizer.update(extra["grad"], state, params, nobody_knows=3, **extra)
            return optax.apply_updates(params, updates), state

        now = (params, optimizer.init(params))
        for _ in range(3):
            now = step(*now)
        assert len(traces) == 1

    def test_inside_the_wrappers_of_optax(self, name: str) -> None:
        params = params_of()
        alone, chained, guarded = (
            wrap(make(name))
            for wrap in (
                lambda o: o,
                lambda o: optax.chain(o, optax.identity()),
                lambda o: optax.apply_if_finite(o, 3),
            )
        )

        def ends(params: Any) -> Any:
            return [run(optimizer, params, 3)[0][0] for optimizer in (alone, chained, guarded)]

        first, *others = jax.jit(ends)(params)
        for other in others:
            chex.assert_trees_all_close(other, first, rtol=1e-4, atol=1e-5)
        state = alone.init(params)
        moved = optax.tree.map_params(alone, lambda p: p + 1, state)
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
        # Who evaluates the objective itself asks for something, and counts; who takes the gradient alone does neither.
        assert any(messages.values()) == any(map(is_count, jax.tree.leaves(state, is_leaf=is_count)))
        for missing, message in messages.items():
            assert message is None or missing in message


def is_count(leaf: Any) -> bool:
    return isinstance(leaf, Evaluations)


def least() -> float:
    """The smallest loss of the problem, by NumPy."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(8, 2)) for _ in range(2))
    design = np.concatenate([x, np.ones((8, 1))], axis=1)
    return float(np.linalg.lstsq(design, y, rcond=None)[1].sum() / 8)
