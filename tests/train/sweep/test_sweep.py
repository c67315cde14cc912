"""Sweeps: against gradient descent in NumPy and single runs; in chunks, over devices, stopped and resumed."""

import csv
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import fnnet as fn
from fnnet.train.sweep import folder as sweep_folder
from fnnet.train.sweep import plan as sweep_plan
from fnnet.train.sweep import plots, program, trials

MSE = fn.losses.mean_squared_error
close = np.testing.assert_allclose
equal = partial(jax.tree.map, np.testing.assert_array_equal)


def regression(n: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"x": draw.normal(size=(n, 3)), "y": draw.normal(size=(n, 1))}


DATA = {"train": regression(8, 0), "valid": regression(5, 1)}
RATES = [0.01, 0.1, 0.3, 1e30, 0.2]  # the fourth diverges
ONES = fn.dense(1, w_init=fn.initializers.ones)


def run_of(net: Any, **arguments: Any) -> Any:
    arguments = {"steps": 3, "batch_size": 4} | arguments
    return fn.train.make_run(net, MSE, fn.optim.sgd, **arguments)


def plain(
    key: Any, data: Any, hparams: Any, after: Any = None, *, steps: int = 3, dtype: Any = jnp.float32
) -> fn.train.Run:
    """A run by hand, that compiles in no time: gradient descent on all of the data; with a key in its state."""

    def loss(w: Any, part: str) -> Any:
        return jnp.mean(jnp.square(data[part]["x"].astype(dtype) @ w - data[part]["y"].astype(dtype)))

    def step(w: Any, _: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(w, "train")
        return w - (hparams["learning_rate"] * slope).astype(dtype), value.astype(jnp.float32)

    w = jax.random.uniform(key, (3, 1), dtype, -1) if after is None else after.params["w"]
    noise = key if after is None else after.opt_state
    w, losses = jax.lax.scan(step, w + jax.random.uniform(noise, (3, 1), dtype) / 8, length=steps)
    end = loss(w, "valid").astype(jnp.float32)
    diverged_at = jnp.where(jnp.isfinite(end), -1, 0)
    if after is not None:
        diverged_at = jnp.maximum(diverged_at, after.history["diverged_at"])
    taken = steps if after is None else after.step + steps
    history = {
        "train_loss": losses,
        "valid_loss": end[None],
        "diverged_at": diverged_at,
        "eval_step": jnp.int32(taken),
    }
    return fn.train.Run({"w": w}, {"seen": taken}, history, jax.random.fold_in(noise, 1), jnp.int32(taken))


def sweep(*args: Any, **arguments: Any) -> Any:
    return fn.train.sweep(*args, **{"progress": False} | arguments)


def descend(
    rate: float, l2: float, steps: int, w: Any = None, b: Any = None
) -> tuple[Any, Any, list[float], float]:
    """Gradient descent on all of the training part, from ones: weights, bias, training losses, last validation loss."""
    w, b, losses = np.ones((3, 1)) if w is None else w, np.zeros(1) if b is None else b, []
    x, y = DATA["train"]["x"], DATA["train"]["y"]
    for _ in range(steps):
        error = x @ w + b - y
        losses.append(np.mean(error**2))
        w, b = w - rate * (2 * x.T @ error / len(x) + 2 * l2 * w), b - rate * (2 * error.mean(0) + 2 * l2 * b)
    return w, b, losses, np.mean((DATA["valid"]["x"] @ w + b - DATA["valid"]["y"]) ** 2)


@pytest.mark.usefixtures("float64")
def test_a_grid_against_gradient_descent_in_numpy() -> None:
    space = {"learning_rate": [0.1, 0.02, 0.3], "l2": (0.0, 0.5)}
    run = run_of(ONES, batch_size=8, penalties={"l2": fn.losses.l2})
    got = sweep(run, DATA, space, seeds=[7, 3], histories=True)
    assert got.hparams["learning_rate"].tolist() == [0.1, 0.1, 0.02, 0.02, 0.3, 0.3]
    assert got.hparams["l2"].tolist() == [0.0, 0.5] * 3
    assert got.seeds.tolist() == [7, 3]
    for i in range(6):
        w, _, losses, valid = descend(got.hparams["learning_rate"][i], got.hparams["l2"][i], 3)
        close(got.scores[i], [valid] * 2, rtol=1e-10)
        close(got.last["train_loss"][i], [losses[-1]] * 2, rtol=1e-10)
        close(got.lowest["train_loss"][i], [min(losses)] * 2, rtol=1e-10)
        close(got.highest["train_loss"][i], [max(losses)] * 2, rtol=1e-10)
        close(got.history["train_loss"][i], [losses] * 2, rtol=1e-10)
        if i == np.argmin(got.scores[:, 0]):
            assert got.best.trial == got.order[0] == i
            close(got.best.params["w"], [w, w], rtol=1e-10)
    assert (np.diff(got.scores[got.order, 0]) >= 0).all()
    assert (got.diverged_at == -1).all()
    assert (got.mapping, got.why, got.chunk) == ("vmap", "fast for this network on a cpu", 6)


@pytest.fixture(scope="module")
def whole() -> Any:
    return sweep(plain, DATA, {"learning_rate": RATES}, seeds=2, keep="all")


class TestRuns:
    """Five rates and two seeds."""

    def test_each_is_the_run_of_its_key_and_its_hyperparameters(self, whole: Any) -> None:
        one = jax.jit(plain)
        for i, j in np.ndindex(5, 2):
            wanted = one(jax.random.key(j), DATA, {"learning_rate": RATES[i]})
            assert whole.diverged_at[i, j] == wanted.history["diverged_at"]
            if i != 3:
                close(whole.scores[i, j], wanted.history["valid_loss"][-1], rtol=1e-5)
                close(whole.params["w"][i, j], wanted.params["w"], rtol=1e-5)
        assert len(np.unique(whole.scores[[0, 1, 2, 4]])) == 8

    def test_what_diverged_is_last(self, whole: Any) -> None:
        assert whole.order[-1] == 3
        assert np.isnan(whole.scores[3]).all()
        assert (whole.diverged_at[3] >= 0).all()

    def test_the_best(self, whole: Any) -> None:
        best = whole.best
        mean = np.delete(whole.scores, 3, 0).mean(axis=1)
        close([best.mean, best.std], [mean.min(), whole.scores[best.trial].std(ddof=1)], rtol=1e-6)
        assert best.hparams == {"learning_rate": RATES[best.trial]}
        equal(best.params, {k: a[best.trial] for k, a in whole.params.items()})

    @pytest.mark.parametrize("mapping", ["vmap", "map"])
    def test_in_chunks_compiled_once(self, whole: Any, mapping: Any) -> None:
        made = []

        def run(*args: Any) -> Any:
            made.append(args)
            return plain(*args)

        got = sweep(run, DATA, {"learning_rate": RATES}, seeds=2, chunk=2, mapping=mapping)
        assert len(made) == 1  # the last chunk, of one trial, is filled up
        close(got.scores, whole.scores, rtol=1e-5)
        jax.tree.map(partial(close, rtol=1e-5), got.best.params, whole.best.params)
        assert (got.chunk, got.mapping, got.why) == (2, mapping, "as asked for")

    def test_the_faster_of_both(self, whole: Any) -> None:
        got = sweep(plain, DATA, {"learning_rate": RATES}, seeds=2, mapping="fastest")
        assert got.chunk == 1
        assert got.mapping in got.why
        close(got.scores, whole.scores, rtol=1e-5)

    def test_random_search_and_more_is_better(self, whole: Any) -> None:
        space = {"learning_rate": fn.train.log_uniform(1e-3, 0.3)}
        got = sweep(plain, DATA, space, trials=5, seeds=2, maximize=True)
        assert got.log_scaled == ("learning_rate",)
        assert got.order[0] == got.scores.mean(axis=1).argmax()
        assert len(np.unique(got.hparams["learning_rate"])) == 5

    def test_progress(self, whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
        sweep(plain, DATA, {"learning_rate": [0.1]}, mapping="map", progress=True)
        assert "map: as asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    "net, shape, why",
    [
        (
            fn.serial(fn.conv(2, (2, 2)), fn.flatten, fn.dense(1)),
            (4, 3, 3, 1),
            "a convolution on a CPU, where",
        ),
        (fn.dense(1), (4, 300_000), "large weights on a CPU"),
        (fn.dense(1), (4, 200_000), ""),
    ],
)
def test_what_is_mapped_on_a_cpu(net: Any, shape: tuple[int, ...], why: str) -> None:
    data = {"train": {"x": np.ones(shape, np.float32), "y": np.ones((4, 1), np.float32)}}
    plan = sweep_plan.make_plan(
        partial(program.trace_program, run_of(net), data, np.arange(2), mesh=None, keep_opt_state=False),
        {"learning_rate": np.array([0.1, 0.2])},
        seeds=2,
        mapping="auto",
        chunk=2,
        fit_memory=False,
        mesh=None,
    )
    assert plan.mapping == ("map" if why else "vmap")
    assert plan.why.startswith(why)


def test_chunks_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    run, space = plain, {"learning_rate": [0.1] * 64}
    monkeypatch.setattr(sweep_plan, "bytes_free", lambda device, sharing: 12_000)
    got = sweep(run, DATA, space, seeds=4)
    assert 1 < got.chunk < 64
    assert got.mapping == "vmap"
    monkeypatch.setattr(sweep_plan, "bytes_free", lambda device, sharing: 10)
    got = sweep(run, DATA, {"learning_rate": [0.1, 0.2]}, seeds=2)
    assert (got.chunk, got.mapping) == (1, "map")
    assert got.why == "all seeds of one trial at once would not fit in the memory"


def test_memory_of_this_machine() -> None:
    """Some of what the machine has, and an eighth for each of eight devices that share it."""
    device = jax.local_devices()[0]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < sweep_plan.bytes_free(device) <= total
    assert sweep_plan.bytes_free(device, 8) <= total / 8


class TestHalving:
    @pytest.mark.slow
    @pytest.mark.usefixtures("float64")
    def test_against_gradient_descent_in_numpy(self) -> None:
        """Five rates, eta 2: 5 trials of 2 steps, 2 of 4 more, 1 of 8 more."""
        rates = [0.3, 0.01, 0.05, 1e300, 0.1]
        run = run_of(ONES, batch_size=8, steps=2)
        got = sweep(run, DATA, {"learning_rate": rates}, halving=2, chunk=2)
        after = [[descend(rate, 0, steps)[3] for rate in rates[:3] + rates[4:]] for steps in (2, 6)]
        kept = [0, 1, 2, 4]
        second = [kept[i] for i in np.argsort(after[0])[:2]]
        first = min(second, key=lambda i: after[1][kept.index(i)])
        assert [(got.rungs == r).nonzero()[0].tolist() for r in (2, 3)] == [
            [i for i in second if i != first],
            [first],
        ]
        for i in kept:
            steps = {1: 2, 2: 6, 3: 14}[int(got.rungs[i])]
            w, _, losses, valid = descend(rates[i], 0, steps)
            close(got.scores[i], [valid], rtol=1e-9)
            close(got.lowest["train_loss"][i], [min(losses)], rtol=1e-9)
            close(got.highest["train_loss"][i], [max(losses)], rtol=1e-9)
            if i == first:
                assert got.best.trial == i
                close(got.best.params["w"], [w], rtol=1e-9)
        assert got.order[-1] == 3
        assert np.isnan(got.scores[3]).all()

    @pytest.mark.slow
    def test_of_optimizers_and_layers_with_a_state_and_a_key(self) -> None:
        """The same as a run without a break."""
        net = fn.serial(fn.batch_norm(), fn.dropout(0.3), fn.dense(1))
        make = partial(fn.train.make_run, net, MSE, fn.optim.adam, batch_size=4)
        data = jax.tree.map(lambda a: a.astype(np.float32), DATA)
        swept = sweep(make(steps=3), data, {"learning_rate": [0.1, 0.2]}, seeds=2, halving=2, mapping="map")
        i = swept.best.trial
        rate = {"learning_rate": swept.hparams["learning_rate"][i]}
        wanted = jax.jit(make(steps=9))(jax.random.key(1), data, rate)
        close(swept.scores[i, 1], wanted.history["valid_loss"][-1], rtol=1e-5)
        at_1 = jax.tree.map(lambda a: a[1], (swept.best.params, swept.best.state))
        jax.tree.map(partial(close, rtol=1e-4, atol=1e-6), at_1, (wanted.params, wanted.state))


class TestFolder:
    SPACE = {"learning_rate": RATES}  # noqa: RUF012

    def sweep(self, folder: Path, run: Any = None, **arguments: Any) -> Any:
        asked = {"seeds": 2, "chunk": 2, "folder": folder} | arguments
        return sweep(run or plain, asked.pop("data", DATA), asked.pop("space", self.SPACE), **asked)

    def test_resumes_and_ends_with_the_same_bits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After an exception between the second and the third chunk."""
        folder, other = tmp_path / "new", tmp_path / "other"
        other.mkdir()
        with monkeypatch.context() as patch:
            stop_at(3, patch)
            with pytest.raises(KeyboardInterrupt):
                self.sweep(folder)
        whole = self.sweep(None)
        names = ["rung0-chunk00000.npz", "rung0-chunk00001.npz", "sweep.json"]
        assert sorted(p.name for p in folder.iterdir()) == names
        calls, call = [], program.run_program
        monkeypatch.setattr(program, "run_program", lambda *a, **k: calls.append(a) or call(*a, **k))
        got = self.sweep(folder)
        assert len(calls) == 1
        arrays = partial(sweep_folder.arrays_by_path)
        equal(*({k: v for k, v in arrays(s).items() if hasattr(v, "dtype")} for s in (got, whole)))
        monkeypatch.setattr(program.Program, "executable", None)  # nothing is compiled
        equal(self.sweep(folder).scores, whole.scores)
        assert len(calls) == 1
        self.damaged(folder, other)
        self.another(folder)

    def damaged(self, folder: Path, other: Path) -> None:
        chunk = folder / "rung0-chunk00001.npz"
        content = chunk.read_bytes()
        middle = len(content) // 2
        for bad in (
            content[:-100],
            content[:100],
            b"",
            content[:middle] + b"????????" + content[middle + 8 :],
        ):
            chunk.write_bytes(bad)
            with pytest.raises(
                ValueError, match=r"chunk00001.npz is damaged .*; delete it to run its trials again"
            ):
                self.sweep(folder)
        np.savez(chunk, a=np.ones(3))
        with pytest.raises(ValueError, match=r"damaged \(it holds \['a'\], wanted "):
            self.sweep(folder)
        chunk.write_bytes(content)
        settings = folder / "sweep.json"
        text = settings.read_text()
        types = (
            text.replace('"chunk": 2', '"chunk": "2"'),
            text.replace('"mapping": "vmap"', '"mapping": null'),
        )
        for bad_text in (text[:-30], "[]", "{}", "[" * 200_000, "null", *types):
            assert bad_text != text
            settings.write_text(bad_text)
            with pytest.raises(ValueError, match=r"sweep.json is damaged .* use a new folder"):
                self.sweep(folder)
        settings.write_text(text)
        (other / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"has files in it and no sweep.json, wanted a new folder"):
            self.sweep(other)

    def another(self, folder: Path) -> None:
        def differs(message: str, *args: Any, **arguments: Any) -> None:
            with pytest.raises(ValueError, match=f"holds another sweep: .*{message}.* or use a new folder"):
                self.sweep(folder, *args, **arguments)

        differs(
            r"space was {'learning_rate': '\[0.01.* and is {'learning_rate': '\[1.0\]",
            space={"learning_rate": [1.0]},
        )
        differs(r"seeds was \[0, 1\] and is \[0, 1, 2\]", seeds=3)
        differs(r"asked chunk was 2 and is 4", chunk=4)
        differs("data has other numbers", data=DATA | {"valid": regression(5, 2)})
        differs("score was 'valid_loss' and is 'train_loss'", score="train_loss")
        differs(r"run \(its network, loss, optimizer or steps\) is another one", partial(plain, steps=4))
        differs(
            r"run \(its network, loss, optimizer or steps\) is another one",
            lambda *args: plain(*args)._replace(state={}),
        )

    def test_another_network_loss_or_optimizer_or_array_inside(self, tmp_path: Path) -> None:
        data = jax.tree.map(lambda a: np.asarray(a, np.float32), DATA)
        table = np.ones((1, 4), np.float32)

        def make(
            activation: Any = fn.relu, loss: Any = MSE, optimizer: Any = fn.optim.adam, scale: Any = table
        ) -> Any:
            times = jax.jit(lambda x: x * scale)  # closed over by a function inside
            net = fn.serial(fn.dense(4), activation, times, fn.dense(1))
            return fn.train.make_run(net, loss, optimizer, steps=2, batch_size=4)

        def ask(**given: Any) -> Any:
            return sweep(make(**given), data, {"learning_rate": [0.1]}, folder=tmp_path, progress=False)

        wanted = ask()
        equal(ask().scores, wanted.scores)
        for other in (
            {"activation": fn.tanh},
            {"loss": fn.losses.mean_absolute_error},
            {"optimizer": partial(fn.optim.adam, b1=0.8)},
            {"optimizer": fn.optim.amsgrad},
            {"scale": 2 * table},
        ):
            with pytest.raises(
                ValueError, match=r"run \(its network, loss, optimizer or steps\) is another one"
            ):
                ask(**other)
        data["train"]["y"][3] += 1
        with pytest.raises(ValueError, match="data has other numbers"):
            ask()

    def test_one_call_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        call = program.run_program

        def nested(*args: Any, **arguments: Any) -> Any:
            with pytest.raises(
                ValueError, match=r"sweep: .* is in use by another run, process \d+ on .*; wait"
            ):
                self.sweep(tmp_path / "new")
            return call(*args, **arguments)

        monkeypatch.setattr(program, "run_program", nested)
        self.sweep(tmp_path / "new")
        with pytest.raises(
            ValueError, match="did you mean 'valid_loss'"
        ):  # nothing is left of a call that is refused
            self.sweep(tmp_path / "other", score="valid_los", maximize=False)
        assert [path.name for path in tmp_path.iterdir()] == ["new"]

    @pytest.mark.slow
    def test_halving_and_half_precision(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ends in bfloat16, and a key in the optimizer's state, which a file of NumPy does not know."""
        run = partial(plain, dtype=jnp.bfloat16)
        ask = partial(sweep, run, DATA, {"learning_rate": [0.1, 0.2]}, seeds=2, halving=2, chunk=1)
        whole, ask = ask(), partial(ask, folder=tmp_path / "new")
        with monkeypatch.context() as patch:
            stop_at(2, patch)
            with pytest.raises(KeyboardInterrupt):
                ask()
        got = ask()
        assert got.best.params["w"].dtype == jnp.bfloat16
        equal((got.scores, got.best.params), (whole.scores, whole.best.params))


def stop_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """The call of a program that so many come to raises."""
    call, calls = program.run_program, []

    def stops(*args: Any, **arguments: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        return call(*args, **arguments)

    patch.setattr(program, "run_program", stops)


class TestSearch:
    def test_draws(self) -> None:
        space = {
            "a": fn.train.log_uniform(1e-4, 1e-1),
            "b": fn.train.uniform(-2, 3),
            "c": fn.train.choice([1, 2, 4]),
        }
        got = trials.make_trials(space | {"d": [0.5, 0.25]}, 4000, seed=1)
        assert got["c"].dtype.kind == "i"
        for values, low, high in ((np.log10(got["a"]), -4, -1), (got["b"], -2, 3)):
            assert ((low <= values) & (values < high)).all()
            # A share of 4,000 uniform draws: standard deviation below 0.008; their correlation: 0.016.
            close(np.histogram(values, 5, (low, high))[0] / 4000, 0.2, atol=0.032)
        for name, values in (("c", (1, 2, 4)), ("d", (0.5, 0.25))):
            close([(got[name] == v).mean() for v in values], 1 / len(values), atol=0.032)
        assert abs(np.corrcoef(np.log(got["a"]), got["b"])[0, 1]) < 0.064
        fewer, other = trials.make_trials(space, 10, seed=1), trials.make_trials(space, 10, seed=2)
        for name in space:
            np.testing.assert_array_equal(fewer[name], got[name][:10])
        assert (fewer["a"] != other["a"]).all()

    def test_arrays_are_values(self) -> None:
        rates = np.arange(6.0).reshape(2, 3)
        got = trials.make_trials({"rates": list(rates), "b1": [0.1, 0.2]})
        np.testing.assert_array_equal(got["rates"], rates[[0, 0, 1, 1]])

    @pytest.mark.parametrize(
        "space, message",
        [
            ([0.1], r"space=\[0.1\], wanted a dict of values"),
            ({}, "space={}, wanted a dict"),
            ({"a": 0.1}, r"space\['a'\] is 0.1, wanted numbers"),
            ({"a": "adam"}, "is 'adam', wanted numbers"),
            ({"a": ["relu", "tanh"]}, "run one sweep per value"),
            ({"a": [np.ones(2), np.ones(3)]}, "wanted numbers, or arrays of one shape"),
            ({"a": []}, r"space\['a'\] is empty, wanted at least one value"),
            ({"a": fn.train.uniform(0, 1)}, "which has no grid; list values, or pass trials="),
        ],
    )
    def test_what_is_no_space(self, space: Any, message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=f"sweep: .*{message}"):
            trials.make_trials(space)

    def test_what_is_no_distribution(self) -> None:
        for make in (fn.train.uniform, fn.train.log_uniform):
            for low, high in ((2, 2), (3, 2), (1, np.inf), (np.nan, 1)):
                with pytest.raises(ValueError, match=f"{make.__name__}: (low|high)="):
                    make(low, high)
        with pytest.raises(
            ValueError, match="log_uniform: low=0, wanted more than 0; for a range that has 0"
        ):
            fn.train.log_uniform(0, 1)
        with pytest.raises(ValueError, match="choice: no values"):
            fn.train.choice([])


class TestErrors:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"seeds": 0}, "seeds=0, wanted at least 1"),
            ({"seeds": [1, 1]}, r"seeds=\[1, 1\], wanted a number of seeds, or a list of different ints"),
            ({"seeds": []}, r"seeds=\[\], wanted a number of seeds"),
            ({"seeds": [0.5]}, r"seeds=\[0.5\], wanted a number of seeds"),
            ({"seeds": [-1]}, r"seeds=\[-1\], wanted ints from 0"),
            ({"seeds": [2**31]}, r"seeds=\[2147483648\], wanted ints from 0"),
            ({"trials": 0}, "trials=0, wanted at least 1"),
            ({"mapping": "pmap"}, "mapping='pmap', wanted one of 'auto', 'vmap', 'map', 'fastest'"),
            ({"keep": "none"}, "keep='none', wanted one of 'best', 'all'"),
            ({"chunk": 1.5}, "chunk=1.5, wanted a positive int"),
            ({"mesh": 8}, "mesh=8, wanted a jax.sharding.Mesh"),
            ({"halving": 1}, "halving=1, wanted at least 2, and at most the 5 trials"),
            ({"halving": 6}, "halving=6, wanted at least 2, and at most the 5 trials"),
            ({"halving": 2, "histories": True}, "histories=True with halving"),
            (
                {"score": "speed"},
                "score='speed', and its name does not say whether more is better, wanted maximize= too",
            ),
            (
                {"score": "valid_accuracy"},
                r"score='valid_accuracy', wanted one of 'train_loss', 'valid_loss'",
            ),
            ({"score": "eval_step", "maximize": True}, "score='eval_step', wanted one of"),
            ({"data": {"train": [1.0]}}, "data has 1.0 in it, wanted a dict or a Dataset of arrays"),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], message: str) -> None:
        data = arguments.pop("data", DATA)
        with pytest.raises((TypeError, ValueError), match=f"sweep: {message}"):
            sweep(plain, data, {"learning_rate": RATES}, **arguments)

    def test_a_function_that_is_no_run(self) -> None:
        with pytest.raises(TypeError, match=r"run returned .*, wanted a Run, as of train.make_run"):
            sweep(lambda *args: {"loss": jnp.zeros(3)}, DATA, {"learning_rate": RATES})


