"""Training curves: matplotlib's own artists hold the history's numbers."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure

import fnnet as fn
from fnnet.train.plot import find_curves, quartiles, smoothed, spans_decades

close = np.testing.assert_allclose
STEPS, EVALUATIONS = 120, np.array([40, 80, 120])


def history(*runs: int, seed: int = 0) -> dict[str, np.ndarray]:
    """As of `make_run`: losses that fall from 3 to 0.03, accuracies that rise."""
    rng = np.random.default_rng(seed)
    falling = 3 * 10 ** (-2 * np.arange(STEPS) / STEPS)
    at = EVALUATIONS - 1
    noise = lambda n: np.exp(0.1 * rng.normal(size=(*runs, n)))  # noqa: E731
    return {
        "train_loss": falling * noise(STEPS),
        "train_accuracy": 1 - 0.1 * falling * noise(STEPS),
        "eval_step": np.broadcast_to(EVALUATIONS, (*runs, 3)),
        "valid_loss": falling[at] * noise(3),
        "valid_accuracy": 1 - 0.1 * falling[at] * noise(3),
        "valid_confusion": np.ones((*runs, 3, 2, 2)),
        "test_loss": falling[at] * noise(3),
        "diverged_at": np.full(runs, -1),
    }


def lines(figure: Figure, measure: str) -> dict[str, np.ndarray]:
    """The lines of a measure's panel, [2, points], by label."""
    panel = next(axes for axes in figure.axes if axes.get_ylabel() == measure)
    return {str(line.get_label()): np.array(line.get_data()) for line in panel.lines}


def test_one_run() -> None:
    given = history()
    figure = fn.train.plot(given)
    assert isinstance(figure, Figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["steps", "steps"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    loss = lines(figure, "loss")
    faint = next(values for label, values in loss.items() if label.startswith("_"))
    close(faint, [np.arange(STEPS), given["train_loss"]])
    close(loss["training, average"], [np.arange(STEPS), smoothed(given["train_loss"], 1 - 50 / STEPS)])
    close(loss["validation"], [EVALUATIONS, given["valid_loss"]])
    close(loss["test"], [EVALUATIONS, given["test_loss"]])
    close(lines(figure, "accuracy")["validation"], [EVALUATIONS, given["valid_accuracy"]])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["training, average", "validation", "test"]
    colours = {line.get_color() for axes in figure.axes for line in axes.lines}
    assert colours == {"#0072B2", "#D55E00", "#009E73"}
    assert figure.get_size_inches()[0] * figure.dpi == 1280


def test_without_smoothing_the_losses_themselves_are_the_line() -> None:
    loss = lines(fn.train.plot(history(), smoothing=0.0), "loss")
    assert loss.keys() == {"training", "validation", "test"}
    close(loss["training"][1], history()["train_loss"])


def test_errors_on_a_log_axis() -> None:
    figure = fn.train.plot(history(), error=True, measures=["accuracy"], width=390)
    (axes,) = figure.axes
    assert (axes.get_ylabel(), axes.get_yscale()) == ("1 - accuracy", "log")
    close(lines(figure, "1 - accuracy")["validation"][1], 1 - history()["valid_accuracy"])
    assert axes.yaxis.get_major_formatter()(0.02) == "2%"
    assert figure.get_size_inches()[0] * figure.dpi == 390


@pytest.mark.parametrize("runs", [(5,), (2, 3)])
def test_many_runs_are_their_median_and_quartiles(runs: tuple[int, ...]) -> None:
    given, count = history(*runs), int(np.prod(runs))
    figure = fn.train.plot(given, smoothing=0.0)
    loss, label = lines(figure, "loss"), f"median and quartiles of {count} runs"
    assert loss.keys() == {f"{part}, {label}" for part in ("training", "validation", "test")}
    for part, name in (("training", "train_loss"), ("validation", "valid_loss")):
        close(loss[f"{part}, {label}"][1], np.median(given[name].reshape(count, -1), axis=0))
    bands = [c for c in figure.axes[0].collections if isinstance(c, FillBetweenPolyCollection)]
    assert len(bands) == 3
    heights = bands[1].get_paths()[0].vertices[:, 1]
    low, high = np.quantile(given["valid_loss"].reshape(count, -1), [0.25, 0.75], axis=0)
    assert set(np.round(heights, 12)) == set(np.round([*low, *high], 12))


def test_of_what_fit_and_make_run_return() -> None:
    given = history()
    for result in (SimpleNamespace(history=given), fn.train.Run({}, {}, given, (), np.int32(STEPS))):  # type: ignore[arg-type]
        close(lines(fn.train.plot(result), "loss")["validation"][1], given["valid_loss"])


def test_a_history_of_fit() -> None:
    """It counts evaluations from 0 on, has other columns beside the measures, and may end between evaluations."""
    given = history() | {"eval_step": np.array([0, 50, 100]), "seconds": np.ones(3), "epoch": np.ones(3)}
    figure = fn.train.plot(given)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    close(lines(figure, "loss")["validation"][0], [0, 50, 100])
    close(lines(figure, "loss")["training, average"][0], np.arange(STEPS))


def test_a_run_that_continues_another_counts_from_its_start() -> None:
    curves = find_curves(history() | {"eval_step": EVALUATIONS + 200})
    assert [(c.part, c.steps[0], c.steps[-1]) for c in curves if c.measure == "loss"] == [
        ("train", 200, 319),
        ("valid", 240, 320),
        ("test", 240, 320),
    ]


def test_files(tmp_path: Path) -> None:
    fn.train.plot(history(4), tmp_path / "curves.png")
    image = matplotlib.image.imread(tmp_path / "curves.png")
    assert image.shape[1] == 1280
    assert image[..., :3].std() > 0.05
    fn.train.plot(history(), str(tmp_path / "curves.svg"), measures=["loss"], width=390)
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="not supported"):
        fn.train.plot(history(), tmp_path / "curves.xyz", measures=["loss"], width=390)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "curves.svg"]


