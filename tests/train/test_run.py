"""A whole run: against a loop in NumPy, and the same under jit, vmap and grad."""

import types
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from fnnet.train.batches import next_batch
from tests import arrays

N = 11  # examples to train on
MSE = fn.losses.mean_squared_error
close = np.testing.assert_allclose
equal = partial(jax.tree.map, np.testing.assert_array_equal)


def jit(f: Any) -> Any:
    """The compiled function, with NumPy arrays as its result, so that comparing them compiles nothing."""
    compiled = jax.jit(f)
    return lambda *arguments: jax.device_get(compiled(*arguments))


def regression(n: int = N, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"x": draw.normal(size=(n, 3)), "y": draw.normal(size=(n, 1))}


def dataset(**more: Any) -> dict[str, Any]:
    return {"train": regression(), "valid": regression(7, 1), "test": regression(5, 2)} | more


def run_of(net: Any = None, optimizer: Any = fn.optim.sgd, loss: Any = MSE, **arguments: Any) -> Any:
    net = net or fn.dense(1, w_init=fn.initializers.ones)
    return fn.train.make_run(net, loss, optimizer, **{"steps": 4, "batch_size": 4} | arguments)


def key(i: int = 0) -> jax.Array:
    return jax.random.key(i)


RATE = {"learning_rate": 0.1}
DRAWS = fn.serial(fn.batch_norm(), fn.dropout(0.3), fn.dense(1))  # a net with a state, that draws


class Code:
    """A target that says which examples a batch has: 2^i for example i, whose sum is read from the history."""

    def __init__(self, n: int = N) -> None:
        self.data = dataset(train=regression(n))
        for part in self.data.values():
            part["y"] = {"y": part["y"], "code": 2.0 ** np.arange(len(part["x"]))}
        self.metrics = {"code": lambda p, t: t["code"]}

    @staticmethod
    def loss(p: jax.Array, t: Any) -> jax.Array:
        return MSE(p, t["y"])

    @staticmethod
    def batches(history: Any, batch_size: int) -> list[list[int]]:
        """The examples of each step. One that was in a batch twice would make its list too short."""
        sums = np.asarray(history["train_code"], np.float64) * batch_size
        lists = [[i for i in range(64) if int(total) >> i & 1] for total in sums]
        assert [len(examples) for examples in lists] == [batch_size] * len(lists)
        return lists


def at_weights(path: str) -> bool:
    return path.endswith("w")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("penalties", [{}, {"l1": 0.2, "l2": 0.1, "weights": 0.3}])
def test_a_loop_in_numpy(penalties: dict[str, float]) -> None:
    functions = {"l1": fn.losses.l1, "l2": fn.losses.l2, "weights": lambda p: fn.losses.l2(p, at_weights)}
    code, rate, steps, batch_size = Code(), 0.1, 7, 4
    run = run_of(
        loss=code.loss,
        steps=steps,
        batch_size=batch_size,
        eval_every=3,
        eval_batch_size=2,
        metrics=code.metrics | {"absolute": lambda p, t: fn.losses.mean_absolute_error(p, t["y"])},
        penalties={name: functions[name] for name in penalties},
    )
    got = jit(run)(key(), code.data, {"learning_rate": rate} | penalties)

    l1, l2, weights = (penalties.get(name, 0.0) for name in ("l1", "l2", "weights"))
    w, b = np.ones((3, 1)), np.zeros(1)
    history: dict[str, list[Any]] = {"loss": [], "absolute": [], "penalty": []}
    evaluations: dict[str, list[Any]] = {
        f"{p}_{m}": [] for p in ("valid", "test") for m in ("loss", "absolute")
    }
    for i, batch in enumerate(code.batches(got.history, batch_size)):
        x, y = code.data["train"]["x"][batch], code.data["train"]["y"]["y"][batch]
        error = x @ w + b - y
        history["loss"].append(np.mean(error**2))
        history["absolute"].append(np.mean(np.abs(error)))
        square, size = (w**2).sum(), np.abs(w).sum() + np.abs(b).sum()
        history["penalty"].append(l1 * size + l2 * (square + (b**2).sum()) + weights * square)
        dw = 2 * x.T @ error / batch_size + l1 * np.sign(w) + 2 * (l2 + weights) * w
        db = 2 * error.mean(axis=0) + l1 * np.sign(b) + 2 * l2 * b
        w, b = w - rate * dw, b - rate * db
        if i + 1 in (3, 6, 7):
            for name in ("valid", "test"):
                error = code.data[name]["x"] @ w + b - code.data[name]["y"]["y"]
                evaluations[f"{name}_loss"].append(np.mean(error**2))
                evaluations[f"{name}_absolute"].append(np.mean(np.abs(error)))

    close(got.params["w"], w, rtol=1e-10)
    close(got.params["b"], b, rtol=1e-10)
    assert ("train_penalty" in got.history) == bool(penalties)
    for name, values in history.items():
        close(got.history.get(f"train_{name}", np.zeros(steps)), values, rtol=1e-10)
    for name, values in evaluations.items():
        close(got.history[name], values, rtol=1e-10)
    assert got.history["eval_step"].tolist() == [3, 6, 7]
    assert got.history["diverged_at"] == -1


