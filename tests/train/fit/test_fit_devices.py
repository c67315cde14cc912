"""`fit` on one device and on eight: the same curve, from memory and from a stream; stopped on some, resumed on others.

This file is also a program, since eight devices need a process of their own: `test_on_eight_devices` runs it.
"""

import logging
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnnet as fn
from fnnet.train import Evaluation
from tests.arrays import equal
from tests.train.eight_devices import failures, passes_on_eight_devices

LOSS = fn.losses.softmax_cross_entropy
# No bias before batch_norm: its gradient is only rounding, which adam would turn into a full step.
NET = fn.serial(fn.dense(256, use_bias=False), fn.batch_norm(), fn.relu, fn.dropout(0.2), fn.dense(4))
FULL = fn.train.fully_sharded(at_least=64)
PAIR = [("dense_0/w", P(None, "model")), ("dense_1/w", P("model", None))]
CLOCKS = {"seconds", "examples_per_second"}


def part(n: int, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {"x": draw.normal(size=(n, 6)), "y": draw.integers(0, 4, n)}


TRAIN, VALID = part(72, 0), part(21, 1)  # eight divides neither 21 nor the epoch's 4.5 batches of 16


def noisy(key: Any, batch: Any) -> Any:
    return {**batch, "x": batch["x"] + 0.1 * jax.random.uniform(key, batch["x"].shape)}


def fit(**given: Any) -> fn.train.Fitted:
    settings: dict[str, Any] = {
        "net": NET, "loss": LOSS, "optimizer": fn.optim.adam, "learning_rate": 0.1, "train": TRAIN, "valid": VALID,
        "steps": 12, "eval_every": 2, "batch_size": 16, "metrics": {"accuracy": fn.metrics.accuracy}, "augment": noisy,
        "accumulate": 2, "patience": 9, "reduce_on_plateau": fn.optim.reduce_on_plateau(0.5, 1, rtol=0.3),
        "progress": False,
    }  # fmt: skip
    return fn.train.fit(**(settings | given))


def streams(size: int = 16) -> dict[str, Any]:
    """Batches of 16, and for validation 8, 8 and 5."""
    return {
        "train": fn.data.stream(TRAIN, size, seed=3),
        "batch_size": None,
        "valid": fn.data.stream(VALID, 8, shuffle=False, epochs=1),
        "eval_every": 4,
    }


def eight() -> Any:
    return jax.make_mesh((8,), ("data",))


def four() -> Any:
    return jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])


compiled: Counter[str] = Counter()  # programs by name
bytes_of: Counter[int] = Counter()  # by device, what it holds at the end of a run


