"""A step against gradients by hand in NumPy, and what it gives the optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet as fn
from tests import arrays

MSE = fn.losses.mean_squared_error
KEY = jax.random.key(0)  # of a step that draws nothing
close = np.testing.assert_allclose


def jit(f: Any) -> Any:
    """The compiled function, with NumPy arrays as its result, so that comparing them compiles nothing."""
    compiled = jax.jit(f)
    return lambda *arguments: jax.device_get(compiled(*arguments))


def linear(features: int) -> fn.Layer:
    return fn.dense(features, w_init=fn.initializers.normal(0.5), b_init=fn.initializers.ones)


def regression(dtype: Any = np.float64) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"x": draw.normal(size=(6, 3)).astype(dtype), "y": draw.normal(size=(6, 2)).astype(dtype)}


def mse(w: np.ndarray, b: np.ndarray, batch: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss of a linear network and its gradient."""
    error = batch["x"] @ w + b - batch["y"]
    slope = 2 * error / error.size
    return np.mean(error**2), batch["x"].T @ slope, slope.sum(axis=0)


def start(net: fn.Layer, optimizer: Any, x: Any) -> tuple[fn.train.TrainState, np.ndarray, np.ndarray]:
    now = jit(lambda: fn.train.start(net, optimizer, jax.random.key(1), x))()
    return now, now.params["w"], now.params["b"]