def test_notebooks_show_it_and_pyplot_does_not_keep_it() -> None:
    before = matplotlib.pyplot.get_fignums()
    figure: Any = fn.train.plot(history(), measures=["loss"], width=390)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert matplotlib.pyplot.get_fignums() == before


def test_the_exponential_average() -> None:
    x = np.array([[1.0, 3.0, 2.0]])
    close(smoothed(x, 0.5), [[1, (0.5 * 1 + 3) / 1.5, (0.25 * 1 + 0.5 * 3 + 2) / 1.75]])
    close(smoothed(x, 0.0), x)


def test_a_run_that_diverged_counts_as_the_worst() -> None:
    values = np.array([[1.0, 1.0, np.nan], [2.0, np.nan, np.inf], [3.0, 3.0, np.nan]])
    np.testing.assert_array_equal(quartiles(values, False)[1], [2, 3, np.nan])
    np.testing.assert_array_equal(quartiles(values, True)[1], [2, 1, np.nan])


def test_log_axes() -> None:
    assert spans_decades([np.array([1.0, np.nan]), np.array([0.09])])
    assert not spans_decades([np.array([1.0, 0.2])])
    assert not spans_decades([np.array([1.0, 0.0])])
    assert not spans_decades([np.array([np.nan])])


@pytest.mark.parametrize(
    "given, arguments, error, message",
    [
        (
            [1.0],
            {},
            TypeError,
            r"plot: history is \(1.0\), wanted the result of fit or of a run, or its history",
        ),
        (fn.dense(1), {}, TypeError, "plot: history is .*, wanted the result of fit"),
        (
            {"loss": np.ones(3)},
            {},
            ValueError,
            r"plot: history has \['loss'\], wanted curves such as train_loss",
        ),
        ({"valid_loss": np.ones(3)}, {}, ValueError, "or valid_loss with eval_step"),
        (
            history(),
            {"measures": ["f1"]},
            ValueError,
            r"measures has 'f1', wanted some of \['loss', 'accuracy'\]",
        ),
        (history(), {"smoothing": 1.0}, ValueError, r"plot: smoothing=1.0, wanted in \[0, 1\)"),
        (history(), {"width": 0}, ValueError, "plot: width=0, wanted at least 1"),
    ],
)
def test_errors(given: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fn.train.plot(given, **arguments)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plot: pictures need matplotlib, .* pip install matplotlib"):
        fn.train.plot(history())