class Compilations(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Finished XLA compilation of"):
            compiled[message.split()[4]] += 1


def weigh(evaluation: Evaluation) -> None:
    bytes_of.clear()
    # Those on one device alone are of the run without a mesh, or views of a shard.
    for array in (a for a in jax.live_arrays() if len(a.sharding.device_set) == 8):
        for shard in array.addressable_shards:
            bytes_of[shard.device.id] += shard.data.nbytes


@cache
def alone() -> fn.train.Fitted:
    return fit()


@cache
def sharded() -> fn.train.Fitted:
    return fit(mesh=eight(), rules=FULL, callbacks=[weigh])


def agree(one: fn.train.Fitted, many: fn.train.Fitted) -> None:
    """To rounding: losses in double precision, running averages in single."""
    assert one.history.keys() == many.history.keys()
    for name in one.history.keys() - CLOCKS:
        close = {"rtol": 1e-7 if name == "valid_loss" else 1e-10}
        np.testing.assert_allclose(many.history[name], one.history[name], **close, err_msg=name)
    assert one.best is not None
    assert many.best is not None
    assert one.best.step == many.best.step
    for wanted, got in zip(*(jax.tree.leaves(run.now) for run in (one, many)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)


def held(array: jax.Array) -> tuple[int, ...]:
    """The shape of the part of an array that one device holds."""
    return array.addressable_shards[0].data.shape


def no_device_has_more_than_its_part() -> None:
    params = sum(a.nbytes for a in jax.tree.leaves(sharded().params))
    assert params > 24_000
    # Params, accumulated gradient, two moments; copies for the best and for the callback: a full copy on each device
    # would be 20,000 bytes more. The data and running averages, of which each device has a full copy, are 12,000.
    assert bytes_of.keys() == set(range(8))
    for held in bytes_of.values():
        assert 4 / 8 * params < held < 6 / 8 * params + 14_000, (held, params)


def from_memory() -> None:
    one = alone()
    rates = one.history["learning_rate"]
    assert rates[-1] < rates[0]  # the plateau was seen
    assert (one.stopped, one.history["eval_step"].tolist()) == ("finished", [2, 4, 6, 8, 10, 12])
    agree(one, sharded())
    for copy in (sharded().params, sharded().best.params, sharded().now.opt_state[0].inner.m):  # type: ignore[union-attr]
        assert held(copy["dense_0"]["w"]) == (6, 32)
        assert held(copy["dense_1"]["w"]) == (32, 4)

    axes = {"axis_types": (AxisType.Auto, AxisType.Auto)}
    both = jax.make_mesh((2, 4), ("data", "model"), **axes)
    got = fit(mesh=both, rules=fn.train.fully_sharded(at_least=64, rules=PAIR))
    agree(one, got)
    assert held(got.params["dense_0"]["w"]) == held(got.now.opt_state[0].inner.v["dense_0"]["w"]) == (3, 64)
    assert held(got.params["dense_1"]["w"]) == (64, 2)

    # Continued on other devices, with fewer validation examples than devices.
    small = {name: array[:3] for name, array in VALID.items()}
    moved = fit(initial=(got.params, got.state), mesh=four(), valid=small, steps=1, accumulate=1)
    assert not any(a.is_deleted() for a in jax.tree.leaves(got.params))
    assert len(moved.params["dense_0"]["w"].devices()) == 4
    assert held(moved.params["dense_0"]["w"]) == (6, 256)
    params, state = jax.device_get((moved.now.params, moved.now.state))
    scores = fn.train.evaluate(NET, {"loss": LOSS}, params, state, small)
    np.testing.assert_allclose(moved.history["valid_loss"], scores["loss"], rtol=1e-6)


def from_a_stream() -> None:
    one = fit(**streams())
    compiled.clear()
    agree(one, fit(**streams(), mesh=eight()))
    assert compiled["jit(one)"] == 1


def on_another_number_of_devices() -> None:
    def power_cut(step: int) -> Callable[[Evaluation], None]:
        def at(evaluation: Evaluation) -> None:
            if evaluation.step == step:
                raise RuntimeError("power cut")

        return at

    with tempfile.TemporaryDirectory() as name:
        folder, other = Path(name, "a"), Path(name, "b")
        given = {"checkpoint_every": 3, "resume": "auto"}
        with pytest.raises(RuntimeError, match="power cut"):
            fit(mesh=eight(), rules=FULL, folder=folder, callbacks=[power_cut(4)], **given)
        shutil.copytree(folder, other)
        # On eight again: the same bits.
        compiled.clear()
        got = fit(mesh=eight(), rules=FULL, folder=folder, **given)
        assert compiled["jit(advance)"] == 1
        equal((got.now, got.best), (sharded().now, sharded().best))
        equal(got.history["train_loss"], sharded().history["train_loss"])
        # On one, and from there on four.
        with pytest.raises(RuntimeError, match="power cut"):
            fit(folder=other, callbacks=[power_cut(8)], **given)
        got = fit(mesh=four(), rules=FULL, folder=other, **given)
        agree(alone(), got)
        assert held(got.params["dense_0"]["w"]) == held(got.best.params["dense_0"]["w"]) == (6, 64)  # type: ignore[union-attr]


def what_goes_wrong() -> None:
    def log(x: Any) -> Any:
        return jnp.log(x + 0.5)

    net = fn.serial(fn.dense(8), log, fn.dense(4))
    with pytest.raises(fn.train.DivergedError, match=r"at step 0 .* comes out of serial\['log_0'\]"):
        fit(net=net, mesh=eight(), rules=FULL)
    for given, message in (
        ({"batch_size": 12}, r"batch_size=12, wanted a multiple of 8, the size of axis 'data' of the mesh {'data': 8}"),
        (streams(12), r"shard_batch: got float64\[12,6\], wanted a multiple of 8 examples"),
        ({"mesh": jax.make_mesh((8,), ("batch",))}, "the mesh is {'batch': 8}, wanted an axis \"data\""),
        ({"mesh": None, "rules": FULL}, "rules say how params are split over a mesh; pass mesh="),
        ({"rules": [("dens_0", P())]}, "rule 'dens_0' matches no param"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            fit(**({"mesh": eight()} | given))
    with pytest.raises(TypeError, match="mesh=8, wanted a Mesh"):
        fit(mesh=8)


CASES = (
    no_device_has_more_than_its_part,
    from_memory,
    from_a_stream,
    on_another_number_of_devices,
    what_goes_wrong,
)


@pytest.mark.slow
def test_on_eight_devices() -> None:
    passes_on_eight_devices(__file__, CASES)


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_log_compiles", True)
    logging.getLogger("jax").handlers[:] = [Compilations()]
    logging.getLogger("jax").propagate = False
    found = list(failures(CASES))
    print("\n".join(found) or f"{len(CASES)} cases on {len(jax.devices())} devices")
    sys.exit(bool(found))
