"""The package as a user installs it: what `import fnnet` loads, what it names, what the extras say."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fnnet as fn

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


@pytest.mark.slow
def test_import_loads_nothing_but_the_dependencies() -> None:
    """It costs at most 0.2 s over jax, optax and chex. Extras, and what few calls need, are imported when called."""
    before, after = (
        set(python(f"import sys, {names}; print(*sys.modules)").split())
        for names in ("jax, optax, chex", "jax, optax, chex, fnnet")
    )
    added = after - before
    assert {name.split(".")[0] for name in added} - set(sys.stdlib_module_names) == {"fnnet"}
    assert (
        not {"sklearn", "matplotlib", "rich", "tyro", "orbax", "grain", "safetensors", "tensorboardX"} & after
    )
    assert not {"scipy", "multiprocessing", "http", "asyncio", "sqlite3", "jax.experimental"} & added
    # Of the standard library a few small modules, such as queue.
    assert len([name for name in added if name.split(".")[0] != "fnnet"]) <= 8
    assert not {"fnnet.data", "fnnet.metrics", "fnnet.optim", "fnnet.train"} & added


@pytest.mark.slow
def test_parts_are_imported_when_they_are_used() -> None:
    code = "import sys, fnnet as fn; fn.optim.adam; print(*(n in sys.modules for n in ('fnnet.optim', 'fnnet.train')))"
    assert python(code).split() == ["True", "False"]
    assert {"data", "dense", "metrics", "optim", "train"} <= set(dir(fn))
    with pytest.raises(AttributeError, match="module 'fnnet' has no attribute 'optimizers'"):
        fn.optimizers  # noqa: B018


@pytest.mark.slow
def test_import_starts_no_backend() -> None:
    """Which device there is, is asked at the first computation, so that it can still be configured."""
    code = "import fnnet; from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    assert python(code).strip() == "False"


def test_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert fn.__version__ == project["version"]


def test_types_are_marked() -> None:
    assert (Path(fn.__file__).parent / "py.typed").is_file()


def test_what_needs_an_extra_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install scikit-learn$"):
        fn.data.digits()


@pytest.mark.slow
def test_an_experiment_without_its_extra_says_which() -> None:
    code = "import sys; sys.modules['tyro'] = None; import experiments.compare_optimizers"
    failed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert failed.returncode != 0
    assert "pip install -e '.[experiments]'" in failed.stderr
