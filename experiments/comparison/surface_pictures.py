"""Pictures of optimizers on a function of two numbers: its contours, a path over them, and the race film."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from experiments.comparison.surfaces import Surface
from experiments.plotting import BLACK, BLUE, OTHER, STYLE, WIDTH, legend_of, spaced

START: dict[str, Any] = {"ls": "", "marker": "s", "ms": 5, "color": BLACK}
MINIMUM: dict[str, Any] = {"ls": "", "marker": "*", "ms": 9, "color": BLACK}
SHADE_COLOURS = ("#9FABB5", "#B3BDC5", "#C7CFD5", "#DADFE4", "#ECEFF1")
SHADES = "Each shade is a factor of ten in f; darker is lower."


class Film(NamedTuple):
    """An animation with its title and caption."""

    name: str  # of its file, NAME.gif
    title: str
    caption: str
    gif: bytes


def contours(ax: Axes, surface: Surface) -> None:
    """The function as shades of grey."""
    left, right, bottom, top = surface.box
    x, y = np.meshgrid(np.linspace(left, right, 121), np.linspace(bottom, top, 121))
    f = np.asarray(jax.vmap(jax.vmap(surface.f))(jnp.stack([x, y], axis=-1)))
    bounds = [0.0, *10.0 ** (np.ceil(np.log10(f.max())) - np.arange(4, 0, -1)), max(2 * f.max(), 1)]
    ax.contourf(x, y, f, levels=bounds, colors=SHADE_COLOURS, zorder=-2)
    ax.set_rasterization_zorder(-1)  # as vector shapes they would take half a megabyte
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.grid(False)


def draw_path(ax: Axes, surface: Surface, path: np.ndarray) -> None:
    """Contours, the path with a dot every so often, its start, and the minima."""
    contours(ax, surface)
    width = surface.box[1] - surface.box[0]
    points = clipped(surface, path)
    ax.plot(*spaced(points, width / 400).T, color=BLUE, lw=1)
    ax.plot(*spaced(points, width / 60).T, ".", color=BLUE, ms=4)
    ax.plot(*path[0], **START)
    ax.plot(*np.array(surface.minima).T, **MINIMUM)


def path_legend(label: str = "path") -> list[Line2D]:
    """The legend entries of `draw_path`."""
    return [
        Line2D([], [], color=BLUE, lw=1, marker=".", label=label),
        Line2D([], [], label="start", **START),
        Line2D([], [], label="minimum", **MINIMUM),
    ]


def clipped(surface: Surface, path: np.ndarray) -> np.ndarray:
    """The path with a gap where it is far outside the picture or not finite."""
    left, right, bottom, top = surface.box
    near = np.abs(path - [(left + right) / 2, (bottom + top) / 2]) <= 3 * (right - left)
    return np.where(near.all(axis=1)[:, None], path.astype(float), np.nan)


def _palette(colours: Sequence[str]) -> Image.Image:
    """Greys, and each colour in five strengths: a palette taken from a frame would lose the thin lines' colours."""
    greys = [(i, i, i) for i in range(0, 256, 5)]
    shades = [tuple(int(255 * part) for part in to_rgb(shade)) for shade in SHADE_COLOURS]
    lines = [
        tuple(int(255 * (1 - strength * (1 - part))) for part in to_rgb(colour))
        for colour in dict.fromkeys(colours)
        for strength in (1, 0.8, 0.6, 0.4, 0.2)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for entry in (*greys, *shades, *lines) for part in entry])
    return palette


def race_film(
    file: Path,
    title: str,
    surface: Surface,
    paths: Mapping[str, tuple[np.ndarray, np.ndarray]],
    styles: Mapping[str, Mapping[str, Any]],
    unit: str,
) -> Film:
    """The coloured optimizers on one surface at the same time, as an animated GIF. Writes it to `file`.

    Args:
        file: NAME.gif.
        title: what the report calls it.
        surface: what they descend.
        paths: by optimizer, (time after each step, int[n]; points, float[n + 1, 2], the start first).
        styles: by optimizer, from `line_styles`; grey ones are left out.
        unit: of the time, such as "steps".
    """
    shown = {name: path for name, path in paths.items() if styles[name] is not OTHER}
    last = max(int(times[-1]) for times, _ in shown.values())
    moments = np.unique(np.geomspace(1, max(last, 2), 40).astype(int))
    with matplotlib.rc_context({**STYLE, "figure.dpi": 100}):
        # Axes at a fixed place: a layout that adapts would move them from frame to frame.
        figure = Figure(figsize=(WIDTH, 4.6))
        canvas = FigureCanvasAgg(figure)
        legend_rows = (len(shown) + 2) // 2
        ax = figure.add_axes((0.13, 0.1, 0.84, 0.83 - 0.045 * legend_rows))
        contours(ax, surface)
        ax.set(xlabel="x", ylabel="y")
        ax.plot(*np.array(surface.minima).T, **MINIMUM)
        entries = [*legend_of({n: styles[n] for n in shown}), Line2D([], [], label="minimum", **MINIMUM)]
        figure.legend(handles=entries, loc="upper left", ncols=2)
        lines = {name: ax.plot([], [], **styles[name], marker="o", ms=5, markevery=[-1])[0] for name in shown}
        frames = []
        for moment in moments:
            for name, (times, points) in shown.items():
                steps = int(np.searchsorted(times, moment, side="right"))
                path = clipped(surface, points[: steps + 1])
                lines[name].set_data(*path[np.isfinite(path).all(axis=1)].T)
            ax.set_title(f"{moment} {unit}")
            canvas.draw()
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    palette = _palette([style["color"] for style in styles.values()])
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [*[100] * (len(flat) - 1), 2000]  # ms; the last frame stays
    flat[0].save(file, save_all=True, append_images=flat[1:], duration=durations, loop=0)
    caption = (
        f"f = {surface.title}. {'The coloured' if len(shown) < len(paths) else 'All'} optimizers start together; "
        f"a dot marks where each one is. The film speeds up: its time is {unit} on a log scale."
    )
    return Film(file.stem, title, caption, file.read_bytes())
