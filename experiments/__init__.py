"""Scripts for people to run: `python -m experiments.compare_optimizers --help`."""

from importlib.util import find_spec

if missing := [name for name in ("matplotlib", "rich", "sklearn", "tyro") if find_spec(name) is None]:
    raise ImportError(f"the experiments need {', '.join(missing)}: pip install -e '.[experiments]'")
