"""The explanation of an optimizer: the right equation, code and numbers, for every optimizer there is."""

import sys
from typing import Any

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

import fnnet as fn
from experiments import compare_optimizers
from experiments.comparison import explain
from experiments.comparison.ladder.search_spaces import tunable_optimizers


def shown(name: str) -> str:
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        explain.explain(console, name, tunable_optimizers()[name])
        return console.export_text()


def test_adam(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compare_optimizers", "--explain", "adam"])
    monkeypatch.setenv("COLUMNS", "80")
    compare_optimizers.main()
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "m <- b1 m + (1 - b1) g" in said  # the equation
    assert "bias1, bias2 = 1 - b1**t, 1 - b2**t" in said  # the code
    lines = [" ".join(line.strip("│ ").split()) for line in said.splitlines()]
    # By hand: g = (1, -5), m = g / 10, v = g^2 / 1000, and a step of the learning rate against the sign.
    for line in (
        "gradient g [1 -5]",
        "m [0.1 -0.5]",
        "v [0.001 0.025]",
        "m_hat [1 -5]",
        "theta after [0.999 -0.499]",
    ):
        assert line in lines
    assert "Checked: its twin in optax takes the same step, bit for bit." in lines


def test_numbers_come_in_the_order_of_the_code() -> None:
    said = shown("momentum")
    inside = said[said.index("inside update") : said.index("state after")]
    assert inside.index("alpha") < inside.index("  v ")


@pytest.mark.parametrize("name", ["sgd", "rmsprop_centered", "nelder_mead", "hessian_free"])
def test_others(name: str) -> None:
    if name not in tunable_optimizers():
        pytest.skip("not there")
    said = shown(name)
    assert "def update(" in said
    assert "theta after" in said
    assert "Checked: the compiled optimizer takes the same step" in said


def test_every_optimizer_has_an_equation_and_code() -> None:
    for name, tunable in tunable_optimizers().items():
        assert "<-" in explain.equation(tunable.make), name
        assert explain.update_code(tunable.make).startswith("def update("), name


def test_a_wrong_step_is_found() -> None:
    step = explain.first_step(fn.optim.sgd(0.1), "")
    with pytest.raises(AssertionError, match="differs from its twin in optax"):
        explain.check(step, fn.optim.sgd(0.1), optax.sgd(0.2))


def test_numbers() -> None:
    assert explain.numbers(np.arange(8.0)) == "[0 1 2 3 4 5 ...]"
    assert explain.numbers(np.float32(0.1)) == "0.1"
    assert explain.numbers(jax.random.key(3)) == "[0 3]"
    assert explain.lines_of("", {"a": [np.ones(1)], "b": None}) == [("['a'][0]", "[1]")]


def test_an_unknown_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: tuple[Any, ...] = ("compare_optimizers", "--explain", "adma")
    monkeypatch.setattr(sys, "argv", list(arguments))
    with pytest.raises(SystemExit) as stop:
        compare_optimizers.main()
    assert stop.value.code == 2
    assert "--explain adma is unknown, wanted one of sgd, " in capsys.readouterr().err