class TestReport:
    def test_table(self, whole: Any) -> None:
        lines = whole.table().splitlines()
        assert lines[0].split() == ["trial", "learning_rate", "valid_loss", "+-", "diverged"]
        assert [int(line.split()[0]) for line in lines[1:]] == whole.order.tolist()
        first = lines[1].split()
        close(
            [float(v) for v in first[1:4]], [whole.best.hparams["learning_rate"], *whole.best[2:4]], rtol=0.05
        )
        assert lines[-1].split() == ["3", "1e+30", "nan", "nan", "2", "of", "2"]
        assert whole.table(rows=2).splitlines() == [*lines[:3], "... and 3 more"]

    def test_csv(self, whole: Any, tmp_path: Path) -> None:
        whole.to_csv(tmp_path / "runs.csv")
        with (tmp_path / "runs.csv").open() as f:
            rows = list(csv.DictReader(f))
        assert len(rows) == 10
        for row in rows:
            i, j = int(row["trial"]), whole.seeds.tolist().index(int(row["seed"]))
            close(float(row["learning_rate"]), RATES[i])
            close(float(row["score"]), whole.scores[i, j])
            close(float(row["highest_train_loss"]), whole.highest["train_loss"][i, j])
            assert int(row["diverged_at"]) == whole.diverged_at[i, j]
        assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


