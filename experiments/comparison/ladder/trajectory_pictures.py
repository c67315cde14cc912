"""Pictures of recorded runs: paths over a surface, and the size and direction of each update."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.comparison.ladder.trajectory import Trajectory
from experiments.comparison.surface_pictures import SHADES, draw_path, path_legend
from experiments.comparison.surfaces import Surface
from experiments.comparison.wording import lowest
from experiments.plotting import BLUE, OTHER, finish, legend_of, panels, set_log_ticks


def paths(surface: Surface, trajectories: Mapping[str, Trajectory]) -> tuple[Figure, str]:
    """One panel per optimizer: its path over the contours."""
    figure, axes = panels(len(trajectories), 2.0)
    ends = {name: float(surface.f(jnp.array(run.path[-1]))) for name, run in trajectories.items()}
    for (name, run), ax in zip(trajectories.items(), axes, strict=True):
        draw_path(ax, surface, run.path)
        ax.set_title(f"{name}\nf = {ends[name]:.2g}")
    for ax in axes[::2]:
        ax.set_ylabel("y")
    finish(figure, axes, "x", path_legend())
    return figure, (
        f"f = {surface.title}. Each optimizer with its best hyperparameter, until the budget is spent. Lowest f at the "
        f"end: {lowest(ends, lambda f: f'{f:.1e}')}. {SHADES}"
    )


def updates(
    trajectories: Mapping[str, Trajectory], styles: Mapping[str, Mapping[str, Any]]
) -> tuple[Figure, str]:
    """Size and direction of the coloured optimizers' updates, then for each one the step size of its parameters."""
    shown = {name: run for name, run in trajectories.items() if styles[name] is not OTHER}
    figure, axes = panels(2 + len(shown), 1.8)
    rms, cosine = axes[:2]
    points = 40
    for name, run in shown.items():
        used = _medians(run.used.astype(float), points)
        rms.plot(used, _medians(run.rms, points), **styles[name])
        cosine.plot(used, _medians(run.cosine, points), **styles[name])
    _log_scale(rms, np.concatenate([_medians(run.rms, points) for run in shown.values()]))
    rms.set_title("root mean square\nof the update u")
    cosine.set_title("cosine of the angle\nbetween u and -g")
    cosine.set_ylim(-1.05, 1.05)
    for (name, run), ax in zip(shown.items(), axes[2:], strict=True):
        used, q = _medians(run.used.astype(float), points), _medians(run.step_sizes, points)
        q = np.where(np.isnan(q), np.nan, np.maximum(q, 1e-30))
        ax.fill_between(used, q[:, 0], q[:, 4], color=BLUE, alpha=0.15, lw=0)
        ax.fill_between(used, q[:, 1], q[:, 3], color=BLUE, alpha=0.3, lw=0)
        ax.plot(used, q[:, 2], color=BLUE, lw=1.3)
        _log_scale(ax, run.step_sizes)
        ax.set_title(f"{name}\n|u| / |g|")
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    entries = [
        *legend_of({name: styles[name] for name in shown}),
        Patch(color=BLUE, alpha=0.45, lw=0, label="half of the parameters"),
        Patch(color=BLUE, alpha=0.15, lw=0, label="9 of 10 parameters"),
    ]
    finish(figure, axes, "evaluations", entries)
    return figure, (
        "One run per optimizer with its best hyperparameter; medians of neighbouring steps. A cosine of 1 means that "
        "the update points straight down the gradient g of the batch. |u| / |g| is the learning rate with which plain "
        "gradient descent would make the same update of a parameter. Gradient descent has one thin band at a fixed "
        "height. A wide band means that each parameter has its own step size."
    )


def _log_scale(ax: Axes, values: np.ndarray) -> None:
    """A log axis for the values within three decades of the median."""
    above = values[np.isfinite(values) & (values > 0)]
    middle = np.median(above) if above.size else 1.0
    near = above[np.abs(np.log10(above / middle)) <= 3]
    low, high = near.min(initial=middle) / 2, near.max(initial=middle) * 2
    ax.set(yscale="log", ylim=(low, high))
    set_log_ticks(ax.yaxis, low, high)


def _medians(a: np.ndarray, points: int) -> np.ndarray:
    """Medians of `points` stretches of a[steps, ...]; NaN if a stretch has no finite value."""
    parts = np.array_split(a, min(points, len(a)))
    return np.array(
        [np.nanmedian(p, axis=0) if np.isfinite(p).any() else np.full(a.shape[1:], np.nan) for p in parts]
    )