@pytest.mark.usefixtures("float64")
def test_epochs_are_permutations_of_their_own() -> None:
    code = Code()
    run = jit(run_of(loss=code.loss, steps=10, batch_size=5, metrics=code.metrics, eval_every=3))
    orders = []
    for seed in (0, 1):
        batches = code.batches(run(key(seed), code.data, RATE).history, 5)
        epochs = [batches[i] + batches[i + 1] for i in range(0, 10, 2)]  # 2 of 5, one example left over
        assert all(len(set(epoch)) == 10 for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 5
        assert len({*range(N)}.difference(*map(set, epochs))) == 0
        orders.append(batches)
    assert orders[0] != orders[1]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_loop_over_make_step() -> None:
    """Without the evaluations, which change nothing."""
    net, metrics, data = DRAWS, {"absolute": fn.losses.mean_absolute_error}, dataset(test=None)
    how = {"eval_every": 4, "eval_batch_size": 2, "penalties": {"l2": fn.losses.l2}}
    run = run_of(net, fn.optim.adam, steps=6, metrics=metrics, **how)
    got = jit(run)(key(), data, {"learning_rate": 0.05, "l2": 0.1})

    optimizer = fn.optim.adam(0.05)
    penalty = lambda params: 0.1 * fn.losses.l2(params)  # noqa: E731
    step = fn.train.make_step(net, MSE, optimizer, metrics=metrics, penalty=penalty)
    init_key, order_key, step_key = jax.random.split(key(), 3)
    start = jax.jit(lambda: fn.train.start(net, optimizer, init_key, data["train"]["x"]))

    @jax.jit
    def one(train_state: Any, order: jax.Array, i: jax.Array) -> Any:
        train = jax.tree.map(jnp.asarray, data["train"])
        order, batch = next_batch(order_key, order, i, train, 4)
        return *step(train_state, batch, jax.random.fold_in(step_key, i)), order

    @jit
    def evaluate(params: Any, state: Any) -> Any:
        return fn.train.evaluate(net, {"loss": MSE} | metrics, params, state, data["valid"])

    train_state, order, history = start(), np.zeros(N, np.int32), []
    for i in range(6):
        train_state, batch_metrics, order = one(train_state, order, np.int32(i))
        history.append(batch_metrics)
    for name in ("loss", "absolute", "penalty"):
        close(got.history[f"train_{name}"], [np.asarray(m[name]) for m in history], rtol=1e-10)
    arrays.close((got.params, got.state), (train_state.params, train_state.state), rtol=1e-9)
    for name, value in evaluate(train_state.params, train_state.state).items():
        close(got.history[f"valid_{name}"][-1], value, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_softmax_regression_full_batch() -> None:
    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(9, 2)), draw.integers(0, 3, 9).astype(np.int8)
    net = fn.dense(3, w_init=fn.initializers.zeros)
    data = {"train": {"x": x, "y": y}, "test": {"x": -x, "y": y}}
    metrics = {"accuracy": fn.metrics.accuracy}
    run = run_of(net, loss=fn.losses.softmax_cross_entropy, batch_size=9, steps=5, metrics=metrics)
    got = jit(run)(key(), data, {"learning_rate": 0.5})
    w, b, losses = np.zeros((2, 3)), np.zeros(3), []
    for _ in range(5):
        z = x @ w + b
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        losses.append(-np.log(p[np.arange(9), y]).mean())
        dz = (p - np.eye(3)[y]) / 9
        w, b = w - 0.5 * x.T @ dz, b - 0.5 * dz.sum(axis=0)
    close(got.history["train_loss"], losses, rtol=1e-10)
    close(got.params["w"], w, rtol=1e-10, atol=1e-14)
    close(got.history["test_accuracy"], [np.mean((-x @ w + b).argmax(axis=1) == y)], rtol=1e-6)


class TestEvaluation:
    @pytest.mark.parametrize(
        "steps, eval_every, at",
        [(6, 3, [3, 6]), (3, 10, [3]), (2, 1, [1, 2])],
    )
    def test_every_n_steps_and_at_the_end(self, steps: int, eval_every: int, at: list[int]) -> None:
        """The loss of the full batch before step i is that of an evaluation of the same examples at i."""
        run = run_of(steps=steps, batch_size=N, eval_every=eval_every)
        history = jit(run)(key(), dataset(valid=regression()), RATE).history
        assert history["eval_step"].tolist() == at
        longer = np.append(history["train_loss"], np.nan)[at]
        close(history["valid_loss"][:-1], longer[:-1], rtol=1e-5)
        assert history["valid_loss"].shape == history["test_loss"].shape == (len(at),)
        assert history["train_loss"].shape == (steps,)

    def test_metrics_add_no_work_to_the_network(self) -> None:
        def products(metrics: Any) -> int:
            run = run_of(fn.serial(fn.dense(4), fn.tanh, fn.dense(1)), metrics=metrics)
            return str(jax.make_jaxpr(run)(key(), dataset(), RATE)).count("dot_general")

        assert products({"absolute": fn.losses.mean_absolute_error, "again": MSE}) == products(None) > 0


class TestHistory:
    def history(self, data: Any, **arguments: Any) -> dict[str, tuple[tuple[int, ...], str]]:
        hparams = RATE | dict.fromkeys(arguments.get("penalties", {}), 0.1)
        history = jax.eval_shape(run_of(steps=5, **arguments), key(), data, hparams).history
        return {name: (a.shape, str(a.dtype)) for name, a in history.items()}

    def test_names_shapes_and_dtypes(self) -> None:
        metrics = {"right": lambda p, t: (p > t)[:, 0], "count": lambda p, t: jnp.ones(len(p), jnp.int32)}
        got = self.history(dataset(), metrics=metrics, penalties={"l2": fn.losses.l2}, eval_every=2)
        names = ("loss", "right", "count")
        assert got == {
            **{f"train_{name}": ((5,), "float32") for name in (*names, "penalty")},
            **{f"{part}_{name}": ((3,), "float32") for part in ("valid", "test") for name in names},
            "eval_step": ((3,), "int32"),
            "diverged_at": ((), "int32"),
        }

    @pytest.mark.parametrize("valid", [None, "missing"])
    def test_a_part_that_is_not_there(self, valid: Any) -> None:
        data = dataset(valid=None)
        if valid == "missing":
            del data["valid"]
        got = self.history(data)
        assert got.keys() == {"train_loss", "test_loss", "eval_step", "diverged_at"}

    def test_training_alone(self) -> None:
        got = self.history({"train": regression()}, eval_every=2)
        assert got.keys() == {"train_loss", "eval_step", "diverged_at"}
        assert got["eval_step"] == ((3,), "int32")


@pytest.mark.slow
def test_data_in_any_container() -> None:
    run, data = run_of(eval_every=2), dataset()
    one = jit(run)(key(), data, RATE)
    other = jit(lambda: run(key(), types.SimpleNamespace(**data), RATE))()
    third = jit(run)(key(), fn.data.Dataset(**arrays.cast(data, np.float32)), RATE)
    for again in (other, third):
        arrays.close(again, one, rtol=1e-5)
    assert one.params["w"].dtype == np.float32


class TestTransformations:
    @pytest.mark.usefixtures("float64")
    def test_jit_and_vmap_agree_with_the_plain_run(self) -> None:
        """With a state, draws, Adam and a penalty."""
        run = run_of(DRAWS, fn.optim.adam, eval_every=2, penalties={"l2": fn.losses.l2})
        one, data, keys = jit(run), dataset(test=None), jax.random.split(key(5), 2)
        rates, strengths = (0.003, 0.1), (0.2, 0.0)
        hparams = [{"learning_rate": a, "l2": s} for a, s in zip(rates, strengths, strict=True)]
        mapped = {"learning_rate": np.array(rates), "l2": np.array(strengths)}
        ones = [[one(k, data, h) for h in hparams] for k in keys]

        agree = partial(arrays.close, rtol=1e-8, atol=1e-12)
        agree(run(keys[0], data, hparams[0]), ones[0][0])
        both = jit(jax.vmap(jax.vmap(run, (None, None, 0)), (0, None, None)))(keys, data, mapped)
        agree(both, arrays.stack(arrays.stack(*ones[0]), arrays.stack(*ones[1])))
        # What is mapped over makes a difference.
        loss = both.history["valid_loss"]
        assert len(np.unique(loss)) == loss.size == 8
        assert both.history["eval_step"].tolist() == [[[2, 4]] * 2] * 2

    @pytest.mark.usefixtures("float64")
    def test_vmap_over_data(self) -> None:
        run, folds = run_of(), [{"train": regression(N, seed), "valid": regression(7, 5)} for seed in (0, 1)]
        got = jit(jax.vmap(run, (None, 0, None)))(key(), arrays.stack(*folds), RATE)
        one = jit(run)
        arrays.close(got, arrays.stack(*(one(key(), fold, RATE) for fold in folds)), rtol=1e-10)

    @pytest.mark.usefixtures("float64")
    def test_one_trace_for_other_hyperparameters_and_keys(self) -> None:
        traces = []

        def make_optimizer(learning_rate: Any) -> Any:
            traces.append(learning_rate)
            return fn.optim.sgd(learning_rate)

        run, data = jit(run_of(optimizer=make_optimizer)), dataset()
        losses = [
            run(key(k), data, {"learning_rate": rate}).history["valid_loss"].item()
            for k, rate in ((0, 0.1), (0, 0.2), (1, 0.1), (0, 0.1))
        ]
        assert len(traces) == 1
        assert len(set(losses[:3])) == 3
        assert losses[3] == losses[0]

    @pytest.mark.slow
    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize(
        "net, optimizer, h, rtol",
        [
            pytest.param(
                fn.serial(fn.dropout(0.3), fn.dense(1), fn.tanh),
                fn.optim.adam,
                1e-5,
                1e-6,
                id="adam",
            ),
            # The running averages are float32: for small differences they are too coarse.
            pytest.param(
                fn.serial(fn.dense(2, use_bias=False), fn.batch_norm(), fn.dense(1)),
                fn.optim.sgd,
                3e-3,
                1e-3,
                id="batch_norm",
            ),
        ],
    )
    def test_the_gradient_of_the_last_valid_loss(
        self, net: Any, optimizer: Any, h: float, rtol: float
    ) -> None:
        run, data = run_of(net, optimizer, penalties={"l2": fn.losses.l2}), dataset(test=None)

        def loss(logs: jax.Array) -> jax.Array:
            hparams = {"learning_rate": jnp.exp(logs[0]), "l2": jnp.exp(logs[1])}
            return run(key(), data, hparams).history["valid_loss"][-1]

        value_and_grad = jit(jax.value_and_grad(loss))
        at = np.log([0.05, 0.1])
        ahead, behind = ([value_and_grad(at + h * e)[0] for e in sign * np.eye(2)] for sign in (1, -1))
        differences = (np.array(ahead) - np.array(behind)) / (2 * h)
        assert np.abs(differences).min() > 1e-4
        close(value_and_grad(at)[1], differences, rtol=rtol)

    @pytest.mark.usefixtures("float64")
    def test_the_gradient_on_a_parabola(self) -> None:
        """With loss w^2 a step is w <- (1 - 2 alpha) w, so w_T = (1 - 2 alpha)^T."""
        net = fn.dense(1, use_bias=False, w_init=fn.initializers.ones)
        part = {"x": np.ones((3, 1)), "y": np.zeros((3, 1))}
        run = run_of(net, steps=6, batch_size=2)

        def loss(rate: jax.Array) -> jax.Array:
            history = run(key(), {"train": part, "valid": part}, {"learning_rate": rate}).history
            return history["valid_loss"][0]

        rates = np.array([0.1, 0.3, 0.9])
        value, slope = jit(jax.vmap(jax.value_and_grad(loss)))(rates)
        close(value, (1 - 2 * rates) ** 12, rtol=1e-10)
        close(slope, -24 * (1 - 2 * rates) ** 11, rtol=1e-10)


class TestContinuing:
    """In the middle of an epoch, which has two steps of four examples, with a state, draws and Adam."""

    def runs(self, **arguments: Any) -> tuple[Any, Any]:
        make = partial(run_of, DRAWS, fn.optim.adam, **arguments)
        return make(steps=3), make(steps=6)

    def test_two_halves_are_a_whole_bit_for_bit(self) -> None:
        half, whole = (jit(run) for run in self.runs(eval_every=3))
        data, hparams = dataset(test=None), {"learning_rate": 0.1}
        first, wanted = half(key(), data, hparams), whole(key(), data, hparams)
        second = half(key(), data, hparams, first)
        assert (first.step, second.step) == (3, 6)
        equal(second._replace(history={}), wanted._replace(history={}))
        for name in ("train_loss", "valid_loss", "eval_step"):
            both = np.append(first.history[name], second.history[name])
            np.testing.assert_array_equal(both, wanted.history[name])
        assert wanted.history["diverged_at"] == second.history["diverged_at"] == -1
        assert second.history["eval_step"].tolist() == [6]

    @pytest.mark.slow
    def test_many_at_once(self) -> None:
        """The epoch is sorted at its beginning alone, where the step is not mapped."""
        half, whole = self.runs()
        keys, data = jax.random.split(key(7), 2), {"train": regression()}
        first = jit(jax.vmap(half, (0, None, None)))(keys, data, RATE)
        assert first.step.tolist() == [3, 3]
        first = first._replace(step=first.step[0])
        mapped = jax.vmap(half, (0, None, None, fn.train.Run(0, 0, 0, 0, None)))
        second = jit(mapped)(keys, data, RATE, first)
        wanted = jit(jax.vmap(whole, (0, None, None)))(keys, data, RATE)
        arrays.close(second.params, wanted.params, rtol=1e-5, atol=1e-7)
        close(second.history["train_loss"], wanted.history["train_loss"][:, 3:], rtol=1e-5)
        conditions = str(jax.make_jaxpr(mapped)(keys, data, RATE, first)).count("cond[")
        assert conditions == str(jax.make_jaxpr(half)(keys[0], data, RATE)).count("cond[") == 1

    def test_divergence_is_counted_from_the_beginning(self) -> None:
        """w is multiplied by -100 a step, and w^2 is too large at step 10: see TestDivergence."""
        net = fn.dense(1, use_bias=False, w_init=fn.initializers.ones)
        run, data = jit(run_of(net, steps=8)), {"train": TestDivergence.ONES}
        first = run(key(), data, {"learning_rate": TestDivergence.FAST})
        second = run(key(), data, {"learning_rate": TestDivergence.FAST}, first)
        third = run(key(), data, {"learning_rate": TestDivergence.FAST}, second)
        assert [int(r.history["diverged_at"]) for r in (first, second, third)] == [-1, 10, 10]

    def test_averaged_weights_are_in_its_optimizer_state(self) -> None:
        make = lambda learning_rate: optax.chain(fn.optim.sgd(learning_rate), fn.optim.ema_params(0.5))  # noqa: E731
        data = {"train": regression()}
        got = jit(run_of(optimizer=make, steps=2))(key(), data, RATE)
        one = jit(run_of(steps=1))(key(), data, RATE)
        average = fn.optim.averaged_params(got.opt_state, got.params)["w"]
        close(average, 0.25 + 0.25 * one.params["w"] + 0.5 * got.params["w"], rtol=1e-6)

    def test_what_it_cannot_continue(self) -> None:
        run, data = run_of(), {"train": regression()}
        with pytest.raises(TypeError, match=r"run: after is {}, wanted the Run"):
            run(key(), data, RATE, {})
        got = jax.eval_shape(run, key(), data, RATE)
        with pytest.raises(
            ValueError, match=r"after.opt_state is .* continue with the network and the optimizer"
        ):
            jax.eval_shape(run_of(optimizer=fn.optim.adam), key(), data, RATE, got)
        wide = jax.eval_shape(run_of(fn.dense(2), loss=lambda p, t: jnp.sum(p, 1)), key(), data, RATE)
        with pytest.raises(ValueError, match=r"after.params is .*float32\[3,2\].*, wanted .*float32\[3,1\]"):
            jax.eval_shape(run, key(), data, RATE, wide)
        several = jax.eval_shape(jax.vmap(run, (0, None, None)), jax.random.split(key(), 2), data, RATE)
        with pytest.raises(ValueError, match="if it is several runs, map over it with vmap"):
            jax.eval_shape(run, key(), data, RATE, several)


class TestHyperparameters:
    def test_numbers_of_any_kind(self) -> None:
        run, data = jit(run_of(optimizer=fn.optim.adam)), {"train": regression()}
        kinds = (float, np.float32, np.float64)
        runs = [run(key(), data, {"learning_rate": kind(0.125)}) for kind in kinds]  # exact in each
        for other in runs[1:]:
            arrays.close(other, runs[0], rtol=1e-5)

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
    def test_in_double_precision_leave_the_params_in_theirs(self, dtype: Any) -> None:
        net = fn.serial(fn.dense(4), fn.tanh, fn.dense(1))
        run = run_of(net, fn.optim.adam, penalties={"l2": fn.losses.l2})
        data = arrays.cast(dataset(), dtype)
        hparams = {name: np.full(2, 0.1) for name in ("learning_rate", "b1", "eps", "l2")}
        got = jax.eval_shape(jax.vmap(run, (None, None, 0)), key(), data, hparams)
        assert {leaf.dtype for leaf in jax.tree.leaves(got.params)} == {jnp.dtype(dtype)}
        assert got.history["train_loss"].dtype == jnp.float32

    def test_a_penalty_takes_its_name(self) -> None:
        """A penalty called weight_decay has the number, and AdamW keeps its default."""
        data, adamw = {"train": regression()}, fn.optim.adamw
        named = run_of(optimizer=adamw, penalties={"weight_decay": fn.losses.l2})
        other = run_of(optimizer=partial(adamw, weight_decay=1e-4), penalties={"l2": fn.losses.l2})
        equal(
            jit(named)(key(), data, {"learning_rate": 0.1, "weight_decay": 0.5}),
            jit(other)(key(), data, {"learning_rate": 0.1, "l2": 0.5}),
        )

    def test_an_array_may_be_one(self) -> None:
        """A rate for each step."""
        rates = np.array([0.1, 0.0, 0.0, 0.0], np.float32)
        run = run_of(optimizer=lambda rates: fn.optim.sgd(lambda step: rates[step]))
        data = {"train": regression()}
        several, first = jit(run)(key(), data, {"rates": rates}), jit(run_of(steps=1))(key(), data, RATE)
        equal(several.params, first.params)


@pytest.mark.usefixtures("float64")
class TestLineSearches:
    STRENGTHS = np.array([0.1, 1.0])

    def ridge(self, strength: float) -> np.ndarray:
        """The minimum of mean (x w + b - y)^2 + strength (|w|^2 + b^2)."""
        x, y = np.hstack([regression()["x"], np.ones((N, 1))]), regression()["y"]
        return np.linalg.solve(x.T @ x / N + strength * np.eye(4), x.T @ y / N)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["lbfgs", "backtracking"])
    def test_reach_the_minimum_for_each_strength(self, name: str) -> None:
        def make_optimizer() -> Any:
            if name == "lbfgs":
                return optax.lbfgs(memory_size=4)
            return optax.chain(optax.sgd(2.0), optax.scale_by_backtracking_linesearch(15))

        run = run_of(optimizer=make_optimizer, batch_size=N, steps=30, penalties={"l2": fn.losses.l2})
        many = jit(jax.vmap(run, (None, None, 0)))
        got = many(key(), {"train": regression()}, {"l2": self.STRENGTHS})
        for i, strength in enumerate(self.STRENGTHS):
            theta = np.vstack([got.params["w"][i], got.params["b"][i][None]])
            close(theta, self.ridge(strength), atol=1e-6 if name == "lbfgs" else 2e-3)
        objective = got.history["train_loss"] + got.history["train_penalty"]
        assert (np.diff(objective, axis=1) < 1e-12).all()

    def test_polyak_step(self) -> None:
        """Where the least loss is 0, as it assumes."""
        data = regression()
        data["y"] = data["x"] @ np.array([[1.0], [-2.0], [0.5]]) + 3
        run = run_of(optimizer=partial(optax.polyak_sgd, 10.0), batch_size=N, steps=40)
        got = jit(run)(key(), {"train": data}, {})
        close(got.params["w"][:, 0], [1, -2, 0.5], atol=1e-3)
        close(got.params["b"], [3], atol=1e-3)


