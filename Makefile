# make run       sets up .venv if it is missing, then runs the main job: every optimizer beside its optax twin
# make test      sets up .venv if it is missing, then runs the tests that are not marked slow
# make test-all  the slow ones too, as CI runs them
# make lint      ruff and mypy, as CI runs them

PYTHON ?= python3
VENV ?= .venv
READY = $(VENV)/.ready
WORKERS ?= auto
PYTEST = $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup
# Where it is set, every process of pytest would rewrite the asserts of 200 files anew: six seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-all lint clean

run: $(READY)
	$(VENV)/bin/python -m experiments.compare_optimizers $(ARGS)

test: $(READY)
	$(PYTEST) -m "not slow" $(ARGS)

# What depends on the optimizations of LLVM and XLA, which conftest.py leaves out to save time, runs with all of them.
test-all: $(READY)
	$(PYTEST) $(if $(ARGS),$(ARGS),-m "not optimized")
ifeq ($(ARGS),)
	XLA_FLAGS=--xla_backend_optimization_level=3 $(PYTEST) -m optimized tests/test_jaxlib.py tests/optim
endif

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Made again when the dependencies change; half an installation leaves no mark.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"fnnet wants Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[experiments,dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
