"""Runs optax's own tests, from the installed wheel, with fnnet's functions in place of optax's.

    python tests/optax_suite.py             all of them, a few minutes
    python tests/optax_suite.py adam clip   those whose name contains one of the words

Every name that `fnnet.optim` shares with optax, optax.contrib or optax.schedules is replaced wherever optax refers to
it. A test counts if it calls one of ours. The exit status is 0 if all of them pass except those in CANNOT_PASS, which
lists a reason for each, and if those do fail.
"""

import collections
import functools
import importlib
import inspect
import sys
import unittest
from collections.abc import Callable
from typing import Any

import optax
import optax.contrib
import optax.schedules

import fnnet as fn

MODULES = (
    "optax._src.alias_test",
    "optax._src.float64_test",
    "optax._src.linesearch_test",
    "optax._src.lookahead_test",
    "optax._src.sharding_test",
    "optax.contrib._common_test",
    "optax.contrib._muon_test",
    "optax.contrib._reduce_on_plateau_test",
    "optax.contrib._sam_test",
    "optax.contrib._schedule_free_test",
    "optax.schedules._inject_test",
    "optax.schedules._join_test",
    "optax.schedules._schedule_test",
    "optax.transforms._adding_test",
    "optax.transforms._clipping_test",
    "optax.transforms._masking_test",
)

# Part of a test's name, and why it cannot pass.
CANNOT_PASS = {
    "AliasTest.test_explicit_dtype": "looks for mu and trace in the state; here it has the symbols of the papers",
    "linesearch=GradientTransformation": "lbfgs takes a line search that is a function, not a transformation",
    "problem_name='himmelblau', scale_init_precond": "lbfgs leaves out pairs with s.y <= 0; the rule there does not",
    "test_dim_nums_combinations": "reads the state of optax's partition inside its muon",
    "SAMTest": "sam takes its second gradient in the same call, without opaque_mode",
    "AddingTest.test_none_argument": "passes a number as the state",
    "test_masked_state_structure": "looks for trace in the state of sgd",
}

called: set[str] = set()


def recorded(name: str, ours: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(ours)
    def call(*args: Any, **keywords: Any) -> Any:
        called.add(name)
        return ours(*args, **keywords)

    return call


def replace() -> list[str]:
    """Puts ours into every module of optax that has the original. Returns their names."""
    originals = {}
    for name in fn.optim.__all__:
        ours = getattr(fn.optim, name)
        for owner in (optax, optax.contrib, optax.schedules):
            if inspect.isfunction(ours) and hasattr(owner, name):
                originals[id(getattr(owner, name))] = (name, recorded(name, ours))
    for module in [m for key, m in sys.modules.items() if key.split(".")[0] == "optax" and m is not None]:
        for attribute, value in list(vars(module).items()):
            if id(value) in originals:
                setattr(module, attribute, originals[id(value)][1])
    return sorted({name for name, _ in originals.values()})


def tests_of(suite: Any) -> list[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        return [suite]
    return [test for child in suite for test in tests_of(child)]


def main(words: list[str]) -> int:
    # Imported before the names are replaced: a test module can refer to optax's functions by name, too.
    modules = []
    for name in MODULES:
        try:
            modules.append(importlib.import_module(name))
        except ImportError as missing:
            print(f"left out: {name}, {missing}")
    names = replace()
    print(f"optax {optax.__version__}, with fnnet's {', '.join(names)}")

    loader, counts, wrong = unittest.TestLoader(), collections.Counter(), []
    for test in [t for module in modules for t in tests_of(loader.loadTestsFromModule(module))]:
        # The arguments of a parameterized test are in its description.
        arguments = getattr(test, "_test_params_reprs", {}).get(test.id().split(".")[-1], "")
        label = f"{test.id()} {arguments}"
        if words and not any(word in label for word in words):
            continue
        called.clear()
        result = unittest.TestResult()
        test.run(result)
        if not called:
            continue
        failed = bool(result.failures or result.errors)
        reason = next((why for part, why in CANNOT_PASS.items() if part in label), None)
        outcome = "skipped by optax" if result.skipped and not failed else "failed" if failed else "passed"
        counts[outcome if reason is None else f"{outcome}: {reason}"] += 1
        if failed != (reason is not None):
            trace = (result.failures + result.errors or [(None, "it passes now: remove it from the list")])[
                0
            ][1]
            wrong.append(f"{label}\n    " + "\n    ".join(trace.strip().splitlines()[-6:]))
    for outcome, n in sorted(counts.items()):
        print(f"{n:5d} {outcome}")
    for text in wrong:
        print(f"NOT AS EXPECTED: {text}")
    return 1 if wrong or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