PENALTIES: dict[Any, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
    None: (None, np.zeros_like, np.zeros_like),
    "l1": (fn.losses.l1, np.abs, np.sign),
    "l2": (fn.losses.l2, np.square, lambda theta: 2 * theta),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", PENALTIES)
def test_linear_regression(kind: str | None) -> None:
    rate, strength = 0.1, 0.05
    penalty, value, slope = PENALTIES[kind]
    net, optimizer = linear(2), fn.optim.sgd(rate)
    step = jit(
        fn.train.make_step(
            net,
            MSE,
            optimizer,
            metrics={"absolute": fn.losses.mean_absolute_error},
            penalty=penalty and (lambda params: strength * penalty(params)),
        )
    )
    now, w, b = start(net, optimizer, regression()["x"])
    for i in range(5):
        batch = {name: np.roll(values, i, axis=0)[:4] for name, values in regression().items()}
        now, seen = step(now, batch, KEY)
        loss, dw, db = mse(w, b, batch)
        wanted = {"loss": loss, "absolute": np.mean(np.abs(batch["x"] @ w + b - batch["y"]))}
        wanted |= {"penalty": strength * (value(w).sum() + value(b).sum())} if kind else {}
        assert seen.keys() == wanted.keys()
        close([seen[name] for name in wanted], list(wanted.values()), rtol=1e-10)
        w, b = w - rate * (dw + strength * slope(w)), b - rate * (db + strength * slope(b))
        close(now.params["w"], w, rtol=1e-10)
        close(now.params["b"], b, rtol=1e-10)
        assert now.step == i + 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("label", [np.int8, np.uint8, np.int64])
def test_softmax_regression(label: Any) -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(6, 3)), draw.integers(0, 4, 6).astype(label)
    net, optimizer = linear(4), fn.optim.sgd(0.5)
    loss, metrics = fn.losses.softmax_cross_entropy, {"accuracy": fn.metrics.accuracy}
    step = jit(fn.train.make_step(net, loss, optimizer, metrics=metrics))
    now, w, b = start(net, optimizer, x)
    for _ in range(4):
        now, seen = step(now, {"x": x, "y": y}, KEY)
        z = x @ w + b
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        close(seen["loss"], -np.log(p[np.arange(6), y]).mean(), rtol=1e-10)
        close(seen["accuracy"], np.mean(z.argmax(axis=1) == y), rtol=1e-6)
        dz = (p - np.eye(4)[y]) / 6
        w, b = w - 0.5 * x.T @ dz, b - 0.5 * dz.sum(axis=0)
        close(now.params["w"], w, rtol=1e-10)
        close(now.params["b"], b, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_clip_before_adam() -> None:
    net, optimizer = linear(2), optax.chain(optax.clip(0.1), fn.optim.adam(0.01))
    step, data = jax.jit(fn.train.make_step(net, MSE, optimizer)), regression()
    now, *theta = start(net, optimizer, data["x"])
    m, v = [0.0, 0.0], [0.0, 0.0]
    for t in range(1, 5):
        now, _ = step(now, data, KEY)
        for i, g in enumerate(np.clip(g, -0.1, 0.1) for g in mse(*theta, data)[1:]):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            theta[i] = theta[i] - 0.01 * m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    close(now.params["w"], theta[0], rtol=1e-9)
    close(now.params["b"], theta[1], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_what_the_optimizer_is_given() -> None:
    """With batch_norm, dropout and a penalty: value_fn is the function whose value and gradient are given.

    Without the penalty it is loss_fn of predict_fn.
    """

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        assert extra.keys() == {"value", "grad", "value_fn", "predict_fn", "loss_fn"}
        direction, h = jax.tree.map(jnp.cos, params), 1e-6
        ahead, behind = (jax.tree.map(lambda p, d, h=h: p + h * d, params, direction) for h in (h, -h))
        f, predict, loss = (extra.pop(name) for name in ("value_fn", "predict_fn", "loss_fn"))
        slopes = ((f(ahead) - f(behind)) / (2 * h), optax.tree.vdot(grads, direction))
        extra |= {"grads": grads, "params": params, "again": f(params), "slopes": slopes}
        return grads, extra | {"prediction": predict(params), "loss": loss(predict(params))}

    spy = optax.GradientTransformationExtraArgs(lambda params: (), update)
    net = fn.serial(fn.batch_norm(), fn.dropout(0.5), linear(2))
    step = jit(fn.train.make_step(net, MSE, spy, penalty=lambda params: 0.1 * fn.losses.l2(params)))
    before = jit(lambda: fn.train.start(net, spy, jax.random.key(1), regression()["x"]))()
    after, seen = step(before, regression(), jax.random.key(2))
    given = after.opt_state
    close(given["value"], seen["loss"] + seen["penalty"], rtol=1e-14)
    close(given["again"], given["value"], rtol=1e-14)
    close(given["loss"], seen["loss"], rtol=1e-14)
    assert given["prediction"].shape == regression()["y"].shape
    close(given["slopes"][0], given["slopes"][1], rtol=1e-7)
    jax.tree.map(np.testing.assert_array_equal, given["grad"], given["grads"])
    jax.tree.map(np.testing.assert_array_equal, given["params"], before.params)


@pytest.mark.usefixtures("float64")
def test_polyak_step() -> None:
    net, optimizer, data = linear(2), optax.polyak_sgd(max_learning_rate=100.0), regression()
    now, w, b = start(net, optimizer, data["x"])
    now, _ = jit(fn.train.make_step(net, MSE, optimizer))(now, data, KEY)
    loss, dw, db = mse(w, b, data)
    rate = loss / (np.sum(dw**2) + np.sum(db**2))
    close(now.params["w"], w - rate * dw, rtol=1e-10)
    close(now.params["b"], b - rate * db, rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_a_backtracking_line_search_descends_where_the_step_without_it_ascends() -> None:
    net, data, search = linear(2), regression(), optax.scale_by_backtracking_linesearch(60)
    for optimizer, descends in ((optax.sgd(1e3), False), (optax.chain(optax.sgd(1e3), search), True)):
        step = jit(fn.train.make_step(net, MSE, optimizer))
        now, w, b = start(net, optimizer, data["x"])
        losses = [mse(w, b, data)[0]]
        for _ in range(4):
            now, _ = step(now, data, KEY)
            losses.append(mse(np.asarray(now.params["w"]), np.asarray(now.params["b"]), data)[0])
        assert (np.diff(losses) < 0).all() == descends


def test_an_optimizer_without_extra_arguments() -> None:
    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda g: -0.1 * g, grads), state

    optimizer, data = optax.GradientTransformation(lambda params: (), update), regression(np.float32)
    now, w, b = start(linear(2), optimizer, data["x"])
    now, _ = jit(fn.train.make_step(linear(2), MSE, optimizer))(now, data, KEY)
    close(now.params["w"], w - 0.1 * mse(w, b, data)[1], rtol=1e-5)


def test_running_averages_and_dropout() -> None:
    net = fn.serial(fn.batch_norm(momentum=0.75), fn.dropout(0.5), linear(2))
    optimizer, batch = fn.optim.sgd(0.1), regression(np.float32)
    step = jit(fn.train.make_step(net, MSE, optimizer))
    now = jit(lambda: fn.train.start(net, optimizer, jax.random.key(0), batch["x"]))()
    first, again, other = (step(now, batch, jax.random.key(k)) for k in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[1]["loss"] != other[1]["loss"]
    mean = first[0].state["batch_norm_0"]["mean"]
    close(mean, 0.25 * batch["x"].mean(axis=0), rtol=1e-5)
    then, _ = step(first[0], {**batch, "x": batch["x"] + 1}, jax.random.key(3))
    wanted = 0.75 * np.asarray(mean) + 0.25 * (batch["x"] + 1).mean(axis=0)
    close(then.state["batch_norm_0"]["mean"], wanted, rtol=1e-5)


@pytest.mark.slow
def test_one_trace_for_all_steps_and_the_same_numbers_without_jit() -> None:
    traces = []

    def count(x: jax.Array) -> jax.Array:
        traces.append(x)
        return x

    net, optimizer, batch = fn.serial(count, fn.batch_norm(), linear(2)), fn.optim.adam(0.01), regression()
    step = fn.train.make_step(net, MSE, optimizer, metrics={"error": fn.losses.mean_absolute_error})
    before = now = jit(lambda: fn.train.start(net, optimizer, jax.random.key(0), batch["x"]))()
    traces.clear()
    compiled = jit(step)
    for i in range(3):
        now, _ = compiled(now, batch, jax.random.key(i))
    assert len(traces) == 1
    plain, jitted = step(before, batch, jax.random.key(0)), compiled(before, batch, jax.random.key(0))
    arrays.close(plain, jitted, rtol=1e-4, atol=1e-6)


def test_numpy_data_in_double_precision_trains_params_in_jaxs_precision() -> None:
    optimizer = fn.optim.adam(0.1)
    now, *_ = start(linear(2), optimizer, regression()["x"])
    after, seen = jit(fn.train.make_step(linear(2), MSE, optimizer))(now, regression(), KEY)
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(state)] for state in (now, after)]
    assert dtypes[0] == dtypes[1]
    assert now.params["w"].dtype == seen["loss"].dtype == jnp.float32


def test_start_reads_shape_and_dtype_alone() -> None:
    x = regression(np.float32)["x"]
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    states = [start(linear(2), fn.optim.adam(0.1), x)[0] for x in (x, np.full_like(x, np.nan), shape)]
    for state in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, state, states[0])
    assert states[0].step.dtype == jnp.int32
    assert states[0].step == 0


