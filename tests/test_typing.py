"""What a type checker says: README's code passes, and a misspelt argument of a layer does not."""

import re
import subprocess
import sys
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
    "fn.dense(4, bias=False)",
    "fn.dense('4')",
    "fn.serial(fn.dense(4), 3)",
    "fn.Layer(init, lambda params, x: x, 'mine')",
    "fn.sample(net.apply, params, state, x, 5, key, topk=3)",
]


@pytest.mark.slow
def test_types_of_readme_and_of_a_layer(tmp_path: Path) -> None:
    """One run of mypy, for most of its time goes into reading jax."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) >= 4
    for i, block in enumerate(blocks):
        (tmp_path / f"readme_{i}.py").write_text(block)
    mistakes = "\n".join(MISTAKES)
    (tmp_path / "layer.py").write_text(f"{CALLS}\n{mistakes}\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-error-summary",
    ]
    done = subprocess.run(
        [*command, *sorted(map(str, tmp_path.glob("*.py")))],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    first = CALLS.count("\n") + 2
    found = re.findall(r"^(.*?):(\d+): error: (.*)$", done.stdout, re.M)
    in_readme = [error for error in found if "readme" in error[0]]
    assert not in_readme, done.stdout
    lines = {int(line) for path, line, _ in found if path.endswith("layer.py")}
    assert lines == set(range(first, first + len(MISTAKES))), done.stdout + done.stderr
