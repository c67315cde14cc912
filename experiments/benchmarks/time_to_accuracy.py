"""Seconds until a network is good enough, compile time included: `python -m experiments.benchmarks.time_to_accuracy`.

All sides train the same network on the same examples with the same batch size, optimizer and learning rate. They
evaluate it on the same validation part after the same steps, until its accuracy first reaches the target. Weights have
PyTorch's distribution, U[-fan_in^-0.5, fan_in^-0.5], except in scikit-learn, which has its own. Each measurement has
its own process. When the clock starts, imports are done, the data is on the device, JAX has its backend, and nothing is
compiled. Caches on disk are off.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fnnet as fn
from experiments.command_line import check_known, check_writable, fail, parse
from experiments.results_folder import environment

COMMAND = "experiments.benchmarks.time_to_accuracy"
EVAL_BATCH = 1000


class Task(NamedTuple):
    """A network, its data, and the accuracy it must reach."""

    data: str  # of fn.data
    channels: tuple[int, ...]  # of 3x3 convolutions, each followed by relu and max_pool 2
    hidden: tuple[int, ...]  # features of dense layers with relu, before the one for the 10 classes
    batch_size: int
    learning_rate: float  # of Adam
    eval_every: int  # steps
    steps: int  # before a side gives up
    target: float  # validation accuracy


# A few rates and batch sizes were tried with PyTorch, for digits also with scikit-learn; these reached the target.
TASKS = {
    "digits": Task("digits", (), (64,), 64, 2e-2, eval_every=16, steps=960, target=0.97),
    "fashion_mnist": Task("fashion_mnist", (16, 32), (), 128, 4e-3, eval_every=195, steps=2340, target=0.9),
}

Data = dict[str, dict[str, np.ndarray]]  # "train" and "valid", each with x, standardized, and y
Run = Callable[[int], int | None]  # seed -> steps until the target, or None if it was not reached


@dataclasses.dataclass(frozen=True)
class Config:
    """Seconds to a validation accuracy, compile time included: fnnet and other libraries."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """The tasks, by name."""
    sides: tuple[str, ...] = ("fit", "run", "loop", "torch", "flax", "sklearn")
    """The sides. The first three are fnnet's; torch_compile is another. One that is not installed is left out."""
    seeds: int = 5
    """Trainings per side, each with other weights and another order of the examples."""
    target: float | None = None
    """Validation accuracy to reach; by default the task's."""
    channels: tuple[int, ...] | None = None
    """Features of the convolutions, such as more for a higher target; by default the task's."""
    hidden: tuple[int, ...] | None = None
    """Features of the hidden dense layers; by default the task's."""
    learning_rate: float | None = None
    """Learning rate of Adam; by default the task's."""
    steps: int | None = None
    """Steps before a side gives up; by default the task's."""
    json: Path | None = None
    """Also write the numbers to this file."""


def load(task: Task) -> Data:
    """The training and validation parts, with pixels of mean 0 and variance 1; flat if the network is an MLP."""
    data = getattr(fn.data, task.data)()
    train = np.asarray(data.train["x"], np.float64)
    mean, std = train.mean(), train.std()

    def ready(part: Any) -> dict[str, np.ndarray]:
        x = ((np.asarray(part["x"]) - mean) / std).astype(np.float32)
        return {"x": x if task.channels else x.reshape(len(x), -1), "y": np.array(part["y"])}

    return {"train": ready(data.train), "valid": ready(data.valid)}


def batches(task: Task, examples: int, seed: int) -> Iterator[np.ndarray]:
    """The indices of the examples of each step's batch; each epoch is a permutation."""
    rng = np.random.default_rng(seed)
    while True:
        whole = examples // task.batch_size * task.batch_size
        yield from rng.permutation(examples)[:whole].astype(np.int32).reshape(-1, task.batch_size)


def network(task: Task) -> fn.Layer:
    w_init = fn.initializers.kaiming_uniform("leaky_relu", negative_slope=5**0.5)
    conv, dense = functools.partial(fn.conv, w_init=w_init), functools.partial(fn.dense, w_init=w_init)
    convolutions = [layer for n in task.channels for layer in (conv(n, 3), fn.relu, fn.max_pool(2))]
    hidden = [layer for n in task.hidden for layer in (dense(n), fn.relu)]
    return fn.serial(*convolutions, fn.flatten, *hidden, dense(10))


