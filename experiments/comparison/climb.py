"""The ladder as a job: every optimizer on every problem, the table, the report."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console

from experiments.command_line import progress_on
from experiments.comparison import ladder_pictures, ladder_results, watch_pictures
from experiments.comparison.ladder_pictures import OTHER, looks_of, of, problems_of
from experiments.comparison.methods import Method, methods
from experiments.comparison.panels import STYLE
from experiments.comparison.pictures import Picture, save
from experiments.comparison.problems import PROBLEMS, Problem, count_params
from experiments.comparison.protocol import Outcome, tune_and_report
from experiments.comparison.watch import Watched, watch


def too_large(problem: Problem, names: Sequence[str]) -> dict[str, str]:
    """The optimizers that are not for a problem of this size, and why."""
    size, known = count_params(problem), methods()
    return {
        name: f"{name} is for {known[name].most} parameters at most, and {problem.name} has {size}"
        for name in names
        if size > known[name].most
    }


def climb(
    console: Console,
    problems: Sequence[str],
    optimizers: Sequence[str],
    *,
    budget: int,
    trials: int,
    seeds: int,
) -> list[Outcome]:
    """Everything that is found out, with a progress bar; what is too large for an optimizer is left out and said."""
    made = [PROBLEMS[name]() for name in problems]
    known = methods()
    pairs: list[tuple[Problem, str, Method]] = []
    for problem in made:
        left_out = too_large(problem, optimizers)
        pairs += [(problem, name, known[name]) for name in optimizers if name not in left_out]
        for reason in left_out.values():
            console.print(f"left out: {reason}")
    outcomes = []
    with progress_on(console) as progress:
        bar = progress.add_task("starting", total=3 * len(pairs))
        for problem, name, method in pairs:

            def stage(doing: str, of: str = f"{problem.name}, {name}") -> None:
                progress.update(bar, description=f"{of}: {doing}")
                progress.advance(bar)

            outcomes.append(
                tune_and_report(problem, name, method, budget=budget, trials=trials, seeds=seeds, stage=stage)
            )
    return outcomes


def draw(
    folder: Path, outcomes: Sequence[Outcome], reference: str, budget: int, console: Console
) -> list[Picture]:
    """All pictures and films, into `folder`."""
    looks, drawn = looks_of(outcomes, reference), []
    names = problems_of(outcomes)
    with matplotlib.rc_context(STYLE):
        drawn.append(
            save(folder, "losses", "Loss against evaluations", *ladder_pictures.losses(outcomes, looks))
        )
        if len(names) > 1:
            found = ladder_pictures.profiles(outcomes, looks, budget)
            drawn.append(save(folder, "profiles", "Performance profiles over the problems", *found))
        tuned = [o for o in outcomes if len(o.values) > 1]
        if tuned:
            found = ladder_pictures.trials(tuned, looks)
            drawn.append(save(folder, "trials", "Best of k against the number of trials", *found))
        for name in problems_of(tuned):
            found = ladder_pictures.sensitivity(of(tuned, name))
            drawn.append(save(folder, f"sensitivity_{name}", f"{name}: score against learning rate", *found))
        first_network = next((n for n in names if of(outcomes, n)[0].problem.surface is None), None)
        for name in names:
            here = of(outcomes, name)
            surface = here[0].problem.surface
            if surface is None and name != first_network:
                continue
            # Each is a program of its own: networks, which take longer to compile, for the coloured ones only.
            wanted = [o for o in here if surface is not None or looks[o.name] is not OTHER]
            console.print(f"watching {len(wanted)} optimizers on {name}")
            watched: dict[str, Watched] = {o.name: watch(o.problem, o.method, o.best, budget) for o in wanted}
            if surface is not None:
                found = watch_pictures.ways(surface, watched)
                drawn.append(save(folder, f"ways_{name}", f"{name}: ways down", *found))
                watch_pictures.film(folder / f"ways_{name}.gif", surface, watched, looks, budget)
            if name in (first_network, names[0]):
                found = watch_pictures.anatomy(watched, looks)
                drawn.append(save(folder, f"anatomy_{name}", f"{name}: what the steps are like", *found))
    return drawn


def write(folder: Path, settings: dict[str, Any], outcomes: Sequence[Outcome], console: Console) -> None:
    """Results, pictures and page into a folder that is there."""
    found = ladder_results.rows(outcomes, settings["reference"])
    ladder_results.write_json(folder / "results.json", settings, found)
    ladder_results.write_csv(folder / "runs.csv", outcomes)
    drawn = draw(folder, outcomes, settings["reference"], settings["budget"], console)
    ladder_results.write_page(folder / "report.html", settings, found, outcomes, drawn)


def show(console: Console, outcomes: Sequence[Outcome], reference: str, began: float) -> None:
    """The tables, and what they mean."""
    found = ladder_results.rows(outcomes, reference)
    for table in ladder_results.tables(found, outcomes, reference):
        console.print(table)
    console.print(
        "Lower is better. Scores on the test part at the end of the budget, with the value chosen on the validation "
        f"part by other seeds: median and quartiles; less {reference}: the 95 % bootstrap interval of the median "
        "difference seed by seed. lost: seeds that diverged. run: of one run, when many run at once."
    )
    if any(r.on_edge for r in found):
        console.print("* the lowest or highest value that was tried: a better one may lie beyond.")
    console.print(f"{time.perf_counter() - began:.0f} s so far; drawing")
