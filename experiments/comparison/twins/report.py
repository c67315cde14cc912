"""The report of the comparison with optax: all optimizers against each other, the race, the table, then details."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from experiments.comparison import html_page
from experiments.comparison.html_page import Section
from experiments.comparison.surface_pictures import Film, race_film
from experiments.comparison.twins import overview_pictures, pictures
from experiments.comparison.twins.results import Result, Row, as_json, is_equal, row, write_csv
from experiments.comparison.twins.time_to_target import TimeToTarget, target_error, times_to_target
from experiments.comparison.twins.twin_run import BANANA
from experiments.comparison.wording import count, listed
from experiments.plotting import STYLE, Picture, line_styles, save
from experiments.results_folder import environment, write_json


class Pictures(NamedTuple):
    """All pictures of the report, by section."""

    overview: Sequence[Picture]
    race: Film | None
    details: Sequence[Picture]
    parity: Picture | None


def write(folder: Path, config: dict[str, Any], results: Sequence[Result]) -> None:
    """Everything: results.json, curves.csv, the pictures and report.html, into a folder that exists."""
    target = target_error(results)
    times = times_to_target(results, target)
    by_name = {
        t.name: {
            "target_error": target,
            "steps_to_target": t.median_steps,
            "seconds_to_target": t.median_seconds,
        }
        for t in times
    }
    write_json(
        folder / "results.json", config, [entry | by_name[entry["optimizer"]] for entry in as_json(results)]
    )
    write_csv(folder / "curves.csv", results)
    drawn = draw(folder, results, times, target)
    page = write_page(config, results, times, target, drawn)
    (folder / "report.html").write_text(page, encoding="utf-8")


def draw(folder: Path, results: Sequence[Result], times: Sequence[TimeToTarget], target: float) -> Pictures:
    """Draws all pictures of at least one result. NAME.png, NAME.svg and race.gif go into `folder`."""
    with matplotlib.rc_context(STYLE):
        overview = [
            save(folder, make.__name__, title, *make(results, times, target))
            for make, title in (
                (overview_pictures.error_against_steps, "Error against steps"),
                (overview_pictures.error_against_seconds, "Error against seconds"),
            )
        ]
        to_target = overview_pictures.steps_and_seconds_to_target(times, target)
        overview.append(save(folder, "time_to_target", "Steps and seconds to the target", *to_target))
        details = [
            save(folder, make.__name__, title, *make(results))
            for make, title in (
                (pictures.learning_curves, "Learning curves"),
                (pictures.learning_rates, "Error against learning rate"),
                (pictures.banana, "Paths on the banana function"),
            )
        ]
        parity = save(folder, "parity", "Distance between the twins", *pictures.parity(results))
    return Pictures(overview, _race(folder, results, times), details, parity)


def _race(folder: Path, results: Sequence[Result], times: Sequence[TimeToTarget]) -> Film:
    by_name = {r.name: r.paths.ours for r in results}
    paths = {t.name: (np.arange(1, len(by_name[t.name])), by_name[t.name]) for t in times}
    title = "The race down the banana function"
    return race_film(folder / "race.gif", title, BANANA, paths, line_styles(list(paths)), "steps")


def write_page(
    config: Mapping[str, Any],
    results: Sequence[Result],
    times: Sequence[TimeToTarget],
    target: float,
    drawn: Pictures | None,
) -> str:
    """The page as HTML. Without `drawn`, it has no pictures."""
    title = f"{count(len(results), 'optimizer')} and {'their optax twins' if len(results) > 1 else 'its optax twin'}"
    rows = [row(r) for r in results]
    equal = all(is_equal(r, config["max_ulp"]) for r in rows)
    said = parity_line(rows, config["max_ulp"])
    overview = [html_page.pictures(drawn.overview)] if drawn else []
    race = [html_page.pictures([drawn.race])] if drawn and drawn.race else []
    details = [html_page.pictures(drawn.details)] if drawn and drawn.details else []
    parity = [html_page.pictures([drawn.parity])] if drawn and drawn.parity else []
    files = (
        "Next to this file: the pictures as PNG and SVG, the race as GIF, the curves in curves.csv and the table in "
        "results.json."
    )
    sections = [
        Section("All optimizers against each other", [*overview, results_table(results, times, target)]),
        Section("Race", race),
        Section("Details", details),
        Section(
            "Parity with optax",
            [html_page.folded(said, [parity_table(config, results), *parity], opened=not equal)],
        ),
        Section("Settings", [html_page.definitions(config), f'<p class="quiet">{files}</p>']),
    ]
    opening = [
        f"<p>{escape(summary(config, results))}</p>",
        f"<p><strong>{escape(said)}</strong></p>" if equal else f'<p class="bad">{escape(said)}</p>',
        html_page.conditions(environment()),
    ]
    return html_page.page(title, opening, [s for s in sections if s.parts])


def summary(config: Mapping[str, Any], results: Sequence[Result]) -> str:
    """What was done."""
    rates, seeds, steps = results[0].run.ulp.shape
    return (
        f"Each optimizer of fnnet trained the model {config['model']} on {config['data']}. Its twin in optax trained "
        f"beside it, from the same weights and on the same batches of {count(config['batch_size'], 'example')}: "
        f"{count(steps, 'step')}, {count(rates, 'learning rate')}, {count(seeds, 'seed')}, "
        f"{2 * rates * seeds * len(results):,} networks in total. The best rate of an optimizer is the one with the "
        "highest accuracy on the validation part at the end. The table shows its accuracy on the test part."
    )


def parity_line(rows: Sequence[Row], max_ulp: float) -> str:
    """Whether the twins are equal, in one line."""
    broken = [r for r in rows if not is_equal(r, max_ulp)]
    if broken:
        names = listed([r.optimizer for r in broken])
        return (
            f"Parity is broken: {names} differ{'s' if len(broken) == 1 else ''} from optax by more than "
            f"{max_ulp:g} ulp (units in the last place)."
        )
    equal = sum(r.ulp == 0 for r in rows)
    everywhere = "at every step of every run"
    if equal < len(rows):
        largest = max(r.ulp for r in rows)
        return (
            f"Parity: {equal} of {len(rows)} equal bit for bit; no parameter differs by more than {largest:.3g} ulp "
            f"(units in the last place), {everywhere}."
        )
    if len(rows) == 1:
        return f"Parity: {rows[0].optimizer} equals its optax twin bit for bit, {everywhere}."
    return f"Parity: {equal} of {len(rows)} optimizers equal their optax twins bit for bit, {everywhere}."


def results_table(results: Sequence[Result], times: Sequence[TimeToTarget], target: float) -> str:
    """A row per optimizer, the fewest steps to the target first."""
    by_name = {r.name: r for r in results}
    goal = f"to {100 * target:.2g} % validation error"
    columns = (
        ("optimizer", ""),
        ("test accuracy", "%, median (range)"),
        ("steps", goal),
        ("seconds", goal),
        ("best rate", ""),
        ("one step", "µs"),
    )
    rows = {}
    for time in times:
        result = by_name[time.name]
        r = row(result)
        rows[time.name] = (
            _spread(r.ours),
            f"{time.median_steps:.0f}" if time.median_steps < float("inf") else "-",
            f"{time.median_seconds:.2g}" if time.median_seconds < float("inf") else "-",
            f"{r.best_rate:.2g}{'*' if r.on_edge else ''}",
            f"{1e6 * result.step_seconds:.3g}",
        )
    notes = "Steps and seconds are medians of the seeds; - means that most seeds do not get there."
    if any(row(result).on_edge for result in results):
        notes += " * The lowest or highest rate that was tried: a better one may lie outside."
    return html_page.table(columns, rows) + f'\n<p class="quiet">{notes}</p>'


def parity_table(config: Mapping[str, Any], results: Sequence[Result]) -> str:
    """A row per optimizer: differences, the twin's accuracy, and times beside optax."""
    columns = (
        ("optimizer", ""),
        ("largest difference", "ulp"),
        ("test accuracy, fnnet", "%, median (range)"),
        ("test accuracy, optax", "%, median (range)"),
        ("update time", "fnnet / optax (quartiles)"),
        ("compile time", "s, fnnet / optax"),
    )
    rows = {}
    for result in results:
        r = row(result)
        equal = is_equal(r, config["max_ulp"])
        rows[r.optimizer] = (
            f"{r.ulp:.3g}" if equal else f'<span class="bad">{r.ulp:.3g} !</span>',
            _spread(r.ours),
            _spread(r.baseline),
            f"{r.update_ratio:.2f} <small>({result.update.low:.2f}–{result.update.high:.2f})</small>",
            f"{r.compile_ours:.2f} / {r.compile_baseline:.2f}",
        )
    note = (
        "Largest difference: of any parameter at any rate, seed and step, in units in the last place. An update time "
        "below 1 means that fnnet is faster. Compile time: of one update."
    )
    return html_page.table(columns, rows) + f'\n<p class="quiet">{note}</p>'


def _spread(accuracy: tuple[float, float, float]) -> str:
    median, low, high = (f"{100 * a:.1f}" for a in accuracy)
    return f"{median} <small>({low}–{high})</small>"
