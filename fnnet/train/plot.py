"""Training curves: the history of `fit` or of a run, as a picture."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fnnet import check
from fnnet.atomic import write_atomically
from fnnet.train.history import more_is_better

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
# Colours of Okabe & Ito, which people with colour blindness can tell apart.
PARTS = {
    "train": ("training", "#0072B2", "-"),
    "valid": ("validation", "#D55E00", "-"),
    "test": ("test", "#009E73", "--"),
}
DECADE = 10.0  # a measure whose largest value is more than this many times its smallest is on a log axis


class Curve(NamedTuple):
    """A measure of a part of the data over the steps."""

    part: str  # "train", "valid" or "test"
    measure: str
    steps: np.ndarray  # int[points], steps taken
    values: np.ndarray  # float[runs, points]


def plot(
    history: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    measures: Sequence[str] | None = None,
    error: bool = False,
    smoothing: float | None = None,
    width: int = 1280,
) -> "Figure":
    """Training and validation curves, with one panel per measure and the steps on the x-axis.

    Many runs, from `vmap`, become a line of their medians, with a band between their quartiles. The losses of single
    steps are noisy: of one run their exponential average is drawn, with the losses themselves faintly behind it; of
    many runs the averages are drawn. A measure whose values span a factor of ten has a log axis.

    Args:
        history: the result of `fit` or of a run from `make_run`, or its history, a dict of arrays.
        path: of a file to write, with the ending of its format, such as .png, .svg or .pdf. It is written completely
            or not at all.
        measures: names such as "loss" or "accuracy"; by default all.
        error: whether to show 1 - accuracy in place of each accuracy, on a log axis, where differences near 1 are
            seen.
        smoothing: the weight of the old average at each step, in [0, 1). 0 draws no average. By default the average
            spans a fiftieth of the steps.
        width: of the picture in pixels. A narrow one has its panels below each other.

    Returns:
        A `matplotlib.figure.Figure`, which notebooks display. Change it and save it with its own methods.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: history is not a dict of arrays.
        ValueError: it has no "train_", "valid_" or "test_" curves, or not those of the measures; smoothing is not in
            [0, 1).

    Source of the colours: Okabe & Ito 2008, "Color Universal Design".

    Example:
        >>> history = {"train_loss": 1 / jnp.arange(1.0, 101.0), "eval_step": jnp.array([50, 100]),
        ...            "valid_loss": jnp.array([0.03, 0.02])}  # or the result of fit, or of a run
        >>> figure = fn.train.plot(history)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
    """
    figure_class, ticker = _matplotlib()
    if smoothing is not None:
        check.number("plot", "smoothing", smoothing, "[0, 1)")
    check.is_positive("plot", "width", width)
    check.flag("plot", "error", error)
    if isinstance(measures, str):
        raise TypeError(f"plot: measures={measures!r}, wanted a list: [{measures!r}]")
    curves = find_curves(history)
    names = list(dict.fromkeys(curve.measure for curve in curves))
    if unknown := [name for name in measures or () if name not in names]:
        meant = check.did_you_mean(unknown[0], names)
        raise ValueError(f"plot: measures has {unknown[0]!r}, wanted some of {names}{meant}")
    names = names if measures is None else list(measures)

    is_narrow = width < 700
    across = 1 if is_narrow else min(len(names), 2)
    down = -(-len(names) // across)
    panel_height = 0.62 * width / max(across, 1 if is_narrow else 1.4)
    figure = figure_class(
        figsize=(width / DPI, (down * panel_height + 60) / DPI), dpi=DPI, layout="constrained"
    )
    font = min(max(width / 80, 9.0), 15.0)  # points: a wide picture is still legible on a phone
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        draw_panel(axes, name, [c for c in curves if c.measure == name], error, smoothing, ticker)
        _set_font(axes, font)
    for axes in panels[len(names) :]:
        axes.remove()
    labels: dict[str, Any] = {}
    for axes in figure.axes:
        labels |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # A character is about half as wide as it is high, and a line and its margins take 60 pixels.
    legend_width = sum(0.55 * font * DPI / 72 * len(label) + 60 for label in labels)
    figure.legend(
        labels.values(),
        labels.keys(),
        loc="outside upper center",
        ncols=len(labels) if legend_width < width else 1,
        frameon=False,
        fontsize=font,
    )
    if path is not None:
        path = check.local_path("plot", "path", path)
        kind = path.suffix[1:] or "png"
        write_atomically(path, lambda beside: figure.savefig(beside, format=kind))
    return figure


def find_curves(history: Any) -> list[Curve]:
    """The curves of a history, those of one measure after each other.

    Args:
        history: a dict, or something with such a `.history`. Leading axes, those of many runs, become one.
    """
    found = getattr(history, "history", history)
    if not isinstance(found, Mapping):
        raise TypeError(
            f"plot: history is {check.describe(history)}, wanted the result of fit or of a run, or its history"
        )
    arrays = {name: np.asarray(a) for name, a in found.items()}
    per_step = next((a for name, a in arrays.items() if name.startswith("train_") and a.ndim), None)
    eval_step = arrays.get("eval_step")
    axes = eval_step.ndim if eval_step is not None else 1 if per_step is None else per_step.ndim
    last = (
        None
        if eval_step is None or not eval_step.size
        else int(eval_step.reshape(-1, eval_step.shape[-1])[0, -1])
    )

    curves = []
    for name, a in arrays.items():
        part, _, measure = name.partition("_")
        if part not in PARTS or a.ndim != axes or not np.issubdtype(a.dtype, np.number) or not a.size:
            continue
        values = a.reshape(-1, a.shape[-1]).astype(np.float64)
        if part == "train":
            # A run that continues another one counts its steps from the start of the first.
            first = max(0, (last or 0) - values.shape[1])
            steps = first + np.arange(values.shape[1])
        elif eval_step is not None and eval_step.shape == a.shape:
            steps = eval_step.reshape(values.shape)[0]
        else:
            continue
        curves.append(Curve(part, measure, steps, values))
    if not curves:
        raise ValueError(
            f"plot: history has {sorted(map(str, found))}, wanted curves such as train_loss, or valid_loss with "
            "eval_step"
        )
    measures = list(dict.fromkeys(["loss", *(curve.measure for curve in curves)]))
    parts = list(PARTS)
    return sorted(curves, key=lambda c: (measures.index(c.measure), parts.index(c.part)))


def draw_panel(
    axes: Any, measure: str, curves: Sequence[Curve], error: bool, smoothing: float | None, ticker: Any
) -> None:
    """Draws the curves of one measure."""
    is_accuracy = measure.endswith("accuracy")
    as_error = error and is_accuracy
    shown = []
    for curve in curves:
        label, colour, dashes = PARTS[curve.part]
        values = 1 - curve.values if as_error else curve.values
        runs, points = values.shape
        is_smooth = False
        if curve.part == "train":
            weight = max(0.0, 1 - 50 / points) if smoothing is None else smoothing
            if is_smooth := weight > 0:
                smooth = smoothed(values, weight)
                if runs == 1:
                    axes.plot(curve.steps, values[0], color=colour, alpha=0.25, lw=0.8, zorder=1)
                values = smooth
        marker = "o" if points <= 30 and curve.part != "train" else ""
        style = {"color": colour, "ls": dashes, "lw": 2.2, "marker": marker, "ms": 5, "zorder": 3}
        label += ", average" if is_smooth else ""
        if runs == 1:
            middle = values[0]
        else:
            low, middle, high = quartiles(values, bool(more_is_better(measure)) and not as_error)
            label += f", median and quartiles of {runs} runs"
            axes.fill_between(curve.steps, low, high, color=colour, alpha=0.22, lw=0, zorder=2)
        axes.plot(curve.steps, middle, label=label, **style)
        shown.append(middle)

    name = measure.replace("_", " ")
    axes.set(xlabel="steps", ylabel=f"1 - {name}" if as_error else name)
    if as_error or (not is_accuracy and spans_decades(shown)):
        axes.set_yscale("log")
    if is_accuracy:
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
        if as_error:
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """The exponential average along the last axis, corrected for its start."""
    average = np.zeros(values.shape[:-1])
    result = np.empty(values.shape)
    for t in range(values.shape[-1]):
        average = weight * average + (1 - weight) * values[..., t]
        result[..., t] = average / (1 - weight ** (t + 1))
    return result


def quartiles(values: np.ndarray, maximize: bool) -> np.ndarray:
    """The quartiles over the runs, the first axis: float[3, points]. A run that diverged counts as the worst."""
    worst = -np.inf if maximize else np.inf
    with np.errstate(invalid="ignore"):
        lower, found, higher = (
            np.quantile(
                np.where(np.isfinite(values), values, worst), [0.25, 0.5, 0.75], axis=0, method=method
            )
            for method in ("lower", "linear", "higher")
        )
    found = np.where(
        lower == higher, lower, found
    )  # interpolation between equal infinities, or with weight 0, is NaN
    return np.where(np.isfinite(found), found, np.nan)


def spans_decades(curves: Sequence[np.ndarray]) -> bool:
    """Whether all values are positive, and the largest is more than ten times the smallest."""
    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    return bool(values.size and values.min() > 0 and values.max() > DECADE * values.min())


def _matplotlib() -> tuple[Any, Any]:
    """A figure class whose figures notebooks display, and matplotlib's tickers."""
    try:
        from matplotlib import ticker
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ImportError("plot: pictures need matplotlib, which is missing; pip install matplotlib") from exc

    class NotebookFigure(Figure):
        """A figure without pyplot, which has no window and is in no list of open figures."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return NotebookFigure, ticker


def _set_font(axes: Any, size: float) -> None:
    axes.xaxis.label.set_size(size)
    axes.yaxis.label.set_size(size)
    axes.tick_params(labelsize=size - 1)