class TestInputs:
    def test_tokens_and_small_labels(self) -> None:
        draw = np.random.default_rng(0)
        x, y = draw.integers(0, 5, (8, 3)), draw.integers(0, 2, 8)
        net = fn.serial(fn.embed(5, 4), fn.flatten, fn.dense(2))
        run = jit(run_of(net, loss=fn.losses.softmax_cross_entropy, batch_size=8, steps=30))
        got = run(key(), {"train": {"x": x.astype(np.uint8), "y": y.astype(np.uint8)}}, RATE)
        assert got.history["train_loss"][-1] < 0.5 * got.history["train_loss"][0]

    @pytest.mark.usefixtures("float64")
    def test_several_inputs_into_a_layer_by_hand(self) -> None:
        """y = a w_a + b w_b, the same as y = [a b] w. Its gain and its count are in weak types."""

        def init(key: jax.Array, x: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            w = {name: jnp.ones((x[name].shape[1], 1)) for name in ("a", "b")}
            return w | {"gain": 1.0}, {"seen": 0}

        def apply(params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False) -> Any:
            y = (x["a"] @ params["a"] + x["b"] @ params["b"]) * jax.lax.stop_gradient(params["gain"])
            return y, {"seen": state["seen"] + train}

        data, net = dataset(test=None), fn.Layer(init, apply, "two")
        several = {
            name: part and {"x": {"a": part["x"][:, :1], "b": part["x"][:, 1:]}, "y": part["y"]}
            for name, part in data.items()
        }
        got = jit(run_of(net, eval_every=3, eval_batch_size=3))(key(), several, RATE)
        net = fn.dense(1, use_bias=False, w_init=fn.initializers.ones)
        wanted = jit(run_of(net, eval_every=3))(key(), data, RATE)
        close(np.vstack([got.params["a"], got.params["b"]]), wanted.params["w"], rtol=1e-10)
        for name, values in wanted.history.items():
            close(got.history[name], values, rtol=1e-10)
        assert got.state["seen"] == 4

    @pytest.mark.slow
    def test_bfloat16(self) -> None:
        net = fn.serial(fn.batch_norm(), fn.dense(8), fn.tanh, fn.dense(1))
        data = arrays.cast(dataset(test=None), jnp.bfloat16)
        run = run_of(net, lambda: optax.chain(optax.clip(1.0), fn.optim.adam(0.02)), batch_size=N, steps=60)
        got = jit(run)(key(), data, {})
        assert {leaf.dtype for leaf in jax.tree.leaves(got.params)} == {jnp.dtype(jnp.bfloat16)}
        assert got.history["train_loss"].dtype == got.history["valid_loss"].dtype == jnp.float32
        assert got.history["train_loss"][-1] < 0.3 * got.history["train_loss"][0]


class TestDivergence:
    """With x = 1, y = 0 and loss w^2, w is multiplied by 1 - 2 alpha: by -100 with alpha = 50.5.

    w^2 = 10^(4 t) is too large for float32, which ends at 3.4e38, from t = 10 on.
    """

    FAST = 50.5
    ONES = {"x": np.ones((4, 1)), "y": np.zeros((4, 1))}  # noqa: RUF012

    def run(self, hparams: Any, data: Any = None, mapped: Any = None, **arguments: Any) -> fn.train.Run:
        net = fn.dense(1, use_bias=False, w_init=fn.initializers.ones)
        run = run_of(net, **{"steps": 12} | arguments)
        run = run if mapped is None else jax.vmap(run, mapped)
        return jit(run)(key(), data or {"train": self.ONES}, hparams)

    @pytest.mark.parametrize("steps, at", [(12, 10), (11, 10), (10, -1)])
    def test_the_first_step(self, steps: int, at: int) -> None:
        got = self.run({"learning_rate": self.FAST}, steps=steps)
        assert got.history["diverged_at"] == at
        assert np.isfinite(got.history["train_loss"]).tolist() == [i < 10 for i in range(steps)]
        if at < 0:
            fn.train.raise_if_diverged(got)
        else:
            with pytest.raises(FloatingPointError, match=r"^the loss was not finite from step 10 on$"):
                fn.train.raise_if_diverged(got)

    def test_in_an_evaluation(self) -> None:
        data = {"train": self.ONES, "test": self.ONES}
        got = self.run({"learning_rate": self.FAST}, data, steps=10)
        assert np.isfinite(got.history["train_loss"]).all()
        assert got.history["diverged_at"] == 10
        bad = {"train": self.ONES, "valid": self.ONES | {"x": np.full((4, 1), np.nan)}}
        rates = {"learning_rate": np.array([0.1, self.FAST])}
        got = self.run(rates, bad, mapped=(None, None, 0), eval_every=11)
        assert got.history["diverged_at"].tolist() == [11, 10]

    def test_in_the_last_update(self) -> None:
        got = self.run({"learning_rate": 3e38}, steps=1)
        assert np.isfinite(got.history["train_loss"]).all()
        assert not np.isfinite(got.params["w"]).all()
        assert got.history["diverged_at"] == 1

    def test_in_a_penalty(self) -> None:
        penalties = {"l2": lambda params: 1e38 * jnp.sum(jnp.abs(params["w"]))}
        hparams = {"learning_rate": 0.0, "l2": np.array([0.0, 10.0])}
        mapped = (None, None, {"learning_rate": None, "l2": 0})
        got = self.run(hparams, mapped=mapped, penalties=penalties, steps=1)
        assert got.history["diverged_at"].tolist() == [-1, 0]
        assert np.isfinite(got.history["train_loss"]).all()

    def test_not_in_a_metric(self) -> None:
        metrics = {"nan": lambda p, t: jnp.full(len(p), jnp.nan)}
        got = self.run(RATE, {"train": self.ONES, "valid": self.ONES}, metrics=metrics)
        assert got.history["diverged_at"] == -1
        assert np.isnan(got.history["valid_nan"]).all()

    def test_many_runs(self) -> None:
        hparams = {"learning_rate": np.array([0.1, self.FAST, 0.2, 5e9])}
        got = self.run(hparams, mapped=(None, None, 0))
        assert got.history["diverged_at"].tolist() == [-1, 10, -1, 2]
        message = r"^the loss was not finite in 2 of 4 runs: run 1 from step 10 on; run 3 from step 2 on$"
        with pytest.raises(FloatingPointError, match=message):
            fn.train.raise_if_diverged(got)
        with pytest.raises(
            FloatingPointError, match=r"run 1 from step 10 on, learning_rate=50\.5; run 3 from"
        ):
            fn.train.raise_if_diverged(got, hparams)
        fn.train.raise_if_diverged(jax.tree.map(lambda a: a[np.array([0, 2])], got), hparams)

    def test_the_message(self) -> None:
        def raised(at: Any, hparams: Any = None) -> str:
            run = fn.train.Run({}, {}, {"diverged_at": np.asarray(at)}, (), np.int32(0))
            with pytest.raises(FloatingPointError) as caught:
                fn.train.raise_if_diverged(run, hparams)
            return str(caught.value)

        assert raised(0, {"learning_rate": 0.5, "l2": np.float32(2)}) == (
            "the loss was not finite from step 0 on, learning_rate=0.5, l2=2.0"
        )
        grid = raised([[-1, 3], [-1, -1]], {"learning_rate": np.arange(4.0).reshape(2, 2), "l2": np.ones(2)})
        assert grid == "the loss was not finite in 1 of 4 runs: run 0, 1 from step 3 on, learning_rate=1.0"
        assert raised([7] * 12).endswith("run 9 from step 7 on; ...")
        assert raised([7] * 10).endswith("run 9 from step 7 on")


class TestErrors:
    @pytest.mark.parametrize("name", ["steps", "batch_size", "eval_batch_size", "eval_every"])
    def test_sizes(self, name: str) -> None:
        for size in (0, -1):
            with pytest.raises(ValueError, match=f"make_run: {name}={size}, wanted at least 1"):
                run_of(**{name: size})
        for size in (2.0, True, "3"):
            with pytest.raises(TypeError, match=f"make_run: {name}={size!r}, wanted a positive int"):
                run_of(**{name: size})

    @pytest.mark.parametrize("name", ["metrics", "penalties"])
    def test_functions_without_names(self, name: str) -> None:
        with pytest.raises(TypeError, match=f"{name}=.*, wanted a dict of functions by name"):
            run_of(**{name: [MSE]})

    @pytest.mark.parametrize("name", ["loss", "penalty"])
    def test_a_metric_in_place_of_the_loss(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"metrics has \\['{name}'\\]"):
            run_of(metrics={name: MSE})

    @pytest.mark.parametrize(
        "data, message",
        [
            (dataset(train=regression(3)), "run: batch_size=4, wanted 3 at most"),
            (
                regression(),
                r"run: data is {x: float64\[11,3\], y: float64\[11,1\]}, wanted .train, .valid and .test",
            ),
            (dataset(train=None), "wanted .train, .valid and .test"),
            (types.SimpleNamespace(valid=regression()), "wanted .train, .valid and .test"),
            (dataset(train={"x": np.ones((4, 3))}), r"run: data.train is .*, wanted a dict with x and y"),
            (
                dataset(valid=(np.ones((4, 3)), np.ones(4))),
                r"run: data.valid is .*, wanted a dict with x and y",
            ),
            (dataset(test={}), r"run: data.test is {}, wanted a dict with x and y"),
            (
                dataset(train=regression() | {"y": np.ones((4, 1))}),
                "data.train .* wanted arrays with one leading axis",
            ),
            (
                dataset(test=regression() | {"y": np.ones((4, 1))}),
                "data.test .* wanted arrays with one leading axis",
            ),
            (dataset(valid=regression(0)), "data.valid .* of one size that is not 0"),
        ],
    )
    def test_data(self, data: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            run_of()(key(), data, RATE)

    def test_a_part_that_does_not_fit_the_network_is_named(self) -> None:
        with pytest.raises(ValueError, match="wanted 3 features; for images put flatten before it") as caught:
            run_of()(key(), dataset(valid={"x": np.ones((4, 2)), "y": np.ones((4, 1))}), RATE)
        assert "in data.valid, input float32[4,2]" in caught.value.__notes__

    def test_hyperparameters(self) -> None:
        with pytest.raises(TypeError, match=r"run: hparams is 0.1, wanted a dict of numbers by name"):
            run_of()(key(), dataset(), 0.1)
        with pytest.raises(TypeError, match="unexpected keyword argument 'lr'"):
            run_of()(key(), dataset(), {"lr": 0.1})
        run = run_of(penalties={"l1": fn.losses.l1, "l2": fn.losses.l2})
        with pytest.raises(
            ValueError, match=r"hparams has \['l1', 'learning_rate'\], wanted the penalties' \['l2'\]"
        ):
            run(key(), dataset(), RATE | {"l1": 0.1})

    def test_strengths_without_vmap(self) -> None:
        run = run_of(penalties={"l2": fn.losses.l2})
        with pytest.raises(ValueError, match=r"penalty is float32\[3\], wanted a scalar"):
            run(key(), dataset(), RATE | {"l2": np.ones(3)})

    @pytest.mark.parametrize("transform", [lambda run: run, jax.jit])
    def test_a_loss_that_is_a_mean(self, transform: Any) -> None:
        run = run_of(loss=lambda p, t: jnp.mean(jnp.square(p - t)))
        with pytest.raises(
            ValueError, match=r"loss is float32\[\], wanted one value for each of the 4 examples"
        ):
            transform(run)(key(), dataset(), RATE)

    def test_labels_of_a_wrong_shape(self) -> None:
        data = {"train": regression() | {"y": np.zeros((N, 1), np.int32)}}
        with pytest.raises(
            ValueError, match=r"softmax_cross_entropy: .*, wanted integer labels of shape \(4,\)"
        ):
            run_of(fn.dense(2), loss=fn.losses.softmax_cross_entropy)(key(), data, RATE)


class TestReprs:
    def test_a_run_is_a_few_lines(self) -> None:
        history = {"train_loss": np.zeros(500), "diverged_at": np.int32(-1)}
        run = fn.train.Run({"w": np.ones((64, 32)), "b": np.ones(32)}, {}, history, (), np.int32(500))  # type: ignore[arg-type]
        assert repr(run) == (
            "Run(\n"
            "    params: 2 arrays, 2,080 numbers\n"
            "    state: {}\n"
            "    history: train_loss float64[500], diverged_at -1\n"
            "    opt_state: no arrays\n"
            "    step: 500\n"
            ")"
        )

    def test_of_tracers_shapes_axes_and_donated_arrays(self) -> None:
        text = []

        def shown(run: fn.train.Run) -> fn.train.Run:
            text.append(repr(run))
            return run

        run = run_of(fn.dense(1))
        got = jax.eval_shape(jax.vmap(lambda k: shown(run(k, dataset(), RATE))), jax.random.split(key(), 2))
        assert "params: 2 arrays, 4 numbers" in text[0]
        assert "step: int32[2]" in repr(got)
        assert "train_loss float32[2,4]" in repr(got)
        assert "step: None" in repr(fn.train.Run(0, 0, 0, 0, None))  # type: ignore[arg-type]
        donated = jax.device_put(np.int32(3))
        state = fn.train.TrainState({"w": donated}, {}, (), donated)
        assert "step: 3" in repr(state)
        donated.delete()
        assert "step: int32[]" in repr(state)
