"""What each training function is given: a first mistake gets a message with the remedy, and nothing is passed over."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from fnnet.keys import as_key
from tests.arrays import normal

X = normal(12, 3)
DATA = {"x": X, "y": (X.sum(1) > 0).astype(np.int32)}
LOSS = fn.losses.softmax_cross_entropy
INITIAL = {"w": normal(3, 2), "b": np.zeros(2, np.float32)}, {}


def fit(**given: Any) -> fn.train.Fitted:
    settings: dict[str, Any] = {
        "net": fn.dense(2), "loss": LOSS, "optimizer": fn.optim.sgd(0.1), "train": DATA, "steps": 2, "batch_size": 4,
        "initial": INITIAL, "progress": False,
    }  # fmt: skip
    return fn.train.fit(**(settings | given))


def step(**given: Any) -> Any:
    return fn.train.make_step(**({"net": fn.dense(2), "loss": LOSS, "optimizer": fn.optim.sgd(0.1)} | given))


def run(**given: Any) -> Any:
    settings = {"net": fn.dense(2), "loss": LOSS, "make_optimizer": fn.optim.sgd, "steps": 2, "batch_size": 4}
    return fn.train.make_run(**(settings | given))


def range_test(**given: Any) -> Any:
    settings = {"net": fn.dense(2), "loss": LOSS, "make_optimizer": fn.optim.sgd, "steps": 2, "batch_size": 4}
    return fn.train.learning_rate_range(**(settings | given))


@pytest.mark.parametrize("function", [fit, step, run, range_test])
@pytest.mark.parametrize(
    "given, message",
    [
        ({"net": [fn.dense(2), fn.relu]}, r"net is a list of 2, wanted .*: fn.serial\(\*net\)"),
        ({"net": fn.dense}, r"net is dense, a function that makes a layer, .*: call dense\(...\)"),
        ({"net": fn.relu}, "net is relu, a function without params, wanted a network such as"),
        ({"net": jnp.tanh}, "net is tanh, a function without params"),
        ({"net": "dense"}, "net='dense', wanted a network"),
        ({"loss": "mse"}, "loss='mse', wanted .*; did you mean fn.losses.mean_squared_error?"),
        ({"loss": "mae"}, "did you mean fn.losses.mean_absolute_error?"),
        ({"loss": "binary_crossentropy"}, "did you mean fn.losses.binary_cross_entropy?"),
        ({"loss": "sparse_categorical_crossentropy"}, "did you mean fn.losses.softmax_cross_entropy?"),
        (
            {"loss": fn.losses.class_weighted},
            "loss=class_weighted, a function, wanted a function .prediction",
        ),
        ({"loss": None}, "loss=None, wanted a function"),
    ],
)
def test_networks_and_losses(function: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        function(**given)


@pytest.mark.parametrize("function", [fit, step, run])
@pytest.mark.parametrize(
    "metrics, message",
    [
        (
            {"p": fn.metrics.perplexity},
            r"metrics\['p'\] is perplexity, a function that makes a metric; call it",
        ),
        ({"k": fn.metrics.top_k}, r"metrics\['k'\] is top_k, .*; call it: top_k\(...\)"),
        ({"c": fn.metrics.confusion_matrix}, "a function that makes a metric"),
        ({"a": "acuracy"}, r"metrics\['a'\]='acuracy', .*did you mean fn.metrics.accuracy?"),
        (["accuracy"], r"metrics=\['accuracy'\], wanted a dict of functions by name"),
        (fn.metrics.accuracy, "metrics=accuracy, a function, wanted a dict of functions by name"),
        ({1: fn.metrics.accuracy}, "metrics has the name 1, wanted a str"),
    ],
)
def test_metrics(function: Any, metrics: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        function(metrics=metrics)


def test_a_metric_of_the_whole_batch() -> None:
    message = "m is float32.., wanted one value for each of the 4 examples"
    with pytest.raises(ValueError, match=message):
        fit(metrics={"m": lambda prediction, target: jnp.mean(prediction)})


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: fit(penalty=0.1), "fit: penalty=0.1, wanted a function params -> scalar"),
        (lambda: fit(augment="flip"), r"fit: augment='flip', wanted a function \(key, batch\) -> batch"),
        (lambda: fit(callbacks=print), "fit: callbacks=.*, wanted a list of functions of an Evaluation"),
        (lambda: fit(callbacks=[3]), "fit: callbacks=.3., wanted a list of functions of an Evaluation"),
        (lambda: fit(optimizer="adam"), "fit: optimizer='adam', wanted .*; did you mean fn.optim.adam?"),
        (lambda: step(optimizer="adamm"), "make_step: optimizer='adamm', .*; did you mean fn.optim.adam?"),
        (lambda: fit(optimizer=fn.optim.sgd), r"optimizer is sgd, .*: pass learning_rate=, or call it: sgd\(1e-3"),
        (lambda: fit(optimizer=fn.dense, learning_rate=0.1), "unexpected keyword argument"),
        (lambda: fit(optimizer=lambda learning_rate: 3, learning_rate=0.1), "fit: optimizer=3, wanted an optimizer"),
        (lambda: step(optimizer=fn.optim.sgd), r"optimizer is sgd, a function that makes .*; call it .*: sgd\(1e-3"),
        (lambda: step(optimizer=None), "optimizer=None, wanted an optimizer such as"),
        (lambda: fn.train.start(fn.dense(2), fn.optim.sgd, jax.random.key(0), X), "start: optimizer is sgd"),
        (lambda: fn.train.start(fn.relu, fn.optim.sgd(1.0), jax.random.key(0), X), "start: net is relu"),
        (lambda: run(make_optimizer=fn.optim.sgd(0.1)), "make_run: make_optimizer is an optimizer, wanted a function"),
        (lambda: run(make_optimizer="adam"), "make_optimizer='adam', .*did you mean fn.optim.adam?"),
        (lambda: range_test(make_optimizer=fn.optim.sgd(0.1)), "make_optimizer is an optimizer, wanted a function"),
    ],
)  # fmt: skip
def test_optimizers_and_other_functions(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


class Frame:
    """As pandas has it: with a shape, a method to_numpy, and no dtype."""

    shape = (12, 3)

    def to_numpy(self) -> np.ndarray:
        return X


@pytest.mark.parametrize(
    "data, error, message",
    [
        ((X, DATA["y"]), ValueError, r'wanted a dict with x and y: {"x": x, "y": y}'),
        ([X, DATA["y"]], ValueError, r'wanted a dict with x and y: {"x": x, "y": y}'),
        (X, ValueError, r"is float32\[12,3\], wanted a dict with x and y"),
        (
            {**DATA, "weight": X[:, 0]},
            ValueError,
            "has 'weight' beside x and y, which training would not use",
        ),
        ({**DATA, "lengths": X, "mask": X}, ValueError, "has 'lengths', 'mask' beside x and y"),
        (
            {"x": X, "y": DATA["y"][:-1]},
            ValueError,
            r"is {x: float32\[12,3\], y: int32\[11\]}, wanted arrays",
        ),
        ({**DATA, "x": X.astype(object)}, TypeError, r"x is object\[12,3\], wanted numbers"),
        ({**DATA, "y": np.array(["cat"] * 12)}, TypeError, r"y is <U3\[12\], wanted numbers"),
        (
            {**DATA, "x": {"a": X, "b": Frame()}},
            TypeError,
            r"x/b is a \w+ Frame, wanted an array: .to_numpy\(\)",
        ),
    ],
)
def test_data(data: Any, error: type[Exception], message: str) -> None:
    batch_size = {"batch_size": 4 if isinstance(data, dict) else None}
    with pytest.raises(error, match=f"fit: train.*{message}"):
        fit(train=data, **batch_size)
    with pytest.raises(error, match=f"fit: valid.*{message}"):
        fit(valid=data)
    with pytest.raises(error, match=f"evaluate: part.*{message}"):
        fn.train.evaluate(fn.dense(2), {"loss": LOSS}, *INITIAL, data)
    with pytest.raises(error, match=f"run: data.train.*{message}"):
        run()(jax.random.key(0), {"train": data}, {"learning_rate": 0.1})
    with pytest.raises(error, match=f"learning_rate_range: examples.*{message}"):
        range_test()(jax.random.key(0), data)


def test_a_label_of_more_than_32_bits_does_not_wrap() -> None:
    data = {**DATA, "y": np.full(len(X), 2**32 + 1)}
    message = r"int64\[.*\] has numbers from 4294967297 to 4294967297, wanted numbers that fit in int32"
    for start in (
        lambda: fit(train=data),
        lambda: fit(valid=data),
        lambda: fit(train=[data], batch_size=None),
        lambda: fn.train.evaluate(fn.dense(2), {"loss": LOSS}, *INITIAL, data),
        lambda: run()(jax.random.key(0), {"train": data}, {"learning_rate": 0.1}),
        lambda: range_test()(jax.random.key(0), data),
        lambda: step()(None, data, jax.random.key(0)),
        lambda: fn.train.sweep(run(), {"train": data}, {"learning_rate": [0.1]}),
    ):
        with pytest.raises(ValueError, match=message):
            start()


def test_a_batch_that_has_more_than_x_and_y() -> None:
    now = jax.eval_shape(lambda: fn.train.start(fn.dense(2), fn.optim.sgd(0.1), jax.random.key(0), X))
    with pytest.raises(ValueError, match="make_step: the batch has 'weight' beside x and y"):
        jax.eval_shape(step(), now, {**DATA, "weight": X}, jax.random.key(0))
    with pytest.raises(ValueError, match="the batch has 'noise' beside x and y"):
        fit(augment=lambda key, batch: {**batch, "noise": batch["x"]})
    with pytest.raises(ValueError, match="a batch of train has 'weight' beside x and y"):
        fit(train=[{**DATA, "weight": X}], batch_size=None)
    with pytest.raises(ValueError, match="a batch of valid has 'weight' beside x and y"):
        fit(valid=[{**DATA, "weight": X}])


KEYED = [
    lambda key: fit(key=key),
    lambda key: run()(key, {"train": DATA}, {"learning_rate": 0.1}),
    lambda key: range_test()(key, DATA),
]


@pytest.mark.parametrize("call", KEYED)
def test_keys(call: Any) -> None:
    for key in (2**40, -1, 2**32, np.int64(2**40), np.array(2**40)):
        with pytest.raises(ValueError, match=r"key=.*, wanted a seed from 0 to 2\*\*32 - 1"):
            call(key)
    for key in (
        True,
        np.True_,
        1.0,
        np.float32(0),
        "0",
        None,
        [0],
        np.zeros(3, int),
        np.zeros((2, 2), np.uint32),
    ):
        with pytest.raises(TypeError, match=r"key=.*, wanted a key such as jax.random.key\(0\), or its seed"):
            call(key)
    with pytest.raises(
        TypeError, match=r"key=key<fry>\[2\], .*; for several runs, map over the keys with vmap"
    ):
        call(jax.random.split(jax.random.key(0), 2))


def test_seeds_and_keys_are_the_same() -> None:
    def data(key: Any) -> Any:
        return np.asarray(jax.random.key_data(as_key("f", key))).tolist()

    keys = (3, np.int64(3), np.array(3), jnp.int32(3), jax.random.key(3), np.uint8(3))
    assert len({str(data(key)) for key in keys}) == 1
    assert data(0) != data(2**32 - 1) != data(2**31)
    assert str(as_key("f", jax.random.PRNGKey(3)).dtype) == "uint32"
    traced = jax.jit(lambda seed: jax.random.key_data(as_key("f", seed)))(3)
    np.testing.assert_array_equal(traced, data(3))
    results = [
        run()(key, {"train": DATA}, {"learning_rate": 0.1}).params["w"] for key in (5, jax.random.key(5))
    ]
    np.testing.assert_array_equal(*results)


NO_FLAGS = (1, 0, np.True_, "no", "yes", 1.0, jnp.array(True))


@pytest.mark.parametrize(
    "name, call",
    [
        ("resume", lambda v: fit(resume=v)),
        ("debug", lambda v: fit(debug=v)),
        ("progress", lambda v: fit(progress=v)),
        ("maximize", lambda v: fit(maximize=v)),
        ("gradient_norm", lambda v: step(gradient_norm=v)),
        ("maximize", lambda v: sweep(maximize=v)),
        ("histories", lambda v: sweep(histories=v)),
        ("progress", lambda v: sweep(progress=v)),
        ("error", lambda v: fn.train.plot({"train_loss": X[0]}, error=v)),
    ],
)
def test_flags_are_bools(name: str, call: Any) -> None:
    for value in NO_FLAGS:
        if (name, value) in (("resume", "no"), ("resume", "yes")):
            with pytest.raises(ValueError, match=r"resume='.*', wanted one of True, False, 'auto'"):
                call(value)
            continue
        with pytest.raises(TypeError, match=rf"{name}=.*wanted True(,| or) False"):
            call(value)


def sweep(**given: Any) -> Any:
    data = {"train": DATA, "valid": DATA}
    settings = {"run": run(), "data": data, "space": {"learning_rate": [0.1]}, "progress": False}
    return fn.train.sweep(**(settings | given))


def test_choices_say_what_was_meant() -> None:
    for call, meant in (
        (lambda: fit(resume="Auto"), "auto"),
        (lambda: fit(monitor="valid_los", valid=DATA), "valid_loss"),
        (lambda: sweep(mapping="vmapp"), "vmap"),
        (lambda: sweep(keep="al"), "all"),
        (lambda: sweep(score="valid_los", maximize=False), "valid_loss"),
        (lambda: fn.train.plot({"train_loss": X[0]}, measures=["los"]), "loss"),
    ):
        with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
            call()


NO_NUMBERS: tuple[Any, ...] = ("3", None, [1], True, np.True_, 1j)


@pytest.mark.parametrize(
    "name, call, none",
    [
        ("largest_norm", lambda v: fit(largest_norm=v), True),
        ("learning_rate", lambda v: fit(optimizer=fn.optim.sgd, learning_rate=v), False),
        ("steps", lambda v: fit(steps=v), False),
        ("eval_every", lambda v: fit(eval_every=v), True),
        ("patience", lambda v: fit(patience=v), True),
        ("accumulate", lambda v: fit(accumulate=v), False),
        ("eval_batch_size", lambda v: fit(eval_batch_size=v), False),
        ("checkpoint_every", lambda v: fit(checkpoint_every=v), True),
        ("steps", lambda v: run(steps=v), False),
        ("batch_size", lambda v: run(batch_size=v), False),
        ("eval_every", lambda v: run(eval_every=v), True),
        ("low", lambda v: range_test(low=v), False),
        ("high", lambda v: range_test(high=v), False),
        ("smoothing", lambda v: range_test(smoothing=v), False),
        ("steps", lambda v: range_test(steps=v), False),
        ("trials", lambda v: sweep(trials=v), True),
        ("chunk", lambda v: sweep(chunk=v), True),
        ("halving", lambda v: sweep(halving=v), True),
        ("search_seed", lambda v: sweep(search_seed=v, trials=2), False),
        ("low", lambda v: fn.train.uniform(v, 3), False),
        ("high", lambda v: fn.train.log_uniform(0.1, v), False),
        ("smoothing", lambda v: fn.train.plot({"train_loss": X[0]}, smoothing=v), True),
        ("width", lambda v: fn.train.plot({"train_loss": X[0]}, width=v), False),
    ],
)
def test_numbers(name: str, call: Any, none: bool) -> None:
    for value in NO_NUMBERS:
        if not (value is None and (none or name in ("learning_rate", "steps"))):
            with pytest.raises(TypeError, match=f"{name}( is|=)"):
                call(value)
    for value in (np.nan, np.float32("nan"), -np.inf, np.float32(-np.inf), np.float64(np.nan)):
        with pytest.raises((TypeError, ValueError), match=f"{name}="):
            call(value)
    if name not in ("low", "high", "learning_rate"):
        with pytest.raises((TypeError, ValueError), match=f"{name}="):
            call(np.float32(-1))


def test_numbers_of_numpy_are_numbers() -> None:
    assert fit(largest_norm=np.float32(1e3)).stopped == fit(largest_norm=np.inf).stopped == "finished"
    range_test(low=np.float32(0.1), high=np.float64(1.0))
    with pytest.raises(ValueError, match=r"low=.*high=.*wanted low < high"):
        range_test(low=np.float32(1.0), high=np.float32(0.5))
    for values in ([0.1, np.nan], np.array([np.nan]), fn.train.choice([np.nan, 1.0])):
        with pytest.raises(ValueError, match=r"space\['learning_rate'\] has NaN in it"):
            sweep(space={"learning_rate": values}, trials=2 if isinstance(values, tuple) else None)
    assert len(sweep(seeds=np.int64(2)).seeds) == 2


@pytest.mark.parametrize(
    "name, call",
    [
        ("folder", lambda p: fit(folder=p)),
        ("folder", lambda p: sweep(folder=p)),
        ("folder", lambda p: fn.train.checkpoint.save(p, 1, {"w": X})),
        ("folder", lambda p: fn.train.checkpoint.restore(p, {"w": X})),
        ("folder", lambda p: fn.train.checkpoint.steps(p)),
        ("folder", lambda p: fn.train.tensorboard(p)),
        ("path", lambda p: fn.train.save_safetensors(p, {"w": X})),
        ("path", lambda p: fn.train.load_safetensors(p)),
        ("path", lambda p: fn.train.plot({"train_loss": X[0]}, p or "")),
        ("path", lambda p: fn.train.sensitivity(None, p)),  # type: ignore[arg-type]
        ("path", lambda p: fn.train.parallel_coordinates(None, p)),  # type: ignore[arg-type]
    ],
)
def test_paths_are_of_this_machine(
    name: str, call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (
        "gs://bucket/run",
        "s3://bucket/a.png",
        Path("gs://bucket/run"),
        "https://a.org/b",
        "file:///tmp/a",
    ):
        with pytest.raises(
            ValueError, match=f"{name}='.*' is an address, wanted a path of this machine; mount"
        ):
            call(path)
    for path in (b"run", 3, ["run"]):
        with pytest.raises(TypeError, match=f"{name}=.*, wanted a path: a str or a pathlib.Path"):
            call(path)
    with pytest.raises(ValueError, match=f"{name}='' is empty"):
        call("")
    assert not list(tmp_path.iterdir())


def test_paths_that_are() -> None:
    for path in ("a/b", "C:/a", "~", "a:b", "./gs:/a"):
        assert fn.check.local_path("f", "path", path) == Path(path).expanduser()


def test_missing_packages_have_names_that_can_be_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    for package, module, call in (
        ("orbax-checkpoint", "orbax.checkpoint", lambda: fn.train.checkpoint.save(tmp_path, 1, {"w": X})),
        ("safetensors", "safetensors.numpy", lambda: fn.train.save_safetensors(tmp_path / "a", {"w": X})),
        ("safetensors", "safetensors", lambda: fn.train.load_safetensors(tmp_path / "a")),
        ("tensorboardX", "tensorboardX.event_file_writer", lambda: fn.train.tensorboard(tmp_path)),
        ("matplotlib", "matplotlib", lambda: fn.train.plot({"train_loss": X[0]})),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ImportError, match=rf"pip install {package}$"):
                call()
