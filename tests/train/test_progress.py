"""The progress of `fit` and `sweep`: which display, what it says, and a time left that does not jump."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fnnet.train.progress import Speed, choose_display, progress_bar, seconds_left, update_speed


def left_after(calls: list[tuple[int, float]], total: int) -> list[float | None]:
    """The time left after each call of some steps and seconds, of which the first one compiles."""
    speed, found = Speed(0, clock=100.0, began=100.0), []
    for i, (steps, seconds) in enumerate(calls):
        speed = update_speed(speed, speed.step + steps, speed.clock + seconds, compiling=i == 0)
        found.append(seconds_left(speed, total))
    return found


def test_the_time_left_leaves_out_the_compilation() -> None:
    found = left_after([(1, 60.0), (8, 0.08), (64, 0.64), (200, 2.0)], total=1000)
    assert found[0] is None
    np.testing.assert_allclose(np.array(found[1:], float), [9.91, 9.27, 7.27])


def test_the_time_left_does_not_jump() -> None:
    # Calls of 0.2 s at 100 steps per second, and after each fifth an evaluation that takes as long as ten of them.
    calls = [(1, 5.0), *((20, 0.2 + 2.0 * (i % 5 == 0)) for i in range(1, 1000))]
    found = np.array(left_after(calls, total=20_000)[100:990], float)
    speed = (0.2 * 5 + 2.0) / 100  # seconds per step
    steps_left = 20_000 - 1 - 20 * np.arange(100, 990)
    np.testing.assert_allclose(found, speed * steps_left, rtol=0.1)
    assert np.all(np.diff(found) < 0.08 * found[1:])
    # A machine that becomes half as fast is noticed.
    found = np.array(left_after([(1, 5.0), *[(20, 0.2)] * 500, *[(20, 0.4)] * 400], total=20_000)[1:], float)
    assert found[-1] == pytest.approx((20_000 - 18_001) * 0.02, rel=0.2)


def test_the_end_is_no_time_away() -> None:
    assert left_after([(1, 5.0)], total=1) == [0.0]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


@pytest.fixture
def no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else found(name))


class Notebook:
    """What IPython has in a notebook: a kernel, and outputs that can be updated."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
        display.HTML = str  # type: ignore[attr-defined]
        display.display = lambda text, display_id: SimpleNamespace(update=self.shown.append)  # type: ignore[attr-defined]
        self.modules = {"IPython": ipython, "IPython.display": display}


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    notebook = Notebook()
    for name, module in notebook.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return notebook


def test_lines_without_a_terminal() -> None:
    assert choose_display(None) == "lines"
    assert choose_display(True) == "bar"
    assert choose_display(False) == "nothing"


@pytest.mark.usefixtures("terminal")
def test_a_bar_in_a_terminal() -> None:
    assert choose_display(None) == "bar"
    assert choose_display(False) == "nothing"


@pytest.mark.usefixtures("terminal", "no_rich")
def test_lines_without_rich() -> None:
    assert choose_display(None) == "lines"
    with pytest.raises(ImportError, match="pip install rich, or pass progress=None for plain lines"):
        choose_display(True)


@pytest.mark.usefixtures("no_rich")
def test_a_bar_in_a_notebook(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_display(False) == "nothing"
    assert choose_display(True) == "notebook"
    with progress_bar(None, total=1000, begin=0) as show:
        for step in range(1, 1001):
            show(step, "a < b", {"loss": 0.5}, report=False)
    assert len(notebook.shown) < 50  # not for each step
    assert notebook.shown[0].startswith('<progress value="1" max="1000"></progress>')
    for part in ("a &lt; b", "1,000/1,000", "0:00 left", "loss 0.5000"):
        assert part in notebook.shown[-1]
    assert capsys.readouterr() == ("", "")


def test_ipython_in_a_terminal_is_not_a_notebook(notebook: Notebook) -> None:
    notebook.modules["IPython"].get_ipython = lambda: SimpleNamespace()  # type: ignore[attr-defined]
    assert choose_display(None) == "lines"


def test_a_line_for_each_report(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(None, total=2000, begin=500, unit="trial") as show:
        show(600, "", {"loss": 1.0}, report=False)
        show(1000, "epoch 1.0", {"loss": 0.25, "examples/s": 12345.6})
        show(2000, "", {"loss": 1e-5})
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first == "trial 1,000/2,000  epoch 1.0  loss 0.2500  examples/s 12,346  0:00 passed, -:-- left"
    assert second == "trial 2,000/2,000  loss 1.0e-05  0:00 passed, 0:00 left"
    assert out == ""


def test_nothing_where_it_is_not_wanted(capsys: pytest.CaptureFixture[Any]) -> None:
    with progress_bar(False, total=10, begin=0) as show:
        show(10, "", {"loss": 1.0})
    assert capsys.readouterr() == ("", "")
