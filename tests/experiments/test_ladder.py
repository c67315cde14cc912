"""The ladder: surfaces, budget, tuning, statistics against other libraries, and the command as a user runs it."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats
from matplotlib.image import imread
from PIL import Image

import fnnet as fn
from experiments import compare_optimizers
from experiments.comparison import statistics, wording
from experiments.comparison.ladder import budgeted_runs, report, results, trajectory, tuning
from experiments.comparison.ladder import run as ladder_run
from experiments.comparison.ladder.problems import PROBLEMS, Problem, count_params
from experiments.comparison.ladder.search_spaces import TunableOptimizer, tunable_optimizers
from experiments.comparison.surfaces import SURFACES
from fnnet.optim.evaluations import Evaluations, no_evaluations
from tests.experiments.run_command import exit_status


def run(monkeypatch: pytest.MonkeyPatch, *args: Any) -> int:
    return exit_status(monkeypatch, compare_optimizers.main, *args)


def keys(*seeds: int) -> jax.Array:
    return jax.vmap(jax.random.key)(np.array(seeds))


class TestSurfaces:
    @pytest.mark.parametrize("name", SURFACES)
    def test_minima_and_gradient(self, name: str, float64: None) -> None:
        s = SURFACES[name]
        value_and_slope = jax.jit(jax.value_and_grad(s.f))
        f, slope = (
            (lambda x: np.asarray(value_and_slope(x)[0])),
            (lambda x: np.asarray(value_and_slope(x)[1])),
        )
        for minimum in s.minima:
            assert f(np.array(minimum)) == pytest.approx(0, abs=1e-12)
            np.testing.assert_allclose(slope(np.array(minimum)), 0, atol=1e-6)
        rng = np.random.default_rng(0)
        left, right, bottom, top = s.box
        for x in rng.uniform((left, bottom), (right, top), size=(5, 2)):
            size = np.linalg.norm(slope(x))
            assert scipy.optimize.check_grad(f, slope, x) < 1e-6 * max(size, 10)
            assert f(x) >= 0

    def test_values_by_hand(self) -> None:
        by_hand = (
            ("banana", (-1.2, 1.0), 24.2),
            ("beale", (0.0, 0.0), 14.203125),
            ("himmelblau", (0.0, 0.0), 170.0),
            ("rastrigin", (1.0, -2.0), 5.0),
            ("saddle", (0.0, 0.0), 0.25),
            ("valley", (1.0, 1.0), 1.0),
            ("valley", (1.0, -1.0), 1000.0),
        )
        points = np.array([at for _, at, _ in by_hand], np.float32)
        found = jax.jit(
            lambda points: [SURFACES[name].f(x) for (name, *_), x in zip(by_hand, points, strict=True)]
        )
        np.testing.assert_allclose(found(points), [value for *_, value in by_hand], rtol=1e-5)

    def test_seeds_start_apart_and_inside(self) -> None:
        @jax.jit
        def starts(keys: Any) -> Any:
            nets = {name: PROBLEMS[name]().net for name in SURFACES}
            return {
                name: jax.vmap(lambda key, net=net: net.init(key, None)[0]["theta"])(keys)
                for name, net in nets.items()
            }

        for name, theta in starts(keys(*range(20))).items():
            s = SURFACES[name]
            assert len(np.unique(theta, axis=0)) == 20
            assert np.all(np.abs(np.asarray(theta) - np.array(s.start)) <= np.array(s.jitter) + 1e-6)


class TestProblems:
    def test_quadratic(self) -> None:
        p = PROBLEMS["noisy_quadratic"]()

        def value(theta: jax.Array, part: Any) -> jax.Array:
            prediction, _ = p.net.apply({"theta": theta}, {}, part["x"])
            return jnp.mean(p.loss(prediction, part["y"]))

        theta, slope = np.ones(20, np.float32), jax.jit(jax.grad(value))
        eigenvalues = np.linalg.eigvalsh(jax.jit(jax.jacrev(jax.grad(value)))(theta, p.data.test))
        np.testing.assert_allclose(eigenvalues[[0, -1]], [0.01, 1], rtol=1e-3)
        batch = {name: np.asarray(a)[:16] for name, a in p.data.train.items()}
        exact = np.asarray(slope(theta, p.data.test))
        np.testing.assert_allclose(slope(theta, p.data.train), exact, atol=1e-5)  # no noise in all
        assert np.abs(slope(theta, batch) - exact).max() > 0.1

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_shapes(self, name: str) -> None:
        p = PROBLEMS[name]()
        assert p.name == name
        x = p.data.train["x"][:2]
        params, state = jax.eval_shape(p.net.init, jax.random.key(0), x)
        prediction, _ = jax.eval_shape(p.net.apply, params, state, x)
        for measure in (p.loss, p.score):
            assert jax.eval_shape(measure, prediction, p.data.train["y"][:2]).shape == (len(x),)
        assert p.batch_size <= len(p.data.train["y"])
        assert 2 <= count_params(p) < 20_000

    def test_the_code_of_the_autoencoder_is_linear_and_narrow(self) -> None:
        net = PROBLEMS["deep_autoencoder"]().net
        params, _ = jax.eval_shape(net.init, jax.random.key(0), np.ones((1, 64), np.float32))
        assert [params[f"dense_{i}"]["w"].shape[1] for i in range(8)] == [64, 40, 20, 6, 20, 40, 64, 64]


def counting(cost: int) -> TunableOptimizer:
    """Gradient descent that claims that each step costs `cost` values."""

    def make(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
        def update(grads: Any, state: Evaluations, params: Any = None, **extra: Any) -> Any:
            return jax.tree.map(lambda g: -learning_rate * g, grads), state.plus(values=cost)

        return optax.GradientTransformationExtraArgs(lambda params: no_evaluations(), update)

    return TunableOptimizer(make, "learning_rate", 0.01, 1e-4, 1.0)


class TestBudget:
    def test_a_method_without_a_count_takes_half_as_many_steps(self) -> None:
        method = tunable_optimizers()["sgd"]
        trained = jax.jit(budgeted_runs.make_program(PROBLEMS["valley"](), method, 21))(
            keys(0, 1), np.float32([1e-3, 1e-4])
        )
        assert trained.valid_loss.shape == (2, 2, len(budgeted_runs.record_points(21)))
        np.testing.assert_array_equal(trained.used[..., -1, :], np.broadcast_to([10, 10, 0], (2, 2, 3)))
        # By hand: the same steps with the gradient of the surface.
        s = SURFACES["valley"]
        init_key, _ = jax.random.split(jax.random.split(jax.random.key(1), 3)[0])
        slope = jax.jit(jax.grad(s.f))
        theta = np.asarray(jax.jit(PROBLEMS["valley"]().net.init)(init_key, np.zeros((1, 1)))[0]["theta"])
        for _ in range(10):
            theta = theta - np.float32(1e-3) * np.asarray(slope(theta))
        np.testing.assert_allclose(trained.valid_loss[1, 0, -1], jax.jit(s.f)(theta), rtol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize(("cost", "budget", "used"), [(3, 20, 18), (50, 20, 0)])
    def test_a_step_that_does_not_fit_is_not_taken(self, cost: int, budget: int, used: int) -> None:
        problem = PROBLEMS["valley"]()
        trained = jax.jit(budgeted_runs.make_program(problem, counting(cost), budget))(
            keys(0), np.float32([1e-3])
        )
        assert trained.used[0, 0, -1].tolist() == [used, 0, 0]
        same = jax.jit(
            budgeted_runs.make_program(problem, tunable_optimizers()["sgd"], 2 * (used // cost) or 1)
        )(keys(0), np.float32([1e-3]))
        np.testing.assert_allclose(trained.valid_loss[0, 0, -1], same.valid_loss[0, 0, -1], rtol=1e-6)

    def test_counts_of_wrapped_optimizers_add_up(self) -> None:
        @jax.jit
        def both(step: Any) -> Any:
            count = no_evaluations().plus(values=2, products=5)
            state = {"a": (count, jnp.ones(3)), "b": [no_evaluations().plus(gradients=1)]}
            of = budgeted_runs.evaluations_of
            return of(state, step), of({"a": jnp.ones(3)}, step)

        np.testing.assert_array_equal(both(np.int32(9)), [[2, 1, 5], [9, 9, 0]])


class TestPairing:
    def test_all_optimizers_see_the_same_weights_and_batches(self) -> None:
        """The gradient of the first two steps, noted by optimizers that do not move, is that of the seed."""

        def noting(scale: float) -> TunableOptimizer:
            def make(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
                def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
                    return jax.tree.map(jnp.zeros_like, grads), (state[1], grads["theta"])

                return optax.GradientTransformationExtraArgs(lambda p: (scale * p["theta"],) * 2, update)

            return TunableOptimizer(make, "learning_rate", 1.0, 0.1, 10.0)

        problem = PROBLEMS["noisy_quadratic"]()
        seen = [_states(problem, method, seeds=(0, 1)) for method in (noting(0.0), noting(1.0))]
        for a, b in zip(*seen, strict=True):
            np.testing.assert_array_equal(a, b)
        (first, second) = seen[0]
        assert not np.allclose(first[0], first[1])  # two seeds, two starts and batches
        assert not np.allclose(first[0], second[0])  # two steps, two batches

    def test_tuning_seeds_are_others(self) -> None:
        assert tuning.FIRST_TUNING_SEED > 100_000


def _states(problem: Problem, method: TunableOptimizer, seeds: tuple[int, ...]) -> Any:
    def one(key: jax.Array) -> Any:
        start_key, order_key, step_key = jax.random.split(key, 3)
        now = budgeted_runs.make_start(problem, method.optimizer)(start_key, 1.0)
        advance, order = budgeted_runs.make_advance(problem, method.optimizer, 100), jnp.zeros(512, jnp.int32)
        for i in range(2):
            order, batch = budgeted_runs.next_batch(
                order_key, order, jnp.int32(i), problem.data.train, problem.batch_size
            )
            now, _ = advance(now, False, batch, step_key, 1.0)
        return now.opt_state

    return jax.jit(jax.vmap(one))(keys(*seeds))


class TestProtocol:
    def test_draws(self) -> None:
        method = TunableOptimizer(fn.optim.sgd, "learning_rate", 0.5, 1e-3, 10.0)
        values = tuning.draw_values(method, 2000)
        assert values[0] == 0.5
        assert np.all((values[1:] >= 1e-3) & (values[1:] <= 10))
        place = np.log(values[1:] / 1e-3) / np.log(1e4)
        assert scipy.stats.kstest(place, "uniform").pvalue > 0.01
        np.testing.assert_array_equal(tuning.draw_values(method, 7), values[:7])
        assert tuning.draw_values(method._replace(argument=None), 7).tolist() == [0.5]

    def test_picks(self) -> None:
        assert [tuning.trial_counts_of(n) for n in (1, 5, 10, 25, 30)] == [
            (1,),
            (1, 5),
            (1, 10),
            (1, 10, 25),
            (1, 10, 25, 30),
        ]

    def test_choose(self) -> None:
        def trained(score: Any, loss: Any) -> budgeted_runs.Curves:
            score, loss = (np.array([a], float)[..., None] for a in (score, loss))
            return budgeted_runs.Curves(None, loss, loss, loss, score, score)

        assert tuning.best_trial(trained([3, 2, 1], [1, 1, 1]), 3) == 2
        assert tuning.best_trial(trained([3, 2, 1], [1, 1, 1]), 2) == 1  # of the first two
        assert tuning.best_trial(trained([2, 2, 2], [3, 1, 2]), 3) == 1  # a tie
        assert tuning.best_trial(trained([3, np.nan, 1], [1, np.nan, np.nan]), 3) == 0

    @pytest.mark.slow
    def test_one_optimizer(self) -> None:
        outcome = tuning.tune_and_test(
            PROBLEMS["valley"](), "sgd", tunable_optimizers()["sgd"], budget=20, trials=7, seeds=3
        )
        assert outcome.tuning_runs.valid_loss.shape == (3, 7, 11)
        assert outcome.test_runs.valid_loss.shape == (3, 2, 11)
        end = np.median(np.nan_to_num(outcome.tuning_runs.valid_score[..., -1], nan=np.inf), axis=0)
        assert outcome.chosen == (0, int(np.argmin(end)))
        assert outcome.best == outcome.values[np.argmin(end)]
        assert outcome.on_edge == (outcome.best in (min(outcome.values), max(outcome.values)))
        starts = [np.sort(part.valid_loss[:, 0, 0]) for part in (outcome.tuning_runs, outcome.test_runs)]
        assert not np.isclose(*starts).any()
        # The report's program is the tuning's: with the report's seeds by hand it gives the same.
        program = jax.jit(budgeted_runs.make_program(outcome.problem, outcome.tunable, 20))
        again = program(keys(0, 1, 2), np.float32([outcome.best]))
        np.testing.assert_allclose(again.test_score[:, 0, -1], outcome.scores, rtol=1e-5)


class TestMethods:
    def test_every_optimizer_has_a_range_with_its_default_inside(self) -> None:
        known = tunable_optimizers()
        assert set(fn.optim.TWINS) <= set(known)
        for name, m in known.items():
            assert m.argument is None or m.low <= m.default <= m.high, name
            assert m.argument is None or m.low < m.high, name

    def test_those_that_draw_take_the_key(self) -> None:
        tunable, theta = tunable_optimizers()["random_search"], {"theta": np.ones(2, np.float32)}
        init = jax.jit(lambda key: jax.random.key_data(tunable.optimizer(0.1, key).init(theta).key))
        assert not np.array_equal(*(init(jax.random.key(seed)) for seed in (0, 1)))


class TestStatistics:
    def test_quartiles(self) -> None:
        a = np.random.default_rng(0).normal(size=(9, 4))
        np.testing.assert_allclose(statistics.quartiles(a), np.quantile(a, [0.25, 0.5, 0.75], axis=0))
        assert statistics.quartiles(np.array([1.0, 2.0, np.nan, -np.inf, 3.0])) == (2.0, 3.0, np.inf)

    def test_bootstrap_is_scipys(self) -> None:
        rng = np.random.default_rng(1)
        ours, reference = rng.normal(1, 1, size=(2, 15))
        found = statistics.paired_difference(ours, reference, resamples=40_000, confidence=0.9)
        scipys = scipy.stats.bootstrap(
            (ours - reference,),
            np.median,
            n_resamples=40_000,
            confidence_level=0.9,
            method="percentile",
            rng=np.random.default_rng(2),
        ).confidence_interval
        assert found.median == np.median(ours - reference)
        np.testing.assert_allclose(found[1:], scipys, atol=0.02)

    def test_bootstrap_of_three_by_hand(self) -> None:
        """All 27 resamples of (0, 1, 5): the median is 0 in 7, 1 in 13, 5 in 7 of them."""
        found = statistics.paired_difference(np.array([0.0, 1.0, 5.0]), np.zeros(3), confidence=0.4)
        assert found == (1, 1, 1)  # from the 30th to the 70th percentile
        found = statistics.paired_difference(np.array([0.0, 1.0, 5.0]), np.zeros(3), confidence=0.6)
        assert found == (1, 0, 5)

    def test_pairs_and_lost_runs(self) -> None:
        noise = 100 * np.random.default_rng(0).normal(size=10)
        assert statistics.paired_difference(noise + 1, noise)[1:] == pytest.approx((1, 1))
        assert np.isnan(statistics.paired_difference(np.array([1.0, np.inf]), np.zeros(2))).all()

    def test_best_of_k(self) -> None:
        low, median, high = statistics.best_of_k(np.array([5.0, 1.0, 3.0]), orders=4000)
        assert (low[0], median[0], high[0]) == (5, 5, 5)  # the default comes first
        assert (low[1], high[1]) == (1, 3)
        assert (low[2], median[2], high[2]) == (1, 1, 1)
        assert statistics.best_of_k(np.array([np.nan, 2.0]))[1].tolist() == [np.inf, 2]

    def test_performance_profile(self) -> None:
        costs = np.array([[10, 20, np.inf], [30, 10, 10], [np.inf, np.inf, np.inf], [0, 0, 5]])
        shares = statistics.performance_profile(costs, np.array([1.0, 2.0, 3.0, 1e9]))
        np.testing.assert_allclose(
            shares, [[0.5, 0.5, 0.75, 0.75], [0.5, 0.75, 0.75, 0.75], [0.25] * 3 + [0.5]]
        )

    def test_targets(self) -> None:
        assert statistics.targets({"a": 11.0}, {"a": 1.0}) == {"a": pytest.approx(2.0)}
        used, curve = np.array([0, 10, 20, 30]), np.array([11, np.nan, 2, 1.5])
        assert statistics.cost_to_reach(used, curve, 2.0) == 20
        assert statistics.cost_to_reach(used, curve, 1.0) == np.inf


class TestWatch:
    def test_anatomy_by_hand(self) -> None:
        g = {"a": np.float32([1, 0]), "b": np.float32([-4])}
        u = {"a": np.float32([-0.5, 3]), "b": np.float32([1])}
        rms, cosine, ratios = jax.jit(trajectory.update_statistics)(u, g)
        assert float(rms) == pytest.approx(np.sqrt((0.25 + 9 + 1) / 3))
        assert float(cosine) == pytest.approx((0.5 + 4) / np.sqrt(10.25 * 17))
        np.testing.assert_allclose(
            ratios, np.quantile([0.5, 0.25], trajectory.QUANTILES), rtol=1e-6
        )  # where g is not 0

    def test_is_the_run_of_the_report(self) -> None:
        problem, method = PROBLEMS["banana"](), tunable_optimizers()["sgd"]
        seen = trajectory.record_trajectory(problem, method, 1e-3, 20)
        trained = jax.jit(budgeted_runs.make_program(problem, method, 20))(keys(0), np.float32([1e-3]))
        end = jax.jit(SURFACES["banana"].f)(seen.path[-1])
        np.testing.assert_allclose(end, trained.test_loss[0, 0, -1], rtol=1e-5)
        assert seen.used.tolist() == list(range(2, 21, 2))
        np.testing.assert_allclose(seen.cosine, 1, rtol=1e-5)
        np.testing.assert_allclose(seen.step_sizes, 1e-3, rtol=1e-4)

    def test_stops_at_the_budget(self) -> None:
        seen = trajectory.record_trajectory(PROBLEMS["banana"](), counting(3), 1e-3, 20)
        assert np.isfinite(seen.rms).tolist() == [True] * 6 + [False] * 4
        assert seen.used.max() == 18
        assert np.isfinite(seen.path).all()


SMALL = ("--problems", "banana", "noisy_quadratic", "--budget", 12, "--trials", 3, "--seeds", 2)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small run."""
    out = tmp_path_factory.mktemp("runs") / "report"
    with pytest.MonkeyPatch.context() as patch:
        assert (
            run(patch, *SMALL, "--reference", "sgd", "--optimizers", "sgd", "nelder_mead", "--out", out) == 0
        )
    return out