def fit(task: Task, data: Data) -> Run:
    """fnnet's `fit`."""
    data = jax.tree.map(jnp.asarray, data)

    def run(seed: int) -> int | None:
        fitted = fn.train.fit(
            network(task),
            fn.losses.softmax_cross_entropy,
            fn.optim.adam(task.learning_rate),
            data["train"],
            valid=data["valid"],
            steps=task.steps,
            batch_size=task.batch_size,
            eval_every=task.eval_every,
            eval_batch_size=EVAL_BATCH,
            metrics={"accuracy": fn.metrics.accuracy},
            callbacks=[lambda moment: moment.row["valid_accuracy"] >= task.target],
            key=seed,
            progress=False,
        )
        return first_at(task, fitted.history)

    return run


def run(task: Task, data: Data) -> Run:
    """fnnet's `make_run`: one program, which always runs all steps, and all of them count."""
    data = jax.tree.map(jnp.asarray, data)

    def run(seed: int) -> int | None:
        whole = fn.train.make_run(
            network(task),
            fn.losses.softmax_cross_entropy,
            fn.optim.adam,
            steps=task.steps,
            batch_size=task.batch_size,
            metrics={"accuracy": fn.metrics.accuracy},
            eval_every=task.eval_every,
            eval_batch_size=EVAL_BATCH,
        )
        done = jax.jit(whole)(jax.random.key(seed), data, {"learning_rate": task.learning_rate})
        return first_at(task, jax.device_get(done.history))

    return run


def first_at(task: Task, history: Any) -> int | None:
    """The steps before the first evaluation that reaches the target."""
    good = history["eval_step"][history["valid_accuracy"] >= task.target]
    return int(good[0]) if good.size else None


def loop(task: Task, data: Data) -> Run:
    """fnnet's `make_step` in a hand-written training loop."""
    net, optimizer = network(task), fn.optim.adam(task.learning_rate)
    step = fn.train.make_step(net, fn.losses.softmax_cross_entropy, optimizer)
    key = jax.random.key(0)  # for dropout, which the network does not have

    def begin(key: jax.Array, x: jax.Array) -> Any:
        return fn.train.start(net, optimizer, key, x)

    def accuracy(now: Any, valid: Any) -> jax.Array:
        measures = {"accuracy": fn.metrics.accuracy}
        return fn.train.evaluate(net, measures, now.params, now.state, valid, EVAL_BATCH)["accuracy"]

    return _own_loop(task, data, begin, lambda now, batch: step(now, batch, key)[0], accuracy)


