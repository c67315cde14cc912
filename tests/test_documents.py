"""The Python code of README and docs runs as it is written, and what they link to exists."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import fnnet as fn

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{i}", marks=[] if page.name == "README.md" else pytest.mark.slow)
    for page in PAGES
    for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_code_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    with jax.numpy_rank_promotion("allow"):  # as in users' own code
        exec(compile(block, "<documentation>", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:fnnet|tests|experiments|docs)/[\w./]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def arguments(f: Callable[..., Any]) -> Iterator[str]:
    """As a call has them, with their defaults: `features`, `*layers`, `strides=1`."""
    for p in inspect.signature(f).parameters.values():
        name = str(p.replace(annotation=p.empty, default=p.empty))
        default = getattr(p.default, "__name__", repr(p.default))
        yield name if p.default is p.empty else f"{name}={default}"


def test_every_layer_is_in_the_tables_as_it_is_called() -> None:
    modules = ("fnnet.layer", "fnnet.combinators", "fnnet.wrappers", "fnnet.summary")
    public = {name for name in fn.__all__ if getattr(getattr(fn, name), "__module__", "").startswith(modules)}
    calls = re.findall(r"^\| \*\*`([^`]+)`", (ROOT / "docs" / "layers.md").read_text(), re.M)
    assert {call.split("(")[0] for call in calls} == public
    for call in calls:
        node = ast.parse(call, mode="eval").body
        if isinstance(node, ast.Call):  # the others are plain functions, written without parentheses
            shown = [ast.unparse(argument) for argument in (*node.args, *node.keywords)]
            known = arguments(getattr(fn, call.split("(")[0]))
            assert shown == [a for a in known if a in shown or "=" not in a], call