@pytest.mark.usefixtures("float64")
def test_learning_a_learning_rate() -> None:
    """The derivative of the validation loss by the logarithm of the rate, and gradient descent along it."""
    run = run_of(ONES, batch_size=8, steps=10)

    def valid_loss(log_rate: jax.Array) -> jax.Array:
        history = run(jax.random.key(0), DATA, {"learning_rate": jnp.exp(log_rate)}).history
        return history["valid_loss"][-1]

    compiled, h = jax.jit(jax.value_and_grad(valid_loss)), 1e-5
    value_and_grad = lambda at: jax.device_get(compiled(at))  # noqa: E731
    at = np.log(0.03)
    losses = []
    for _ in range(5):
        value, slope = value_and_grad(at)
        difference = (value_and_grad(at + h)[0] - value_and_grad(at - h)[0]) / (2 * h)
        close(slope, difference, rtol=1e-6)
        losses.append(float(value))
        at = at - 2 * slope
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < 0.8 * losses[0]


class TestPictures:
    @pytest.fixture(params=[False, True])
    def swept(self, request: pytest.FixtureRequest, whole: Any) -> Any:
        """With a trial that diverged, one far off, and a second hyperparameter; or nothing but diverged ones."""
        scores = whole.scores.copy()
        scores[4] = 1e20
        hparams = whole.hparams | {"width": np.array([16, 16, 32, 32, 64])}
        return whole._replace(
            scores=np.full_like(scores, np.nan) if request.param else scores, hparams=hparams
        )

    @pytest.mark.parametrize("draw", [plots.parallel_coordinates, plots.sensitivity])
    def test_a_png(self, swept: Any, draw: Any, tmp_path: Path) -> None:
        draw(swept, tmp_path / "picture.png")
        image = matplotlib.image.imread(tmp_path / "picture.png")
        assert image.shape[1] == 1200
        assert image[..., :3].std() > 0.05
        assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]

    def test_an_axis(self) -> None:
        heights, marks = plots._scaled(np.array([0.01, 1.0, 0.1]), False)
        close(heights, [0, 1, 0.5], atol=1e-12)
        assert [text for _, text in marks] == ["0.01", "0.1", "1"]
        close(plots._scaled(np.array([1.0, 2.0, 1.5]), False)[0], [0, 1, 0.5])  # no decades
        close(plots._scaled(np.array([1.0, 4.0, 2.0]), True)[0], [0, 1, 0.5])  # but drawn so
        close(plots._scaled(np.array([3.0, 3.0]), False)[0], 0.5)

    def test_an_outlier_does_not_hide_the_rest(self) -> None:
        scores = np.array([1.0, 2.0, 3.0, 1e9, np.nan])
        np.testing.assert_array_equal(plots._clipped(scores, False), [1, 2, 3, 7, np.nan])
        np.testing.assert_array_equal(plots._clipped(-scores, True), [-1, -2, -3, -7, np.nan])

    def test_of_arrays_there_is_none(self, whole: Any, tmp_path: Path) -> None:
        arrays = whole._replace(hparams={"rates": np.ones((5, 3))})
        with pytest.raises(ValueError, match="sensitivity: rates is an array in each trial, wanted"):
            plots.sensitivity(arrays, tmp_path / "picture.png")

    def test_without_matplotlib(self, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r"pictures need matplotlib, .* pip install matplotlib"):
            plots.sensitivity(whole, tmp_path / "picture.png")


