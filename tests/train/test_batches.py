"""Batches: an epoch is a permutation, a new one each time, and is sorted once."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet.train.batches import count_examples, next_batch


@partial(jax.jit, static_argnums=(1, 2, 3))
def batches(key: jax.Array, n: int, batch_size: int, steps: int) -> jax.Array:
    """The indices of the examples of each step, int32[steps, batch_size]."""

    def one(order: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        return next_batch(key, order, step, jnp.arange(n), batch_size)

    return jax.lax.scan(one, jnp.full(n, -1, jnp.int32), jnp.arange(steps, dtype=jnp.int32))[1]


@pytest.mark.parametrize("n, batch_size", [(12, 4), (10, 3), (7, 7), (7, 6), (5, 1)])
def test_an_epoch_has_no_example_twice(n: int, batch_size: int) -> None:
    per_epoch = n // batch_size
    epochs = np.asarray(batches(jax.random.key(0), n, batch_size, 3 * per_epoch)).reshape(3, -1)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == per_epoch * batch_size
        assert set(epoch.tolist()) <= set(range(n))
    if n > 1:
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(epochs[1], epochs[2])


def test_the_key_alone_decides() -> None:
    first, again, other = (np.asarray(batches(jax.random.key(k), 20, 5, 8)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_example_is_left_over_equally_often() -> None:
    epochs = np.asarray(batches(jax.random.key(2), 5, 4, 1000))
    left_over = 10 - epochs.sum(axis=1)  # 0 + 1 + 2 + 3 + 4 = 10
    counts = np.bincount(left_over, minlength=5)
    # Binomial(1000, 1/5): mean 200, standard deviation 12.6.
    assert np.abs(counts - 200).max() < 4 * 12.6
    # And so is every example at every place.
    places = np.stack([np.bincount(column, minlength=5) for column in epochs.T])
    assert np.abs(places - 200).max() < 5 * 12.6


def test_rows_stay_together_and_keep_their_dtype() -> None:
    images = np.arange(24).reshape(6, 2, 2)
    examples = {
        "x": {"image": images.astype(jnp.bfloat16), "id": np.arange(6, dtype=np.int8)},
        "y": (np.arange(6, dtype=np.int32) * 10, np.arange(6) % 2 == 0),
    }

    def first(key: jax.Array) -> Any:
        return next_batch(key, jnp.zeros(6, jnp.int32), jnp.int32(0), jax.tree.map(jnp.asarray, examples), 4)

    draw = jax.jit(first)
    _, batch = draw(jax.random.key(0))
    index = np.asarray(batch["x"]["id"])
    assert len(set(index.tolist())) == 4
    wanted = jax.tree.map(lambda a: np.asarray(a)[index], examples)
    jax.tree.map(np.testing.assert_array_equal, batch, wanted)
    assert jax.tree.map(lambda a: a.dtype, batch) == jax.tree.map(lambda a: a.dtype, examples)


def test_the_order_is_drawn_at_the_first_step_and_handed_on() -> None:
    draw = jax.jit(partial(next_batch, jax.random.key(0), examples=jnp.arange(6), batch_size=2))
    order, _ = draw(np.full(6, 99, np.int32), np.int32(0))
    order = np.asarray(order)
    assert sorted(order.tolist()) == list(range(6))
    for step in (1, 2):
        kept, batch = draw(order, np.int32(step))
        np.testing.assert_array_equal(kept, order)
        np.testing.assert_array_equal(batch, order[2 * step : 2 * step + 2])
    new, _ = draw(order, np.int32(3))
    assert not np.array_equal(new, order)


def primitives(jaxpr: Any, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The name of each operation, and those of the operations that it stands in."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, inside
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(inner, "eqns"):
                yield from primitives(inner, (*inside, eqn.primitive.name))


def test_under_vmap_over_keys_an_epoch_is_sorted_once_and_not_at_each_step() -> None:
    def draw(key: jax.Array, step: jax.Array) -> jax.Array:
        return next_batch(key, jnp.zeros(6, jnp.int32), step, jnp.arange(6), 2)[1]

    def sorts(mapped: tuple[int | None, int | None]) -> list[bool]:
        arguments = [jax.random.key(0), jnp.int32(0)]
        for i, axis in enumerate(mapped):
            arguments[i] = arguments[i] if axis is None else jnp.stack([arguments[i]] * 3)
        jaxpr = jax.make_jaxpr(jax.vmap(draw, in_axes=mapped))(*arguments)
        return ["cond" in inside for name, inside in primitives(jaxpr) if name == "sort"]

    assert sorts((0, None)) == [True]
    assert sorts((0, 0)) == [
        False
    ]  # a condition for each: both branches are computed, and the test would see it


def test_count_examples() -> None:
    x = {"a": np.zeros((4, 2)), "b": jnp.zeros(4)}
    assert count_examples("part", {"x": x, "y": jnp.zeros((4, 1))}) == 4


@pytest.mark.parametrize(
    "part, message",
    [
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, r"data.train is {x: float64\[4,2\], y: float64\[3\]}"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "of one size that is not 0"),
        ({"x": np.zeros((4, 2)), "y": np.float32(1)}, "wanted arrays with one leading axis"),
        ({"x": [[1.0, 2.0]], "y": [0]}, "wanted arrays with one leading axis"),
        ({"x": np.zeros((4, 2))}, "wanted a dict with x and y"),
        ((np.zeros((4, 2)), np.zeros(4)), r"\(float64\[4,2\], float64\[4\]\), wanted a dict with x and"),
    ],
)
def test_count_examples_says_what_is_wrong(part: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_examples("data.train", part)
