"""Runs the ladder: every optimizer on every problem, then the tables, the pictures and the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console

from experiments.command_line import progress_on
from experiments.comparison.ladder import pictures, report, results, trajectory_pictures
from experiments.comparison.ladder.pictures import on_problem, problems_of, styles_of
from experiments.comparison.ladder.problems import PROBLEMS, Problem, count_params
from experiments.comparison.ladder.search_spaces import TunableOptimizer, tunable_optimizers
from experiments.comparison.ladder.trajectory import Trajectory, record_trajectory
from experiments.comparison.ladder.tuning import Outcome, tune_and_test
from experiments.comparison.surface_pictures import Film, race_film
from experiments.plotting import OTHER, STYLE, Picture, save
from experiments.results_folder import write_json


def too_large(problem: Problem, names: Sequence[str]) -> dict[str, str]:
    """The optimizers that can't be used on a problem of this size, and why."""
    size, known = count_params(problem), tunable_optimizers()
    return {
        name: f"{name} is for at most {known[name].max_params} parameters, but {problem.name} has {size}"
        for name in names
        if size > known[name].max_params
    }


def run(
    console: Console,
    problems: Sequence[str],
    optimizers: Sequence[str],
    *,
    budget: int,
    trials: int,
    seeds: int,
) -> list[Outcome]:
    """All runs, with a progress bar. Optimizers that are not for a problem's size are left out, with a message."""
    known = tunable_optimizers()
    pairs: list[tuple[Problem, str, TunableOptimizer]] = []
    for problem in (PROBLEMS[name]() for name in problems):
        left_out = too_large(problem, optimizers)
        pairs += [(problem, name, known[name]) for name in optimizers if name not in left_out]
        for reason in left_out.values():
            console.print(f"left out: {reason}")
    outcomes = []
    with progress_on(console) as progress:
        bar = progress.add_task("starting", total=3 * len(pairs))
        for problem, name, tunable in pairs:

            def on_stage(stage: str, pair: str = f"{problem.name}, {name}") -> None:
                progress.update(bar, description=f"{pair}: {stage}")
                progress.advance(bar)

            sizes = {"budget": budget, "trials": trials, "seeds": seeds}
            outcomes.append(tune_and_test(problem, name, tunable, **sizes, on_stage=on_stage))
    return outcomes


def show(console: Console, outcomes: Sequence[Outcome], reference: str) -> None:
    """Prints the tables and explains their columns."""
    found = results.rows(outcomes, reference)
    for table in results.terminal_tables(found, outcomes, reference):
        console.print(table)
    console.print(
        "Lower is better. The hyperparameter's value is chosen on the validation part with the tuning seeds. The score "
        "is on the test part at the end of the budget, with other seeds: median and quartiles. "
        f"minus {reference}: the 95 % bootstrap interval of the median difference, seed by seed. diverged: number of "
        "seeds. run: time per run when many run at once. comp.: time to compile, or to read the program from the cache."
    )
    if any(r.on_edge for r in found):
        console.print("* The lowest or highest value that was tried: a better one may lie outside.")


def write(folder: Path, settings: dict[str, Any], outcomes: Sequence[Outcome], console: Console) -> None:
    """Writes results, pictures and the page into a folder that exists."""
    found = results.rows(outcomes, settings["reference"])
    write_json(folder / "results.json", settings, results.as_json(found))
    results.write_csv(folder / "runs.csv", outcomes)
    drawn = draw(folder, outcomes, settings["reference"], settings["budget"], console)
    page = report.page(settings, found, outcomes, drawn)
    (folder / "report.html").write_text(page, encoding="utf-8")


def draw(
    folder: Path, outcomes: Sequence[Outcome], reference: str, budget: int, console: Console
) -> report.Pictures:
    """Draws all pictures and race films into `folder`."""
    styles = styles_of(outcomes, reference)
    names = problems_of(outcomes)
    with matplotlib.rc_context(STYLE):
        overview = [save(folder, "losses", "Loss against evaluations", *pictures.losses(outcomes, styles))]
        if len(names) > 1:
            profiles = pictures.profiles(outcomes, styles, budget)
            overview.append(save(folder, "profiles", "Performance profiles over the problems", *profiles))
        tuned = [o for o in outcomes if len(o.values) > 1]
        tuning = []
        if tuned:
            drawn = pictures.trials(tuned, styles)
            tuning.append(save(folder, "trials", "Best score against the number of trials", *drawn))
        for name in problems_of(tuned):
            drawn = pictures.sensitivity(on_problem(tuned, name))
            tuning.append(
                save(folder, f"sensitivity_{name}", f"{name}: score against hyperparameter", *drawn)
            )
        trajectories, races = _draw_trajectories(folder, outcomes, styles, budget, console)
    return report.Pictures(overview, races, tuning, trajectories)


def _draw_trajectories(
    folder: Path, outcomes: Sequence[Outcome], styles: dict[str, Any], budget: int, console: Console
) -> tuple[list[Picture], list[Film]]:
    """Paths and races on every surface; sizes and directions of updates on the first problem and the first network."""
    names = problems_of(outcomes)
    first_network = next((n for n in names if on_problem(outcomes, n)[0].problem.surface is None), None)
    drawn, races = [], []
    for name in names:
        here = on_problem(outcomes, name)
        surface = here[0].problem.surface
        if surface is None and name != first_network:
            continue
        # Each trajectory is a program of its own. Networks take longer to compile: only the coloured ones run.
        recorded = [o for o in here if surface is not None or styles[o.name] is not OTHER]
        console.print(f"recording {len(recorded)} optimizers on {name}")
        runs: dict[str, Trajectory] = {
            o.name: record_trajectory(o.problem, o.tunable, o.best, budget) for o in recorded
        }
        if surface is not None:
            picture = trajectory_pictures.paths(surface, runs)
            drawn.append(save(folder, f"paths_{name}", f"{name}: paths", *picture))
            times = {optimizer: (run.used, run.path) for optimizer, run in runs.items()}
            title = f"{name}: the race"
            races.append(race_film(folder / f"race_{name}.gif", title, surface, times, styles, "evaluations"))
        if name in (first_network, names[0]):
            picture = trajectory_pictures.updates(runs, styles)
            drawn.append(
                save(folder, f"updates_{name}", f"{name}: size and direction of the updates", *picture)
            )
    return drawn, races