ON_DEVICES = """
import jax, numpy as np
import fnnet as fn
from tests.train.sweep.test_sweep import DATA, RATES, close, plain, sweep

assert len(jax.devices()) == 8
ask = lambda **more: sweep(plain, DATA, {"learning_rate": RATES}, seeds=3, **more)
one, halved = ask(), ask(halving=2)
three = jax.sharding.Mesh(np.array(jax.devices()[2:5]), ("x",))
for mesh, more in (
    (jax.make_mesh((2, 4), ("a", "b")), {"chunk": 4}),
    (three, {"mapping": "map"}),
):
    got = ask(mesh=mesh, **more)
    close(got.scores, one.scores, rtol=1e-5)
    jax.tree.map(lambda a, b: close(a, b, rtol=1e-5), got.best.params, one.best.params)
got = ask(mesh=three, halving=2)
close(got.scores, halved.scores, rtol=1e-5)
assert got.rungs.tolist() == halved.rungs.tolist()
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_does() -> None:
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    root = Path(__file__).parents[3]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class TestReprs:
    def test_a_sweep_is_a_few_lines(self, whole: Any) -> None:
        best = whole.best
        lines = repr(whole).splitlines()
        assert lines[0] == "Sweep("
        assert lines[1:4] == [
            "    trials: 5, each with 2 seeds",
            "    hparams: learning_rate",
            f"    best: trial {best.trial}, learning_rate={best.hparams['learning_rate']}",
        ]
        assert lines[5:] == [
            "    diverged: 2 of 10 runs",
            "    mapping: vmap, fast for this network on a cpu; 5 trials per call",
            ")",
        ]
        assert max(map(len, lines)) < 100
        assert f"trial: {best.trial}" in repr(best)
        assert "params: 1 array, 6 numbers" in repr(best)

    def test_of_shapes_and_of_large_arrays(self, whole: Any) -> None:
        assert "scores: float32[5,2]" in repr(whole._replace(scores=jax.ShapeDtypeStruct((5, 2), np.float32)))
        arrays = whole._replace(hparams={"rates": np.ones((5, 1000))})
        assert "rates=float64[1000]" in repr(arrays)
        assert "rates=float64[1000]" in repr(arrays.best)