class TestMetrics:
    def step(self, metrics: Any, **arguments: Any) -> tuple[fn.train.TrainState, dict[str, jax.Array]]:
        now, *_ = start(linear(2), fn.optim.sgd(0.1), regression()["x"])
        step = fn.train.make_step(linear(2), MSE, fn.optim.sgd(0.1), metrics=metrics, **arguments)
        return jit(step)(now, regression(np.float32), KEY)

    def test_metrics_are_not_differentiated_and_change_nothing(self) -> None:
        def callback(prediction: jax.Array, target: jax.Array) -> jax.Array:
            shape = jax.ShapeDtypeStruct((6,), jnp.float32)
            return jax.pure_callback(lambda p: np.abs(p).sum(axis=1), shape, prediction)

        without, loss = self.step(None)
        now, seen = self.step({"size": callback, "nan": lambda p, t: jnp.sqrt(-jnp.ones(6))})
        jax.tree.map(np.testing.assert_array_equal, now, without)
        assert seen["loss"] == loss["loss"]
        assert seen["size"] > 0
        assert np.isnan(seen["nan"])

    def test_any_dtype_has_a_mean(self) -> None:
        values = np.array([1, 0, 1, 1, 0, 0])
        metrics = {
            name: (lambda p, t, dtype=name: jnp.asarray(values, dtype))
            for name in ("bool", "int8", "uint8", "int32", "bfloat16")
        } | {"float16": lambda p, t: jnp.full(6, 60000.0, jnp.float16)}
        _, seen = self.step(metrics)
        assert {seen[name].dtype for name in seen} == {jnp.dtype("float32")}
        wanted = dict.fromkeys(metrics, 0.5) | {"float16": 60000.0}
        assert {name: float(seen[name]) for name in metrics} == wanted

    @pytest.mark.parametrize("name", ["loss", "penalty"])
    def test_no_metric_has_the_name_of_the_loss(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"metrics has \\['{name}'\\]"):
            self.step({name: MSE})

    @pytest.mark.parametrize("metrics", [MSE, [MSE]])
    def test_are_a_dict(self, metrics: Any) -> None:
        with pytest.raises(TypeError, match="wanted a dict of functions by name"):
            self.step(metrics)

    def test_one_value_per_example(self) -> None:
        with pytest.raises(
            ValueError, match=r"error is float32\[\], wanted one value for each of the 6 examples"
        ):
            self.step({"error": lambda p, t: jnp.mean(jnp.square(p - t))})

    def test_penalty_is_a_scalar(self) -> None:
        with pytest.raises(ValueError, match=r"penalty is float32\[2\], wanted a scalar"):
            self.step(None, penalty=lambda params: params["b"])


@pytest.mark.parametrize(
    "loss, y, message",
    [
        (
            lambda p, t: jnp.mean((p - t) ** 2),
            np.ones((6, 2)),
            r"loss is float32\[\], wanted one value for each",
        ),
        (
            lambda p, t: (p - t) ** 2,
            np.ones((6, 2)),
            r"loss is float32\[6,2\], wanted one value for each of the 6",
        ),
        (MSE, np.ones((6, 1)), r"prediction is float32\[6,2\] and target float32\[6,1\], wanted one shape"),
        (fn.losses.softmax_cross_entropy, np.ones((6, 1), int), r"wanted integer labels of shape \(6,\)"),
    ],
)
def test_a_wrong_loss_or_target(loss: Any, y: np.ndarray, message: str) -> None:
    now, *_ = start(linear(2), fn.optim.sgd(0.1), regression()["x"])
    step = jit(fn.train.make_step(linear(2), loss, fn.optim.sgd(0.1)))
    with pytest.raises(ValueError, match=message):
        step(now, {**regression(), "y": y}, KEY)


def test_a_loss_without_a_target() -> None:
    now, w, b = start(linear(2), fn.optim.sgd(0.1), regression()["x"])
    step = jit(fn.train.make_step(linear(2), lambda p, t: jnp.mean(jnp.square(p), axis=1), fn.optim.sgd(0.1)))
    _, seen = step(now, {"x": regression()["x"], "y": None}, KEY)
    close(seen["loss"], np.mean((regression()["x"] @ w + b) ** 2), rtol=1e-5)
