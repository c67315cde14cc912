"""How `fit` and `sweep` are compiled: at LLVM's lowest level on a CPU, unless the environment names one."""

import jax
import numpy as np
import pytest

import fnnet as fn
from fnnet.train.compiler import options
from tests.arrays import close, normal

LEVEL = "xla_backend_optimization_level"


@pytest.fixture
def without_flags(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_the_environment_takes_precedence(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x --{LEVEL}=3")
    assert options() == {}


@pytest.mark.usefixtures("without_flags")
def test_a_cpu_gets_the_lowest_level():
    assert options() == ({LEVEL: 1} if jax.default_backend() == "cpu" else {})


@pytest.mark.slow
@pytest.mark.usefixtures("without_flags")
def test_fit_and_sweep_compute_what_a_plain_compilation_does():
    x = normal(100, 2)
    part = {"x": x, "y": (x.sum(1) > 0).astype(np.int32)}
    train, valid = ({name: a[rows] for name, a in part.items()} for rows in (slice(60), slice(60, 100)))
    data = {"train": train, "valid": valid}
    net, loss = fn.serial(fn.dense(8), fn.tanh, fn.dense(2)), fn.losses.softmax_cross_entropy
    run = fn.train.make_run(net, loss, fn.optim.adam, steps=20, batch_size=10)
    plain = jax.jit(run)(jax.random.key(0), data, {"learning_rate": 0.01})

    fitted = fn.train.fit(
        *(net, loss, fn.optim.adam(0.01), train),
        key=jax.random.key(0),
        valid=valid,
        steps=20,
        batch_size=10,
        progress=False,
    )
    rates = {"learning_rate": np.array([0.01], np.float32)}
    swept = fn.train.sweep(run, data, rates, seeds=[0], progress=False)
    close(fitted.params, plain.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(swept.last["valid_loss"], plain.history["valid_loss"][None], rtol=1e-5)