def flax(task: Task, data: Data) -> Run:
    """Flax's linen with optax, in the same loop."""
    import optax
    from flax import linen
    from flax.training.train_state import TrainState

    init = linen.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            for n in task.channels:
                x = linen.max_pool(linen.relu(linen.Conv(n, (3, 3), kernel_init=init)(x)), (2, 2), (2, 2))
            x = x.reshape(len(x), -1)
            for n in task.hidden:
                x = linen.relu(linen.Dense(n, kernel_init=init)(x))
            return linen.Dense(10, kernel_init=init)(x)

    net, optimizer = Net(), optax.adam(task.learning_rate)

    def begin(key: jax.Array, x: jax.Array) -> Any:
        params = net.init(key, jnp.zeros(x.shape, x.dtype))["params"]
        return TrainState.create(apply_fn=net.apply, params=params, tx=optimizer)

    def step(now: Any, batch: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = net.apply({"params": params}, batch["x"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

        return now.apply_gradients(grads=jax.grad(loss)(now.params))

    def accuracy(now: Any, valid: Any) -> jax.Array:
        size = _divisor(len(valid["y"]))
        parts = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), valid)

        def right(part: Any) -> jax.Array:
            logits: Any = net.apply({"params": now.params}, part["x"])
            return jnp.mean(jnp.argmax(logits, -1) == part["y"])

        return jnp.mean(jax.lax.map(right, parts))

    return _own_loop(task, data, begin, step, accuracy)


def _divisor(n: int) -> int:
    """The largest evaluation batch that divides n."""
    return next(size for size in range(min(EVAL_BATCH, n), 0, -1) if n % size == 0)


def _own_loop(
    task: Task,
    data: Data,
    begin: Callable[..., Any],
    step: Callable[[Any, Any], Any],
    accuracy: Callable[[Any, Any], jax.Array],
) -> Run:
    """The loop of JAX's tutorials: three programs. Inside a scan, Flax's convolutions are far slower on a CPU."""
    given = jax.tree.map(jnp.asarray, data)

    def run(seed: int) -> int | None:
        def one(now: Any, chosen: jax.Array, train: Any) -> Any:
            return step(now, jax.tree.map(lambda a: a[chosen], train))

        advance, score = jax.jit(one, donate_argnums=0), jax.jit(accuracy)
        x = jax.ShapeDtypeStruct((task.batch_size, *given["train"]["x"].shape[1:]), jnp.float32)
        now = jax.jit(functools.partial(begin, x=x))(jax.random.key(seed))
        drawn = batches(task, len(data["train"]["y"]), seed)
        for at in range(1, task.steps + 1):
            now = advance(now, next(drawn), given["train"])
            if at % task.eval_every == 0 and float(score(now, given["valid"])) >= task.target:
                return at
        return None

    return run


def torch(task: Task, data: Data, *, compiled: bool = False) -> Run:
    """PyTorch, in the loop of its tutorials, on a GPU if it has one."""
    import torch
    import torch._dynamo  # otherwise the first optimizer imports it, which takes 1 s
    from torch import nn
    from torch.nn import functional as F

    torch.compiler.config.force_disable_caches = True
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def ready(part: dict[str, np.ndarray]) -> tuple[Any, Any]:
        x, y = torch.from_numpy(part["x"]), torch.from_numpy(part["y"]).long()
        return (x.permute(0, 3, 1, 2) if task.channels else x).to(device), y.to(
            device
        )  # channels_last as it is

    (x, y), valid = ready(data["train"]), ready(data["valid"])
    torch.zeros(1, device=device).sum().item()  # starts the device

    def run(seed: int) -> int | None:
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        n = x.shape[1]
        for m in task.channels:
            layers += [nn.Conv2d(n, m, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
            n = m
        n *= (x.shape[2] // 2 ** len(task.channels)) ** 2 if task.channels else 1
        layers.append(nn.Flatten())
        for m in task.hidden:
            layers += [nn.Linear(n, m), nn.ReLU()]
            n = m
        net = nn.Sequential(*layers, nn.Linear(n, 10)).to(device)
        # A step of the CNN takes 10 ms in this layout, and 15 ms in PyTorch's default layout.
        if task.channels:
            net = net.to(memory_format=torch.channels_last)
        call = torch.compile(net) if compiled else net
        optimizer = torch.optim.Adam(net.parameters(), lr=task.learning_rate, fused=True)
        drawn = batches(task, len(y), seed)
        for at in range(1, task.steps + 1):
            chosen = torch.from_numpy(next(drawn)).to(device)
            optimizer.zero_grad()
            F.cross_entropy(call(x[chosen]), y[chosen]).backward()
            optimizer.step()
            if at % task.eval_every == 0:
                with torch.no_grad():
                    pairs = zip(*(a.split(EVAL_BATCH) for a in valid), strict=True)
                    right = sum((call(x).argmax(1) == y).sum() for x, y in pairs)
                if float(right) / len(valid[1]) >= task.target:
                    return at
        return None

    return run


def sklearn(task: Task, data: Data) -> Run:
    """scikit-learn's MLPClassifier, one epoch at a time. The last batch of an epoch is smaller."""
    from sklearn.neural_network import MLPClassifier

    def run(seed: int) -> int | None:
        net = MLPClassifier(
            task.hidden,
            alpha=0,
            batch_size=task.batch_size,
            learning_rate_init=task.learning_rate,
            random_state=seed,
        )
        epoch = -(-len(data["train"]["y"]) // task.batch_size)
        for at in range(epoch, task.steps + 1, epoch):
            net.partial_fit(data["train"]["x"], data["train"]["y"], classes=np.arange(10))
            if net.score(data["valid"]["x"], data["valid"]["y"]) >= task.target:
                return at
        return None

    return run


SIDES: dict[str, Callable[[Task, Data], Run]] = {
    "fit": fit,
    "run": run,
    "loop": loop,
    "torch": torch,
    "torch_compile": functools.partial(torch, compiled=True),
    "flax": flax,
    "sklearn": sklearn,
}
PACKAGES = {"torch": "torch", "torch_compile": "torch", "flax": "flax", "sklearn": "scikit-learn"}
SHOWN = {"fit": "fnnet fit", "run": "fnnet run", "loop": "fnnet loop", "torch_compile": "torch.compile"}


def measured(task: Task, side: str, seed: int) -> dict[str, Any]:
    """One training: its seconds and steps. Call it in a new process."""
    jax.config.update("jax_enable_compilation_cache", False)
    where = environment()  # starts JAX's backend, too
    train = SIDES[side](task, load(task))
    start = time.perf_counter()
    steps = train(seed)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "steps": steps, "where": where}


def row(task: str, side: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line of the table. It has the median and the range of the seeds only if all of them reached the target."""
    seconds, steps = [one["seconds"] for one in found], [one["steps"] for one in found]
    reached = sum(n is not None for n in steps)
    line = {
        "task": task,
        "side": side,
        "reached": reached,
        "seeds": len(found),
        "seconds": seconds,
        "steps": steps,
    }
    if reached == len(found):
        line |= {"median": float(np.median(seconds)), "low": min(seconds), "high": max(seconds)}
    return line


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    shown = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("task", no_wrap=True)
    shown.add_column("side", no_wrap=True)
    for column in ("seconds", "range", "steps", "reached"):
        shown.add_column(column, justify="right", no_wrap=True)
    for i, line in enumerate(rows):
        name = line["task"] if i == 0 or rows[i - 1]["task"] != line["task"] else ""
        seconds = (
            [f"{line['median']:.2f}", f"{line['low']:.2f}-{line['high']:.2f}"]
            if "median" in line
            else ["-", "-"]
        )
        steps = [n for n in line["steps"] if n is not None]
        steps_shown = f"{np.median(steps):.0f}" if steps else "-"
        shown.add_row(
            name,
            SHOWN.get(line["side"], line["side"]),
            *seconds,
            steps_shown,
            f"{line['reached']}/{line['seeds']}",
        )
    return shown


def tasks_of(config: Config) -> dict[str, Task]:
    """The tasks, with the options that replace their own values. Ends the program for a bad option."""
    for option, given, known in (("tasks", config.tasks, TASKS), ("sides", config.sides, SIDES)):
        check_known(COMMAND, option, given, known)
    if config.seeds < 1:
        fail(COMMAND, f"--seeds {config.seeds} is too small, wanted at least 1")
    if config.target is not None and not 0 < config.target <= 1:
        fail(COMMAND, f"--target {config.target} is not an accuracy, wanted one in (0, 1]")
    names = ("target", "channels", "hidden", "learning_rate", "steps")
    changed = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return {name: TASKS[name]._replace(**changed) for name in config.tasks}


def main() -> None:
    config = parse(Config, f"python -m {COMMAND}")
    tasks = tasks_of(config)
    check_writable(COMMAND, "json", config.json)
    modules = {
        side: PACKAGES[side].replace("scikit-learn", "sklearn") for side in config.sides if side in PACKAGES
    }
    sides = [side for side in config.sides if side not in modules or importlib.util.find_spec(modules[side])]
    # scikit-learn has no convolutions.
    wanted = [(t, s) for t in tasks for s in sides if not (s == "sklearn" and tasks[t].channels)]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {pair: [] for pair in wanted}

    console = Console()
    trainings = [
        (*pair, seed) for seed in range(config.seeds) for pair in wanted
    ]  # in turn, as a machine's speed drifts
    fresh = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with fresh:
        for task, side, seed in track(trainings, "measuring", console=console):
            found[task, side].append(fresh.submit(measured, tasks[task], side, seed).result())

    rows = [row(*pair, found[pair]) for pair in wanted]
    if not rows:
        fail(
            COMMAND,
            "nothing is left to measure: wanted a side that is installed and can train the task's network",
        )
    where = found[wanted[0]][0]["where"]
    installed = {PACKAGES[side] for side in sides if side in PACKAGES}
    where["versions"] |= {name: importlib.metadata.version(name) for name in sorted(installed)}
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    console.print(table(rows, f"{where['device']}, {config.seeds} seeds\n{versions}"))
    if config.json is not None:
        about = {name: task._asdict() for name, task in tasks.items()}
        config.json.write_text(json.dumps({"tasks": about, **where, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
