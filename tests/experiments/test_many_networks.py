"""The README's picture: it shows the numbers of the runs."""

import numpy as np
import pytest

from experiments import many_networks


@pytest.mark.slow
def test_the_picture_shows_every_network_and_names_the_best() -> None:
    config = many_networks.Config(networks=3, steps=20)
    rates, runs, _ = many_networks.train(config)
    np.testing.assert_allclose(rates, [1e-4, 10**-2.5, 1e-1])
    error = 1 - np.asarray(runs.history["valid_accuracy"])
    axes = many_networks.draw(rates, runs).axes[0]
    *curves, best = axes.lines
    for line, wanted in zip(curves, error, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), runs.history["eval_step"][0])
        np.testing.assert_allclose(line.get_ydata(), wanted)
    i = int(np.argmin(error[:, -1]))
    np.testing.assert_allclose(best.get_ydata(), error[i])
    assert f"{rates[i]:.3g}" in axes.texts[0].get_text()
