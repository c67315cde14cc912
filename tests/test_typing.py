"""What a type checker says: README's code passes, and a misspelt argument of a layer does not."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CALLS = """
import jax
import jax.numpy as jnp
import fnnet as fn

net = fn.serial(fn.dense(4), jnp.tanh, fn.dropout(0.5), head=fn.dense(2))
key, x = jax.random.key(0), jnp.ones((3, 2))
params, state = net.init(key, x)
params["dense_0"]
y, state = net.apply(params, state, x, key=key, train=True)
net(params, x)


def init(key, x):
    return {}, {}


def apply(params, state, x, *, key=None, train=False):
    return x, state


fn.serial(fn.Layer(init, apply, "mine"))
tokens: jax.Array = fn.sample(net.apply, params, state, jnp.ones(3, int), 5, key, top_k=3)
fn.optim.TWINS["adam"].ours(learning_rate=1.0)
"""
MISTAKES = [
    "net.apply(params, state, x, training=True)",
    "net.apply(params, state, x, key)",
    "net.apply(params, x)",
    "net.init(x)",
    "net.init(key)",
    "net(params, x, train=True)",
    "net.aply(params, state, x)",
    "fn.densse(4)",
    "fn.optim.adamm(1.0)",
    "fn.dense(4, bias=False)",
    "fn.dense('4')",
    "fn.serial(fn.dense(4), 3)",
    "fn.Layer(init, lambda params, x: x, 'mine')",
    "fn.sample(net.apply, params, state, x, 5, key, topk=3)",
]


def mypy(folder: Path) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-error-summary",
        *("--allow-untyped-defs", "--allow-incomplete-defs"),  # as in users' own code
    ]
    files = sorted(map(str, folder.glob("*.py")))
    return subprocess.run(
        [*command, *files], capture_output=True, text=True, check=False, cwd=ROOT
    ).stdout.splitlines()


def pyright(folder: Path) -> list[str]:
    pytest.importorskip("pyright", reason="pip install pyright; it needs Node.js")
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("check", [mypy, pyright])
def test_types_of_readme_and_of_a_layer(check: Callable[[Path], list[str]], tmp_path: Path) -> None:
    """One run of each checker: most of its time goes into reading jax."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) >= 4
    for i, block in enumerate(blocks):
        (tmp_path / f"readme_{i}.py").write_text(block)
    (tmp_path / "layer.py").write_text("\n".join([CALLS, *MISTAKES, ""]))
    lines = check(tmp_path)
    errors = [match for line in lines if (match := re.search(r"(\w+)\.py:(\d+)\b.* error: ", line))]
    first = CALLS.count("\n") + 2
    wanted = {("layer", str(first + i)) for i in range(len(MISTAKES))}
    assert {match.groups() for match in errors} == wanted, "\n".join(lines)
