"""How `fit` and `sweep` are compiled: as the environment says, else at LLVM's lowest level on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet as fn
from fnnet.train.compiler import options

LEVEL = "xla_backend_optimization_level"


@pytest.fixture
def without_flags(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_the_environment_has_the_last_word(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x --{LEVEL}=3")
    assert options() == {}


@pytest.mark.usefixtures("without_flags")
def test_a_cpu_gets_the_lowest_level():
    assert options() == ({LEVEL: 1} if jax.default_backend() == "cpu" else {})


@pytest.mark.usefixtures("without_flags")
def test_fit_and_sweep_compute_what_a_plain_compilation_does():
    data = fn.data.split(fn.data.two_moons(jax.random.key(0), 100))
    net, loss = fn.serial(fn.dense(8), fn.tanh, fn.dense(2)), fn.losses.softmax_cross_entropy
    run = fn.train.make_run(net, loss, fn.optim.adam, steps=20, batch_size=10)
    plain = jax.jit(run)(jax.random.key(0), data, {"learning_rate": 0.01})

    fitted = fn.train.fit(
        *(net, loss, fn.optim.adam(0.01), data.train),
        key=jax.random.key(0),
        valid=data.valid,
        steps=20,
        batch_size=10,
        progress=False,
    )
    swept = fn.train.sweep(run, data, {"learning_rate": jnp.array([0.01])}, seeds=[0], progress=False)
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(fitted.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(swept.last["valid_loss"], plain.history["valid_loss"][None], rtol=1e-5)