def check_files(out: Path, pictures: set[str], films: set[str]) -> None:
    names = {f"{picture}.{kind}" for picture in pictures for kind in ("png", "svg")}
    names |= {f"{film}.gif" for film in films} | {"report.html", "results.json", "runs.csv"}
    assert {file.name for file in out.iterdir()} == names
    assert list(out.parent.iterdir()) == [out]
    for picture in pictures:
        ink = np.mean(np.any(imread(out / f"{picture}.png")[..., :3] < 0.9, axis=-1))
        assert 0.01 < ink < 0.7
    for name in films:
        with Image.open(out / f"{name}.gif") as film:
            assert film.n_frames > 1


@pytest.mark.slow
def test_the_smallest_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "report"
    small = ("--problems", "valley", "--budget", 8, "--trials", 1, "--seeds", 1, "--optimizers", "sgd")
    assert run(monkeypatch, *small, "--out", out) == 0
    check_files(out, {"losses", "paths_valley", "updates_valley"}, {"race_valley"})
    assert "1 optimizer on 1 problem" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.xdist_group("ladder")  # one run for all of them
class TestRun:
    def test_files(self, out: Path) -> None:
        pictures = {
            "losses",
            "profiles",
            "trials",
            "paths_banana",
            "updates_banana",
            "updates_noisy_quadratic",
        }
        pictures |= {"sensitivity_banana", "sensitivity_noisy_quadratic"}
        check_files(out, pictures, {"race_banana"})

    def test_results(self, out: Path) -> None:
        results = json.loads((out / "results.json").read_text())
        assert results["config"]["budget"] == 12
        found = {(r["problem"], r["optimizer"]): r for r in results["results"]}
        assert len(found) == 4
        assert all(sum(r["evaluations"]) <= 12 for r in found.values())
        assert found["banana", "sgd"]["difference"] is None
        other = found["banana", "nelder_mead"]
        assert other["difference"]["low"] <= other["difference"]["median"] <= other["difference"]["high"]
        assert set(other["by_trials"]) == {"1", "3"}
        assert other["compile_seconds"] > 0

    def test_runs(self, out: Path) -> None:
        with (out / "runs.csv").open() as f:
            lines = list(csv.DictReader(f))
        assert len(lines) == 4 * 2 * (3 + 2) * len(
            budgeted_runs.record_points(12)
        )  # pairs, seeds, tuning + report, marks
        # Paired: in one phase the loss at the start depends on problem and seed alone.
        starts = {(r["problem"], r["phase"], r["seed"]): set() for r in lines}
        for r in lines:
            if r["values"] == r["gradients"] == "0":
                starts[r["problem"], r["phase"], r["seed"]].add(r["test_loss"])
        assert {len(s) for s in starts.values()} == {1}
        assert len({next(iter(s)) for s in starts.values()}) == len(starts)

    def test_page(self, out: Path) -> None:
        page = (out / "report.html").read_text()
        assert "2 optimizers on 2 problems" in page
        assert page.count("<table>") == 2
        assert page.count("data:image/svg+xml") == 8
        assert page.count("data:image/gif") == 1


