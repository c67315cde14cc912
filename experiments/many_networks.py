"""Trains 32 networks with 32 learning rates in one compiled program, and draws their errors."""

import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

import fnnet as fn
from experiments.command_line import check_writable, fail, parse
from experiments.compilation_cache import use_compilation_cache
from fnnet.atomic import write_atomically

COMMAND = "many_networks"


@dataclass(frozen=True)
class Config:
    """Trains many networks at once on the digits, each with its own learning rate, and draws their errors."""

    networks: int = 32
    """How many networks to train, their learning rates spaced evenly on a log axis."""
    steps: int = 500
    """Updates of each network."""
    seed: int = 1
    """Of the weights and the order of the examples, the same for all networks."""
    out: Path = Path("runs/many_networks.png")
    """Where the picture goes."""


def train(config: Config) -> tuple[np.ndarray, fn.train.Run, float]:
    """The learning rates, the runs, and the seconds that they took once compiled."""
    data = fn.data.standardize(fn.data.digits())
    mlp = fn.serial(fn.flatten, fn.dense(64), fn.relu, fn.dense(10))
    run = fn.train.make_run(
        mlp,
        fn.losses.softmax_cross_entropy,
        fn.optim.adam,
        steps=config.steps,
        batch_size=64,
        metrics={"accuracy": fn.metrics.accuracy},
        eval_every=max(1, config.steps // 50),
    )
    rates = np.geomspace(1e-4, 1e-1, config.networks)
    many = jax.jit(jax.vmap(run, in_axes=(None, None, 0)))
    arguments = (jax.random.key(config.seed), data, {"learning_rate": jnp.asarray(rates)})
    compiled = many.lower(*arguments).compile()
    start = time.perf_counter()
    runs = jax.block_until_ready(compiled(*arguments))
    return rates, runs, time.perf_counter() - start


def draw(rates: np.ndarray, runs: fn.train.Run) -> Figure:
    """The validation error of every network against its steps, coloured by the learning rate."""
    error = 1 - np.asarray(runs.history["valid_accuracy"])
    steps = np.asarray(runs.history["eval_step"])[0]
    floor = max(error[error > 0].min(initial=1.0), 1e-4) / 2  # a network without an error is drawn here
    best = int(np.argmin(error[:, -1]))
    with matplotlib.rc_context({"font.size": 13}):
        figure = Figure(figsize=(8, 4.6), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        norm = LogNorm(rates[0], rates[-1])
        colours = matplotlib.colormaps["viridis"]
        for rate, curve in zip(rates, error, strict=True):
            axes.plot(steps, np.maximum(curve, floor), color=colours(norm(rate)), linewidth=1.6)
        axes.plot(steps, np.maximum(error[best], floor), color="black", linewidth=2.6, linestyle="--")
        axes.annotate(
            f"best: learning rate {rates[best]:.3g}",
            (steps[-1], max(error[best, -1], floor)),
            xytext=(-10, -10),
            textcoords="offset points",
            ha="right",
            va="top",
        )
        axes.set(
            yscale="log",
            xlabel="training steps",
            ylabel="validation error",
            title=f"{len(rates)} networks, trained at once by one vmap",
        )
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(max(error.min(), floor) / 1.6, 1)
        axes.grid(which="major", alpha=0.3)
        figure.colorbar(ScalarMappable(norm, colours), ax=axes, label="learning rate")
    return figure


def main() -> None:
    """Trains, prints one line for the best network, and writes the picture."""
    use_compilation_cache()
    config = parse(Config, COMMAND)
    for name in ("networks", "steps"):
        if getattr(config, name) < 1:
            fail(COMMAND, f"--{name} must be at least 1")
    check_writable(COMMAND, "out", config.out)
    rates, runs, seconds = train(config)
    best = int(np.argmax(np.asarray(runs.history["valid_accuracy"])[:, -1]))
    test = float(np.asarray(runs.history["test_accuracy"])[best, -1])
    print(f"{len(rates)} networks, {config.steps} steps each, in {seconds:.2f} s once compiled")
    print(f"best on the validation part: learning rate {rates[best]:.4f}, test accuracy {test:.1%}")
    write_atomically(config.out, lambda path: draw(rates, runs).savefig(path, dpi=150, format="png"))
    print(f"picture: {config.out}")


if __name__ == "__main__":
    main()