def test_ties_are_said() -> None:
    def row(name: str, median: float, low: float, high: float) -> results.Row:
        blank = dict.fromkeys(results.Row._fields)
        return results.Row(
            **blank | {"problem": "p", "optimizer": name, "median": median, "low": low, "high": high}
        )

    a, b, c = row("a", 1.0, 0.9, 1.2), row("b", 1.3, 1.1, 1.5), row("c", 2.0, 1.9, 2.1)
    lost = row("lost", np.inf, np.inf, np.inf)
    assert report.best_line([c, b, a], "p") == (
        "Lowest median score: a (1). It is a tie with b: the quartiles overlap."
    )
    assert report.best_line([c, a, lost], "p") == "Lowest median score: a (1)."
    assert report.best_line([lost], "p") == "All optimizers diverged."


class TestArguments:
    def test_what_is_too_large_is_left_out_of_all(self) -> None:
        reasons = ladder_run.too_large(PROBLEMS["digits_mlp"](), ["adam", "nelder_mead"])
        assert reasons == {
            "nelder_mead": "nelder_mead is for at most 200 parameters, but digits_mlp has 4810"
        }

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (("--problems", "bananas"), "--problems bananas is unknown, wanted one of banana, "),
            (("--problems", "banana", "--optimizers", "adma"), "--optimizers adma is unknown"),
            (("--problems", "banana", "--reference", "adma"), "--reference adma is unknown"),
            (("--problems", "banana", "--budget", 0), "--budget 0 is too small"),
            (("--problems", "banana", "--trials", 0), "--trials 0 is too small"),
            (
                ("--problems", "banana", "--explain", "adam"),
                "--explain and --problems can't be used together",
            ),
            (("--optimizers", "nelder_mead"), "--optimizers nelder_mead is unknown"),  # it has no twin
            (
                ("--problems", "digits_mlp", "--optimizers", "nelder_mead"),
                "nelder_mead is for at most 200 parameters, but digits_mlp has 4810",
            ),
        ],
    )
    def test_a_bad_value_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: Any, said: str
    ) -> None:
        assert run(monkeypatch, *args) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1

    def test_numbers_are_short(self) -> None:
        shown = [wording.number(x) for x in (0, 0.012345, 123.45, 1.2e-5, -4e6, np.inf, np.nan)]
        assert shown == ["0", "0.012", "123", "1e-5", "-4e6", "inf", "-"]
